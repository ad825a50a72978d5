//! The journal: torn, damaged, written by another version, too long.

use super::*;

fn header() -> Header {
    Header {
        generation: 7,
        purpose: Purpose::Upgrade,
        release: ReleaseId::of([]),
        version: "1.0.0".to_owned().try_into().unwrap(),
        root: RootIdentity { marker: Some("m".to_owned()), volatile: false },
        stop: Vec::new(),
        start: Vec::new(),
        forget: Vec::new(),
        announces_stops: true,
        announces_undo: true,
        staging: Vec::new(),
        boot_info: BootInfo::default(),
        hooks: Vec::new(),
        states: Vec::new(),
    }
}

#[test]
fn a_record_that_could_not_be_read_again_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let place = JournalPlace::in_directory(dir.path()).unwrap();
    let root = |length| RootIdentity { marker: Some("x".repeat(length)), volatile: false };
    let of_length = |length| Header { root: root(length), ..header() };
    let around = serde_json::to_string(&Record::Begin(Box::new(of_length(0)))).unwrap().len();
    let longest = MAX_JOURNAL - OTHER_RECORDS - around;

    let refused = Journal::begin(place.clone(), of_length(longest + 1));
    assert!(matches!(refused, Err(JournalError::TooLong)));
    assert!(!dir.path().join("journal").exists());
    let mut journal = Journal::begin(place.clone(), of_length(longest)).unwrap();
    journal.append(&Record::Committed { generation: 7 }).unwrap();
    assert_eq!(place.read().unwrap().len(), 2);
}

#[test]
fn what_is_appended_after_a_torn_end_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let place = JournalPlace::in_directory(dir.path()).unwrap();
    let mut journal = Journal::begin(place.clone(), header()).unwrap();
    journal.append(&Record::Hook { hook: 0 }).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for cut in 1..20 {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let before = place.read().unwrap();
        let mut journal = Journal::at(place.clone());
        for hook in [0, 1] {
            journal.append(&Record::TakenBack { hook }).unwrap();
        }
        let mut expected = before;
        expected.extend([0, 1].map(|hook| Record::TakenBack { hook }));
        assert_eq!(place.read().unwrap(), expected, "cut by {cut}");
    }
}

#[test]
fn torn_ends_are_ignored_and_damage_in_the_middle_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let place = JournalPlace::in_directory(dir.path()).unwrap();
    assert!(place.read().unwrap().is_empty());
    let mut journal = Journal::begin(place.clone(), header()).unwrap();
    assert!(matches!(Journal::begin(place.clone(), header()), Err(JournalError::Exists(_))));
    journal.append(&Record::Staged { swaps: Vec::new() }).unwrap();
    journal.append(&Record::Committed { generation: 7 }).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(place.read().unwrap().len(), 3);

    let ends: Vec<_> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        // A record counts from its last byte on, with or without the line end.
        let complete = ends.iter().filter(|end| **end <= length).count();
        assert_eq!(place.read().unwrap().len(), complete, "cut to {length} bytes");
    }
    let mut damaged = whole.clone();
    damaged[ends[0] + 30] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    assert!(matches!(place.read(), Err(JournalError::Damaged { line: 2, .. })));
}

#[test]
fn what_a_newer_version_wrote_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let place = JournalPlace::in_directory(dir.path()).unwrap();
    let begin = serde_json::to_string(&Record::Begin(Box::new(header()))).unwrap();
    let begin = begin.replacen('{', "{\"colour\":[1,{}],", 1);
    let lines =
        [begin.as_str(), r#"{"record":"by-magic","spell":1}"#, r#"{"record":"staged","swaps":[],"more":0}"#];
    let text: String = lines.iter().map(|json| format!("{} {json}\n", checksum(json))).collect();
    std::fs::write(dir.path().join(NAME), text).unwrap();
    let expected = [Record::Begin(Box::new(header())), Record::Unknown, Record::Staged { swaps: Vec::new() }];
    assert_eq!(place.read().unwrap(), expected);
}

#[test]
fn what_only_a_newer_version_understands_is_neither_torn_nor_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let place = JournalPlace::in_directory(dir.path()).unwrap();
    let begin = serde_json::to_string(&Record::Begin(Box::new(header()))).unwrap();
    let newer = begin.replacen("\"upgrade\"", "\"by-magic\"", 1);
    assert_ne!(newer, begin);
    let line = |json: &str| format!("{} {json}\n", checksum(json));
    for (text, at) in [
        (line(&newer), 1),
        // Also where a torn line would be passed over.
        (line(&begin) + r#"0 torn"#, 0),
        (line(&begin) + line(r#"{"record":"staged","swaps":7}"#).trim_end(), 2),
    ] {
        std::fs::write(dir.path().join(NAME), &text).unwrap();
        match place.read() {
            Ok(records) if at == 0 => assert_eq!(records.len(), 1),
            Err(JournalError::NotUnderstood { line, root, .. }) if line == at => {
                assert!(root.is_some(), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}
