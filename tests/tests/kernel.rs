//! A release that brings another kernel than the one that runs: what a node says about it.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use molt_tests::{Node, Site, UPGRADE_LIMIT};
use serde_json::Value;

/// A file that a boot loader would take for a kernel of this release and build, and that would not run.
fn bzimage(release: &str, build: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x4000];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x1000_u16.to_le_bytes());
    let text = format!("{release} (somebody@somewhere) {build}\0");
    bytes[0x1200..0x1200 + text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if reached(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .unwrap()
}

/// Publishes a release with this kernel, and waits until it is installed.
fn install(site: &Site, node: &Node, version: &str, kernel: impl AsRef<[u8]>) {
    let payload = site.payload(version).unwrap();
    payload.file("/boot/vmlinuz", 0o644, kernel).unwrap();
    site.publish(version, &payload).unwrap();
    site.await_version(node, version).unwrap();
}

#[test]
fn a_node_that_shares_its_kernel_with_others_starts_none_and_says_so() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let config = "poll_interval: 1\nhealth_window: 1\nkernel: {policy: kexec}\n";
    let node = site.node().config(config).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    install(&site, &node, "2.0.0", bzimage("99.1.0-molt", "#7 SMP 2099"));
    let status =
        until(&node, "a reboot is required", |status| status["kernel"]["state"] == "reboot-required");
    let reason = status["kernel"]["reason"].as_str().unwrap();
    assert!(reason.contains("not started now: this node is in a container"), "{reason}");
    assert!(!node.path("/var/lib/molt/kernel.json").exists(), "nothing was tried");
}

#[test]
fn another_kernel_is_installed_and_a_reboot_is_required() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    let (release, build) = (node.run(&["uname", "-r"]).unwrap(), node.run(&["uname", "-v"]).unwrap());
    let (release, build) = (release.trim(), build.trim());
    assert_eq!(node.status().unwrap()["kernel"], Value::Null);

    let another = bzimage("99.1.0-molt", "#7 SMP 2099");
    install(&site, &node, "2.0.0", &another);
    let status =
        until(&node, "a reboot is required", |status| status["kernel"]["state"] == "reboot-required");
    assert_eq!(status["kernel"]["installed"]["release"], "99.1.0-molt", "{status}");
    assert_eq!(status["kernel"]["running"]["release"], release, "{status}");
    let reason = status["kernel"]["reason"].as_str().unwrap();
    assert!(reason.contains("kernel.policy is never"), "{reason}");
    assert!(reason.contains("99.1.0-molt (#7 SMP 2099)") && reason.contains(build), "{reason}");
    assert_eq!(std::fs::read(node.path("/boot/vmlinuz")).unwrap(), another, "it is installed as any file");
    let shown = node.run(&["identityd", "status"]).unwrap();
    assert!(shown.contains("REBOOT REQUIRED: 99.1.0-molt is installed"), "{shown}");
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED Kernel") && why.contains(reason), "{why}");

    // The one that runs.
    install(&site, &node, "3.0.0", bzimage(release, build));
    until(&node, "no reboot is required", |status| status["kernel"].is_null());
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("open   Kernel"), "{why}");

    install(&site, &node, "4.0.0", "nonsense");
    let status = until(&node, "nobody can tell", |status| status["kernel"]["state"] == "unknown");
    assert!(status["kernel"]["reason"].as_str().unwrap().contains("it is no bzImage"), "{status}");

    // The one before has a kernel that is known.
    node.run(&["identityd", "rollback"]).unwrap();
    until(&node, "it can be told again", |status| status["kernel"].is_null());
}
