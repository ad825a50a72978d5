//! A node whose root was in RAM boots again: only its state directory is what it was.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::Path;

use molt_tests::{BaseFile, Content, Node, NodeBuilder, Site, UPGRADE_LIMIT, scratch};
use tempfile::TempDir;

const STATE: &str = "/var/lib/molt";

/// A copy of the node's state directory, as a state disk would keep it.
fn state_of(node: &Node) -> TempDir {
    let disk = scratch("state").unwrap();
    copy(&node.path(STATE), disk.path());
    disk
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A node with a new root and these files in its state directory.
fn with_state(site: &Site, disk: &TempDir, names: &[&str]) -> NodeBuilder {
    let of = |name: &str| BaseFile {
        path: Path::new(STATE).join(name),
        mode: 0o600,
        content: Content::Copy(disk.path().join(name)),
    };
    names.iter().fold(site.node(), |node, name| node.file(of(name)))
}

/// A site whose channel offers 2.0.0, and what a node remembers that found it to be bad.
fn found_bad() -> (Site, TempDir) {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    let bad = site.payload("2.0.0").unwrap();
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    site.publish("2.0.0", &bad).unwrap();
    node.wait_for("the release is bad", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if status["gate"] == "Refused" { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    let disk = state_of(&node);
    (site, disk)
}

#[test]
fn a_bad_release_is_not_installed_where_a_good_one_is_recorded() {
    let (site, disk) = found_bad();
    let state = ["current", "releases.json", "generations/1.json", "generations/1.fl"];
    let node = with_state(&site, &disk, &state).boot().unwrap();
    node.wait_for("the good release runs", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        match &status["installed"]["version"] {
            version if version == "1.0.0" && status["gate"] == "Refused" => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .unwrap();
    node.wait_for_services(&["web", "idle", "bootstrap"], UPGRADE_LIMIT).unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert!(node.printed().contains("NOT installing what the channel offers"), "{}", node.console().tail(50));
    assert!(!node.path("/etc/zinit/broken.yaml").exists());
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED BadRelease") && why.contains("broken is not well"), "{why}");

    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
}

#[test]
fn what_was_gone_back_from_stays_away_after_a_reboot() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    site.publish("2.0.0", &site.payload("2.0.0").unwrap()).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    node.run(&["identityd", "rollback"]).unwrap();
    let disk = state_of(&node);
    drop(node);

    let current = fs::read_to_string(disk.path().join("current")).unwrap();
    let record = |kind: &str| format!("generations/{current}.{kind}");
    let state = ["current", "orders.json", &record("json"), &record("fl")];
    let node = with_state(&site, &disk, &state).boot().unwrap();
    node.wait_for("the release before runs", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        match &status["installed"]["version"] {
            version if version == "1.0.0" && status["gate"] == "Hold" => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .unwrap();
    node.wait_for_services(&["web", "idle", "bootstrap"], UPGRADE_LIMIT).unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert!(node.printed().contains("rolled back from 2.0.0 to 1.0.0"), "{}", node.console().tail(50));
}

#[test]
fn without_a_good_one_another_release_is_waited_for() {
    let (site, disk) = found_bad();
    let node = with_state(&site, &disk, &["releases.json"]).boot().unwrap();
    node.wait_for("the console says what is waited for", UPGRADE_LIMIT, || {
        match node.printed().contains("waiting for another release") {
            true => Ok(()),
            false => Err(node.console().tail(20)),
        }
    })
    .unwrap();
    assert!(node.printed().contains("broken is not well"), "{}", node.console().tail(20));
    assert!(!node.path("/tmp/flist.name").exists() && !node.path("/usr/bin/demo-web").exists());
    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
}
