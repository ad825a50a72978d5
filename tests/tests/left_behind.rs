//! Processes that no service has, and that use what a release replaces: told, and left alone.

use molt_tests::{Site, UPGRADE_LIMIT};
use serde_json::Value;

/// The web service once more, in the background.
fn by_hand(wrapper: &str, port: u16) -> String {
    format!("{wrapper} /usr/bin/demo-web --listen 127.0.0.1:{port} </dev/null >/dev/null 2>&1 &")
}

fn left_behind(status: &Value) -> Vec<Value> {
    status["left_behind"].as_array().cloned().unwrap_or_default()
}

#[test]
fn who_is_left_behind_is_told() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.run(&["sh", "-c", &by_hand("", 8001)]).unwrap();
    node.run(&["sh", "-c", &by_hand("unshare -m", 8002)]).unwrap();
    node.wait_for("three of them run", UPGRADE_LIMIT, || {
        let running = node.running("demo-web").map_err(|error| format!("{error:?}"))?;
        if running.len() == 3 { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .unwrap();
    let service = node.pid_of("web").unwrap();
    let processes = node.running("demo-web").unwrap();

    site.publish("2.0.0", &site.payload("2.0.0").unwrap()).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    assert_ne!(node.pid_of("web").unwrap(), service, "the service restarts");
    let now = node.running("demo-web").unwrap();
    let hand_started: Vec<_> = processes.iter().filter(|process| process.pid != service).collect();
    assert!(hand_started.iter().all(|process| now.iter().any(|other| other.pid == process.pid)), "{now:?}");

    let left = left_behind(&node.status().unwrap());
    let mut elsewhere: Vec<_> = left.iter().map(|process| process["elsewhere"].as_bool()).collect();
    elsewhere.sort_unstable();
    assert_eq!(elsewhere, [Some(false), Some(true)], "{left:?}");
    for process in &left {
        assert_eq!(process["name"], "demo-web");
        assert!(process["uses"].as_array().unwrap().contains(&"usr/bin/demo-web".into()), "{process}");
        let inside = process["pid"].as_u64().unwrap();
        assert!(hand_started.iter().any(|started| u64::from(started.pid_inside) == inside));
    }
    let text = node.run(&["identityd", "status"]).unwrap();
    assert_eq!(text.matches("left behind").count(), 2, "{text}");
    assert!(text.contains("in another mount namespace uses /usr/bin/demo-web"), "{text}");

    // Who ends is no longer told of.
    for process in &left {
        node.run(&["kill", "-9", &process["pid"].to_string()]).unwrap();
    }
    node.wait_for("nobody is left behind", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        let left = left_behind(&status);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .unwrap();
}
