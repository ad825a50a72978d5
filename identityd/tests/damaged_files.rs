//! State files of which something is lost: cut off at every byte, and with every byte changed. Nothing panics, what is
//! said of them names them, and what is left is never taken for less than it was.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootstrap::generation::{Cause as From, PINS, RootIdentity, Standing, StateDir, generation};
use bootstrap::held::{self, Patience};
use bootstrap::item::{Item, Items, What};
use bootstrap::releases::{self, Note, Releases};
use bootstrap::state_place::StatePlace;
use flist::hub::{Channel, FlistName, ReleaseId, ReleaseVersion};
use identityd::history::{self, Cause, History, Named, Outcome, Record};
use identityd::orders::{self, Hold, Orders, OrdersFile};
use identityd::timestamp::Timestamp;
use serde_json::json;

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// Only so many bytes are left.
    CutOff(usize),
    /// The bits of one byte are the other way round.
    Changed(usize),
}

/// Does everything to a file, one after the other, and leaves it as it was.
fn with_every_damage(path: &Path, mut then: impl FnMut(Damage)) {
    let whole = fs::read(path).unwrap();
    assert!((1..10_000).contains(&whole.len()), "{}", whole.len());
    for at in 0..whole.len() {
        fs::write(path, &whole[..at]).unwrap();
        then(Damage::CutOff(at));
        let mut changed = whole.clone();
        changed[at] = !changed[at];
        fs::write(path, changed).unwrap();
        then(Damage::Changed(at));
    }
    fs::write(path, whole).unwrap();
}

fn id(number: u8) -> ReleaseId {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_unix(7)
}

#[test]
fn orders() {
    let state = tempfile::tempdir().unwrap();
    let file = OrdersFile::new(state.path());
    let hold = |orders: &mut Orders| orders.hold(Hold::new(Some("2.0.0".to_owned()), now(), 0, None));
    file.change(hold).unwrap();
    let whole = file.load().unwrap();
    let paths = [orders::FILE, held::COPY].map(|name| state.path().join(name));
    let patience = Patience { now: 7, longest: Duration::ZERO };
    let is_held = || held::why_held(state.path(), "2.0.0", &id(1).to_string(), &patience).is_some();
    with_every_damage(&paths[0], |damage| {
        assert_eq!(file.load().unwrap(), whole, "{damage:?}: its copy counts");
        assert!(is_held(), "{damage:?}");
    });
    // Of both: nobody may believe that nothing is held.
    let intact = fs::read(&paths[0]).unwrap();
    with_every_damage(&paths[1], |damage| {
        fs::copy(&paths[1], &paths[0]).unwrap();
        match file.load() {
            Ok(orders) => assert_eq!(orders, whole, "{damage:?}"),
            Err(error) => assert!(error.to_string().contains(orders::FILE), "{damage:?}: {error}"),
        }
    });
    fs::write(&paths[0], intact).unwrap();
    assert_eq!(file.load().unwrap(), whole);
}

#[test]
fn notes_about_releases() {
    let state = tempfile::tempdir().unwrap();
    let place = StatePlace::fixed(state.path());
    Releases::load(&place).judged_bad(id(1), "web is not well").unwrap();
    let path = state.path().join(releases::FILE);
    with_every_damage(&path, |damage| {
        let is_bad = Releases::load(&place).note(&id(1)).is_some_and(Note::is_bad);
        assert!(is_bad || !Releases::is_readable(&path), "{damage:?}: a bad release passes for good");
    });
}

#[test]
fn history_and_the_attempt_that_runs() {
    let state = tempfile::tempdir().unwrap();
    let history = History::new(state.path());
    let named = |version: &str| Named { version: version.to_owned(), release: id(1).to_string() };
    let record = |id: &str| {
        let what = (Some(named("1.0.0")), named("2.0.0"));
        Record::begin((id.to_owned(), "boot".to_owned()), Cause::Poll, what, now())
    };
    let ended = |id: &str| record(id).end(Outcome::Committed, Some("Committed"), None, now());
    history.append(&ended("1")).unwrap();
    history.append(&ended("2")).unwrap();
    let path = state.path().join(history::FILE);
    with_every_damage(&path, |damage| {
        history.append(&ended("3")).unwrap();
        let past = history.read(9).unwrap();
        let last = past.records.last().unwrap();
        assert_eq!(last.id, "3", "{damage:?}: what comes later can be read");
        // A line break that is another byte makes one line of two.
        assert!(past.unreadable <= 2, "{damage:?}");
    });
    history.keep_running(&record("4")).unwrap();
    with_every_damage(&state.path().join(history::ATTEMPT_FILE), |_| {
        let _ = history.unfinished();
    });
    assert_eq!(history.unfinished().unwrap().id, "4");
}

