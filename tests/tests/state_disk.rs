//! A node whose state disk, a real ext4, cannot be written, or not even read: it boots and upgrades all the same, says
//! so, and brings everything back when the disk works again.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]
#![allow(unsafe_code, reason = "one system call of the kernel's for breaking a file system")]

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bootstrap::lock;
use molt_tests::{BaseFile, Content, Node, NodeBuilder, Payload, Site, UPGRADE_LIMIT, scratch, workspace};
use serde_json::Value;
use tempfile::TempDir;

const STATE: &str = "/var/lib/molt";
const IN_RAM: &str = "/run/molt/state";

/// An empty ext4 in a file.
fn image() -> TempDir {
    let dir = scratch("disk").unwrap();
    let image = dir.path().join("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    dir
}

/// A node that mounts the disk before anything else, with these options, and a cache that cannot be written.
fn node_with(site: &Site, image: &Path, options: &str) -> NodeBuilder {
    node_that_polls(site, image, options, 1)
}

fn node_that_polls(site: &Site, image: &Path, options: &str, seconds: u32) -> NodeBuilder {
    let bootstrap = fs::read_to_string(workspace().join("assets/units/bootstrap.yaml")).unwrap();
    let disk = format!(
        "mkdir -p {STATE} /var/cache/molt; mknod /dev/loop-control c 10 237; \
         for n in $(seq 0 63); do mknod /dev/loop$n b 7 $n; done; \
         mount -t ext4 -o loop /state.img {STATE} && chmod 700 {STATE} && \
         mount -o remount,{options} {STATE} && \
         mount -t tmpfs -o ro none /var/cache/molt && ip link set lo up"
    );
    Node::builder(&site.netns)
        .command_line(format!("console=ttyS0 runmode=dev hub={}", site.hub.url()))
        .config(&format!("poll_interval: {seconds}\nhandover_timeout: 5\nhealth_window: 1\n"))
        .unit("internet", &format!("exec: sh -c '{disk}'\noneshot: true\nlog: stdout\n"))
        .unit("bootstrap", &bootstrap)
        .file(BaseFile { path: "/state.img".into(), mode: 0o600, content: Content::Copy(image.into()) })
}

fn until(node: &Node, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if holds(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .unwrap()
}

/// Every read and write of the disk fails with EIO from here on, until it is mounted again.
fn break_disk(node: &Node) {
    // EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_LOGFLUSH of the kernel's fs/ext4/ext4.h.
    let (request, flags) = (0x8004_587d_u32, 1_u32);
    node.run(&["sync", "-f", STATE]).unwrap();
    let directory = fs::File::open(node.path(STATE)).unwrap();
    // SAFETY: the request reads one u32 from the pointer, which outlives the call.
    let done = unsafe { nix::libc::ioctl(directory.as_raw_fd(), request as _, &raw const flags) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Takes the disk out once nobody uses it any more, and puts it in again.
fn repair_disk(node: &Node) {
    let taken = || node.run(&["umount", STATE]).map_err(|error| format!("{error:?}"));
    node.wait_for("nobody uses the disk any more", UPGRADE_LIMIT, taken).unwrap();
    node.run(&["mount", "-t", "ext4", "-o", "loop", "/state.img", STATE]).unwrap();
}

fn in_ram(node: &Node) -> Value {
    until(node, "the state is in RAM", |status| status["state_in_ram"].is_object())
}

fn on_disk(node: &Node) -> Value {
    until(node, "the state is back on its disk", |status| status["state_in_ram"].is_null())
}

/// How often a version was tried, as the history says.
fn attempts(node: &Node, version: &str) -> usize {
    let history = node.run(&["identityd", "history"]).unwrap();
    let tried = |line: &&str| line.contains(&format!("→ {version}")) && !line.contains("refused");
    history.lines().filter(tried).count()
}

fn refused(node: &Node) {
    let status = until(node, "the release is refused", |status| status["gate"] == "Refused");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("is not tried again") && reason.contains("broken is not well"), "{reason}");
}

/// A payload of which a service does not do.
fn bad_payload(site: &Site, version: &str) -> Payload {
    let bad = site.payload(version).unwrap();
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    bad
}

/// What `identityd doctor` finds.
fn codes(node: &Node) -> Vec<String> {
    let found = node.exec(&["identityd", "doctor", "--json"]).unwrap();
    let found: Vec<Value> = serde_json::from_slice(&found.stdout).unwrap();
    found.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

/// Says everywhere that the state is in RAM.
fn says_so(node: &Node) {
    let status = until(node, "the status says so", |status| status["state_in_ram"].is_object());
    let reason = status["state_in_ram"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(STATE) && reason.contains("ead-only"), "{reason}");
    let text = node.run(&["identityd", "status"]).unwrap();
    assert!(text.contains("IN RAM since") && text.contains(&reason), "{text}");
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("State") && why.contains("upgrades work from RAM"), "{why}");
    assert_eq!(codes(node), ["state-in-ram", "read-only", "cache"]);
}

#[test]
fn a_node_boots_and_upgrades_with_a_read_only_state_disk_and_cache() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let disk = image();
    let node = node_with(&site, &disk.path().join("image"), "ro").boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    says_so(&node);
    let mode = node.run(&["stat", "-c", "%a", IN_RAM]).unwrap();
    assert_eq!(mode.trim(), "700");

    site.publish("2.0.0", &site.payload("2.0.0").unwrap()).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    node.run(&["identityd", "hold", "9.9.9"]).unwrap();
    let history = node.run(&["identityd", "history"]).unwrap();
    assert!(history.contains("1.0.0 → 2.0.0  committed"), "{history}");
    let generations = node.run(&["identityd", "generations"]).unwrap();
    assert!(generations.contains("1  target") && generations.contains("2  current"), "{generations}");
    node.run(&["identityd", "rollback"]).unwrap();
    let back = |status: &Value| status["installed"]["version"] == "1.0.0" && status["gate"] == "Hold";
    until(&node, "the release before is back", back);
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    says_so(&node);

    node.run(&["mount", "-o", "remount,rw", STATE]).unwrap();
    until(&node, "the state is back on its disk", |status| status["state_in_ram"].is_null());
    assert!(!node.path(IN_RAM).exists());
    assert_eq!(node.read("/var/lib/molt/current").unwrap(), "3");
    let orders = node.read("/var/lib/molt/orders.json").unwrap();
    assert!(orders.contains("9.9.9") && orders.contains("rolled back"), "{orders}");
    assert_eq!(node.run(&["identityd", "history"]).unwrap().matches("committed").count(), 2);
    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
    assert_eq!(node.read("/var/lib/molt/current").unwrap(), "4");
    assert_eq!(codes(&node), ["cache"]);
}

#[test]
fn a_disk_that_fails_while_the_node_runs_costs_neither_holds_nor_bad_releases() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let disk = image();
    let node = node_with(&site, &disk.path().join("image"), "rw").boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    site.publish("2.0.0", &bad_payload(&site, "2.0.0")).unwrap();
    until(&node, "the release is bad", |status| status["gate"] == "Refused");

    node.run(&["mount", "-o", "remount,ro", STATE]).unwrap();
    // An order comes before identityd has noticed: it holds all the same.
    node.run(&["identityd", "hold", "3.0.0"]).unwrap();
    until(&node, "the status says so", |status| status["state_in_ram"].is_object());
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED BadRelease"), "{why}");
    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    until(&node, "the release is held", |status| status["gate"] == "Hold");
    node.run(&["identityd", "unhold", "3.0.0"]).unwrap();
    site.await_version(&node, "3.0.0").unwrap();

    node.run(&["mount", "-o", "remount,rw", STATE]).unwrap();
    // A doctor need not wait for the next poll, and the poll may be faster.
    node.exec(&["identityd", "doctor", "--fix"]).unwrap();
    until(&node, "the state is back on its disk", |status| status["state_in_ram"].is_null());
    assert!(node.read("/var/lib/molt/releases.json").unwrap().contains("broken is not well"));
    assert_eq!(node.read("/var/lib/molt/current").unwrap(), "2");
}

#[test]
fn a_disk_that_breaks_twice_costs_no_hold_of_before_or_meanwhile() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let disk = image();
    let node = node_with(&site, &disk.path().join("image"), "rw").boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.run(&["identityd", "hold", "8.0.0"]).unwrap();
    let mut numbers = Vec::new();
    for (held, version) in [("8.1.0", "2.0.0"), ("8.2.0", "3.0.0")] {
        break_disk(&node);
        in_ram(&node);
        node.run(&["identityd", "hold", held]).unwrap();
        site.publish(version, &site.payload(version).unwrap()).unwrap();
        site.await_version(&node, version).unwrap();
        numbers.push(node.status().unwrap()["installed"]["generation"].as_u64().unwrap());
        repair_disk(&node);
        on_disk(&node);
        let orders = node.read("/var/lib/molt/orders.json").unwrap();
        assert!(orders.contains("8.0.0") && orders.contains(held), "{orders}");
        let held_now = |status: &Value| status["holds"].to_string().contains("8.0.0");
        until(&node, "what was held before is known again", held_now);
    }
    assert!(numbers[0] > 1 && numbers[1] > numbers[0], "no number comes twice: {numbers:?}");
    // What nobody knew to be installed was compared once more, which is an attempt.
    assert!(attempts(&node, "2.0.0") >= 1 && attempts(&node, "3.0.0") >= 1);
    // And the node goes on from what its disk says.
    site.publish("8.0.0", &site.payload("8.0.0").unwrap()).unwrap();
    until(&node, "the release is held", |status| status["gate"] == "Hold");
    site.publish("9.0.0", &site.payload("9.0.0").unwrap()).unwrap();
    site.await_version(&node, "9.0.0").unwrap();
    let current = node.read("/var/lib/molt/current").unwrap().parse::<u64>().unwrap();
    assert_eq!(current, numbers[1] + 1);
}

