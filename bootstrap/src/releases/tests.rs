//! What is remembered of releases, by whom it is changed, and when it is forgotten.

use super::*;

fn id(number: u8) -> ReleaseId {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

#[test]
fn three_attempts_make_a_release_bad_until_it_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let place = StatePlace::fixed(dir.path());
    for _ in 0..MAX_ATTEMPTS {
        let mut releases = Releases::load(&place);
        assert!(!releases.note(&id(1)).is_some_and(Note::is_bad));
        releases.attempt(id(1)).unwrap();
        releases.failed(id(1), "it crashed").unwrap();
    }
    let mut releases = Releases::load(&place);
    assert!(releases.note(&id(1)).unwrap().is_bad());
    assert_eq!(releases.note(&id(1)).unwrap().reason, "it crashed");
    assert!(releases.note(&id(2)).is_none());
    releases.excuse(id(1)).unwrap();
    assert!(!releases.note(&id(1)).unwrap().is_bad());
    releases.installed(id(1)).unwrap();
    assert!(Releases::load(&place).note(&id(1)).is_none());
    releases.installed(id(1)).unwrap();
}

#[test]
fn a_release_that_was_judged_is_bad_at_once_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let place = StatePlace::fixed(dir.path());
    let mut releases = Releases::load(&place);
    releases.attempt(id(1)).unwrap();
    releases.judged_bad(id(1), "web is not well").unwrap();
    let mut releases = Releases::load(&place);
    let note = releases.note(&id(1)).unwrap();
    assert_eq!((note.is_bad(), note.attempts, note.reason.as_str()), (true, 1, "web is not well"));
    releases.installed(id(1)).unwrap();
    assert!(releases.note(&id(1)).unwrap().is_bad());
    releases.forget("0101").unwrap();
    releases.attempt(id(1)).unwrap();
    assert!(!Releases::load(&place).note(&id(1)).unwrap().is_bad());
}

#[test]
fn a_release_that_would_not_run_is_bad_without_an_attempt_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let place = StatePlace::fixed(dir.path());
    Releases::load(&place).refused(id(1), "/bin/web is missing").unwrap();
    let mut releases = Releases::load(&place);
    let note = releases.note(&id(1)).unwrap();
    assert_eq!((note.attempts, note.reason.as_str()), (0, "/bin/web is missing"));
    assert!(note.is_bad() && note.is_refused());
    assert_eq!(releases.forget("0101").unwrap(), [id(1)]);
    releases.attempt(id(1)).unwrap();
    releases.judged_bad(id(1), "web is not well").unwrap();
    let note = releases.note(&id(1)).unwrap();
    assert!(note.is_bad() && !note.is_refused(), "{note:?}");
}

#[test]
fn a_release_rests_when_it_has_stopped_services_three_times_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = StatePlace::fixed(dir.path());
    for boot in ["one", "two", "two", "two"] {
        let mut releases = Releases::load(&place);
        assert!(!releases.note(&id(1)).is_some_and(|note| note.rests(boot) || note.is_bad()));
        releases.attempt(id(1)).unwrap();
        releases.excuse_downtime(id(1), "the disk is full", boot).unwrap();
    }
    let mut releases = Releases::load(&place);
    let note = releases.note(&id(1)).unwrap();
    assert!(note.rests("two") && !note.rests("three") && !note.is_bad(), "{note:?}");
    assert_eq!((note.attempts, note.reason.as_str()), (0, "the disk is full"));
    assert_eq!(releases.forget("0101").unwrap(), [id(1)]);
    assert!(Releases::load(&place).note(&id(1)).is_none());
}

#[test]
fn notes_of_the_first_version_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let (place, path) = (StatePlace::fixed(dir.path()), dir.path().join(FILE));
    let note = r#"{"attempts": 3, "reason": "it crashed", "order": 1}"#;
    std::fs::write(&path, format!("{{\"{}\": {note}}}", id(1))).unwrap();
    assert!(Releases::load(&place).note(&id(1)).unwrap().is_bad());
}

