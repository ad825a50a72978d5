//! A channel that moves to a lower version: nodes say so and stay, unless somebody allows it.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;

use molt_tests::{Node, Signing, Site, UPGRADE_LIMIT};
use serde_json::Value;

const CONFIG: &str = "poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\n";

const CHANNEL: &str = "tf-zos/zos:development:latest.flist";

fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if reached(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .unwrap()
}

/// Waits until the node has looked twice more.
fn looks_twice(node: &Node) -> Value {
    let checks = |status: &Value| status["counters"]["checks"].as_u64().unwrap();
    let before = checks(&node.status().unwrap());
    until(node, "the node has looked twice more", |status| checks(status) >= before + 2)
}

#[test]
fn a_channel_that_goes_back_is_reported_and_followed_only_where_that_is_allowed() {
    let site = Site::new().unwrap();
    for version in ["1.0.0", "2.0.0"] {
        site.publish(version, &site.payload(version).unwrap()).unwrap();
    }
    let node = site.boot("2.0.0").unwrap();
    let processes = node.processes().unwrap();
    site.hub.offer("v1.0.0").unwrap();
    let status = until(&node, "it says that the channel went back", |status| {
        let said = status["last_error"]["message"].as_str().unwrap_or_default();
        said.contains("went back from 2.0.0 to 1.0.0") && said.contains("not followed")
    });
    assert_eq!(status["installed"]["version"], "2.0.0", "{status}");
    assert_eq!(looks_twice(&node)["installed"]["version"], "2.0.0");
    assert_eq!(node.processes().unwrap(), processes, "nothing was stopped");
    drop(node);

    site.hub.offer("v2.0.0").unwrap();
    let line = format!("console=ttyS0 runmode=dev molt.downgrade hub={}", site.hub.url());
    let node = site.node().command_line(line).boot().unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    until(&node, "2.0.0 is installed", |status| status["installed"]["version"] == "2.0.0");
    site.hub.offer("v1.0.0").unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    until(&node, "1.0.0 is installed", |status| status["installed"]["version"] == "1.0.0");
}

#[test]
fn a_signed_release_that_is_withdrawn_stays_installed_until_going_back_is_allowed() {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    for version in ["1.0.0", "2.0.0"] {
        signing.publish(&site.hub, version, site.payload(version).unwrap().directory()).unwrap();
    }
    let node = site.node().file(signing.root().unwrap()).boot().unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    until(&node, "2.0.0 is installed", |status| status["installed"]["version"] == "2.0.0");
    let url = site.hub.url();
    let what = ["withdraw", "--hub", &url, "--run-mode", "dev", "--channel", CHANNEL, "2.0.0"];
    signing.run(&site.hub, &what).unwrap();
    let status = looks_twice(&node);
    assert_eq!(status["installed"]["version"], "2.0.0", "{status}");
    assert_eq!(site.web_version().unwrap(), "2.0.0");

    fs::write(node.path("/etc/molt/config.yaml"), format!("{CONFIG}allow_downgrade: true\n")).unwrap();
    node.stop_service("identityd").unwrap();
    node.wait_for("identityd has ended", UPGRADE_LIMIT, || match node.pid_of("identityd") {
        Err(_) => Ok(()),
        Ok(pid) => Err(pid.to_string()),
    })
    .unwrap();
    node.start_service("identityd").unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    until(&node, "1.0.0 is installed", |status| status["installed"]["version"] == "1.0.0");
}
