//! An identityd that commits is no good yet: what becomes of one that fails after that, and of its unit.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use molt_tests::campaign::without_debug_information;
use molt_tests::{Binaries, Node, Payload, Site, UPGRADE_LIMIT, digest_of, wait_for};
use serde_json::Value;

/// Three attempts, each of which may take the whole time that a new identityd has.
const THREE_ATTEMPTS: Duration = Duration::from_secs(300);

/// The first thing that a daemon does when it has committed and knows what is installed: it asks its channel.
const ASKS: &str = "daemon/stage:Resolving/enter";

/// A release whose identityd does what a test tells it.
fn with_halting(site: &Site, version: &str) -> Payload {
    let (_aside, program) = without_debug_information(&Binaries::ensure().unwrap().halting()).unwrap();
    let payload = site.payload(version).unwrap();
    payload.program("/sbin/identityd", &program).unwrap();
    payload
}

/// A node with 1.0.0, whose identityd is the real one.
fn booted() -> (Site, Node, Payload) {
    let site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &old).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    fs::create_dir(node.path("/run/points")).unwrap();
    (site, node, old)
}

fn tell(node: &Node, file: &str, what: &str) {
    fs::write(node.path("/run/points").join(file), what).unwrap();
}

fn old_runs(node: &Node, old: &Payload) -> Result<(), String> {
    let running = node.pid_of("identityd").and_then(|pid| digest_of(format!("/proc/{pid}/exe")));
    let expected = digest_of(old.directory().join("sbin/identityd"));
    match (running, expected) {
        (Ok(running), Ok(expected)) if running == expected => Ok(()),
        (running, _) => Err(format!("{running:?}")),
    }
}

fn until(node: &Node, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    node.wait_for_status(what, THREE_ATTEMPTS, is_so).unwrap()
}

fn said(node: &Node, command: &[&str]) -> Value {
    let words: Vec<&str> = ["identityd"].iter().chain(command).chain(&["--json"]).copied().collect();
    serde_json::from_str(&node.run(&words).unwrap()).unwrap()
}

/// The processes of a node, by their pids in it, that are guardians; the ones that only wait for the first one if
/// `second`.
fn guardians(node: &Node, second: bool) -> Vec<String> {
    let words = |pid: u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).split('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    let is_meant = |words: &[String]| {
        words.get(1).is_some_and(|word| word == "guardian")
            && words.iter().any(|word| word == "--second") == second
    };
    let processes = node.processes().unwrap().into_iter();
    let guardians = processes.filter(|process| is_meant(&words(process.pid)));
    guardians.map(|process| process.pid_inside.to_string()).collect()
}

