//! Records on disk: order, size, torn lines, other versions.

use super::record::LONGEST_REASON;
use super::*;
use crate::timestamp::Timestamp;

fn record(number: u64) -> Record {
    let to = Named { version: format!("{number}.0.0"), release: "ab".repeat(32) };
    let cause = Cause::Apply { by: 1000, now: true };
    let ids = (number.to_string(), "boot".to_owned());
    let mut record = Record::begin(ids, cause, (None, to), Timestamp::from_unix(number));
    record.service("web", None);
    record.service("web", Some(12));
    record.end(Outcome::Committed, None, None, Timestamp::from_unix(number + 1))
}

fn versions(past: &Past) -> Vec<&str> {
    past.records.iter().map(|record| record.id.as_str()).collect()
}

#[test]
fn attempts_are_kept_in_order_and_the_newest_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(directory.path());
    assert_eq!(history.read(9).unwrap(), Past::default());
    for number in 1..=3 {
        history.append(&record(number)).unwrap();
    }
    let past = history.read(2).unwrap();
    assert_eq!((versions(&past), past.unreadable), (vec!["2", "3"], 0));
    assert_eq!(past.records[0], record(2));
    assert_eq!(
        past.records[0].services,
        [Downtime { name: "web".into(), down_ms: Some(12), predicted: None }]
    );
}

#[test]
fn a_torn_last_line_is_passed_over_wherever_it_was_torn() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(directory.path());
    history.append(&record(1)).unwrap();
    let path = directory.path().join(FILE);
    let first = fs::read(&path).unwrap();
    for length in 1..first.len() - 1 {
        fs::write(&path, [&first[..], &first[..length]].concat()).unwrap();
        assert_eq!(versions(&history.read(9).unwrap()), ["1"], "{length}");
        history.append(&record(2)).unwrap();
        let past = history.read(9).unwrap();
        assert_eq!((versions(&past), past.unreadable), (vec!["1", "2"], 1), "{length}");
    }
}

#[test]
fn a_full_file_is_put_aside_and_the_size_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(directory.path());
    let reason = "x".repeat(5000);
    for number in 1..2000 {
        let ended = record(number).end(Outcome::Failed, None, Some(&reason), Timestamp::from_unix(1));
        // What a crowd of attempts leaves, without waiting for the disk two thousand times.
        let mut file =
            OpenOptions::new().append(true).create(true).open(directory.path().join(FILE)).unwrap();
        let line = serde_json::to_vec(&ended).unwrap();
        if file.metadata().unwrap().len() + 2 * (line.len() as u64) < FULL {
            file.write_all(&[&line[..], b"\n"].concat()).unwrap();
        } else {
            history.append(&ended).unwrap();
        }
    }
    let sizes = [FILE, OLD_FILE].map(|name| fs::metadata(directory.path().join(name)).unwrap().len());
    assert!(sizes.iter().all(|size| *size <= FULL), "{sizes:?}");
    let past = history.read(usize::MAX).unwrap();
    assert_eq!((past.records.last().unwrap().id.as_str(), past.unreadable), ("1999", 0));
    assert_eq!(past.records[0].reason.as_ref().unwrap().len(), LONGEST_REASON);
}

#[test]
fn what_a_newer_version_wrote_is_understood() {
    let directory = tempfile::tempdir().unwrap();
    let mut newer = serde_json::to_value(record(1)).unwrap();
    newer["schema"] = 9.into();
    newer["outcome"] = "postponed".into();
    newer["cause"] = serde_json::json!({"kind": "campaign", "number": 4});
    newer["campaign"] = 4.into();
    fs::write(directory.path().join(FILE), format!("{newer}\n")).unwrap();
    let past = History::new(directory.path()).read(9).unwrap();
    assert_eq!((past.records[0].outcome, &past.records[0].cause), (Outcome::Unknown, &Cause::Unknown));
    assert_eq!(past.unreadable, 0);
    fs::write(directory.path().join(ATTEMPT_FILE), newer.to_string()).unwrap();
    let unfinished = History::new(directory.path()).unfinished();
    assert_eq!(unfinished.map(|record| record.id), Some(record(1).id));
}

#[test]
fn the_attempt_that_runs_is_remembered_until_it_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(directory.path());
    assert_eq!(history.unfinished(), None);
    history.keep_running(&record(1)).unwrap();
    assert_eq!(history.unfinished(), Some(record(1)));
    history.nothing_runs().unwrap();
    history.nothing_runs().unwrap();
    assert_eq!(history.unfinished(), None);
    fs::write(directory.path().join(ATTEMPT_FILE), "{").unwrap();
    assert_eq!(history.unfinished(), None);
}
