//! An older version reads what a newer one wrote, after a rollback: every file of the state with more fields, deeper and
//! at the top, and a higher schema. What it writes again, it writes whole; what it must not act on, it refuses.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootstrap::generation::{Cause as From, PINS, RootIdentity, Standing, StateDir, generation};
use bootstrap::held::{self, Patience};
use bootstrap::item::{Item, Items, What};
use bootstrap::releases::{self, Note, Releases};
use bootstrap::state_place::StatePlace;
use bootstrap::transaction::journal::JournalError;
use flist::hub::{Channel, FlistName, ReleaseId, ReleaseVersion};
use identityd::agent::Candidate;
use identityd::handover::Handover;
use identityd::history::{self, Cause, History, Named, Outcome, Record};
use identityd::orders::{self, Hold, Orders, OrdersFile, Pause, Rollback};
use identityd::status::{Daemon, Status, StatusFile};
use identityd::timestamp::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The key of everything that a newer version says and this one does not know.
const MORE: &str = "of-a-newer-version";

/// A state directory that another version has worked in.
struct State(TempDir);

impl State {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn place(&self) -> StatePlace {
        StatePlace::fixed(self.0.path())
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Rewrites a file as a newer version would have written it. At these places objects are lists by name.
    fn age(&self, name: &str, lists: &[&str]) {
        let mut value = self.json(name);
        add(&mut value, "", lists);
        fs::write(self.path(name), value.to_string()).unwrap();
    }
}

/// Says more in every object, and that the layout is a later one.
fn add(value: &mut Value, at: &str, lists: &[&str]) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                add(value, &format!("{at}/{name}"), lists);
            }
            if fields.contains_key("schema") {
                fields.insert("schema".to_owned(), 99.into());
            }
            if !lists.contains(&at) {
                fields.insert(MORE.to_owned(), json!({"a": [1, {}]}));
            }
        }
        Value::Array(values) => {
            for (number, value) in values.iter_mut().enumerate() {
                add(value, &format!("{at}/{number}"), lists);
            }
        }
        _ => {}
    }
}

/// Where something is said that this version does not know.
fn more_in(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![(String::new(), value)];
    while let Some((at, value)) = todo.pop() {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match name.as_str() {
                        MORE => drop(found.insert(at.clone())),
                        _ => todo.push((format!("{at}/{name}"), value)),
                    }
                }
            }
            Value::Array(values) => {
                todo.extend(
                    values.iter().enumerate().map(|(number, value)| (format!("{at}/{number}"), value)),
                );
            }
            _ => {}
        }
    }
    found
}

fn id(number: u8) -> ReleaseId {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_unix(7)
}

#[test]
fn orders() {
    let state = State::new();
    let file = OrdersFile::new(state.0.path());
    let mut all = Orders::default();
    let patience = Patience { now: 7, longest: Duration::from_secs(100) };
    let two = Candidate { channel: String::new(), version: "2.0.0".into(), release: id(1).to_string() };
    let hold = Hold::new(Some("2.0.0".to_owned()), now(), 0, None).ending(now(), Timestamp::from_unix(90));
    all.postpone(hold, Some(&two), &patience).unwrap();
    all.pause = Some(Pause::new(now(), 0, None));
    all.begin_rollback(Rollback::new((1, "id-1".to_owned()), None, now(), 0), "why".to_owned()).unwrap();
    file.change(|now| {
        *now = all.clone();
        Ok(())
    })
    .unwrap();
    for name in [orders::FILE, held::COPY] {
        state.age(name, &[]);
    }
    let before = state.json(orders::FILE);
    assert_eq!(more_in(&before).len(), 10, "{before}");
    let mut read = file.load_original().unwrap();
    assert!(read.pause.is_some() && read.rollback.is_some() && read.holds.len() == 1);
    assert!(read.postponed(&two.release).is_some());
    // A boot reads the same.
    for (now, is_held) in [(89, true), (90, false)] {
        let held = held::why_held(state.0.path(), "2.0.0", &two.release, &Patience { now, ..patience });
        assert_eq!(held.is_some(), is_held);
    }
    read.hold(Hold::new(Some("3.0.0".to_owned()), now(), 0, None)).unwrap();
    file.change(|now| {
        *now = read.clone();
        Ok(())
    })
    .unwrap();
    for name in [orders::FILE, held::COPY] {
        let after = state.json(name);
        // When something was ordered is a time, which nobody changes.
        let times = |at: &&String| !["/since", "/until", "/first"].iter().any(|time| at.ends_with(time));
        let expected = more_in(&before);
        assert!(expected.iter().filter(times).all(|at| more_in(&after).contains(at)), "{after}");
        assert_eq!((&after["schema"], after["holds"].as_array().unwrap().len()), (&99.into(), 2));
    }
}

