//! The real program: a daemon on a root of its own, and the commands that ask it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod node;

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use nix::sys::signal::Signal;
use node::{Node, ended, json, until};

#[test]
fn without_a_daemon_asking_is_exit_code_3_and_says_how_to_start() {
    let node = Node::new();
    for verb in
        ["status", "check", "plan", "apply", "why", "hold", "unhold", "retry", "pause", "resume", "cancel"]
    {
        let output = node.ask(&[verb]);
        assert_eq!(output.status.code(), Some(3), "{verb}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("control.sock") && text.contains("identityd run"), "{text}");
        let output = node.ask(&[verb, "--json"]);
        assert_eq!(output.status.code(), Some(3), "{verb}");
        let report = json(&output);
        assert_eq!(report["exit_code"], 3, "{report}");
        assert!(report["error"].as_str().unwrap().contains("control.sock"), "{report}");
    }
    assert_eq!(node.ask(&["reboot"]).status.code(), Some(2));
}

#[test]
fn without_flist_name_it_says_so_and_installs_nothing() {
    let node = Node::new();
    let daemon = node.start();
    until("it has looked", || json(&node.ask(&["status", "--json"]))["gate"] == "FlistName");
    let status = json(&node.ask(&["status", "--json"]));
    assert_eq!((&status["schema"], &status["stage"]), (&1.into(), &"Waiting".into()));
    assert_eq!((&status["installed"], &status["insecure"]), (&serde_json::Value::Null, &true.into()));
    assert_eq!(status["identityd"]["pid"], daemon.process.id());
    for verb in ["check", "plan", "apply"] {
        let output = node.ask(&[verb, "--json"]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        assert_eq!(json(&output)["kind"], "Local", "{verb}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("flist.name"), "{verb}");
    }
    let mode = |name| std::fs::metadata(node.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/control.sock"), mode("run/status.json")), (0o700, 0o600, 0o600));
    let log = std::fs::read_to_string(node.path("log")).unwrap();
    assert_eq!(log.matches("live upgrade is disabled").count(), 1, "{log}");
}

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let node = Node::new();
        let status = node.start().signal(signal);
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(!node.path("run/control.sock").exists(), "{signal}");
    }
}

#[test]
fn a_killed_daemon_leaves_a_socket_that_the_next_one_replaces() {
    let node = Node::new();
    node.start().signal(Signal::SIGKILL);
    assert!(node.path("run/control.sock").exists());
    assert_eq!(node.ask(&["status"]).status.code(), Some(3));
    let _daemon = node.start();

    let second = ended(&mut node.run());
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains("another identityd already listens"), "{text}");
    assert!(node.ask(&["status"]).status.success());
}

#[test]
fn a_bad_configuration_is_named() {
    let node = Node::new();
    std::fs::write(node.path("config.yaml"), "poll_intervall: 5\n").unwrap();
    let output = ended(node.run().args(["--log-format", "json"]));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("config.yaml") && text.contains("poll_intervall"), "{text}");
}

/// What a closed or open gate says.
fn gate(node: &Node, name: &str) -> serde_json::Value {
    let gates = json(&node.ask(&["why", "--json"]));
    gates.as_array().unwrap().iter().find(|gate| gate["gate"] == name).unwrap().clone()
}

#[test]
fn a_configuration_that_is_named_and_not_there_is_named() {
    let node = Node::new();
    std::fs::remove_file(node.path("config.yaml")).unwrap();
    for mut command in [node.run(), node.command("doctor")] {
        let output = ended(&mut command);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("--config names") && text.contains("config.yaml"), "{text}");
    }
}

