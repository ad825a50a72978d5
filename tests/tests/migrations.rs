//! What packages declare, on a real node: hooks, migrations of state, a way back that there is not, and budgets of
//! downtime that hooks and migrations use up.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::os::unix::fs::MetadataExt;

use molt_tests::{Node, Payload, Site, UPGRADE_LIMIT, require_installed};
use serde_json::Value;

/// Takes the state from one layout to another, and says on whose copy it worked.
const MIGRATE: &str = "#!/bin/sh
set -e
cd /var/lib/store
case $1 in
up2) sed '/^two:/!s/^/two:/' data > new ;;
down2) sed 's/^two://' data > new ;;
up3) sed 's/^two:/three:/' data > new ;;
esac
mv new data
echo \"$MOLT_PACKAGE $MOLT_MIGRATION $1 $(ls -di /var/lib/store)\" >> /tmp/migrated
";

const TO_TWO: &str =
    "{to: 2, run: [/usr/libexec/store/migrate, up2], undo: [/usr/libexec/store/migrate, down2]}";
const TO_THREE: &str = "{to: 3, run: [/usr/libexec/store/migrate, up3]}";

/// What hooks do.
const HOOK: &str = "#!/bin/sh
case $1 in
fail) echo no room for it; exit 3 ;;
hang) exec sleep 4000001 ;;
slow) sleep 3 ;;
undo) echo \"$MOLT_HOOK\" >> /tmp/taken-back ;;
esac
";

const UNIT: &str = "exec: sleep 5000001\n";

/// A release with a package `store`: its unit, the layout of its state, what leads there, and its hooks.
fn store(site: &Site, version: &str, unit: &str, (schema, migrations): (u32, &str), hooks: &str) -> Payload {
    let payload = site.payload(version).unwrap();
    payload.unit("store", unit).unwrap();
    payload.file("/usr/libexec/store/migrate", 0o755, MIGRATE).unwrap();
    payload.file("/usr/libexec/store/hook", 0o755, HOOK).unwrap();
    let description = format!(
        "state: {{schema: {schema}, paths: [/var/lib/store], services: [store], limit_mib: 1, migrations: [{migrations}]}}\nhooks: [{hooks}]\n"
    );
    payload.file("/usr/lib/molt/packages/store.yaml", 0o644, description).unwrap();
    payload
}

/// A node with the first release, whose service has written something.
fn node(site: &Site, unit: &str) -> (Node, Payload) {
    let first = store(site, "1.0.0", unit, (1, ""), "");
    site.publish("1.0.0", &first).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle", "store"], UPGRADE_LIMIT).unwrap();
    node.run(&["sh", "-c", "mkdir -p /var/lib/store && printf 'a\\nb\\n' > /var/lib/store/data"]).unwrap();
    (node, first)
}

/// Without the lint, which would not let a migration without a way back through.
fn publish_unchecked(site: &Site, version: &str, payload: &Payload) {
    site.hub.publish_with(version, payload.directory(), Some("dev"), &["--no-lint"]).unwrap();
}

fn data(node: &Node) -> String {
    node.read("/var/lib/store/data").unwrap()
}

