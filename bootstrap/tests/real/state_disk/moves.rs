//! Into RAM and back, whatever the disk fails with.

use std::fs::{self, File};

use bootstrap::generation::Standing;
use bootstrap::plan::Purpose;
use bootstrap::state_place::StatePlaceError;
use nix::mount::umount;

use super::{Node, break_ext4, numbered};
use crate::place::run;

/// What was accepted of signatures: one that is replaced in RAM, one that is forgotten there, one that stays.
const SIGNED: [&str; 3] = ["trust/timestamp.json", "trust/prod.json", "trust/root_history/1.root.json"];

/// Boots from the disk, then the disk fails: an upgrade works from RAM with everything that was known, and comes back
/// with the disk.
fn survives(node: &Node, fail: impl FnOnce(), heal: impl FnOnce()) {
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.judge_bad("bad-before");
    fs::write(node.state.join("orders.json"), r#"{"schema":1,"holds":[{"release":"9"}]}"#).unwrap();
    fs::write(node.state.join("attempt.json"), "{}").unwrap();
    fs::create_dir_all(node.state.join("trust/root_history")).unwrap();
    for name in SIGNED {
        fs::write(node.state.join(name), "accepted before").unwrap();
    }
    assert_eq!((node.settle(0).unwrap(), node.state_place().directory()), (None, node.state.clone()));

    fail();
    let notice = node.settle(0).unwrap().unwrap();
    assert_eq!(node.state_place().notice().as_ref(), Some(&notice));
    assert!(notice.reason.contains(node.state.to_str().unwrap()), "{notice:?}");
    assert_eq!((&notice.unread[..], node.state_place().directory()), (&[][..], node.at("run/state")));
    use std::os::unix::fs::PermissionsExt;
    let mode = node.at("run/state").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert!(node.is_bad("bad-before"));
    assert!(fs::read_to_string(node.at("run/state/orders.json")).unwrap().contains("\"9\""));
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.judge_bad("bad-meanwhile");
    fs::remove_file(node.at("run/state/attempt.json")).unwrap();
    for name in SIGNED {
        assert_eq!(fs::read_to_string(node.at("run/state").join(name)).unwrap(), "accepted before");
    }
    let [newer, gone, _] = SIGNED;
    fs::write(node.at("run/state").join(newer), "accepted meanwhile").unwrap();
    fs::remove_file(node.at("run/state").join(gone)).unwrap();
    fs::write(node.at("run/state/history.jsonl"), "{}\n").unwrap();
    // It stays there as long as the disk fails, also for a program that has just started.
    assert!(node.settle(0).unwrap().is_some());
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));

    heal();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!((node.state_place().directory(), node.state_place().notice()), (node.state.clone(), None));
    assert!(!node.at("run/state").exists());
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));
    assert!(node.is_bad("bad-before") && node.is_bad("bad-meanwhile"));
    assert!(fs::read_to_string(node.state.join("orders.json")).unwrap().contains("\"9\""));
    assert!(!node.state.join("attempt.json").exists(), "the attempt has ended in RAM");
    let accepted = SIGNED.map(|name| fs::read_to_string(node.state.join(name)).ok());
    assert_eq!(accepted, [Some("accepted meanwhile".into()), None, Some("accepted before".into())]);
    assert_eq!(fs::read_to_string(node.state.join("history.jsonl")).unwrap(), "{}\n");
    assert_eq!(node.install("3", Purpose::Upgrade), 3);
    assert_eq!(node.state_place().directory(), node.state.clone());
}

#[test]
fn a_read_only_disk() {
    let node = Node::new();
    survives(&node, || node.remount("ro"), || node.remount("rw"));
    node.detach();
}

#[test]
fn a_read_only_bind_mount() {
    let node = Node::new();
    let at = node.state.clone();
    let bind = || {
        let path = at.to_str().unwrap();
        run("mount", &["--bind", path, path]);
        run("mount", &["-o", "remount,bind,ro", path]);
    };
    survives(&node, bind, || umount(&at).unwrap());
    node.detach();
}

#[test]
fn an_immutable_directory() {
    let node = Node::new();
    let at = node.state.clone();
    let mark = |how: &str| run("chattr", &[how, at.to_str().unwrap()]);
    survives(&node, || mark("+i"), || mark("-i"));
    node.detach();
}