/// A node that polls when it is told to, with a release that has failed.
fn node_with_a_bad_release(site: &Site, image: &Path, options: &str) -> Node {
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = node_that_polls(site, image, options, 3600).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    site.publish("1.1.0", &site.payload("1.1.0").unwrap()).unwrap();
    node.exec(&["identityd", "check"]).unwrap();
    until(&node, "it is installed", |status| status["installed"]["version"] == "1.1.0");
    site.publish("2.0.0", &bad_payload(site, "2.0.0")).unwrap();
    node.exec(&["identityd", "check"]).unwrap();
    // The poll after the first delay of a failure; the next one is in an hour.
    refused(&node);
    assert_eq!(attempts(&node, "2.0.0"), 1);
    node
}

/// The daemon follows a state that somebody else has moved, without a poll: it knows of the bad release, and where it
/// can go back to.
#[test]
fn a_doctor_who_moves_the_state_under_a_daemon_does_not_make_it_forget() {
    let site = Site::new().unwrap();
    let disk = image();
    let node = node_with_a_bad_release(&site, &disk.path().join("image"), "ro");
    in_ram(&node);
    node.run(&["mount", "-o", "remount,rw", STATE]).unwrap();
    node.exec(&["identityd", "doctor", "--fix"]).unwrap();
    assert!(!node.path(IN_RAM).exists(), "the doctor has moved it");
    node.run(&["identityd", "rollback"]).unwrap();
    until(&node, "the release before is back", |status| status["installed"]["version"] == "1.0.0");
    node.exec(&["identityd", "check"]).unwrap();
    refused(&node);
    on_disk(&node);
    assert_eq!((attempts(&node, "2.0.0"), site.web_version().unwrap()), (1, "1.0.0".to_owned()));
    assert!(node.read("/var/lib/molt/releases.json").unwrap().contains("broken is not well"));
    assert_eq!(node.read("/var/lib/molt/current").unwrap(), "3");
}

