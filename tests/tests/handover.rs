//! An identityd that is no good does not get to stay.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use molt_tests::campaign::guardian;
use molt_tests::{Node, Site, UPGRADE_LIMIT, digest_of, wait_for};

/// Three attempts, each of which may take the whole time that a new identityd has to come up and to end.
const THREE_ATTEMPTS: Duration = Duration::from_secs(300);

/// Publishes a release whose identityd is this script, and checks that the node goes on as before.
fn bad_identityd_is_replaced(script: &str) {
    let site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &old).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let (web, idle) = (node.pid_of("web").unwrap(), node.pid_of("idle").unwrap());

    let new = site.payload("2.0.0").unwrap();
    new.file("/sbin/identityd", 0o755, script).unwrap();
    site.publish("2.0.0", &new).unwrap();
    node.wait_for("the release is given up", THREE_ATTEMPTS, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if status["gate"] == "Refused" { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();

    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
    node.run(&["identityd", "status"]).unwrap();
    assert_eq!((node.pid_of("web").unwrap(), node.pid_of("idle").unwrap()), (web, idle));
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    let identityd = digest_of(node.path("/usr/sbin/identityd")).unwrap();
    assert_eq!(identityd, digest_of(old.directory().join("sbin/identityd")).unwrap());

    // A good release gets the node out of it.
    let good = site.payload("2.0.1").unwrap();
    site.publish("2.0.1", &good).unwrap();
    site.await_version(&node, "2.0.1").unwrap();
}

fn old_runs(node: &Node, old: &molt_tests::Payload) -> Result<(), String> {
    let running = node.pid_of("identityd").and_then(|pid| digest_of(format!("/proc/{pid}/exe")));
    let expected = digest_of(old.directory().join("sbin/identityd"));
    match (running, expected) {
        (Ok(running), Ok(expected)) if running == expected => Ok(()),
        (running, _) => Err(format!("{running:?}")),
    }
}

#[test]
fn one_that_crashes() {
    bad_identityd_is_replaced("#!/bin/sh\nkill -SEGV $$\n");
}

#[test]
fn one_that_hangs() {
    bad_identityd_is_replaced("#!/bin/sh\nexec sleep 4000000\n");
}

#[test]
fn one_that_hangs_with_the_engines_lock() {
    bad_identityd_is_replaced("#!/bin/sh\nexec flock /run/molt/lock sleep 4000000\n");
}

#[test]
fn one_that_exits_at_once() {
    bad_identityd_is_replaced("#!/bin/sh\nexit 0\n");
}

/// Wherever the guardian is killed while it puts the old identityd back, there is another one that does it. Some points
/// are tried always: after the supervisor was made to forget the service nobody else would know that it shall run.
#[test]
fn a_guardian_that_is_killed_is_replaced() {
    let kills =
        guardian::run(&["/forget:", "/monitor:identityd/enter"], 4, 1, &|said| println!("{said}")).unwrap();
    println!("{} points: {:?}", kills.listed, kills.points);
    assert!(kills.points.len() >= 7 && kills.listed >= 90, "{kills:?}");
}
