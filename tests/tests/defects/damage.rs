//! Z3: state files are damaged, each in several ways, and upgrades go on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use molt_tests::{Node, Site};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CYCLE, booted_with, until};

/// Everything that the programs keep of what is installed; of the generations only the current one.
fn state_files(node: &Node) -> Vec<PathBuf> {
    let current = node.read("/var/lib/molt/current").unwrap_or_default();
    let of_current = |kind| format!("/var/lib/molt/generations/{}.{kind}", current.trim()).into();
    let mut files: Vec<PathBuf> = ["json", "fl"].map(of_current).to_vec();
    for directory in ["/var/lib/molt", "/tmp"] {
        let entries = fs::read_dir(node.path(directory)).unwrap().flatten();
        files.extend(entries.map(|entry| Path::new(directory).join(entry.file_name())));
    }
    files.retain(|path| node.path(path).is_file());
    files
}

/// What a state file is called, whatever the number of the generation it belongs to.
fn name_of(path: &Path) -> String {
    path.to_string_lossy().replace(|letter: char| letter.is_ascii_digit(), "")
}

/// What a crash or a full disk does to a file.
fn damage(path: &Path, how: usize) {
    let bytes = fs::read(path).unwrap();
    let cut = |at: usize| bytes[..at].to_vec();
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte ^= 0xff);
        bytes
    };
    let damaged = match how % 5 {
        0 => cut(0),
        1 => cut(bytes.len() / 2),
        2 => cut(bytes.len().saturating_sub(2)),
        3 => flipped(0),
        _ => flipped(bytes.len() / 2),
    };
    // In place, as somebody would who does not write a new file and rename it.
    fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap().write_all(&damaged).unwrap();
}

/// Alternates between two releases; damages a state file before each upgrade.
fn recovers_from_damage(damages_of_each: usize, restarts: bool, is_tried: impl Fn(&Path) -> bool) {
    let site = Site::new().unwrap();
    let node = booted_with(&site.payload("1.0.0").unwrap(), &site);
    let names = ["one", "two"];
    site.hub.name("1.0.0", "one").unwrap();
    site.hub.publish("2.0.0", site.payload("2.0.0").unwrap().directory(), None).unwrap();
    site.hub.name("2.0.0", "two").unwrap();
    let (mut turn, mut damaged) = (0, 0);
    let mut next = || {
        turn += 1;
        site.hub.offer(names[turn % 2]).unwrap();
        node.wait_for("the next release is installed", CYCLE, || {
            let status = node.status().map_err(|error| format!("{error:?}"))?;
            let done = status["stage"] == "Idle" && status["installed"]["version"] == names[turn % 2];
            if done { Ok(()) } else { Err(status.to_string()) }
        })
    };
    next().unwrap();
    // The numbers of the generations change from upgrade to upgrade, so each file is named by its place.
    let names: Vec<_> = state_files(&node).iter().map(|path| name_of(path)).collect();
    for name in names {
        for how in 0..damages_of_each {
            let path = state_files(&node).into_iter().find(|path| name_of(path) == name);
            let Some(path) = path.filter(|path| is_tried(path)) else { continue };
            println!("{}: damage {how}", path.display());
            damage(&node.path(&path), how + damaged);
            damaged += 1;
            if restarts {
                let pid = i32::try_from(node.pid_of("identityd").unwrap()).unwrap();
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
            next().unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        }
    }
    assert!(damaged >= 5 * damages_of_each, "{damaged} files were damaged");
}

#[test]
fn z3_damaged_state_files_do_not_keep_a_daemon_from_upgrading() {
    recovers_from_damage(3, false, |_| true);
}

#[test]
fn z3_damaged_state_files_do_not_keep_a_new_daemon_from_upgrading() {
    recovers_from_damage(2, true, |_| true);
}

#[test]
fn z3_damaged_orders_neither_lose_a_hold_nor_wedge_a_node() {
    let site = Site::new().unwrap();
    let node = booted_with(&site.payload("1.0.0").unwrap(), &site);
    node.run(&["identityd", "hold", "2.0.0"]).unwrap();
    let (orders, copy) =
        (node.path("/var/lib/molt/orders.json"), node.path("/var/lib/molt/orders.last.json"));
    damage(&orders, 1);
    site.publish("2.0.0", &site.payload("2.0.0").unwrap()).unwrap();
    until(&node, "the release is still held", |status| status["gate"] == "Hold");
    node.run(&["identityd", "unhold", "2.0.0"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();

    // Both: a hold may be among what is lost, so somebody has to decide.
    damage(&orders, 1);
    damage(&copy, 1);
    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    until(&node, "nobody knows what is held", |status| status["gate"] == "Orders");
    let fixed = node.exec(&["identityd", "doctor", "--fix"]).unwrap();
    assert!(String::from_utf8_lossy(&fixed.stdout).contains("orders-damaged"), "{fixed:?}");
    site.await_version(&node, "3.0.0").unwrap();
}