#[test]
fn notes_about_releases() {
    let state = State::new();
    Releases::load(&state.place()).judged_bad(id(1), "web is not well").unwrap();
    state.age(releases::FILE, &["/releases"]);
    let before = state.json(releases::FILE);
    assert_eq!(more_in(&before).len(), 2, "{before}");
    assert!(Releases::is_readable(&state.path(releases::FILE)));
    let mut read = Releases::load(&state.place());
    assert!(read.note(&id(1)).is_some_and(Note::is_bad));
    read.attempt(id(2)).unwrap();
    read.failed(id(1), "again").unwrap();
    let after = state.json(releases::FILE);
    assert_eq!((more_in(&after), &after["schema"]), (more_in(&before), &99.into()));
}

#[test]
fn history_and_the_attempt_that_runs() {
    let state = State::new();
    let history = History::new(state.0.path());
    let named = |version: &str| Named { version: version.to_owned(), release: id(1).to_string() };
    let record = |id: &str| {
        let what = (Some(named("1.0.0")), named("2.0.0"));
        let mut record = Record::begin((id.to_owned(), "boot".to_owned()), Cause::Poll, what, now());
        record.service("web", Some(7));
        record
    };
    let ended = |id: &str| record(id).end(Outcome::Committed, Some("Committed"), None, now());
    history.append(&ended("1")).unwrap();
    state.age(history::FILE, &[]);
    let newer = state.json(history::FILE);
    // And one that this version cannot even understand.
    let stranger = newer.to_string().replace("\"outcome\":\"committed\"", "\"outcome\":{\"by\":\"magic\"}");
    assert_ne!(stranger, newer.to_string());
    fs::write(state.path(history::FILE), format!("{newer}\n{stranger}\n")).unwrap();
    history.append(&ended("2")).unwrap();
    let past = history.read(9).unwrap();
    assert_eq!((past.records.len(), past.unreadable), (2, 0), "not understood is not damaged");
    assert_eq!((past.records[0].id.as_str(), past.records[0].outcome), ("1", Outcome::Committed));
    let text = fs::read_to_string(state.path(history::FILE)).unwrap();
    assert!(text.starts_with(&format!("{newer}\n{stranger}\n")), "what is there is not touched");

    history.keep_running(&record("3")).unwrap();
    state.age(history::ATTEMPT_FILE, &["/cause"]);
    let before = state.json(history::ATTEMPT_FILE);
    let unfinished = history.unfinished().unwrap();
    history.keep_running(&unfinished).unwrap();
    let after = state.json(history::ATTEMPT_FILE);
    assert!(more_in(&after).contains(""), "{after}");
    assert_eq!((&after["schema"], &after["id"]), (&before["schema"], &before["id"]));
}

#[test]
fn generations() {
    let state = State::new();
    let directory = StateDir::open(state.0.path()).unwrap();
    let root = RootIdentity { marker: Some("x".to_owned()), volatile: false };
    let channel: FlistName = "a/b:v1.0.0.flist".parse().unwrap();
    let version = ReleaseVersion::in_name(&channel);
    let item = Item {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 7,
        what: What::Symlink { target: b"x".to_vec() },
        xattrs: Default::default(),
    };
    let items = Items::from([("bin/app".parse().unwrap(), item)]);
    let make = |number| {
        let what = (Channel::Flist(channel.clone()), version.clone(), id(1), &[][..]);
        generation(number, From::Release, what, root.clone(), "{}".to_owned(), items.clone())
    };
    directory.prepare(&make(1), &[], b"").unwrap();
    directory.commit(1).unwrap();
    state.age("generations/1.json", &["/items", "/packages", "/schemas"]);
    let before = fs::read(state.path("generations/1.json")).unwrap();
    assert!(more_in(&state.json("generations/1.json")).len() > 2);
    let Standing::Installed(read) = directory.standing(&root).unwrap() else {
        panic!("it is not understood")
    };
    assert_eq!((read.number, read.items.len(), read.release), (1, 1, id(1)));
    directory.prepare(&make(2), &[], b"").unwrap();
    directory.commit(2).unwrap();
    assert_eq!(
        fs::read(state.path("generations/1.json")).unwrap(),
        before,
        "records are never written again"
    );
}