#[test]
fn what_a_newer_version_wrote_can_be_read_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (place, path) = (StatePlace::fixed(dir.path()), dir.path().join(FILE));
    let note = r#"{"attempts": 3, "reason": "it crashed", "order": 1, "since": [7]}"#;
    let newer = format!(r#"{{"schema": 2, "releases": {{"{}": {note}}}, "floor": {{"by": 1}}}}"#, id(1));
    std::fs::write(&path, newer).unwrap();
    let mut releases = Releases::load(&place);
    assert!(releases.note(&id(1)).unwrap().is_bad() && Releases::is_readable(&path));
    releases.attempt(id(2)).unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((&written["schema"], &written["floor"]["by"]), (&2.into(), &1.into()));
    assert_eq!(written["releases"][id(1).to_string()]["since"][0], 7);
}

#[test]
fn a_release_is_forgotten_by_the_beginning_of_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let (place, path) = (StatePlace::fixed(dir.path()), dir.path().join(FILE));
    let mut releases = Releases::load(&place);
    assert!(Releases::is_readable(&path));
    for number in [1, 2] {
        releases.attempt(id(number)).unwrap();
    }
    assert_eq!(releases.forget("0303").unwrap(), []);
    assert_eq!(releases.forget("0101").unwrap(), [id(1)]);
    let releases = Releases::load(&place);
    assert!(releases.note(&id(1)).is_none() && releases.note(&id(2)).is_some());
    assert!(Releases::is_readable(&path));
    std::fs::write(&path, "{").unwrap();
    assert!(!Releases::is_readable(&path));
}

#[test]
fn what_others_have_noted_meanwhile_stays() {
    const ROUNDS: u32 = 5;
    let dir = tempfile::tempdir().unwrap();
    let place = StatePlace::new(&dir.path().join("state"), &dir.path().join("run"));
    durable::private_directory(&dir.path().join("state")).unwrap();
    let mut loaded_before = Releases::load(&place);
    Releases::load(&place).judged_bad(id(1), "web is not well").unwrap();
    loaded_before.attempt(id(2)).unwrap();
    assert!(Releases::load(&place).note(&id(1)).is_some_and(Note::is_bad));
    assert_eq!(loaded_before.forget("0101").unwrap(), [id(1)], "which it had not read");

    // All at once; not so often that a slow disk lets somebody wait for the lock in vain.
    let notes = |number: u8| {
        let place = place.clone();
        std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                Releases::load(&place).attempt(id(number)).unwrap();
                Releases::load(&place).forget("ff").unwrap();
            }
        })
    };
    for thread in [3, 4, 5].map(notes) {
        thread.join().unwrap();
    }
    let attempts = [3, 4, 5].map(|number| Releases::load(&place).note(&id(number)).unwrap().attempts);
    assert_eq!(attempts, [ROUNDS; 3]);
}

#[test]
fn what_cannot_be_read_now_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let place = StatePlace::fixed(dir.path());
    // A directory in its place: reading it fails with EISDIR.
    std::fs::create_dir(dir.path().join(FILE)).unwrap();
    let mut releases = Releases::load(&place);
    releases.judged_bad(id(1), "web is not well").unwrap_err();
    assert!(releases.note(&id(1)).is_some_and(Note::is_bad), "it counts in this process");
    assert!(Releases::load(&place).unreadable().is_some_and(|why| why.contains(FILE)));
    assert!(!Releases::is_readable(&dir.path().join(FILE)));
}

#[test]
fn notes_are_limited_and_a_damaged_file_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let (place, path) = (StatePlace::fixed(dir.path()), dir.path().join(FILE));
    std::fs::write(&path, "{").unwrap();
    let mut releases = Releases::load(&place);
    assert_eq!(releases.unreadable(), None);
    for number in 0..=MAX_NOTES {
        releases.attempt(id(number as u8)).unwrap();
    }
    let releases = Releases::load(&place);
    assert_eq!(releases.notes.releases.len(), MAX_NOTES);
    assert!(releases.note(&id(0)).is_none());
}

/// Longer than others wait for the lock.
#[test]
fn a_verdict_waits_while_the_state_moves() {
    let dir = tempfile::tempdir().unwrap();
    let place = StatePlace::new(&dir.path().join("state"), &dir.path().join("run"));
    durable::private_directory(&dir.path().join("state")).unwrap();
    let held = place.write_lock().unwrap();
    place.write_lock().unwrap_err();
    let moves = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(held);
    });
    Releases::load(&place).judged_bad(id(1), "web is not well").unwrap();
    moves.join().unwrap();
    assert!(Releases::load(&place).note(&id(1)).is_some_and(Note::is_bad));
}
