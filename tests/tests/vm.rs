//! A real kernel boots the image, installs what the hub offers and upgrades itself. One machine runs at a time.
//! Where none can run, or no time is left, nothing is tested here, and every test says so; with `MOLT_NEEDS_VM=1` it fails
//! instead.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use molt_tests::campaign::{Extent, power};
use molt_tests::image::Image;
use molt_tests::vm::{DiskImage, Range, TESTS_TAKE, Vm, available};
use molt_tests::{Payload, tools};
use serde_json::Value;

const CHANNEL: &str = "tf-zos/zos:development:latest.flist";

/// Longest wait for anything a machine does.
const LIMIT: Duration = Duration::from_secs(240);

/// A hub and an image; none where no machine can run.
fn range() -> Option<Range> {
    (!is_skipped()).then(|| Range::new().unwrap())
}

fn is_skipped() -> bool {
    available(TESTS_TAKE).unwrap().inspect_err(|reason| eprintln!("SKIPPED: {reason}")).is_err()
}

fn boot_id(vm: &Vm) -> String {
    vm.read("/proc/sys/kernel/random/boot_id").unwrap()
}

fn uptime(vm: &Vm) -> f64 {
    vm.read("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn digest(vm: &Vm, path: &str) -> String {
    vm.run(&format!("sha256sum {path}")).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_kernel_boots_a_release_and_takes_the_next_one_without_a_reboot() {
    let Some(range) = range() else { return };
    let old = range.payload("1.0.0").unwrap();
    range.publish("1.0.0", &old).unwrap();
    let mut vm = range.vm().unwrap().boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    vm.wait_for_services(&["bootstrap", "internet", "identityd", "web", "idle"], LIMIT).unwrap();
    assert_eq!(vm.read("/tmp/flist.name").unwrap().trim_end(), CHANNEL);
    let info: Value = serde_json::from_str(&vm.read("/tmp/flist.info").unwrap()).unwrap();
    assert_eq!(info["version"], "1.0.0", "{info}");
    assert_eq!(info["name"], "zos:v1.0.0.flist", "{info}");
    assert!(vm.console().contains("the state is part of the root"), "{}", vm.console().text());
    let root = vm.run("stat -f -c %T /").unwrap();
    assert_eq!(root.trim(), "tmpfs");
    let before = (boot_id(&vm), uptime(&vm));
    let services = ["identityd", "idle", "web"];
    let pids = services.map(|service| vm.pid_of(service).unwrap());
    let programs = digest(&vm, "/proc/1/exe");

    let new = range.payload("2.0.0").unwrap();
    new.marked("/sbin/identityd", "2.0.0").unwrap();
    range.publish("2.0.0", &new).unwrap();
    range.await_version(&mut vm, "2.0.0").unwrap();
    let [identityd, idle, web] = services.map(|service| vm.pid_of(service).unwrap());
    assert_eq!((identityd, idle), (pids[0], pids[1]), "identityd and idle are the same processes");
    assert_ne!(web, pids[2], "web is another process");
    let wanted = molt_tests::digest_of(new.directory().join("sbin/identityd")).unwrap();
    assert_eq!(digest(&vm, &format!("/proc/{identityd}/exe")), wanted, "it runs the new program");
    assert_eq!(digest(&vm, "/proc/1/exe"), programs);
    assert_eq!(boot_id(&vm), before.0, "the kernel was not started again");
    assert!(uptime(&vm) > before.1);
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn the_root_can_be_on_a_ramfs() {
    let Some(range) = range() else { return };
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    let mut vm = range.vm().unwrap().append("rootfstype=ramfs").boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    assert!(
        vm.read("/proc/mounts").unwrap().contains("rootfs / rootfs"),
        "{}",
        vm.read("/proc/mounts").unwrap()
    );
    range.publish("2.0.0", &range.payload("2.0.0").unwrap()).unwrap();
    range.await_version(&mut vm, "2.0.0").unwrap();
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn another_flist_can_be_followed() {
    let Some(range) = range() else { return };
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    range.publish("2.0.0", &range.payload("2.0.0").unwrap()).unwrap();
    let mut vm = range.vm().unwrap().append("flist=tf-zos/zos:v1.0.0.flist").boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    assert_eq!(vm.read("/tmp/flist.name").unwrap().trim_end(), "tf-zos/zos:v1.0.0.flist");
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn a_wrong_run_mode_stops_the_boot_and_the_console_says_why() {
    let Some(range) = range() else { return };
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    let mut vm = range.bare().unwrap().append("runmode=fast").boot().unwrap();
    vm.wait_for_console("'fast' is not a run mode; the run modes are dev", LIMIT).unwrap();
    vm.wait_for("the boot has stopped", LIMIT, |vm| match vm.services() {
        Ok(services) if services.get("bootstrap").is_some_and(|state| state.starts_with("Error")) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    let (code, _) = vm.exec("test -e /tmp/flist.name -o -e /usr/bin/demo-web").unwrap();
    assert_eq!(code, 1, "nothing is installed");
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn a_bad_release_is_undone_and_avoided_after_a_reboot() {
    let Some(range) = range() else { return };
    let disk = DiskImage::ext4("MOLT", 128).unwrap();
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    let builder = range.vm().unwrap().disk(&disk);
    let mut vm = builder.clone().boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    assert!(vm.console().contains("the state is on /dev/vda"), "{}", vm.console().text());
    let before = boot_id(&vm);
    let bad = range.payload("2.0.0").unwrap();
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    range.publish("2.0.0", &bad).unwrap();
    let refused = |vm: &Vm| {
        let status = vm.status().map_err(|error| format!("{error:?}"))?;
        match &status["installed"]["version"] {
            version if version == "1.0.0" && status["gate"] == "Refused" => Ok(()),
            _ => Err(status.to_string()),
        }
    };
    vm.wait_for("the bad release is undone", LIMIT, refused).unwrap();
    assert_eq!(range.web_version().unwrap(), "1.0.0");
    vm.end_by("zinit reboot", LIMIT).unwrap();
    drop(vm);

    let mut vm = builder.boot().unwrap();
    vm.wait_for("the bad release is avoided", LIMIT, refused).unwrap();
    assert_ne!(boot_id(&vm), before);
    vm.wait_for_services(&["identityd", "web", "idle"], LIMIT).unwrap();
    assert_eq!(range.web_version().unwrap(), "1.0.0");
    assert!(vm.console().contains("NOT installing what the channel offers"), "{}", vm.console().text());
    range.publish("3.0.0", &range.payload("3.0.0").unwrap()).unwrap();
    range.await_version(&mut vm, "3.0.0").unwrap();
}

#[test]
fn power_cuts_leave_the_old_release_or_the_new_one() {
    if is_skipped() {
        return;
    }
    let extent = Extent { runs: 3, nodes: 1, seed: 3 };
    let tally = power::run(extent, power::Root::Disk, &|said| eprintln!("{said}")).unwrap();
    assert_eq!(tally.problems, Vec::<String>::new());
    assert_eq!(tally.cuts(), 3);
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn power_cuts_that_reorder_writes_leave_the_old_release_or_the_new_one() {
    if is_skipped() {
        return;
    }
    let extent = Extent { runs: 4, nodes: 1, seed: 4 };
    let tally = power::reordered(extent, &|said| eprintln!("{said}")).unwrap();
    assert_eq!(tally.problems, Vec::<String>::new());
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn kernel_parameters_reach_both_programs() {
    let Some(range) = range() else { return };
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    range.publish("2.0.0", &range.payload("2.0.0").unwrap()).unwrap();
    let words = "version=1.0.0 farmer_id=17 molt.hold molt.debug molt.fast=1";
    let mut vm = range.vm().unwrap().append(words).boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    assert_eq!(vm.read("/tmp/flist.name").unwrap().trim_end(), "tf-zos/zos:v1.0.0.flist");
    for said in ["unknown kernel parameter", "molt.fast", "DEBUG"] {
        assert!(vm.console().contains(said), "{said}: {}", vm.console().text());
    }
    let why = vm.run("identityd why").unwrap();
    assert!(why.contains("CLOSED Hold") && why.contains("molt.hold"), "{why}");
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn without_a_hub_what_is_on_the_state_disk_boots_and_a_new_node_waits() {
    if is_skipped() {
        return;
    }
    let mut range = Range::new().unwrap();
    let disk = DiskImage::ext4("MOLT", 128).unwrap();
    range.publish("1.0.0", &range.payload("1.0.0").unwrap()).unwrap();
    let builder = range.vm().unwrap().disk(&disk);
    let mut vm = builder.clone().boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    range.publish("2.0.0", &range.payload("2.0.0").unwrap()).unwrap();
    range.await_version(&mut vm, "2.0.0").unwrap();
    vm.cut_power().unwrap();
    drop(vm);
    range.hub.kill().unwrap();

    let mut vm = builder.boot().unwrap();
    vm.wait_for("the recorded release runs", LIMIT, |_| match range.web_version() {
        Ok(shown) if shown == "2.0.0" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert!(vm.console().contains("the hub has offered nothing for"), "{}", vm.console().text());
    drop(vm);

    let mut vm = range.vm().unwrap().boot().unwrap();
    vm.wait_for_console("waiting for the hub since", LIMIT).unwrap();
    vm.wait_for_console("nothing that is recorded could be installed instead", LIMIT).unwrap();
    range.hub.restart().unwrap();
    range.await_version(&mut vm, "2.0.0").unwrap();
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn the_console_shows_two_hundred_mebibytes_being_installed_without_flooding() {
    let Some(range) = range() else { return };
    let payload = range.payload("1.0.0").unwrap();
    let mut random = fastrand::Rng::with_seed(2);
    for number in 0..10 {
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20 << 20).collect();
        payload.file(&format!("/usr/share/much/{number}"), 0o644, content).unwrap();
    }
    range.publish("1.0.0", &payload).unwrap();
    // The root is a tmpfs of half the memory, and so is what is fetched.
    let mut vm = range.vm().unwrap().memory_mib(1536).boot().unwrap();
    range.await_version(&mut vm, "1.0.0").unwrap();
    let console = vm.console().lines();
    let of_bootstrap: Vec<_> =
        console.iter().map(|line| line.text.as_str()).filter(|line| line.contains("bootstrap")).collect();
    let staging: Vec<_> = of_bootstrap.iter().filter(|line| line.contains("staging: ")).collect();
    assert!((1..10).contains(&staging.len()), "{}", vm.console().text());
    assert!(staging.iter().all(|line| line.contains("iB/s, about ")), "{staging:?}");
    for stage in ["installing", "staging", "swapping", "monitored"] {
        assert!(of_bootstrap.iter().any(|line| line.contains(stage)), "{stage}: {}", vm.console().text());
    }
    assert!(of_bootstrap.len() < 60, "{}", vm.console().text());
    println!("{}", of_bootstrap.join("\n"));
}

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
