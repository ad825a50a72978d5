//! Somebody gives an upgrade up, wherever it is.

use std::time::Duration;

use molt_tests::{Fault, Node, Payload, Site, UPGRADE_LIMIT, require_installed};
use serde_json::Value;

use super::{
    booted, json, last_attempt, last_attempt_of, publish_slowly, publish_slowly_as, refused, runs_as_before,
    services, until,
};

/// An answer of a store that nobody waits for.
const NEVER: Duration = Duration::from_secs(60);

/// Takes three seconds to end, so that the swap takes as long.
const SLOW_TO_END: &str = "exec: sh -c 'trap \"sleep 3; exit 0\" TERM; while :; do sleep 0.1; done'\n";

/// Nothing is held against the release.
fn is_not_bad(node: &Node) {
    let gates = json(node, &["why"]);
    let bad = gates.as_array().unwrap().iter().find(|gate| gate["gate"] == "BadRelease").unwrap();
    assert_eq!((&bad["open"], &bad["inputs"]["failures"]), (&true.into(), &Value::Null));
}

#[test]
fn what_is_cancelled_while_files_are_staged_stays_away_and_is_not_bad() {
    let (site, node) = booted();
    let before = services(&node);
    assert!(refused(&node, 1, &["cancel"]).contains("no upgrade runs"));
    let (payload, mut proxy) = publish_slowly(&site);
    until(&node, "files are staged", |status| status["stage"] == "Staging");
    let said = node.run(&["identityd", "cancel", "--reason", "not today"]).unwrap();
    assert!(said.contains("cancelled by user 0 (not today)"), "{said}");
    until(&node, "it waits", |status| status["gate"] == "Hold");
    runs_as_before(&site, &node, &before);
    let attempt = last_attempt(&node);
    assert_eq!((&attempt["outcome"], &attempt["code"]), (&"cancelled".into(), &"Hold".into()));
    is_not_bad(&node);

    proxy.set(Fault::Pass).unwrap();
    node.run(&["identityd", "retry"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    require_installed(&node, &payload).unwrap();
    assert_eq!(last_attempt(&node)["cause"], serde_json::json!({"kind": "retry", "by": 0, "now": false}));
}

/// A release whose service takes long to end.
fn release(site: &Site, version: &str) -> Payload {
    let payload = site.payload(version).unwrap();
    payload.unit("slow", &format!("{SLOW_TO_END}# {version}\n")).unwrap();
    payload
}

#[test]
fn before_the_swap_a_cancel_leaves_all_as_it_was_and_after_it_it_is_refused() {
    const ALL: [&str; 4] = ["identityd", "web", "idle", "slow"];
    let site = Site::new().unwrap();
    let (old, new) = (release(&site, "1.0.0"), release(&site, "2.0.0"));
    site.publish("1.0.0", &old).unwrap();
    let config = "poll_interval: 1\nhandover_timeout: 5\nhealth_window: 5\n";
    let node = site.node().config(config).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.wait_for_services(&ALL, UPGRADE_LIMIT).unwrap();
    let (before, slow) = (services(&node), node.pid_of("slow").unwrap());
    let is_as_before = || {
        runs_as_before(&site, &node, &before);
        require_installed(&node, &old).unwrap();
        assert_eq!(node.pid_of("slow").unwrap(), slow);
        is_not_bad(&node);
    };

    // One that waits has not begun.
    node.run(&["identityd", "pause"]).unwrap();
    let mut proxy = publish_slowly_as(&site, "2.0.0", &new);
    proxy.set(Fault::Delay(NEVER)).unwrap();
    until(&node, "it waits", |status| status["gate"] == "Pause");
    let said = refused(&node, 1, &["cancel"]);
    assert!(said.contains("nothing is cancelled in stage Waiting: no upgrade runs"), "{said}");
    is_as_before();

    node.run(&["identityd", "resume"]).unwrap();
    until(&node, "blocks are fetched", |status| status["stage"] == "Fetching");
    node.run(&["identityd", "cancel"]).unwrap();
    until(&node, "it is held", |status| status["gate"] == "Hold");
    assert_eq!(last_attempt(&node)["outcome"], "cancelled");
    is_as_before();

    // From the first stop on it is finished, or undone if it fails.
    proxy.set(Fault::Pass).unwrap();
    node.run(&["identityd", "unhold"]).unwrap();
    for stage in ["Swapping", "Soaking"] {
        until(&node, stage, |status| status["stage"] == stage);
        let said = refused(&node, 1, &["cancel"]);
        assert!(
            said.contains(&format!("nothing is cancelled in stage {stage}: the swap has begun")),
            "{said}"
        );
    }
    site.await_version(&node, "2.0.0").unwrap();
    require_installed(&node, &new).unwrap();
    node.wait_for_services(&ALL, UPGRADE_LIMIT).unwrap();
    assert_eq!(node.status().unwrap()["holds"], serde_json::json!([]), "nothing is held by what was refused");
    assert_eq!(last_attempt_of(&node, "2.0.0")["outcome"], "committed");

    // Then there is the way back.
    node.run(&["identityd", "rollback"]).unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    require_installed(&node, &old).unwrap();
    assert!(!node.path("/usr/share/site/many").exists());
    node.wait_for_services(&ALL, UPGRADE_LIMIT).unwrap();
    until(&node, "the release is held", |status| status["gate"] == "Hold");
    is_not_bad(&node);
}
