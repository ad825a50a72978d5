//! The snapshot's contents, and its file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::file::FILE;
use super::*;
use crate::agent::Problem;

fn status() -> Status {
    let daemon = Daemon { version: "1.2.3".into(), pid: 42, started: Timestamp::from_unix(0), polled: false };
    Status::new(daemon, true)
}

fn failed(attempts: u32) -> State {
    let problem = Problem::new(ProblemKind::Network, "no hub");
    State { gate: Some(Gate::BackOff), problem: Some(problem), attempts, ..State::default() }
}

#[test]
fn an_error_is_dated_when_it_happens_and_goes_with_the_next_success() {
    let mut status = status();
    let at = |status: &Status| status.last_error.as_ref().map(|error| (error.at.unix, error.attempts));
    status.follow(&failed(1), &Timestamp::from_unix(10));
    status.follow(&failed(1), &Timestamp::from_unix(11));
    assert_eq!(at(&status), Some((10, 1)));
    assert!(status.reason.as_ref().unwrap().ends_with(": no hub"));
    status.follow(&failed(2), &Timestamp::from_unix(12));
    assert_eq!(at(&status), Some((12, 2)));
    status.follow(&State { stage: Stage::Idle, gate: None, ..State::default() }, &Timestamp::from_unix(13));
    assert_eq!((at(&status), status.reason), (None, None));
}

#[test]
fn bytes_are_summed_over_upgrades() {
    let mut status = status();
    for (bytes, total) in [(10, 30), (30, 30), (30, 30)] {
        status.fetched(bytes, total);
    }
    status.fetch = None;
    status.fetched(5, 5);
    assert_eq!(status.counters.bytes_fetched, 35);
    assert_eq!(status.fetch, Some(Fetch { bytes: 5, total: 5 }));
}

#[test]
fn the_file_is_private_complete_and_continued() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run/molt");
    let file = StatusFile::prepare(&directory).unwrap();
    assert_eq!(file.read(), None);
    let mut first = status();
    first.fetched(10, 10);
    first.service("web".into(), ServiceEvent::Stopped);
    file.write(&status()).unwrap();
    file.write(&first).unwrap();
    assert_eq!(file.read().as_ref(), Some(&first));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);

    let next = status().continued_from(file.read(), None);
    assert_eq!((next.counters, &next.services), (first.counters, &first.services));
    // The daemon that handed over had fetched 25 bytes and written down 10 of them, or all.
    let bytes = |fetched| status().continued_from(file.read(), Some(fetched)).counters.bytes_fetched;
    assert_eq!((bytes(25), bytes(10)), (25, 10));
}

#[test]
fn a_snapshot_of_another_layout_or_a_broken_one_is_not_continued() {
    let root = tempfile::tempdir().unwrap();
    let file = StatusFile::prepare(root.path()).unwrap();
    file.write(&Status { schema: SCHEMA + 1, ..status() }).unwrap();
    assert_eq!(file.read(), None);
    fs::write(root.path().join(FILE), "{\"schema\":1").unwrap();
    assert_eq!(file.read(), None);
}

#[test]
fn an_open_directory_is_closed_and_a_link_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let open = root.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    StatusFile::prepare(&open).unwrap();
    assert_eq!(fs::metadata(&open).unwrap().permissions().mode() & 0o777, 0o700);

    let link = root.path().join("link");
    std::os::unix::fs::symlink(&open, &link).unwrap();
    assert!(matches!(StatusFile::prepare(&link), Err(StatusError::NotOurs { .. })));
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(StatusFile::prepare(&file), Err(StatusError::MakeDirectory { .. })));
}

#[test]
fn the_layout_has_the_documented_names() {
    let mut status = status();
    status.service("web".into(), ServiceEvent::Started { down_ms: 12 });
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!((&json["stage"], &json["gate"]), (&"Waiting".into(), &"Starting".into()));
    assert_eq!(json["services"]["web"], serde_json::json!({"last_event": "started", "down_ms": 12}));
    assert_eq!(json["counters"], serde_json::json!({"bytes_fetched": 0, "checks": 0, "upgrades": 0}));
    assert_eq!(json["identityd"]["started"]["at"], "1970-01-01T00:00:00Z");
}

#[test]
fn a_service_that_was_stopped_and_is_up_again_is_not_shown_as_stopped() {
    let mut status = status();
    for name in ["back", "away"] {
        status.service(name.into(), ServiceEvent::Stopped);
    }
    status.service("ours".into(), ServiceEvent::Started { down_ms: 12 });
    let up = ["back", "ours", "another"].map(|name| name.parse().unwrap()).into();
    status.runs_old(RunsOld { up, ..RunsOld::default() });
    let shown =
        |name: &str| status.services.get(name).map(|record| (record.last_event.as_str(), record.down_ms));
    assert_eq!(shown("back"), Some(("started", None)));
    assert_eq!(shown("away"), Some(("stopped", None)));
    assert_eq!(shown("ours"), Some(("started", Some(12))));
    assert_eq!(shown("another"), None);
}

#[test]
fn services_are_limited_also_those_of_an_earlier_daemon() {
    let noted = |most: usize| {
        let mut noted = status();
        for number in 0..most {
            noted.service(format!("s{number:04}"), ServiceEvent::Stopped);
        }
        noted
    };
    let mut full = noted(MOST_SERVICES + 2);
    assert_eq!((full.services.len(), full.more_services), (MOST_SERVICES, 2));
    // One that is shown stays up to date.
    full.service("s0000".to_owned(), ServiceEvent::Started { down_ms: 7 });
    assert_eq!((full.services["s0000"].down_ms, full.more_services), (Some(7), 2));
    let record = full.services["s0000"].clone();
    full.services.insert("t".to_owned(), record);
    let next = status().continued_from(Some(full), None);
    assert_eq!((next.services.len(), next.more_services), (MOST_SERVICES, 3));
}