#[test]
fn orders_survive_the_daemon_and_say_who_gave_them() {
    let node = Node::new();
    let daemon = node.start();
    for arguments in [&["hold", "2.0.0", "--reason", "not yet"][..], &["pause"]] {
        assert!(node.ask(arguments).status.success(), "{arguments:?}");
    }
    daemon.signal(Signal::SIGKILL);
    let _daemon = node.start();
    let status = json(&node.ask(&["status", "--json"]));
    let user = nix::unistd::geteuid().as_raw();
    assert_eq!((&status["holds"][0]["release"], &status["holds"][0]["by"]), (&"2.0.0".into(), &user.into()));
    assert_eq!(status["pause"]["by"], user);
    assert_eq!(gate(&node, "Pause")["open"], false);
    let text = String::from_utf8(node.ask(&["status"]).stdout).unwrap();
    assert!(text.contains("held        2.0.0, since") && text.contains(": not yet\n"), "{text}");
    for arguments in [&["unhold", "2.0.0"][..], &["resume"]] {
        let ordered = json(&node.ask(&[arguments, &["--json"]].concat()));
        assert!(ordered["message"].is_string(), "{ordered}");
    }
    assert_eq!(gate(&node, "Pause")["open"], true);
    let mode = std::fs::metadata(node.path("state/orders.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = node.ask(&["hold", "--reason", &"x".repeat(501)]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(node.ask(&["hold", "2.0.0", "--all"]).status.code(), Some(2));
}

#[test]
fn damaged_orders_close_the_gate_until_the_doctor_sets_them_aside() {
    let node = Node::new();
    std::fs::create_dir(node.path("state")).unwrap();
    std::fs::write(node.path("state/orders.json"), "{\"schema\":1,\"holds\":[{").unwrap();
    let _daemon = node.start();
    let orders = gate(&node, "Orders");
    assert!(orders["why"].as_str().unwrap().contains("identityd doctor --fix"), "{orders}");
    assert_eq!(orders["open"], false);
    let refused = node.ask(&["unhold"]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("orders.json is damaged"));

    let look = node.doctor(&["--json"]);
    assert_eq!(look.status.code(), Some(6));
    let codes = |output: &Output| -> Vec<(String, bool)> {
        let findings = json(output);
        let code = |finding: &serde_json::Value| {
            (finding["code"].as_str().unwrap().to_owned(), finding["repaired"].as_bool().unwrap())
        };
        findings.as_array().unwrap().iter().map(code).collect()
    };
    let named = |code: &str, repaired| (code.to_owned(), repaired);
    // Nothing booted this node, and there is no supervisor: only a person can help with these.
    let others = [named("flist-name", false), named("zinit", false)];
    assert_eq!(codes(&look), [&[named("orders-damaged", false)], &others[..]].concat());
    assert_eq!(
        codes(&node.doctor(&["--fix", "--json"])),
        [&[named("orders-damaged", true)], &others[..]].concat()
    );
    assert!(node.path("state/orders.json.broken-1").exists());
    assert_eq!(gate(&node, "Orders")["open"], true);
    assert!(node.ask(&["hold"]).status.success());
    let text = String::from_utf8(node.doctor(&[]).stdout).unwrap();
    assert!(text.contains("flist-name: /tmp/flist.name is missing"), "{text}");
}

#[test]
fn a_daemon_does_not_start_with_windows_that_it_cannot_keep() {
    let node = Node::new();
    let config = |text: &str| std::fs::write(node.path("config.yaml"), text).unwrap();
    for (timezone, window, complaint) in
        [("Europe/Atlantis", "02:00-05:00", "Europe/Atlantis"), ("UTC", "Caturday 02:00-05:00", "Caturday")]
    {
        config(&format!("maintenance: {{ timezone: {timezone}, windows: [\"{window}\"] }}\n"));
        let output = ended(&mut node.run());
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("config.yaml") && text.contains(complaint), "{text}");
    }
    config("maintenance: { timezone: Europe/Brussels, windows: [\"00:00-24:00\"] }\n");
    let _daemon = node.start();
    let maintenance = gate(&node, "Maintenance");
    assert!(maintenance["why"].as_str().unwrap().contains("always open"), "{maintenance}");
}