fn recorded(state: &Path) -> (StateDir, RootIdentity) {
    let directory = StateDir::open(state).unwrap();
    let root = RootIdentity { marker: Some("x".to_owned()), volatile: false };
    let channel: FlistName = "a/b:v1.0.0.flist".parse().unwrap();
    let version = ReleaseVersion::in_name(&channel);
    let what = What::Symlink { target: b"x".to_vec() };
    let item = Item { mode: 0o644, uid: 0, gid: 0, mtime: 7, what, xattrs: Default::default() };
    let items = Items::from([("bin/app".parse().unwrap(), item)]);
    let what = (Channel::Flist(channel), version, id(1), &[][..]);
    let generation = generation(1, From::Release, what, root.clone(), "{}".to_owned(), items);
    directory.prepare(&generation, &[], b"").unwrap();
    directory.commit(1).unwrap();
    (directory, root)
}

#[test]
fn generations() {
    let state = tempfile::tempdir().unwrap();
    let (directory, root) = recorded(state.path());
    let standing = || directory.standing(&root).unwrap();
    let Standing::Installed(whole) = standing() else { panic!("it is not there") };
    let current = {
        let found: Vec<PathBuf> =
            ["generations/1.json", "current"].map(|name| state.path().join(name)).into();
        found
    };
    for path in current {
        with_every_damage(&path, |damage| match standing() {
            Standing::Nothing => panic!("{} {damage:?}: it passes for a first boot", path.display()),
            Standing::Damaged => {}
            Standing::Installed(read) => {
                assert!(
                    !matches!(damage, Damage::CutOff(_)) || read == whole,
                    "{} {damage:?}",
                    path.display()
                );
            }
        });
    }
    assert!(matches!(standing(), Standing::Installed(read) if read == whole));
}

/// What is pinned is not forgotten because nobody can read that it is.
#[test]
fn pins() {
    let state = tempfile::tempdir().unwrap();
    let (directory, root) = recorded(state.path());
    let mut pins = directory.pins().unwrap();
    pins.add(1, &root).unwrap();
    directory.write_pins(&pins).unwrap();
    let path = state.path().join(PINS);
    with_every_damage(&path, |damage| match directory.pins() {
        Ok(read) => {
            let cut_off = matches!(damage, Damage::CutOff(_));
            assert!(!cut_off || read == pins, "{damage:?}: {read:?}");
        }
        Err(error) => assert!(error.to_string().contains(PINS), "{damage:?}: {error}"),
    });
    assert_eq!(directory.pins().unwrap(), pins);
}

#[test]
fn a_journal() {
    let state = tempfile::tempdir().unwrap();
    let line = |json: serde_json::Value| {
        let json = json.to_string();
        let sum = flist::block::BlockKey::of(json.as_bytes());
        let sum: String = sum.as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{sum} {json}\n")
    };
    let begin = json!({
        "record": "begin", "generation": 2, "purpose": "upgrade", "release": id(1), "version": "2.0.0",
        "root": {"marker": "x", "volatile": false}, "stop": [], "start": ["web"], "staging": [".molt/2"],
    });
    let staged = json!({"record": "staged", "swaps": []});
    let path = state.path().join("journal");
    fs::write(&path, line(begin) + &line(staged.clone()) + &line(staged)).unwrap();
    let journal = StateDir::open(state.path()).unwrap().journal().unwrap();
    let whole = journal.read().unwrap();
    assert_eq!(whole.len(), 3);
    with_every_damage(&path, |damage| match journal.read() {
        // What was not written whole is the last that happened.
        Ok(records) => assert!(whole.starts_with(&records), "{damage:?}: {records:?}"),
        Err(error) => assert!(
            !error.to_string().is_empty() && matches!(damage, Damage::Changed(_)),
            "{damage:?}: {error}"
        ),
    });
}
