//! Two hundred files are replaced while the hub sends 64 KiB a second, and nobody finds a gap.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use molt_tests::{Fault, FaultProxy, PathWatch, Payload, RootKind, Site, UPGRADE_LIMIT, require_installed};

const FILES: u64 = 200;

/// Bytes of each, which cannot be compressed: 200 KiB in all take the line at least three seconds.
const LENGTH: usize = 1024;

/// Bytes a second.
const LINE: u32 = 64 << 10;

fn release(site: &Site, version: &str, seed: u64) -> Payload {
    let payload = site.payload(version).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..FILES {
        let (path, mode) = match number % 4 {
            0 => (format!("/usr/bin/tool{number}"), 0o755),
            1 => (format!("/usr/lib/site/library{number}"), 0o755),
            2 => (format!("/usr/share/site/data{number}"), 0o644),
            _ => (format!("/etc/site/setting{number}"), 0o600),
        };
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(LENGTH).collect();
        payload.file(&path, mode, content).unwrap();
    }
    payload
}

#[test]
fn no_path_is_missing_empty_or_dead_during_an_upgrade_over_a_thin_line() {
    nobody_finds_a_gap(RootKind::Tmpfs);
}

#[test]
fn nor_with_a_root_on_ext4() {
    nobody_finds_a_gap(RootKind::Ext4);
}

#[test]
fn nor_with_a_root_on_an_overlay() {
    nobody_finds_a_gap(RootKind::Overlay);
}

fn nobody_finds_a_gap(root: RootKind) {
    let site = Site::new().unwrap();
    let (old, new) = (release(&site, "1.0.0", 1), release(&site, "2.0.0", 2));
    site.publish("1.0.0", &old).unwrap();
    let node = site.node().root(root).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();

    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    let mut proxy = site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap();
    proxy.set(Fault::Throttle(LINE)).unwrap();
    let store = format!("http://{}/store", proxy.address());
    let watch = PathWatch::start(&node, &old).unwrap();
    site.hub.publish_with("2.0.0", new.directory(), Some("dev"), &["--route", &store]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    let seen = watch.stop().unwrap();

    require_installed(&node, &new).unwrap();
    assert!(seen.wrong.is_empty(), "{seen:?}");
    assert!(proxy.strikes() >= FILES as usize, "{} answers came through the line", proxy.strikes());
    println!("every path was looked at {} times", seen.rounds);
    assert!(seen.rounds > 100, "{seen:?}");

    // The line was waited for before anything was stopped.
    let history = node.run(&["identityd", "history", "--json", "--limit", "1"]).unwrap();
    let attempt: serde_json::Value = serde_json::from_str(&history).unwrap();
    let web = attempt[0]["services"].as_array().unwrap().iter().find(|service| service["name"] == "web");
    let down = web.unwrap()["down_ms"].as_u64().unwrap();
    let line_ms = FILES * LENGTH as u64 * 1000 / u64::from(LINE);
    println!("web was away for {down} ms, the line took {line_ms} ms at least");
    assert!(down < line_ms, "{down} of {line_ms} ms: {attempt}");
}
