//! Machines start the kernels that releases bring.

use molt_tests::image::Image;
use molt_tests::vm::{DiskImage, Range, Vm};
use molt_tests::{Payload, tools};
use serde_json::Value;

use super::{LIMIT, boot_id, range};

/// A release that brings the kernel of an image, calling itself `called`, and this first root file system for it.
fn with_kernel(range: &Range, version: &str, (image, called): (&Image, &str), initramfs: &[u8]) -> Payload {
    let payload = range.payload(version).unwrap();
    let mut kernel = std::fs::read(&image.kernel).unwrap();
    assert_eq!(called.len(), image.release.len());
    let name = format!("{} (", image.release).into_bytes();
    let at = kernel.windows(name.len()).position(|text| text == name).unwrap();
    kernel[at..at + called.len()].copy_from_slice(called.as_bytes());
    payload.file("/boot/vmlinuz", 0o644, kernel).unwrap();
    payload.file("/boot/initramfs", 0o644, initramfs).unwrap();
    payload
}

/// An image with the newest kernel and this in its configuration, small enough to be part of a release.
fn newer_image(range: &Range, config: &str) -> Image {
    let config = format!("{}{config}", Range::CONFIG);
    range.write_image(true, |contents| contents.config = config).unwrap()
}

/// The same with another kernel, as the base image of a machine.
fn older_image(range: &Range, config: &str) -> Image {
    let (config, kernel) = (format!("{}{config}", Range::CONFIG), Some(tools::other_kernel().unwrap()));
    range.write_image(false, |contents| (contents.kernel, contents.config) = (kernel, config)).unwrap()
}

/// Waits until the status says that a reboot is required, with all of this in the reason.
fn await_required(vm: &mut Vm, parts: &[&str]) -> Value {
    vm.wait_for("a reboot is required", LIMIT, |vm| {
        let status = vm.status().map_err(|error| format!("{error:?}"))?;
        let reason = status["kernel"]["reason"].as_str().unwrap_or_default();
        let is_said = parts.iter().all(|part| reason.contains(part));
        if status["kernel"]["state"] == "reboot-required" && is_said {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
    .unwrap()
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn a_new_kernel_is_started_once_and_the_old_one_comes_back_when_not_all_is_well() {
    let Some(mut range) = range() else { return };
    let policy = "kernel: {policy: kexec, deadline: 120}\n";
    let newer = newer_image(&range, policy);
    range.image = older_image(&range, policy);
    let (older, root) = (range.image.release.clone(), std::fs::read(&newer.initramfs).unwrap());
    assert_ne!(newer.release, older);
    let called = |number: &str| newer.release.replacen(newer.release.split('-').nth(1).unwrap(), number, 1);
    let disk = DiskImage::ext4("MOLT", 512).unwrap();
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    let builder = range.vm().unwrap().memory_mib(1536).disk(&disk);
    let mut vm = builder.clone().boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    let running = |vm: &Vm| vm.run("uname -r").unwrap().trim().to_owned();
    assert_eq!(running(&vm), older);
    let before = boot_id(&vm);

    // It is installed as any other release; then the running kernel starts the new one.
    range.publish("2.0.0", &with_kernel(&range, "2.0.0", (&newer, &newer.release), &root)).unwrap();
    vm.wait_for_console("starting the kernel of the release", LIMIT).unwrap();
    vm.wait_for_console("this kernel is on trial", LIMIT).unwrap();
    vm.wait_for_console("all is well with the new kernel", LIMIT).unwrap();
    vm.expect_another_shell();
    assert_eq!(running(&vm), newer.release);
    assert_ne!(boot_id(&vm), before);
    range.await_version(&mut vm, "2.0.0").unwrap();
    vm.wait_for("nothing is the matter with the kernel", LIMIT, |vm| match &vm.status() {
        Ok(status) if status["kernel"].is_null() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();

    // One without any program: it panics, and the firmware boots the old kernel, which does not try it again.
    let panics = called("98");
    range.publish("3.0.0", &with_kernel(&range, "3.0.0", (&newer, &panics), b"no archive")).unwrap();
    vm.await_end(LIMIT).unwrap();
    assert!(vm.console().contains("Kernel panic"), "{}", vm.console().text());
    drop(vm);
    let mut vm = builder.clone().boot().unwrap();
    range.await_version(&mut vm, "3.0.0").unwrap();
    let parts = [panics.as_str(), "is not tried again: it did not come up", older.as_str()];
    await_required(&mut vm, &parts);
    let shown = vm.run("identityd status").unwrap();
    assert!(shown.contains("REBOOT REQUIRED"), "{shown}");

    // One in whose root file system nothing of ours can run: whoever watches leaves it.
    let hangs = called("99");
    let broken = newer_image(&range, &format!("{policy}nonsense: 1\n"));
    let broken = std::fs::read(&broken.initramfs).unwrap();
    range.publish("4.0.0", &with_kernel(&range, "4.0.0", (&newer, &hangs), &broken)).unwrap();
    vm.await_end(LIMIT).unwrap();
    assert!(vm.console().contains("not all is well with this kernel after 120s"), "{}", vm.console().text());
    drop(vm);
    let mut vm = builder.boot().unwrap();
    range.await_version(&mut vm, "4.0.0").unwrap();
    await_required(&mut vm, &[&hangs, "is not tried again: it did not come up"]);
    assert_eq!(running(&vm), older);
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn a_boot_loader_is_told_to_try_a_kernel_and_to_keep_it_when_all_is_well() {
    let Some(mut range) = range() else { return };
    let policy = "kernel: {policy: reboot, boot_loader: /usr/sbin/next-kernel, deadline: 120}\n";
    let newer = newer_image(&range, policy);
    range.image = older_image(&range, policy);
    let disk = DiskImage::ext4("MOLT", 512).unwrap();
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    let mut vm = range.vm().unwrap().memory_mib(1536).disk(&disk).boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();

    let root = std::fs::read(&newer.initramfs).unwrap();
    let payload = with_kernel(&range, "2.0.0", (&newer, &newer.release), &root);
    let program = "#!/bin/sh\n[ -s $2 ] && [ -s $3 ] && echo $1 >>/var/lib/molt/said\n";
    payload.file("/usr/sbin/next-kernel", 0o755, program).unwrap();
    range.publish("2.0.0", &payload).unwrap();
    vm.await_end(LIMIT).unwrap();
    assert!(vm.console().contains("starting the kernel of the release"), "{}", vm.console().text());
    drop(vm);

    // What the boot loader would do.
    range.image = newer;
    let builder = range.vm().unwrap().append("molt.kernel_trial=120").memory_mib(1536).disk(&disk);
    let mut vm = builder.boot().unwrap();
    vm.wait_for_console("this kernel is on trial", LIMIT).unwrap();
    vm.wait_for_console("all is well with the new kernel", LIMIT).unwrap();
    vm.wait_for("the boot loader is told", LIMIT, |vm| match vm.read("/var/lib/molt/said") {
        Ok(said) if said == "try\nkeep\n" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    // Whoever would have rebooted has heard of it.
    let watches = "cat /proc/[0-9]*/cmdline 2>/dev/null | grep -q 'kernel-guar[d]'";
    vm.wait_for("nobody watches any more", LIMIT, |vm| match vm.exec(watches) {
        Ok((1, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}