/// What speaks against a release is asked again once nobody else is at work: the state may have come home meanwhile.
#[test]
fn a_release_that_only_the_disk_knows_to_be_bad_is_not_installed() {
    let mut site = Site::new().unwrap();
    let disk = image();
    let node = node_with_a_bad_release(&site, &disk.path().join("image"), "rw");
    break_disk(&node);
    // An order finds that out before a poll does, and holds.
    node.run(&["identityd", "hold", "7.7.7"]).unwrap();
    // A poll that finds nothing to install.
    site.hub.kill().unwrap();
    node.exec(&["identityd", "check"]).unwrap();
    in_ram(&node);

    // Another engine is at work, so the next polls cannot move the state, and the upgrade waits.
    let lock = lock::take(&node.path("/run/molt"), "the test", Duration::from_secs(10)).unwrap();
    repair_disk(&node);
    site.hub.restart().unwrap();
    node.exec(&["identityd", "check"]).unwrap();
    until(&node, "the upgrade begins", |status| status["stage"] == "Fetching");
    drop(lock);
    refused(&node);
    assert_eq!((attempts(&node, "2.0.0"), site.web_version().unwrap()), (1, "1.1.0".to_owned()));
    on_disk(&node);
    assert_eq!(node.read("/var/lib/molt/current").unwrap(), "2");
    assert!(node.read("/var/lib/molt/orders.json").unwrap().contains("7.7.7"));
}