fn await_no_guardians(node: &Node) {
    node.wait_for("the guardians have left", UPGRADE_LIMIT, || {
        match [guardians(node, false), guardians(node, true)].concat() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .unwrap();
}

/// The generation that counts, and what it came from.
fn current(node: &Node) -> Value {
    let all = said(node, &["generations"]);
    all.as_array().unwrap().iter().find(|of| of["current"] == true).unwrap().clone()
}

/// A new identityd that commits and then does this, always, is gone back from, and given up.
fn one_that_commits_and_then(does: &str) {
    let (site, node, old) = booted();
    let (web, idle) = (node.pid_of("web").unwrap(), node.pid_of("idle").unwrap());
    tell(&node, "always", &format!("{does} {ASKS}"));
    site.publish("2.0.0", &with_halting(&site, "2.0.0")).unwrap();
    until(&node, "the release is given up", |status| status["gate"] == "Refused");

    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
    await_no_guardians(&node);
    assert_eq!((node.pid_of("web").unwrap(), node.pid_of("idle").unwrap()), (web, idle));
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    let identityd = digest_of(node.path("/usr/sbin/identityd")).unwrap();
    assert_eq!(identityd, digest_of(old.directory().join("sbin/identityd")).unwrap());
    let now = current(&node);
    assert_eq!((&now["cause"], &now["version"]), (&"revert".into(), &"1.0.0".into()), "{now}");
    let history = said(&node, &["history"]);
    let failed: Vec<_> =
        history.as_array().unwrap().iter().filter(|of| of["outcome"] == "rolled-back").collect();
    assert_eq!(failed.len(), 3, "{history}");
    assert!(failed.iter().all(|of| of["to"]["version"] == "2.0.0"), "{history}");
    assert!(
        failed.iter().all(|of| of["reason"].as_str().unwrap().contains("its identityd failed")),
        "{history}"
    );
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED BadRelease") && why.contains("its identityd failed"), "{why}");
    assert!(!node.path("/var/lib/molt/self-update.json").exists());

    let good = site.payload("2.0.1").unwrap();
    good.marked("/sbin/identityd", "2.0.1").unwrap();
    site.publish("2.0.1", &good).unwrap();
    site.await_version(&node, "2.0.1").unwrap();
    await_no_guardians(&node);
}

#[test]
fn one_that_commits_and_then_exits() {
    one_that_commits_and_then("ends");
}

#[test]
fn one_that_commits_and_then_hangs() {
    one_that_commits_and_then("hangs");
}

/// Waits until the new identityd halts where it begins to ask its channel; gives its pid, inside and outside.
fn halted(node: &Node) -> (String, u32) {
    let inside = node
        .wait_for("the new identityd halts", UPGRADE_LIMIT, || {
            let pid =
                fs::read_to_string(node.path("/run/points/halted")).map_err(|error| error.to_string())?;
            if pid.is_empty() { Err("no pid yet".to_owned()) } else { Ok(pid) }
        })
        .unwrap();
    let processes = node.processes().unwrap();
    let process = processes.iter().find(|process| process.pid_inside.to_string() == inside).unwrap();
    (inside, process.pid)
}

#[test]
fn a_good_one_whose_hub_is_gone_is_kept() {
    let (mut site, node, _old) = booted();
    let new = with_halting(&site, "2.0.0");
    tell(&node, "armed", ASKS);
    site.publish("2.0.0", &new).unwrap();
    let (pid, outside) = halted(&node);
    for arguments in
        [&["identityd", "gc", "--keep", "0"][..], &["identityd", "gc", "--keep", "0", "--dry-run"]]
    {
        let refused = node.run(arguments).unwrap_err().to_string();
        assert!(refused.contains("on trial") && refused.contains("generation 1"), "{refused}");
    }
    site.hub.kill().unwrap();
    node.run(&["kill", "-CONT", &pid]).unwrap();
    let status = until(&node, "it says that the hub is gone", |status| status["gate"] == "BackOff");
    assert!(status["identityd"]["polled"] == true, "{status}");
    await_no_guardians(&node);
    assert_eq!(node.pid_of("identityd").unwrap(), outside, "the same process");
    assert_eq!(current(&node)["cause"], "self-update");
    assert!(!node.path("/var/lib/molt/self-update.json").exists());
    assert!(!node.path("/run/molt/handover.json").exists());
    site.hub.restart().unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    node.run(&["identityd", "gc", "--keep", "0"]).unwrap();
    let history = said(&node, &["history"]);
    let codes: Vec<_> = history.as_array().unwrap().iter().map(|attempt| &attempt["code"]).collect();
    assert_eq!(codes, ["Handover", "Committed"], "{history}");
}

#[test]
fn a_guardian_that_is_killed_in_the_trial_is_missed_by_the_other_one() {
    let (site, node, old) = booted();
    tell(&node, "armed", ASKS);
    site.publish("2.0.0", &with_halting(&site, "2.0.0")).unwrap();
    halted(&node);
    site.hub.withdraw().unwrap();
    let first = guardians(&node, false);
    assert_eq!(first.len(), 1, "{first:?}");
    node.run(&["kill", "-KILL", &first[0]]).unwrap();
    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
    await_no_guardians(&node);
    assert_eq!(current(&node)["cause"], "revert");
}

/// As after a reboot, or when the kernel has killed whom it could: nobody knows of the trial but the state.
#[test]
fn a_trial_that_nobody_watches_goes_on_at_the_next_start() {
    let (site, node, old) = booted();
    tell(&node, "armed", ASKS);
    site.publish("2.0.0", &with_halting(&site, "2.0.0")).unwrap();
    let (pid, _) = halted(&node);
    site.hub.withdraw().unwrap();
    assert!(node.path("/var/lib/molt/self-update.json").exists());
    let everybody = [guardians(&node, true), guardians(&node, false), vec![pid]].concat();
    tell(&node, "always", &format!("hangs {ASKS}"));
    let kill: Vec<&str> = ["kill", "-KILL"].into_iter().chain(everybody.iter().map(String::as_str)).collect();
    node.run(&kill).unwrap();
    let _ = fs::remove_file(node.path("/run/molt/handover.json"));
    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
    await_no_guardians(&node);
    assert_eq!(current(&node)["cause"], "revert");
}

/// What the process of a service was started with.
fn words(node: &Node, service: &str) -> Vec<String> {
    let pid = node.pid_of(service).unwrap();
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    String::from_utf8_lossy(&words).trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

/// zinit knows the arguments of the old unit until the node boots, and starts the new program with them.
#[test]
fn an_option_that_the_new_one_does_not_have() {
    let site = Site::new().unwrap();
    let old = with_halting(&site, "1.0.0");
    old.unit("identityd", "exec: /sbin/identityd run --dropped\nafter: [internet]\nlog: stdout\n").unwrap();
    site.publish("1.0.0", &old).unwrap();
    let node = site.boot("1.0.0").unwrap();
    assert!(words(&node, "identityd").contains(&"--dropped".to_owned()));
    let text = node.run(&["identityd", "status"]).unwrap();
    assert!(!text.contains("identityd.yaml"), "{text}");

    let new = site.payload("2.0.0").unwrap();
    new.unit("identityd", "exec: /sbin/identityd run\nafter: [internet]\nlog: stdout\n").unwrap();
    site.publish("2.0.0", &new).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    assert!(!words(&node, "identityd").contains(&"--dropped".to_owned()));
    let is_told = "zinit: /etc/zinit/identityd.yaml, until the node reboots";
    node.wait_for("status says what zinit has", UPGRADE_LIMIT, || {
        let text = node.run(&["identityd", "status"]).map_err(|error| format!("{error:?}"))?;
        if text.contains(is_told) { Ok(()) } else { Err(text) }
    })
    .unwrap();

    let first = node.pid_of("identityd").unwrap();
    let inside = node.processes().unwrap().iter().find(|process| process.pid == first).unwrap().pid_inside;
    node.run(&["kill", "-KILL", &inside.to_string()]).unwrap();
    let status = until(&node, "another one has nothing to do", |status| {
        let pid = node.pid_of("identityd").ok().filter(|pid| *pid != first);
        let rests = status["stage"] == "Idle" && status["identityd"]["polled"] == true;
        pid.is_some() && rests && status["identityd"]["pid"] != u64::from(inside)
    });
    assert_eq!(status["installed"]["version"], "2.0.0");
    assert_eq!(words(&node, "identityd"), ["/sbin/identityd", "run"]);
    assert!(node.run(&["identityd", "status"]).unwrap().contains(is_told));
}

#[test]
fn a_unit_with_wrong_arguments_does_not_get_to_stay() {
    let (site, node, _old) = booted();
    let unit = node.read("/etc/zinit/identityd.yaml").unwrap();
    let new = site.payload("2.0.0").unwrap();
    new.unit("identityd", "exec: /sbin/identityd run --no-such-option\n").unwrap();
    site.publish("2.0.0", &new).unwrap();
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    assert_eq!(node.read("/etc/zinit/identityd.yaml").unwrap(), unit);
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert_eq!(words(&node, "identityd"), ["/sbin/identityd", "run"]);
}

#[test]
fn other_arguments_in_the_unit_count_without_a_reboot() {
    let (site, node, _old) = booted();
    let pid = node.pid_of("identityd").unwrap();
    let new = site.payload("2.0.0").unwrap();
    new.unit("identityd", "exec: /sbin/identityd run --quiet\nafter: [internet]\nlog: stdout\n").unwrap();
    site.publish("2.0.0", &new).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(node.pid_of("identityd").unwrap(), pid, "the same process");
    assert_eq!(words(&node, "identityd"), ["/sbin/identityd", "run", "--quiet"]);
}

/// Makes a program of the payload one that cannot be executed here.
fn patched(payload: &Payload, patch: impl Fn(&mut Vec<u8>)) {
    let path: PathBuf = payload.directory().join("sbin/identityd");
    let mut program = fs::read(&path).unwrap();
    patch(&mut program);
    payload.file("/sbin/identityd", 0o755, program).unwrap();
}

/// Nothing is stopped, and nobody is replaced, by an identityd that could not even be executed.
fn is_refused_before_anything_happens(patch: impl Fn(&mut Vec<u8>), says: &str) {
    let (site, node, old) = booted();
    let pids = ["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap());
    let new = site.payload("2.0.0").unwrap();
    patched(&new, patch);
    site.hub.publish_with("2.0.0", new.directory(), Some("dev"), &["--no-lint"]).unwrap();
    let status = until(&node, "the release is refused", |status| status["last_error"]["message"].is_string());
    let said = status["last_error"]["message"].as_str().unwrap();
    assert!(said.contains(says), "{said}");
    let status = until(&node, "it waits", |status| status["gate"] == "Refused");
    assert_eq!(status["installed"]["version"], "1.0.0");
    assert_eq!(["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap()), pids);
    old_runs(&node, &old).unwrap();
    assert!(guardians(&node, false).is_empty());
    assert_eq!(current(&node)["number"], 1);
}

#[test]
fn one_for_another_machine() {
    // e_machine of an ELF file: SPARC.
    is_refused_before_anything_happens(|program| program[18..20].copy_from_slice(&[2, 0]), "identityd");
}

#[test]
fn one_that_needs_a_library_that_is_not_there() {
    let without_libc = |program: &mut Vec<u8>| {
        let needed = b"libc.so.6\0";
        let at = program.windows(needed.len()).position(|window| window == needed).unwrap();
        program[at..at + 4].copy_from_slice(b"gone");
    };
    is_refused_before_anything_happens(without_libc, "gone.so.6");
}

#[test]
fn a_unit_that_changes_at_the_same_time_goes_back_too() {
    let (site, node, old) = booted();
    let unit = node.read("/etc/zinit/identityd.yaml").unwrap();
    tell(&node, "always", &format!("ends {ASKS}"));
    let new = with_halting(&site, "2.0.0");
    new.unit("identityd", "exec: /sbin/identityd run --dropped\nafter: [internet]\nlog: stdout\n").unwrap();
    site.publish("2.0.0", &new).unwrap();
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
    assert_eq!(node.read("/etc/zinit/identityd.yaml").unwrap(), unit);
    assert_eq!(words(&node, "identityd"), ["/sbin/identityd", "run"]);
}

/// The node has no record of an identityd: its root was installed by somebody else, or the state was lost.
#[test]
fn one_where_none_was_ever_recorded() {
    let (site, node, old) = booted();
    node.stop_service("identityd").unwrap();
    for name in ["current", "generations", "releases.json"] {
        node.run(&["rm", "-rf", &format!("/var/lib/molt/{name}")]).unwrap();
    }
    node.start_service("identityd").unwrap();
    let bad = site.payload("2.0.0").unwrap();
    bad.file("/sbin/identityd", 0o755, "#!/bin/sh\nexit 0\n").unwrap();
    site.publish("2.0.0", &bad).unwrap();
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
    let good = site.payload("2.0.1").unwrap();
    good.marked("/sbin/identityd", "2.0.1").unwrap();
    site.publish("2.0.1", &good).unwrap();
    site.await_version(&node, "2.0.1").unwrap();
}

#[test]
fn two_in_a_row() {
    let (site, node, _old) = booted();
    let pid = node.pid_of("identityd").unwrap();
    for version in ["2.0.0", "3.0.0"] {
        let new = site.payload(version).unwrap();
        new.marked("/sbin/identityd", version).unwrap();
        site.publish(version, &new).unwrap();
        site.await_version(&node, version).unwrap();
        assert_eq!(node.pid_of("identityd").unwrap(), pid, "the same process");
        let running = digest_of(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(running, digest_of(new.directory().join("sbin/identityd")).unwrap());
    }
    await_no_guardians(&node);
    let history = said(&node, &["history"]);
    let codes: Vec<_> = history.as_array().unwrap().iter().map(|attempt| &attempt["code"]).collect();
    assert_eq!(codes, ["Handover", "Committed", "Handover", "Committed"], "{history}");
}
