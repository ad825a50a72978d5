//! A real kernel boots the image, installs what the hub offers and upgrades itself. One machine runs at a time.
//! Where none can run, or no time is left, nothing is tested here, and every test says so; with `MOLT_NEEDS_VM=1` it fails
//! instead.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod disks;
mod kernels;

use std::time::Duration;

use molt_tests::campaign::{Extent, Roots, power};
use molt_tests::vm::{DiskImage, Range, TESTS_TAKE, Vm, available};
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
    let extent = Extent { runs: 3, nodes: 1, seed: 3, roots: Roots::Mixed };
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
    let extent = Extent { runs: 4, nodes: 1, seed: 4, roots: Roots::Mixed };
    let tally = power::reordered(extent, &|said| eprintln!("{said}")).unwrap();
    assert_eq!(tally.problems, Vec::<String>::new());
}

#[test]
#[ignore = "takes minutes: cargo xtask test --vm"]
fn power_cuts_that_reorder_what_the_kernel_logged_leave_the_old_release_or_the_new_one() {
    if is_skipped() {
        return;
    }
    let extent = Extent { runs: 2, nodes: 1, seed: 5, roots: Roots::Mixed };
    let tally = power::reordered_by_guest(extent, &|said| eprintln!("{said}")).unwrap();
    assert_eq!(tally.problems, Vec::<String>::new());
    assert_eq!(tally.cuts(), 2);
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
    let node = vm.status().unwrap()["node"].clone();
    assert_eq!((&node["group"], &node["group_from"]), (&"17".into(), &"kernel".into()), "{node}");
    drop(vm);

    let mut insecure = range.vm().unwrap().append("molt.insecure=1").boot().unwrap();
    range.await_version(&mut insecure, "2.0.0").unwrap();
    assert_eq!(insecure.status().unwrap()["insecure"], true);
    assert!(insecure.console().contains("INSECURE"), "{}", insecure.console().text());
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
    // All that is told until identityd is there is bootstrap's.
    let lines = console.iter().map(|line| line.text.as_str());
    let of_bootstrap: Vec<_> = lines
        .take_while(|line| !line.contains("identityd starts"))
        .filter(|line| [" INFO", " WARN", " ERROR"].iter().any(|level| line.contains(level)))
        .collect();
    let staging: Vec<_> = of_bootstrap.iter().filter(|line| line.contains("staging: ")).collect();
    assert!((1..10).contains(&staging.len()), "{}", vm.console().text());
    assert!(staging.iter().all(|line| line.contains("iB/s, about ")), "{staging:?}");
    for stage in ["installing", "staging", "swapping", "monitored"] {
        assert!(of_bootstrap.iter().any(|line| line.contains(stage)), "{stage}: {}", vm.console().text());
    }
    assert!(of_bootstrap.len() < 60, "{}", vm.console().text());
    println!("{}", of_bootstrap.join("\n"));
}
