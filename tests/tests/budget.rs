//! What a plan says beforehand: how long services will be away, what an upgrade costs, and who goes on with old files.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::path::PathBuf;

use molt_tests::{Node, Site, UPGRADE_LIMIT};
use serde_json::Value;

fn until(node: &Node, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if holds(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .unwrap()
}

fn json(node: &Node, command: &[&str]) -> Value {
    serde_json::from_str(&node.run(command).unwrap()).unwrap()
}

/// Whoever has no record is upgraded; whoever was away for longer than it allows waits for somebody's word.
#[test]
fn an_upgrade_over_budget_waits_for_an_apply_and_the_history_compares() {
    let site = Site::new().unwrap();
    let publish = |version: &str, budget: u64| {
        let payload = site.payload(version).unwrap();
        let unit = "exec: /usr/bin/demo-web --listen 127.0.0.1:8000\n";
        payload.unit("web", &format!("{unit}molt: {{downtime_budget: {budget}}}\n")).unwrap();
        site.publish(version, &payload).unwrap();
    };
    publish("1.0.0", 600_000);
    let node = site.boot("1.0.0").unwrap();
    node.run(&["identityd", "pause"]).unwrap();
    publish("2.0.0", 600_000);
    let plan = node.run(&["identityd", "plan"]).unwrap();
    assert!(plan.contains("downtime: web: no record, budget 600000 ms"), "{plan}");
    assert!(plan.contains("going back: nothing to fetch") && plan.contains("memory: at most"), "{plan}");
    node.run(&["identityd", "resume"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();

    publish("3.0.0", 0);
    let parked = until(&node, "it waits", |status| status["gate"] == "Downtime");
    assert!(parked["reason"].as_str().unwrap().contains("identityd apply"), "{parked}");
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED Downtime") && why.contains("MORE than its budget of 0 ms"), "{why}");
    assert_eq!(site.web_version().unwrap(), "2.0.0");
    let plan = json(&node, &["identityd", "plan", "--json"]);
    let plan = &plan["plan"]["json"];
    let expected = &plan["downtime"][0];
    assert_eq!((&expected["service"], &expected["prediction"]["samples"]), (&"web".into(), &1.into()));
    assert!(
        plan["cost"]["kept_bytes"].as_u64().unwrap() > 0 && plan["cost"]["kept_in_ram"] == true,
        "{plan}"
    );
    // Another poll changes nothing.
    node.run(&["identityd", "check"]).unwrap();
    until(&node, "it still waits", |status| status["gate"] == "Downtime");

    node.run(&["identityd", "apply"]).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
    let history = json(&node, &["identityd", "history", "--json"]);
    let last = history.as_array().unwrap().last().unwrap();
    let web = last["services"].as_array().unwrap().iter().find(|service| service["name"] == "web").unwrap();
    assert_eq!(web["predicted"]["p95_ms"], expected["prediction"]["p95_ms"], "{last}");
    assert!(web["down_ms"].is_u64(), "{last}");
    let parked = history.as_array().unwrap().iter().filter(|attempt| attempt["code"] == "Downtime").count();
    assert_eq!(parked, 1, "{history}");
    let text = node.run(&["identityd", "history"]).unwrap();
    assert!(text.contains("(predicted: ") && text.contains("ms the one time it was recorded"), "{text}");
}

/// The C library as this test has it mapped, which is where the node has it, too.
fn libc() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    PathBuf::from(paths.find(|path| path.ends_with("/libc.so.6")).unwrap())
}

/// A changed C library is exchanged under the supervisor and identityd, which nobody stops: the plan says so, and the
/// status as long as it is so.
#[test]
fn who_runs_an_old_library_is_said_until_it_does_no_more() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    assert_eq!(node.status().unwrap()["outdated"], Value::Array(Vec::new()));
    let (supervisor, daemon) = (node.pid1(), node.pid_of("identityd").unwrap());
    let web = node.pid_of("web").unwrap();
    node.run(&["identityd", "pause"]).unwrap();

    let libc = libc();
    let at = libc.to_str().unwrap();
    let payload = site.payload("2.0.0").unwrap();
    payload.program(at, &libc).unwrap().marked(at, "2.0.0").unwrap();
    site.publish("2.0.0", &payload).unwrap();
    let plan = node.run(&["identityd", "plan"]).unwrap();
    let says = |name: &str, until: &str| {
        plan.lines().any(|line| line.contains(&format!("leave {name}: it uses")) && line.contains(until))
    };
    assert!(says("zinit", "until the node reboots") && says("identityd", "until a release brings"), "{plan}");
    node.run(&["identityd", "resume"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();

    assert_eq!((node.pid1(), node.pid_of("identityd").unwrap()), (supervisor, daemon));
    assert_ne!(node.pid_of("web").unwrap(), web);
    let names = |status: &Value| -> Vec<String> {
        let outdated = status["outdated"].as_array().unwrap();
        outdated.iter().map(|old| old["service"].as_str().unwrap().to_owned()).collect()
    };
    let status = node.status().unwrap();
    assert_eq!(names(&status), ["identityd", "zinit"], "{status}");
    assert!(status["outdated"][0]["files"][0].as_str().unwrap().ends_with("libc.so.6"), "{status}");
    let text = node.run(&["identityd", "status"]).unwrap();
    assert!(text.contains("runs old    zinit: /") && text.contains("until the node reboots"), "{text}");

    // identityd that starts again runs the new one.
    node.run(&["sh", "-c", "kill $(pidof identityd)"]).unwrap();
    until(&node, "only the supervisor runs the old one", |status| names(status) == ["zinit"]);
}

/// A service is away until it is up, not until zinit has taken the order to start it.
#[test]
fn a_service_that_starts_slowly_is_down_until_it_is_up() {
    let site = Site::new().unwrap();
    let publish = |version: &str| {
        let payload = site.payload(version).unwrap();
        // Each has a file of its own: zinit may look before the first line of a script is run.
        let exec = format!("exec: sh -c 'sleep 2; touch /run/ready-{version}; exec sleep 9000000'\n");
        payload.unit("slow", &format!("{exec}test: test -e /run/ready-{version}\n")).unwrap();
        site.publish(version, &payload).unwrap();
    };
    publish("1.0.0");
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["slow"], UPGRADE_LIMIT).unwrap();
    publish("2.0.0");
    site.await_version(&node, "2.0.0").unwrap();
    let history = json(&node, &["identityd", "history", "--json"]);
    let last = history.as_array().unwrap().last().unwrap();
    let down = |name: &str| {
        let services = last["services"].as_array().unwrap();
        services.iter().find(|service| service["name"] == name).unwrap()["down_ms"].as_u64().unwrap()
    };
    // It waits that long itself.
    assert!(down("slow") >= 2000, "{last}");
    assert!(down("web") < down("slow"), "{last}");
}
