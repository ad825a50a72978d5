//! Services that an upgrade does not restart: a release that breaks one is not kept.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use molt_tests::{Node, Payload, Site, UPGRADE_LIMIT};
use serde_json::Value;

/// What the reader opens anew again and again, as a program opens a template for each request.
const TEMPLATE: &str = "/usr/share/site/template";

/// A service that ends when it cannot read that.
const READER: &str =
    "exec: sh -c 'while cat /usr/share/site/template > /dev/null; do sleep 0.05; done; exit 1'\n";

/// A service that fails once in a while, whatever is installed.
const FLAPPING: &str = "exec: sh -c 'sleep 0.3; exit 1'\n";

fn payload(site: &Site, version: &str) -> Payload {
    let payload = site.payload("1.0.0").unwrap();
    payload.unit("reader", READER).unwrap().unit("flapping", FLAPPING).unwrap();
    payload.file("/usr/share/site/version", 0o644, version).unwrap();
    payload.file(TEMPLATE, 0o644, "a template\n").unwrap();
    payload
}

/// A node with 1.0.0 that will watch services for so many seconds.
fn booted(site: &Site, window: u32) -> Node {
    site.publish("1.0.0", &payload(site, "1.0.0")).unwrap();
    let config = format!("poll_interval: 1\nhandover_timeout: 5\nhealth_window: {window}\n");
    let node = site.node().config(&config).boot().unwrap();
    node.wait_for_services(&["identityd", "web", "idle", "reader"], UPGRADE_LIMIT).unwrap();
    node
}

fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    node.wait_for_status(what, UPGRADE_LIMIT, reached).unwrap()
}

#[test]
fn a_release_that_breaks_a_service_which_is_not_restarted_is_rolled_back() {
    let site = Site::new().unwrap();
    let node = booted(&site, 2);
    // Nobody knows of a younger one whether it stays up.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let (web, idle) = (node.pid_of("web").unwrap(), node.pid_of("idle").unwrap());

    let bad = payload(&site, "2.0.0");
    bad.remove(TEMPLATE).unwrap();
    site.publish("2.0.0", &bad).unwrap();
    let status = until(&node, "2.0.0 is a bad release", |status| {
        status["gates"].as_array().is_some_and(|gates| {
            let of_it =
                gates.iter().filter(|gate| gate["gate"] == "BadRelease" && gate["why"] != Value::Null);
            of_it.into_iter().any(|gate| gate["why"].as_str().is_some_and(|why| why.contains("reader")))
        })
    });
    assert_eq!(status["installed"]["version"], "1.0.0", "{status}");
    assert_eq!(node.read(TEMPLATE).unwrap(), "a template\n");
    assert_eq!(node.read("/usr/share/site/version").unwrap(), "1.0.0");
    node.wait_for_services(&["identityd", "web", "idle", "reader"], UPGRADE_LIMIT).unwrap();
    assert_eq!((node.pid_of("web").unwrap(), node.pid_of("idle").unwrap()), (web, idle));

    // The one that fails all the time says nothing about a release.
    site.publish("3.0.0", &payload(&site, "3.0.0")).unwrap();
    until(&node, "3.0.0 is installed", |status| status["installed"]["version"] == "3.0.0");
}

#[test]
fn whom_somebody_stops_or_restarts_meanwhile_says_nothing() {
    let site = Site::new().unwrap();
    let node = booted(&site, 6);
    std::thread::sleep(std::time::Duration::from_secs(7));
    site.publish("2.0.0", &payload(&site, "2.0.0")).unwrap();
    until(&node, "2.0.0 is watched", |status| status["stage"] == "Soaking");
    let web = node.pid_of("web").unwrap();
    node.stop_service("idle").unwrap();
    node.stop_service("web").unwrap();
    node.start_service("web").unwrap();
    let status = node.status().unwrap();
    assert_eq!(status["stage"], "Soaking", "it was too late to say anything: {status}");
    until(&node, "2.0.0 is installed", |status| status["installed"]["version"] == "2.0.0");
    assert_ne!(node.pid_of("web").unwrap(), web);
    assert!(node.pid_of("idle").is_err(), "it stays stopped");
}
