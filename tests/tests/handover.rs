//! An identityd that is no good does not get to stay.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use molt_tests::campaign::guardian::{self, PUTS_BACK};
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

/// What a guardian does in turn when it puts the old identityd back.
const STEPS: [&str; 4] = ["/undo/enter", "/end_process/enter", "/monitor:identityd/enter", "/close/enter"];

/// Wherever the guardian is killed while it puts the old identityd back, there is another one that does it. At the
/// beginning of each step it is always tried.
#[test]
fn a_guardian_that_is_killed_is_replaced() {
    let steps = STEPS.map(|step| format!("{PUTS_BACK}{step}"));
    let always: Vec<&str> = steps.iter().map(String::as_str).collect();
    let kills = guardian::run(&always, 2, 1, &|said| println!("{said}")).unwrap();
    println!("{} points: {:?}", kills.listed, kills.points);
    for step in &always {
        assert!(kills.points.iter().any(|point| point.contains(step)), "{step} was not tried: {kills:?}");
    }
    assert!(kills.points.len() >= always.len() + 2 && kills.listed >= 90, "{kills:?}");
}

/// Ends as soon as somebody else has the engine's lock, which no guardian knows of, and hangs when it is started anew.
const LOCKS_AND_ENDS: &str = "#!/bin/sh
echo started >> /run/starts
test $(wc -l < /run/starts) -gt 1 && exec sleep 4000000
setsid flock /run/molt/lock sleep 4000001 &
while flock -n /run/molt/lock true; do sleep 0.1; done
";

/// The processes of a node, by their pids in it, that have this word among their arguments.
fn with_argument(node: &Node, word: &str) -> Vec<String> {
    let processes = node.processes().unwrap().into_iter();
    let has_word = |pid: u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    processes.filter(|process| has_word(process.pid)).map(|process| process.pid_inside.to_string()).collect()
}

/// While somebody has the lock nothing can be put back, and whoever waits for it can be killed as well.
#[test]
fn a_second_guardian_is_replaced_also_while_the_first_one_cannot_go_on() {
    let site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &old).unwrap();
    // The time that it may take is not what this is about.
    let config = "poll_interval: 1\nhandover_timeout: 60\nhealth_window: 1\n";
    let node = site.node().config(config).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let new = site.payload("2.0.0").unwrap();
    new.file("/sbin/identityd", 0o755, LOCKS_AND_ENDS).unwrap();
    site.publish("2.0.0", &new).unwrap();
    // The second one would hang for ever: that there is a third tells that a guardian is waiting for the lock.
    let starts = || std::fs::read_to_string(node.path("/run/starts")).unwrap_or_default().lines().count();
    node.wait_for("a guardian waits for the lock", UPGRADE_LIMIT, || match starts() {
        0..3 => Err(format!("{} starts", starts())),
        _ => Ok(()),
    })
    .unwrap();
    site.hub.withdraw().unwrap();

    let second = with_argument(&node, "--second");
    assert_eq!(second.len(), 1, "{second:?}");
    node.run(&["kill", "-KILL", &second[0]]).unwrap();
    node.wait_for("there is another second guardian", UPGRADE_LIMIT, || {
        match with_argument(&node, "--second") {
            now if now.len() == 1 && now != second => Ok(()),
            now => Err(format!("{now:?}")),
        }
    })
    .unwrap();
    for holder in with_argument(&node, "4000001") {
        node.run(&["kill", "-KILL", &holder]).unwrap();
    }
    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
}

/// Hides the journal, so that nothing can be undone, and hangs.
const HIDES_THE_JOURNAL: &str = "#!/bin/sh
mv /var/lib/molt/journal /run/hidden && mkdir /var/lib/molt/journal && echo hidden > /run/done
exec sleep 4000000
";

/// What cannot be undone at first is tried again, and somebody watches until it is.
#[test]
fn a_guardian_that_cannot_undo_at_first_does_not_leave() {
    let site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &old).unwrap();
    let config = "poll_interval: 1\nhandover_timeout: 3\nhealth_window: 1\n";
    let node = site.node().config(config).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let new = site.payload("2.0.0").unwrap();
    new.file("/sbin/identityd", 0o755, HIDES_THE_JOURNAL).unwrap();
    site.publish("2.0.0", &new).unwrap();
    node.wait_for("the new one has hidden the journal", UPGRADE_LIMIT, || {
        node.read("/run/done").map_err(|error| format!("{error:?}"))
    })
    .unwrap();
    site.hub.withdraw().unwrap();
    let first = node.pid_of("identityd").unwrap();
    node.wait_for("the guardian has ended the new one", UPGRADE_LIMIT, || match node.pid_of("identityd") {
        Ok(pid) if pid == first => Err(format!("{pid} runs")),
        now => now.map(drop).map_err(|error| format!("{error:?}")),
    })
    .unwrap();
    assert_eq!(with_argument(&node, "--second").len(), 1, "somebody watches");
    node.run(&["sh", "-c", "rmdir /var/lib/molt/journal && mv /run/hidden /var/lib/molt/journal"]).unwrap();
    wait_for("the old identityd runs", UPGRADE_LIMIT, || old_runs(&node, &old)).unwrap();
    node.wait_for("the guardians have left", UPGRADE_LIMIT, || match with_argument(&node, "guardian") {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
}
