//! Windows over midnight, over the end of the week, over changes of the clock.

use super::*;

fn windows(timezone: &str, windows: &[&str]) -> Result<Windows, MaintenanceError> {
    let windows = windows.iter().map(|window| (*window).to_owned()).collect();
    // No node has time zones there.
    Windows::new(&Maintenance { timezone: timezone.to_owned(), windows }, Path::new("/nonexistent"))
}

fn unix(at: &str) -> i64 {
    at.parse::<Instant>().unwrap().as_second()
}

/// Checks the standing at a time, and that it changes at another one and not a second earlier.
fn check(windows: &Windows, at: &str, open: bool, changes: &str) {
    let expected = Standing { open, changes: Some(unix(changes)) };
    assert_eq!(windows.at(unix(at)), expected, "{windows:?} at {at}, should change at {changes}");
    let standing = |second| windows.at(second).open;
    assert_eq!(standing(unix(changes) - 1), open, "{windows:?} a second before {changes}");
    assert_eq!(standing(unix(changes)), !open, "{windows:?} at {changes}");
}

const BRUSSELS: &str = "Europe/Brussels";
const POSIX: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

#[test]
fn a_window_opens_and_closes_by_the_clock_on_the_wall() {
    // 2026-11-21 is a Saturday; Brussels is one hour ahead of UTC in winter.
    for zone in [BRUSSELS, POSIX] {
        let weekend = windows(zone, &["Sat,Sun 02:00-05:00"]).unwrap();
        check(&weekend, "2026-11-21T00:59:00Z", false, "2026-11-21T01:00:00Z");
        check(&weekend, "2026-11-21T01:00:00Z", true, "2026-11-21T04:00:00Z");
        check(&weekend, "2026-11-21T04:00:00Z", false, "2026-11-22T01:00:00Z");
        check(&weekend, "2026-11-22T04:00:00Z", false, "2026-11-28T01:00:00Z");
        // Two hours ahead in summer.
        check(&weekend, "2026-07-03T12:00:00Z", false, "2026-07-04T00:00:00Z");
    }
    let utc = windows("UTC", &["02:00-05:00"]).unwrap();
    check(&utc, "2026-11-21T12:00:00Z", false, "2026-11-22T02:00:00Z");
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_it_opens_on() {
    let sunday = windows("UTC", &["Sun 23:00-01:00"]).unwrap();
    check(&sunday, "2026-11-22T22:00:00Z", false, "2026-11-22T23:00:00Z");
    check(&sunday, "2026-11-22T23:30:00Z", true, "2026-11-23T01:00:00Z");
    check(&sunday, "2026-11-23T00:30:00Z", true, "2026-11-23T01:00:00Z");
    check(&sunday, "2026-11-23T23:30:00Z", false, "2026-11-29T23:00:00Z");
    let new_year = windows("UTC", &["23:59-00:01"]).unwrap();
    check(&new_year, "2026-12-31T23:59:30Z", true, "2027-01-01T00:01:00Z");
}

#[test]
fn windows_that_touch_are_one_and_ranges_of_days_go_round_the_week() {
    let two = windows("UTC", &["Fri 20:00-24:00", "Sat 00:00-02:00"]).unwrap();
    check(&two, "2026-11-20T21:00:00Z", true, "2026-11-21T02:00:00Z");
    let overlapping = windows("UTC", &["10:00-12:00", "11:00-13:00"]).unwrap();
    check(&overlapping, "2026-11-20T10:30:00Z", true, "2026-11-20T13:00:00Z");
    let round = windows("UTC", &["Sat-Mon 01:00-02:00"]).unwrap();
    check(&round, "2026-11-23T01:30:00Z", true, "2026-11-23T02:00:00Z");
    check(&round, "2026-11-23T02:00:00Z", false, "2026-11-28T01:00:00Z");
    let always = windows(BRUSSELS, &["00:00-24:00"]).unwrap();
    assert_eq!(always.at(unix("2026-03-29T00:30:00Z")), Standing { open: true, changes: None });
}

#[test]
fn changes_of_the_clock() {
    for zone in [BRUSSELS, POSIX] {
        // 2026-03-29: 02:00 becomes 03:00, at 01:00 UTC. The night is an hour shorter.
        let night = windows(zone, &["01:00-04:00"]).unwrap();
        check(&night, "2026-03-29T00:00:00Z", true, "2026-03-29T02:00:00Z");
        // A window that begins in the skipped hour opens when the clock is set.
        let begins = windows(zone, &["02:30-04:00"]).unwrap();
        check(&begins, "2026-03-29T00:30:00Z", false, "2026-03-29T01:00:00Z");
        // One that ends in it closes then.
        let ends = windows(zone, &["01:00-02:30"]).unwrap();
        check(&ends, "2026-03-29T00:30:00Z", true, "2026-03-29T01:00:00Z");
        // One that lies in it does not open on that day.
        let inside = windows(zone, &["02:15-02:45"]).unwrap();
        check(&inside, "2026-03-28T12:00:00Z", false, "2026-03-30T00:15:00Z");
        // 2026-10-25: 03:00 becomes 02:00, at 01:00 UTC. The night is an hour longer.
        check(&night, "2026-10-24T23:00:00Z", true, "2026-10-25T03:00:00Z");
        // A time that comes twice counts when it comes first.
        let twice = windows(zone, &["02:15-02:45"]).unwrap();
        check(&twice, "2026-10-25T00:00:00Z", false, "2026-10-25T00:15:00Z");
        check(&twice, "2026-10-25T00:45:00Z", false, "2026-10-26T01:15:00Z");
    }
}

#[test]
fn the_nodes_own_time_zones_come_first() {
    let directory = tempfile::tempdir().unwrap();
    // A zone file of version 1 with nothing but an offset of two hours.
    let mut tzif = b"TZif".to_vec();
    tzif.resize(20, 0);
    for count in [0_u32, 0, 0, 0, 1, 4] {
        tzif.extend(count.to_be_bytes());
    }
    tzif.extend(7200_i32.to_be_bytes());
    tzif.extend([0, 0]);
    tzif.extend(b"XXX\0");
    std::fs::write(directory.path().join("Home"), tzif).unwrap();
    let maintenance = Maintenance { timezone: "Home".into(), windows: vec!["02:00-03:00".into()] };
    let home = Windows::new(&maintenance, directory.path()).unwrap();
    check(&home, "2026-11-21T00:30:00Z", true, "2026-11-21T01:00:00Z");
    assert_eq!(
        Windows::new(&maintenance, Path::new("/nonexistent")).unwrap_err(),
        MaintenanceError::Zone("Home".into())
    );
}

#[test]
fn mistakes_are_named_with_the_remedy() {
    for (window, complaint) in [
        ("", "not days and times"),
        ("Sat 02:00", "no span of time"),
        ("Sat 2:00-5:00", "'2:00' is no time"),
        ("Sat 02:00-25:00", "'25:00' is no time"),
        ("Sat 02:00-24:01", "'24:01' is no time"),
        ("Sat 02:60-03:00", "'02:60' is no time"),
        ("Sat +1:00-03:00", "'+1:00' is no time"),
        ("Sat 02:00-02:00", "ends when it begins"),
        ("Sat 24:00-02:00", "cannot begin at 24:00"),
        ("Samedi 02:00-05:00", "'Samedi' is no day"),
        ("Sat, Sun 02:00-05:00", "not days and times"),
        ("Sat, 02:00-05:00", "'' is no day"),
    ] {
        let error = windows("UTC", &[window]).unwrap_err().to_string();
        assert!(error.contains(complaint) && error.contains("Sat,Sun 02:00-05:00"), "{window}: {error}");
    }
    let error = windows("Europe/Bruxelles", &["02:00-05:00"]).unwrap_err().to_string();
    assert!(error.contains("Europe/Bruxelles") && error.contains("POSIX"), "{error}");
    for zone in ["", "../../etc/passwd", &"x".repeat(1000)] {
        assert!(matches!(windows(zone, &["02:00-05:00"]), Err(MaintenanceError::Zone(_))), "{zone}");
    }
    assert_eq!(windows("UTC", &[]).unwrap_err(), MaintenanceError::None);
    assert_eq!(windows("UTC", &["02:00-05:00"; 65]).unwrap_err(), MaintenanceError::TooMany(65));
    assert!(windows("UTC", &["02:00-05:00"; 64]).is_ok());
}

#[test]
fn times_that_no_calendar_has_are_in_no_window() {
    let always = windows("UTC", &["00:00-24:00"]).unwrap();
    for second in [i64::MIN, i64::MAX] {
        assert_eq!(always.at(second), Standing { open: false, changes: None });
    }
    assert!(always.at(0).open);
}
