//! What machines have on their disks: everything that they boot from, and a newer bootstrap.

use molt_tests::image::BootDisk;
use molt_tests::scratch;
use molt_tests::vm::DiskImage;

use super::{LIMIT, boot_id, range};

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn a_disk_boots_by_itself_and_keeps_its_state() {
    let Some(range) = range() else { return };
    let image = range.write_image(true, |_| {}).unwrap();
    let words = format!("console=ttyS0 quiet panic=-1 runmode=dev hub={}", range.hub_url().unwrap());
    let out = scratch("image").unwrap();
    let disk = BootDisk::write(&image, &words, 128, out.path()).unwrap();
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    let builder = range.vm_from(&disk).unwrap().memory_mib(1024);

    let mut vm = builder.clone().boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    vm.wait_for_services(&["bootstrap", "internet", "identityd", "web", "idle"], LIMIT).unwrap();
    assert_eq!(vm.read("/proc/cmdline").unwrap().trim(), words);
    vm.run("test -d /sys/firmware/efi").unwrap();
    assert!(vm.console().contains("the state is on /dev/vda2"), "{}", vm.console().text());
    let first = boot_id(&vm);
    range.publish("2.0.0", &range.payload("2.0.0").unwrap()).unwrap();
    range.await_version(&mut vm, "2.0.0").unwrap();
    vm.run("echo remembered >/var/lib/molt/note").unwrap();
    vm.end_by("zinit reboot", LIMIT).unwrap();
    drop(vm);

    let mut vm = builder.boot().unwrap();
    range.await_version(&mut vm, "2.0.0").unwrap();
    assert_ne!(boot_id(&vm), first);
    assert_eq!(vm.read("/var/lib/molt/note").unwrap(), "remembered\n");
    let history = vm.run("identityd history").unwrap();
    assert!(history.contains("2.0.0"), "{history}");
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn a_newer_bootstrap_on_the_state_disk_installs_the_release() {
    let Some(range) = range() else { return };
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    range.publish_bootstrap("9.0.0").unwrap();
    let disk = DiskImage::ext4("MOLT", 256).unwrap();
    let mut vm = range.vm().unwrap().memory_mib(768).disk(&disk).boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    assert!(vm.console().contains("the state is on /dev/vda"), "{}", vm.console().text());
    assert!(vm.console().contains("this is a newer bootstrap"), "{}", vm.console().text());
    let mounts = vm.read("/proc/mounts").unwrap();
    let state = mounts.lines().find(|line| line.contains(" /var/lib/molt ")).unwrap();
    assert!(state.contains("noexec"), "{state}");
    // It has succeeded, so that nothing is held against it.
    let (code, _) = vm.exec("test -e /var/lib/molt/bootstrap/attempts.json").unwrap();
    assert_eq!(code, 1, "{}", vm.console().text());
}
