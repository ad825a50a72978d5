//! Fifty upgrades in one node leak nothing.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;

use molt_tests::{Census, Node, Payload, Site, UPGRADE_LIMIT, digest_of};

const UPGRADES: u32 = 50;

/// What must not grow. Files are counted by directory, as generations have numbers in their names.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    mounts: Vec<String>,
    processes: Vec<String>,
    identityd_descriptors: usize,
    files: BTreeMap<String, usize>,
}

fn count(node: &Node) -> Count {
    let Census { mounts, processes, identityd_descriptors, files } = node.census().unwrap();
    let mut by_directory = BTreeMap::new();
    for file in files {
        let directory = file.parent().unwrap().to_string_lossy().into_owned();
        *by_directory.entry(without_numbers(&directory)).or_default() += 1;
    }
    Count { mounts, processes, identityd_descriptors, files: by_directory }
}

/// Every number becomes the same, however many digits it has.
fn without_numbers(path: &str) -> String {
    let mut text = String::new();
    for c in path.chars() {
        match c.is_ascii_digit() {
            true if text.ends_with('#') => {}
            true => text.push('#'),
            false => text.push(c),
        }
    }
    text
}

fn upgrade(site: &Site, node: &Node, number: u32, payload: &Payload, shows: &str) {
    let version = format!("1.{number}.0");
    site.publish(&version, payload).unwrap();
    let identityd = digest_of(payload.directory().join("sbin/identityd")).unwrap();
    node.wait_for(&format!("upgrade {number}"), UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        let running = node.pid_of("identityd").and_then(|pid| digest_of(format!("/proc/{pid}/exe")));
        let done = status["stage"] == "Idle"
            && status["installed"]["version"] == version.as_str()
            && running.as_ref().is_ok_and(|digest| *digest == identityd)
            && site.web_version().is_ok_and(|shown| shown == shows);
        if done { Ok(()) } else { Err(format!("identityd is {running:?}; {status}")) }
    })
    .unwrap();
}

#[test]
fn fifty_upgrades_leak_nothing() {
    let site = Site::new().unwrap();
    let (one, two) = (site.payload("one").unwrap(), site.payload("two").unwrap());
    two.marked("/sbin/identityd", "two").unwrap().unit("only-in-two", "exec: sleep 1000000\n").unwrap();
    site.publish("1.0.0", &one).unwrap();
    let node = site.node().boot().unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let init = node.init().unwrap();

    // The first upgrades make what stays: a previous generation, a cache.
    let start = 4;
    let mut settled = None;
    for number in 1..=start + UPGRADES {
        let (payload, shows) = if number % 2 == 1 { (&two, "two") } else { (&one, "one") };
        upgrade(&site, &node, number, payload, shows);
        if number == start {
            settled = Some(count(&node));
        }
    }
    let settled = settled.unwrap();
    node.wait_for("nothing is left of the upgrades", UPGRADE_LIMIT, || {
        let now = count(&node);
        if now == settled { Ok(()) } else { Err(format!("{now:#?}\nwas\n{settled:#?}")) }
    })
    .unwrap();
    assert_eq!(node.init().unwrap(), init);
}