#[test]
fn a_full_disk() {
    let node = Node::new();
    let filler = node.at("disk/filler");
    let fill = || {
        let mut file = File::create(&filler).unwrap();
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok() {}
    };
    survives(&node, fill, || fs::remove_file(&filler).unwrap());
    node.detach();
}

/// Enough for a probe is not enough for an upgrade.
#[test]
fn a_disk_that_is_nearly_full() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    assert_eq!(node.settle(1 << 20).unwrap(), None);
    let notice = node.settle(14 << 20).unwrap().unwrap();
    assert!(notice.reason.contains("bytes left"), "{notice:?}");
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));
    node.detach();
}

/// A disk that cannot even be read: what was known is not, which is said, and nothing of it is mixed up with what
/// comes to be meanwhile.
#[test]
fn a_broken_disk() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.judge_bad("bad-before");
    fs::write(node.state.join("orders.json"), r#"{"schema":1,"holds":[{"release":"9"}]}"#).unwrap();
    break_ext4(&node.at("disk"));

    let notice = node.settle(0).unwrap().unwrap();
    for name in ["current", "releases.json", "orders.json"] {
        assert!(notice.unread.iter().any(|unread| unread == name), "{name}: {notice:?}");
    }
    // The root is no new one, although nobody knows what is installed.
    assert_eq!(node.engine().standing().unwrap(), Standing::Damaged);
    let third = node.install("3", Purpose::Upgrade);
    assert!(third > 1000, "no number that a generation on the disk has: {third}");
    node.judge_bad("bad-meanwhile");

    node.detach();
    node.attach();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2"), (third, "3")]));
    assert!(node.is_bad("bad-before") && node.is_bad("bad-meanwhile"));
    assert!(fs::read_to_string(node.state.join("orders.json")).unwrap().contains("\"9\""));
    assert_eq!(node.install("4", Purpose::Upgrade), third + 1);
    node.detach();
}

/// A disk that breaks and comes back without anything having been installed meanwhile says what it said.
#[test]
fn a_disk_that_was_away() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    break_ext4(&node.at("disk"));
    assert!(node.settle(0).unwrap().is_some());
    node.detach();
    node.attach();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1")]));
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.detach();
}

/// What the disk has of this root is newer, because a program that does not know of RAM went on with it: that counts.
#[test]
fn the_newer_generation_counts() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.remount("ro");
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.remount("rw");
    let aside = node.at("run/elsewhere");
    fs::rename(node.at("run/state"), &aside).unwrap();
    for (version, number) in [("2b", 3), ("3b", 4)] {
        assert_eq!(node.install(version, Purpose::Upgrade), number);
    }
    fs::rename(&aside, node.at("run/state")).unwrap();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.engine().current().unwrap().unwrap().version.to_string(), "3b");
    node.detach();
}

/// There has to be memory for it: otherwise nothing moves, and the error says what is missing.
#[test]
fn without_memory_nothing_moves() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.remount("ro");
    let error = node.settle(100 << 20).unwrap_err();
    let StatePlaceError::NoMemory { need, have, .. } = &error else { panic!("{error}") };
    assert!(*need > 100 << 20 && *have <= 64 << 20, "{error}");
    assert!(error.to_string().contains("run/state needs"), "{error}");
    assert_eq!((node.state_place().directory(), node.state_place().notice()), (node.state.clone(), None));
    node.detach();
}

/// A transaction that is under way in RAM ends there.
#[test]
fn the_state_does_not_move_under_a_transaction() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.remount("ro");
    assert!(node.settle(0).unwrap().is_some());
    fs::write(node.at("run/state/journal"), "torn").unwrap();
    node.remount("rw");
    assert!(node.settle(0).unwrap().is_some());
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));
    node.detach();
}

/// What a newer version wrote into the notice is no obstacle.
#[test]
fn a_notice_of_another_version_is_understood() {
    let node = Node::new();
    fs::create_dir_all(node.at("run/state")).unwrap();
    let marker = node.at("run/state/in-force");
    fs::write(&marker, r#"{"schema":2,"since":7,"reason":"x","colour":[1]}"#).unwrap();
    assert_eq!(node.state_place().notice().unwrap().since, 7);
    fs::write(&marker, "torn").unwrap();
    assert!(node.state_place().notice().is_some());
    assert_eq!(node.state_place().directory(), node.at("run/state"));
    node.detach();
}
