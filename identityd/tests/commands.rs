//! The real program: what it says of a node without a daemon.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod node;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use node::{Node, PROGRAM, json};

/// Finding such things is what the doctor is for; the rest of the node is looked at all the same.
#[test]
fn a_configuration_or_a_kernel_command_line_that_cannot_be_used_is_a_finding() {
    for (file, content, named) in [
        ("config.yaml", &b"poll_intervall: 5\n"[..], "poll_intervall"),
        ("config.yaml", b"hub: nonsense\n", "nonsense"),
        ("config.yaml", b"group: \xff\n", "config.yaml"),
        ("cmdline", b"runmode=nonsense\n", "nonsense"),
    ] {
        let node = Node::new();
        std::fs::create_dir(node.path("state")).unwrap();
        std::fs::set_permissions(node.path("state"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(node.path(file), content).unwrap();
        // A hub among the arguments would count instead of the one in the file.
        let mut doctor = node.command_with(&[], "doctor");
        let found = doctor.arg("--json").output().unwrap();
        assert_eq!(found.status.code(), Some(6), "{found:?}");
        let found = json(&found);
        let of = |code: &str| found.as_array().unwrap().iter().find(|finding| finding["code"] == code);
        let what = of("configuration").unwrap_or_else(|| panic!("{found}"))["what"].as_str().unwrap();
        assert!(what.contains("does not start") && what.contains(named), "{what}");
        assert!(of("mode").is_some(), "{found}");
    }
    let node = Node::new();
    let wrong = node.command_with(&["--hub", "nonsense"], "doctor").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "what was asked for is no finding: {wrong:?}");
}

/// What somebody may not see is not missing.
#[test]
fn who_may_not_read_the_state_is_told_so_and_nothing_else() {
    let node = Node::new();
    for name in ["state", "state/generations", "run"] {
        std::fs::create_dir(node.path(name)).unwrap();
    }
    let root = nix::unistd::geteuid().is_root();
    let mode = |name: &str, mode| {
        std::fs::set_permissions(node.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    // Another user finds the program where everybody can.
    std::fs::copy(PROGRAM, node.path("identityd")).unwrap();
    mode("", 0o755);
    for closed in ["state", "run"] {
        mode(closed, if root { 0o700 } else { 0 });
        for name in ["doctor", "generations", "gc", "pin", "unpin", "history"] {
            let mut command = Command::new(node.path("identityd"));
            command
                .arg(name)
                .args(name.ends_with("pin").then_some("1"))
                .arg("--state-dir")
                .arg(node.path("state"));
            command.arg("--run-dir").arg(node.path("run")).arg("--json");
            if name != "history" {
                command.arg("--config").arg(node.path("config.yaml"));
                command.arg("--cmdline").arg(node.path("cmdline"));
            }
            if root {
                command.uid(65534).gid(65534);
            }
            let refused = command.output().unwrap();
            assert_eq!(refused.status.code(), Some(5), "{name}: {refused:?}");
            let said = json(&refused)["error"].as_str().unwrap().to_owned();
            let path = node.path(closed).display().to_string();
            assert!(said.contains(&path) && said.contains("as root"), "{name}: {said}");
        }
        mode(closed, 0o755);
    }
}

#[test]
fn the_history_is_shown_without_a_daemon() {
    let node = Node::new();
    let history = |arguments: &[&str]| {
        let state = node.path("state");
        let command = [&["history", "--state-dir", state.to_str().unwrap()], arguments].concat();
        Command::new(PROGRAM).args(command).output().unwrap()
    };
    let nowhere = history(&[]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert_eq!(node.generations().status.code(), Some(2));
    let told = String::from_utf8(nowhere.stderr).unwrap();
    assert!(told.contains("--state-dir"), "{told}");
    std::fs::create_dir(node.path("state")).unwrap();
    let empty = history(&[]);
    assert_eq!(empty.status.code(), Some(2), "another directory than the one that was meant: {empty:?}");
    std::fs::create_dir(node.path("state/generations")).unwrap();
    assert_eq!(String::from_utf8(history(&[]).stdout).unwrap(), "Nothing has been tried yet.\n");
    let line = |version: &str| {
        format!(
            r#"{{"schema":1,"id":"{version}","boot":"b","cause":{{"kind":"apply","by":0,"now":false}},"from":null,"to":{{"version":"{version}","release":"ab"}},"started":{{"at":"1970-01-01T00:00:00Z","unix":0}},"ended":null,"outcome":"interrupted","ended_by":"killed"}}"#
        )
    };
    let torn = format!("{}\n{}\n{{\"schema\":1,", line("1.0.0"), line("2.0.0"));
    std::fs::write(node.path("state/history.jsonl"), torn).unwrap();
    let all = json(&history(&["--json"]));
    assert_eq!(all.as_array().unwrap().len(), 2);
    let last = json(&history(&["--json", "--limit", "1"]));
    assert_eq!((&last[0]["to"]["version"], &last[0]["ended_by"]), (&"2.0.0".into(), &"killed".into()));
    let text = String::from_utf8(history(&[]).stdout).unwrap();
    assert!(text.contains("nothing → 2.0.0  interrupted  (apply by user 0)"), "{text}");
}