#[test]
fn pins() {
    let state = State::new();
    let directory = StateDir::open(state.0.path()).unwrap();
    let root = RootIdentity { marker: Some("x".to_owned()), volatile: false };
    let mut pins = directory.pins().unwrap();
    pins.add(1, &root).unwrap();
    directory.write_pins(&pins).unwrap();
    state.age(PINS, &[]);
    let before = state.json(PINS);
    assert_eq!(more_in(&before).len(), 2, "{before}");
    let mut read = directory.pins().unwrap();
    assert_eq!(read.of(&root), BTreeSet::from([1]));
    read.add(2, &root).unwrap();
    directory.write_pins(&read).unwrap();
    let after = state.json(PINS);
    assert_eq!((more_in(&after), &after["schema"]), (more_in(&before), &99.into()));
}

/// Nobody finishes or undoes what he does not understand.
#[test]
fn a_journal() {
    let state = State::new();
    let line = |json: &str| {
        let sum = flist::block::BlockKey::of(json.as_bytes());
        format!(
            "{} {json}\n",
            sum.as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        )
    };
    let begin = json!({
        "record": "begin", "generation": 2, "purpose": "upgrade", "release": id(1), "version": "2.0.0",
        "root": {"marker": "x", "volatile": false}, "stop": [], "start": ["web"], "staging": [".molt/2"],
    });
    let mut newer = begin.clone();
    add(&mut newer, "", &["/version"]);
    let strange = begin.to_string().replace("\"upgrade\"", "\"by-magic\"");
    let magic = r#"{"record":"by-magic","spell":1}"#;
    let journal = StateDir::open(state.0.path()).unwrap().journal().unwrap();
    for (text, understood) in [
        (line(&newer.to_string()) + &line(magic), true),
        (line(&strange), false),
        (
            line(&newer.to_string()) + &line(r#"{"record":"staged","swaps":[{"change":{"by":"magic"}}]}"#),
            false,
        ),
    ] {
        fs::write(state.path("journal"), &text).unwrap();
        match journal.read() {
            Ok(records) => assert!(understood && records.len() == 2, "{text}"),
            Err(error @ JournalError::NotUnderstood { .. }) => {
                assert!(!understood && error.to_string().contains("the version that wrote it"), "{error}");
            }
            Err(error) => panic!("{text}: {error}"),
        }
    }
}

#[test]
fn the_status_of_the_daemon_before() {
    let state = State::new();
    let run = state.path("run");
    let file = StatusFile::prepare(&run).unwrap();
    let daemon = || Daemon { version: "9.0.0".to_owned(), pid: 7, started: now(), polled: false };
    let mut newer = Status::new(daemon(), false);
    newer.counters.upgrades = 5;
    file.write(&newer).unwrap();
    state.age("run/status.json", &["/services"]);
    // Another layout says so with its number, and is not read.
    assert_eq!(file.read(), None);
    let status = fs::read_to_string(run.join("status.json")).unwrap();
    let status = status.replace("\"schema\":99", "\"schema\":1");
    for text in [
        status.clone(),
        status.replace("\"Starting\"", "\"Magic\""),
        status.replace("\"Waiting\"", "\"Magic\""),
    ] {
        fs::write(run.join("status.json"), &text).unwrap();
        let continued = Status::new(daemon(), false).continued_from(file.read(), None);
        assert_eq!(continued.counters.upgrades, 5, "{text}");
    }
}

#[test]
fn the_notes_about_a_handover_and_a_state_in_ram() {
    let state = State::new();
    let handover = json!({
        "pid": 7, "unit": "identityd", "generation": 3, "release": id(1), "seconds": 30,
        "places": {"root": "/", "state_dir": "/s", "run_dir": "/r", "zinit_socket": "/z"},
    });
    fs::write(state.path("handover.json"), handover.to_string()).unwrap();
    state.age("handover.json", &[]);
    assert_eq!(Handover::read(state.0.path()).unwrap().generation, 3);

    fs::create_dir_all(state.path("run/state")).unwrap();
    fs::write(state.path("run/state/in-force"), r#"{"schema":1,"since":7,"reason":"x"}"#).unwrap();
    state.age("run/state/in-force", &[]);
    let place = StatePlace::new(Path::new("/nonexistent"), &state.path("run"));
    assert_eq!((place.directory(), place.notice().unwrap().since), (state.path("run/state"), 7));
}
