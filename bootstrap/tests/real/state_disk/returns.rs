//! What must still be true when the disk is back: after it has failed twice, in the middle of something, or when it
//! could not take the state back.

use std::fs;
use std::time::Duration;

use bootstrap::durable::private_directory;
use bootstrap::generation::Standing;
use bootstrap::held::{self, Patience};
use bootstrap::plan::Purpose;
use bootstrap::transaction::Recovery;
use bootstrap::transaction::journal::{Journal, JournalPlace, Record};

use super::{Node, break_ext4, numbered};
use crate::place::{run, wait_for};

impl Node {
    /// The disk works again, as if it had been repaired.
    fn repair(&self) {
        self.detach();
        self.attach();
    }

    /// As [`Node::install`], and nothing is forgotten.
    fn install_keeping(&self, version: &str, purpose: Purpose) -> u64 {
        let release = self.app(version);
        self.settle(release.records()).unwrap();
        wait_for(async {
            let engine = self.engine().keeping(Some(10));
            let prepared = engine.prepare(&release, purpose, self.source(), None).await.unwrap();
            engine.apply(&self.lock(), &prepared, self.source(), &|_| {}, &|| Ok(())).await.unwrap();
        });
        self.engine().current().unwrap().unwrap().number
    }

    fn flist_info(&self) -> String {
        self.read("tmp/flist.info")
    }

    /// Installs a release and gives back what its journal said right before the swap.
    fn journal_of(&self, version: &str) -> Vec<u8> {
        let release = self.app(version);
        let said = std::sync::Mutex::new(Vec::new());
        wait_for(async {
            let engine = self.engine();
            let prepared = engine.prepare(&release, Purpose::Upgrade, self.source(), None).await.unwrap();
            let look = || {
                *said.lock().unwrap() = fs::read(engine.state().path().join("journal"))?;
                Ok(())
            };
            engine.apply(&self.lock(), &prepared, self.source(), &|_| {}, &look).await.unwrap();
        });
        said.into_inner().unwrap()
    }

    fn recover(&self) -> Recovery {
        wait_for(async { self.engine().recover(&self.lock()).await.unwrap() })
    }
}

/// A number that RAM has given out is never given out again, although nobody could read the disk both times.
#[test]
fn a_disk_that_breaks_twice() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    break_ext4(&node.at("disk"));
    // Many in the same second.
    let first: Vec<_> = ["2", "3", "4"].map(|version| node.install(version, Purpose::Upgrade)).into();
    node.repair();
    assert_eq!(node.settle(0).unwrap(), None);

    break_ext4(&node.at("disk"));
    let fifth = node.install("5", Purpose::Upgrade);
    assert!(fifth > first[2], "{fifth} may be one of {first:?}");
    let kept = node.root().join(".molt").join(first[2].to_string());
    assert!(kept.exists(), "the disk has a record of it");
    node.repair();
    assert_eq!(node.settle(0).unwrap(), None);
    let last = [(first[2], "4"), (fifth, "5")];
    assert_eq!(node.versions()[node.versions().len() - 2..], numbered(&last));
    // And goes on.
    assert_eq!(node.install("6", Purpose::Upgrade), fifth + 1);
    node.detach();
}

/// Without anything noted, what lies on the root says which numbers are taken.
#[test]
fn a_number_that_something_is_kept_under_is_taken() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    private_directory(&node.root().join(".molt")).unwrap();
    fs::create_dir(node.root().join(".molt/2000000000")).unwrap();
    break_ext4(&node.at("disk"));
    assert_eq!(node.install("2", Purpose::Upgrade), 2_000_000_001);
    node.detach();
}

/// A release that was held while nobody could read the orders stays held with those that were held before.
#[test]
fn a_hold_of_meanwhile_survives_the_return() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    let patience = Patience { now: 0, longest: Duration::ZERO };
    let held = |version: &str| {
        let state = node.state_place().directory();
        held::why_held(&state, version, &"0".repeat(64), &patience).is_some()
    };
    let orders = |version: &str| format!(r#"{{"schema":1,"holds":[{{"release":"{version}"}}]}}"#);
    fs::write(node.state.join("orders.json"), orders("8")).unwrap();
    break_ext4(&node.at("disk"));
    assert!(node.settle(0).unwrap().is_some());
    assert!(!held("8"), "nobody can read that");
    fs::write(node.at("run/state/orders.json"), orders("9")).unwrap();
    node.repair();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(["8", "9", "7"].map(held), [true, true, false]);
    node.detach();
}