fn until(node: &Node, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if holds(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .unwrap()
}

/// The newest attempt, once it is about this version and over.
fn attempt(node: &Node, version: &str) -> Value {
    node.wait_for(&format!("the attempt at {version} is over"), UPGRADE_LIMIT, || {
        let said = node.run(&["identityd", "history", "--json"]).map_err(|error| format!("{error:?}"))?;
        let attempts: Value = serde_json::from_str(&said).unwrap();
        let newest = attempts.as_array().unwrap().iter().rev().find(|one| one["to"]["version"] == version);
        newest.cloned().ok_or(said)
    })
    .unwrap()
}

fn why(node: &Node, gate: &str) -> String {
    let said = node.run(&["identityd", "why"]).unwrap();
    let closed = format!("CLOSED {gate}");
    said.lines()
        .find(|line| line.starts_with(&closed))
        .unwrap_or_else(|| panic!("{closed}: {said}"))
        .to_owned()
}

fn no_staging(node: &Node) {
    let left = node.run(&["find", "/.molt", "-name", "state-*"]).unwrap();
    assert_eq!(left, "", "copies of state are left");
}

#[test]
fn state_goes_up_and_back_and_never_by_half() {
    let site = Site::new().unwrap();
    let (node, first) = node(&site, UNIT);
    let original = node.path("/var/lib/store").metadata().unwrap().ino();
    let (pid, idle) = (node.pid_of("store").unwrap(), node.pid_of("idle").unwrap());

    // Up, on a copy, while the service is stopped although nothing of its own changes.
    site.publish("2.0.0", &store(&site, "2.0.0", UNIT, (2, TO_TWO), "")).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(data(&node), "two:a\ntwo:b\n");
    assert_ne!(node.pid_of("store").unwrap(), pid);
    assert_eq!(node.pid_of("idle").unwrap(), idle);
    let migrated = node.read("/tmp/migrated").unwrap();
    assert!(migrated.starts_with("store 2 up2 ") && !migrated.contains(&original.to_string()), "{migrated}");

    // Back by the inverse, with what was written since.
    node.run(&["sh", "-c", "echo two:c >> /var/lib/store/data"]).unwrap();
    node.run(&["identityd", "rollback"]).unwrap();
    assert_eq!(data(&node), "a\nb\nc\n");
    require_installed(&node, &first).unwrap();

    // A release whose service is not well is undone, and its state put back as it was.
    let before = node.path("/var/lib/store").metadata().unwrap();
    let ends = "exec: sh -c \"exit 1\"\n";
    let steps = format!("{TO_TWO}, {TO_THREE}");
    publish_unchecked(&site, "3.0.0", &store(&site, "3.0.0", ends, (3, &steps), ""));
    let undone = attempt(&node, "3.0.0");
    assert_eq!(undone["outcome"], "rolled-back", "{undone}");
    assert!(undone["reason"].as_str().unwrap().contains("store"), "{undone}");
    let after = node.path("/var/lib/store").metadata().unwrap();
    assert_eq!((after.ino(), after.mtime_nsec()), (before.ino(), before.mtime_nsec()));
    assert_eq!(data(&node), "a\nb\nc\n");
    node.wait_for_services(&["web", "idle", "store"], UPGRADE_LIMIT).unwrap();
    require_installed(&node, &first).unwrap();
    no_staging(&node);
    assert!(node.read("/tmp/migrated").unwrap().contains("store 3 up3 "));

    // Where no program leads back, going back is refused, and that is said beforehand.
    publish_unchecked(&site, "4.0.0", &store(&site, "4.0.0", UNIT, (3, &steps), ""));
    site.await_version(&node, "4.0.0").unwrap();
    assert_eq!(data(&node), "three:a\nthree:b\nthree:c\n");
    let pid = node.pid_of("store").unwrap();
    let refused = node.exec(&["identityd", "rollback"]).unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{text}");
    let reason = "the state of package store has schema 3, and the release reads 1; the inverse of migration 3 would be needed, and there is none";
    assert!(text.contains("schema-too-new") && text.contains(reason), "{text}");
    let gate = why(&node, "Rollback");
    assert!(gate.contains("to 1.0.0") && gate.contains(reason), "{gate}");
    assert_eq!((data(&node).as_str(), node.pid_of("store").unwrap()), ("three:a\nthree:b\nthree:c\n", pid));
    // It keeps nothing from being installed.
    publish_unchecked(&site, "5.0.0", &store(&site, "5.0.0", UNIT, (3, &steps), ""));
    site.await_version(&node, "5.0.0").unwrap();
    assert_eq!(data(&node), "three:a\nthree:b\nthree:c\n");
}

#[test]
fn hooks_that_do_not_do_are_taken_back_and_budgets_count_for_them_too() {
    let site = Site::new().unwrap();
    let (node, first) = node(&site, UNIT);
    bad_hooks_are_taken_back(&site, &node, &first);
    a_hook_that_takes_longer_than_a_service_may_be_away_is_ended(&site, &node, &first);
    budgets_count_for_migrations(&site, &node);
}

/// A hook of the package, at this point of an upgrade, with its limit in seconds.
fn hook(when: &str, what: &str, timeout: u32) -> String {
    format!(
        "{{name: {what}, when: {when}, run: [/usr/libexec/store/hook, {what}], undo: [/usr/libexec/store/hook, undo], timeout: {timeout}}}"
    )
}

fn bad_hooks_are_taken_back(site: &Site, node: &Node, first: &Payload) {
    let pids = || ["web", "idle", "store"].map(|name| node.pid_of(name).unwrap());
    let before = pids();
    // One that fails before anything is stopped costs nothing.
    let failing = hook("before-swap", "fail", 5);
    site.publish("2.0.0", &store(site, "2.0.0", UNIT, (1, ""), &failing)).unwrap();
    let undone = attempt(node, "2.0.0");
    let reason = undone["reason"].as_str().unwrap();
    let said =
        "the hook fail of package store failed: it ended with code 3; the last it said: no room for it";
    assert!(undone["outcome"] == "rolled-back" && reason.contains(said), "{undone}");
    assert_eq!(pids(), before);
    assert_eq!(node.read("/tmp/taken-back").unwrap(), "fail\n");

    // One that hangs is ended at its limit, and everything is as before.
    site.publish("3.0.0", &store(site, "3.0.0", UNIT, (1, ""), &hook("before-start", "hang", 1))).unwrap();
    let undone = attempt(node, "3.0.0");
    assert!(
        undone["reason"].as_str().unwrap().contains("it did not end within 1s and was killed"),
        "{undone}"
    );
    assert_eq!(node.read("/tmp/taken-back").unwrap(), "fail\nhang\n");
    require_installed(node, first).unwrap();
    node.wait_for_services(&["web", "idle", "store"], UPGRADE_LIMIT).unwrap();
    assert!(node.run(&["ps"]).unwrap().lines().all(|line| !line.contains("4000001")), "it was left running");
}

/// Nobody had measured it.
fn a_hook_that_takes_longer_than_a_service_may_be_away_is_ended(site: &Site, node: &Node, first: &Payload) {
    let unit = "exec: sleep 5000001\nmolt: {downtime_budget: 1500}\n";
    let slow = hook("before-start", "slow", 60);
    site.publish("4.0.0", &store(site, "4.0.0", unit, (1, ""), &slow)).unwrap();
    let undone = attempt(node, "4.0.0");
    let reason = undone["reason"].as_str().unwrap();
    assert!(reason.contains("store was away for") && reason.contains("its unit allows 1500 ms"), "{undone}");
    require_installed(node, first).unwrap();
    let gate = until(node, "it is not tried again", |status| status["gate"] == "Refused");
    assert!(gate["reason"].as_str().unwrap().contains("store was away for"), "{gate}");
    // Somebody who wants it all the same gets it.
    node.run(&["identityd", "retry", "4.0.0"]).unwrap();
    site.await_version(node, "4.0.0").unwrap();
}

fn budgets_count_for_migrations(site: &Site, node: &Node) {
    let unit = "exec: sleep 5000001\nmolt: {downtime_budget: 1500}\n";
    // What a migration may take is known beforehand.
    let migrating = store(site, "5.0.0", unit, (2, TO_TWO), "");
    site.publish("5.0.0", &migrating).unwrap();
    until(node, "it waits", |status| status["gate"] == "Downtime");
    let gate = why(node, "Downtime");
    assert!(gate.contains("and up to 300000 ms for migrations, MORE than its budget of 1500 ms"), "{gate}");
    assert_eq!(data(node), "a\nb\n");
    node.run(&["identityd", "apply"]).unwrap();
    site.await_version(node, "5.0.0").unwrap();
    assert_eq!(data(node), "two:a\ntwo:b\n");

    // Without a history nobody knows; with it, it goes on by itself.
    let history = "/var/lib/molt/history.jsonl";
    node.run(&["sh", "-c", &format!("mv {history} /tmp/ && mkdir {history}")]).unwrap();
    let unit = "exec: sleep 5000002\nmolt: {downtime_budget: 60000}\n";
    site.publish("6.0.0", &store(site, "6.0.0", unit, (2, TO_TWO), "")).unwrap();
    until(node, "it waits", |status| status["gate"] == "Downtime");
    let gate = why(node, "Downtime");
    assert!(gate.contains("store (budget 60000 ms)") && gate.contains("could not read"), "{gate}");
    node.run(&["sh", "-c", &format!("rmdir {history} && mv /tmp/history.jsonl {history}")]).unwrap();
    site.await_version(node, "6.0.0").unwrap();
}
