//! The clock on the wall jumps while services are watched, and that changes nothing.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use molt_tests::{
    Node, NodeBuilder, Site, UPGRADE_LIMIT, clock_ahead, digest_of, put_clock_ahead, require_installed,
};
use serde_json::Value;

const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;

/// How long the release is watched after each jump; both together are half of the health window.
const WATCHED: Duration = Duration::from_secs(4);

/// More than is left of the health window then, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn stage(node: &Node) -> Value {
    node.status().unwrap()["stage"].take()
}

fn until(node: &Node, what: &str) {
    node.wait_for(what, UPGRADE_LIMIT, || match stage(node) {
        now if now == what => Ok(()),
        now => Err(now.to_string()),
    })
    .unwrap();
}

/// The seconds since 1970, as the running identityd has them.
fn wall_clock(node: &Node) -> i64 {
    let status: Value = serde_json::from_str(&node.run(&["identityd", "status", "--json"]).unwrap()).unwrap();
    status["at"]["unix"].as_i64().unwrap()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs().cast_signed()
}

/// What every attempt to install the version has come to, as the history tells.
fn outcomes(node: &Node, version: &str) -> Vec<Value> {
    let history = node.read("/var/lib/molt/history.jsonl").unwrap();
    let records = history.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .filter(|record| record["to"]["version"] == version)
        .map(|mut record| record["outcome"].take())
        .collect()
}

#[test]
fn a_clock_that_jumps_ends_no_health_window_sooner_and_undoes_nothing() {
    let (site, scratch) = (Site::new().unwrap(), tempfile::tempdir().unwrap());
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let config = "poll_interval: 1\nhandover_timeout: 5\nhealth_window: 16\nstart_timeout: 30\n";
    let clock = clock_ahead(0, scratch.path()).unwrap();
    let node = clock.into_iter().fold(site.node().config(config), NodeBuilder::file).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();

    // With another identityd, so that its guardians watch it meanwhile.
    let new = site.payload("2.0.0").unwrap();
    new.marked("/sbin/identityd", "2.0.0").unwrap();
    site.publish("2.0.0", &new).unwrap();
    until(&node, "Soaking");
    for ahead in [TEN_YEARS, -TEN_YEARS] {
        put_clock_ahead(&node, ahead).unwrap();
        let jumped = Instant::now();
        let off = wall_clock(&node) - now() - ahead;
        assert!(off.abs() < 3600, "identityd's clock is {off} s off what it shall be off");
        while jumped.elapsed() < WATCHED {
            assert_eq!(stage(&node), "Soaking", "{:?} after the clock went by {ahead} s", jumped.elapsed());
            sleep(Duration::from_millis(50));
        }
    }
    let back = Instant::now();
    site.await_version(&node, "2.0.0").unwrap();
    assert!(back.elapsed() < SOON, "{:?}", back.elapsed());
    require_installed(&node, &new).unwrap();
    assert_eq!(outcomes(&node, "2.0.0"), ["committed", "committed"], "identityd, and the rest");

    // Nor does it later.
    put_clock_ahead(&node, TEN_YEARS).unwrap();
    let next = site.payload("3.0.0").unwrap();
    site.publish("3.0.0", &next).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
    require_installed(&node, &next).unwrap();
    let identityd = digest_of(format!("/proc/{}/exe", node.pid_of("identityd").unwrap())).unwrap();
    assert_eq!(identityd, digest_of(next.directory().join("sbin/identityd")).unwrap());
}