/// A journal that nobody can read may be about half a swap: what is installed is not known then. When it can be read,
/// it is carried out, unless RAM has gone on.
#[test]
fn an_unread_journal_is_not_no_journal() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    let journal = node.journal_of("2");
    fs::write(node.state.join("journal"), &journal).unwrap();
    fs::write(node.state.join("current"), "1").unwrap();
    break_ext4(&node.at("disk"));
    let notice = node.settle(0).unwrap().unwrap();
    assert!(notice.unread.iter().any(|name| name == "journal"), "{notice:?}");
    assert_eq!(node.engine().standing().unwrap(), Standing::Damaged);
    assert_eq!(node.recover(), Recovery::Clean);
    node.repair();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.recover(), Recovery::Undone { purpose: Purpose::Upgrade, generation: 2 });
    assert_eq!((node.read("bin/app"), node.versions()), ("1".to_owned(), numbered(&[(1, "1")])));

    // Once more, and this time RAM goes on.
    let journal = node.journal_of("2b");
    fs::write(node.state.join("journal"), &journal).unwrap();
    fs::write(node.state.join("current"), "1").unwrap();
    break_ext4(&node.at("disk"));
    let third = node.install("3", Purpose::Upgrade);
    node.repair();
    assert_eq!(node.settle(0).unwrap(), None);
    assert!(!node.state.join("journal").exists());
    assert_eq!((node.recover(), node.read("bin/app")), (Recovery::Clean, "3".to_owned()));
    assert_eq!(node.engine().current().unwrap().unwrap().number, third);
    node.detach();
}

/// A journal of before, whose staged files are gone, because the node went on without that disk and was restarted: it
/// is about nothing any more.
#[test]
fn a_journal_without_staged_files_undoes_nothing() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    let journal = node.journal_of("2");
    assert_eq!(node.install("3", Purpose::Upgrade), 3);
    let info = node.flist_info();
    assert!(info.contains("\"3\""), "{info}");
    fs::remove_dir_all(node.root().join(".molt")).unwrap();
    fs::write(node.state.join("journal"), &journal).unwrap();
    assert_eq!(node.recover(), Recovery::Undone { purpose: Purpose::Upgrade, generation: 2 });
    assert_eq!((node.read("bin/app"), node.flist_info()), ("3".to_owned(), info));
    assert_eq!((node.recover(), node.state.join("journal").exists()), (Recovery::Clean, false));
    node.detach();
}

/// The journal says that it is committed and the pointer says nothing: nothing of it is undone.
#[test]
fn what_is_committed_is_not_undone_because_the_pointer_is_damaged() {
    for (pointer, record) in [(Some("?"), true), (None, true), (Some("2"), false), (Some("?"), false)] {
        let node = Node::new();
        assert_eq!(node.install("1", Purpose::Boot), 1);
        let journal = node.journal_of("2");
        fs::write(node.state.join("journal"), &journal).unwrap();
        let place = JournalPlace::in_directory(&node.state).unwrap();
        Journal::at(place).append(&Record::Committed { generation: 2 }).unwrap();
        match pointer {
            Some(pointer) => fs::write(node.state.join("current"), pointer).unwrap(),
            None => fs::remove_file(node.state.join("current")).unwrap(),
        }
        if !record {
            fs::write(node.state.join("generations/2.json"), "{").unwrap();
        }
        assert_eq!(node.recover(), Recovery::Finished { generation: 2 }, "{pointer:?} {record}");
        assert_eq!((node.read("bin/app"), node.recover()), ("2".to_owned(), Recovery::Clean));
        let expected = record.then_some(2);
        assert_eq!(node.engine().current().unwrap().map(|current| current.number), expected);
        assert!(node.root().join(".molt/2").exists(), "to go back to the one before");
        node.detach();
    }
}

/// The disk works, but something in it cannot be written: RAM still counts, and works.
#[test]
fn a_failed_return_leaves_ram_in_force() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.judge_bad("bad-before");
    node.remount("ro");
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.remount("rw");
    let in_the_way = node.state.join("releases.json");
    run("chattr", &["+i", in_the_way.to_str().unwrap()]);
    for version in ["3", "4"] {
        assert!(node.settle(0).unwrap().is_some());
        assert_eq!(node.state_place().directory(), node.at("run/state"));
        node.install(version, Purpose::Upgrade);
    }
    assert_eq!(fs::read_to_string(node.state.join("current")).unwrap(), "1", "not by half");
    run("chattr", &["-i", in_the_way.to_str().unwrap()]);
    assert_eq!(node.settle(0).unwrap(), None);
    assert!(node.is_bad("bad-before"));
    assert_eq!(node.engine().current().unwrap().unwrap().number, 4);
    node.detach();
}

/// Two programs have gone on with one generation each, under one number: nobody guesses which one the root is of.
#[test]
fn two_generations_of_one_number_are_none() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.remount("ro");
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.remount("rw");
    let aside = node.at("run/elsewhere");
    fs::rename(node.at("run/state"), &aside).unwrap();
    assert_eq!(node.install("2b", Purpose::Upgrade), 3, "something is kept under 2");
    for file in ["json", "fl"] {
        let of = |number| node.state.join(format!("generations/{number}.{file}"));
        fs::rename(of(3), of(2)).unwrap();
    }
    let record = node.state.join("generations/2.json");
    let renumbered = fs::read_to_string(&record).unwrap().replace("\"number\":3", "\"number\":2");
    fs::write(&record, renumbered).unwrap();
    fs::write(node.state.join("current"), "2").unwrap();
    fs::rename(&aside, node.at("run/state")).unwrap();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.engine().standing().unwrap(), Standing::Damaged);
    // The next one compares everything, and is known again.
    let next = node.install("4", Purpose::Upgrade);
    assert!(next > 3 && node.engine().current().unwrap().unwrap().version.to_string() == "4");
    node.detach();
}

/// Records for which there is no memory stay on the disk, and what is kept on the root for them stays too.
#[test]
fn generations_that_were_left_out_can_be_gone_back_to_afterwards() {
    let node = Node::new();
    for (version, number) in [("1", 1), ("2", 2), ("3", 3)] {
        let purpose = if number == 1 { Purpose::Boot } else { Purpose::Upgrade };
        // On a root in RAM only one would be kept.
        assert_eq!(node.install_keeping(version, purpose), number);
    }
    let slots = || [2, 3].map(|number| node.root().join(format!(".molt/{number}")).exists());
    assert_eq!(slots(), [true; 2]);
    // As large as no record is that fits.
    let padding = " ".repeat(5 << 20);
    for number in [1, 2] {
        let record = node.state.join(format!("generations/{number}.json"));
        fs::write(&record, fs::read_to_string(&record).unwrap() + &padding).unwrap();
    }
    node.remount("ro");
    run("mount", &["-o", "remount,size=8m", node.at("run").to_str().unwrap()]);
    assert!(node.settle(0).unwrap().is_some());
    assert_eq!(node.versions(), numbered(&[(3, "3")]));
    assert_eq!(node.install_keeping("4", Purpose::Upgrade), 4);
    assert_eq!(slots(), [true; 2]);
    node.remount("rw");
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2"), (3, "3"), (4, "4")]));
    assert_eq!(slots(), [true; 2]);
    node.detach();
}

/// What was forgotten in RAM is not on the disk's list afterwards: its files are gone.
#[test]
fn what_ram_has_forgotten_is_forgotten() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.remount("ro");
    assert_eq!(node.install("3", Purpose::Upgrade), 3);
    assert_eq!(node.versions(), numbered(&[(2, "2"), (3, "3")]));
    node.remount("rw");
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(2, "2"), (3, "3")]));
    node.detach();
}

/// The top of the state directory works, but not the directory of the records, or the record that is needed.
#[test]
fn a_part_of_the_state_that_fails_is_noticed() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    let generations = node.state.join("generations");
    run("chattr", &["+i", generations.to_str().unwrap()]);
    let notice = node.settle(0).unwrap().unwrap();
    assert!(notice.reason.contains("not permitted"), "{notice:?}");
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    run("chattr", &["-i", generations.to_str().unwrap()]);
    assert_eq!(node.settle(0).unwrap(), None);

    let (record, aside) = (generations.join("2.json"), generations.join("aside"));
    fs::rename(&record, &aside).unwrap();
    // It cannot be read: EISDIR.
    fs::create_dir(&record).unwrap();
    assert!(node.settle(0).unwrap().is_some());
    fs::remove_dir(&record).unwrap();
    fs::rename(&aside, &record).unwrap();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));
    node.detach();
}
