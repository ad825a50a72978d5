//! Orders, and the file that they are in.

use std::time::Duration;

use bootstrap::held::Patience;

use super::*;

fn hold(release: Option<&str>) -> Hold {
    Hold::new(release.map(str::to_owned), Timestamp::from_unix(7), 0, None)
}

fn candidate() -> Candidate {
    Candidate { channel: "r/c.flist".into(), version: "2.0.0".into(), release: "0123456789abcdef".repeat(4) }
}

#[test]
fn a_hold_names_a_version_the_beginning_of_an_id_or_everything() {
    for (release, covered) in [
        (None, true),
        (Some("2.0.0"), true),
        (Some("01234567"), true),
        (Some("0123456789ABCDEF"), true),
        (Some("0123456"), false),
        (Some("2.0"), false),
        (Some("12345678"), false),
        (Some(""), false),
    ] {
        assert_eq!(hold(release).covers(&candidate()), covered, "{release:?}");
    }
}

#[test]
fn orders_outlive_the_program_and_a_second_hold_replaces_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let file = OrdersFile::new(directory.path());
    assert_eq!(file.load().unwrap(), Orders::default());
    let mut orders = Orders::default();
    orders.hold(hold(Some("2.0.0"))).unwrap();
    orders.hold(Hold { by: 1000, ..hold(Some("2.0.0")) }).unwrap();
    orders.hold(hold(Some("3.0.0"))).unwrap();
    orders.pause = Some(Pause::new(Timestamp::from_unix(8), 0, Some("holiday".into())));
    file.change(|now| {
        *now = orders.clone();
        Ok(())
    })
    .unwrap();
    let mut again = file.load().unwrap();
    assert_eq!(again, orders);
    let patience = Patience { now: 0, longest: Duration::ZERO };
    assert_eq!(again.holding(Some(&candidate()), &patience).unwrap().hold.by, 1000);
    assert!(again.holding(None, &patience).is_none());
    assert_eq!(again.unhold(|hold| hold.covers(&candidate())).len(), 1);
    assert_eq!((again.holds.len(), again.holding(Some(&candidate()), &patience)), (1, None));
}

#[test]
fn holds_are_limited() {
    let mut orders = Orders::default();
    for number in 0..MOST_HOLDS {
        orders.hold(hold(Some(&number.to_string()))).unwrap();
    }
    assert!(matches!(orders.hold(hold(None)), Err(OrdersError::TooMany)));
    orders.hold(hold(Some("5"))).unwrap();
}

#[test]
fn what_a_newer_version_wrote_is_understood_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let file = OrdersFile::new(directory.path());
    let newer = serde_json::json!({
        "schema": 7, "floor": "1.2.0",
        "holds": [{"release": null, "since": Timestamp::from_unix(1), "by": 3, "until": Timestamp::from_unix(9), "soft": 99}],
        "pause": {"since": Timestamp::from_unix(2), "by": 4, "soft": true},
    });
    std::fs::write(file.path(), newer.to_string()).unwrap();
    let mut orders = file.load().unwrap();
    assert_eq!((orders.holds[0].by, orders.pause.as_ref().unwrap().by), (3, 4));
    orders.hold(hold(Some("2.0.0"))).unwrap();
    file.change(|now| {
        *now = orders.clone();
        Ok(())
    })
    .unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
    assert_eq!((&written["schema"], &written["floor"]), (&7.into(), &"1.2.0".into()));
    assert_eq!((&written["holds"][0]["soft"], &written["pause"]["soft"]), (&99.into(), &true.into()));
}

/// How versions before this one read a hold: the end of one that ends is among what they do not know, and is kept.
#[test]
fn a_hold_that_ends_is_a_plain_one_to_versions_that_do_not_know_ends() {
    #[derive(Serialize, Deserialize)]
    struct Earlier {
        release: Option<String>,
        since: Timestamp,
        by: u32,
        #[serde(flatten)]
        unknown: Map<String, Value>,
    }
    let ending = Hold { until: Some(Timestamp::from_unix(9)), ..hold(Some("2.0.0")) };
    let json = serde_json::to_value(&ending).unwrap();
    let earlier: Earlier = serde_json::from_value(json.clone()).unwrap();
    assert_eq!((earlier.release.as_deref(), earlier.by), (Some("2.0.0"), 0));
    assert_eq!(serde_json::to_value(&earlier).unwrap(), json);
    assert_eq!(serde_json::to_value(hold(None)).unwrap().get("until"), None, "others look as before");
}

#[test]
fn a_damaged_file_is_no_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = OrdersFile::new(directory.path());
    let mut orders = Orders::default();
    orders.hold(hold(None)).unwrap();
    file.change(|now| {
        *now = orders.clone();
        Ok(())
    })
    .unwrap();
    let whole = std::fs::read(file.path()).unwrap();
    // What was held is held, as long as the copy says so.
    for length in 0..whole.len() {
        std::fs::write(file.path(), &whole[..length]).unwrap();
        assert_eq!(file.load().unwrap(), orders, "{length}");
    }
    std::fs::remove_file(file.path()).unwrap();
    assert_eq!(file.load().unwrap(), Orders::default(), "removed is not damaged");
    std::fs::write(file.copy(), "{").unwrap();
    for length in 0..whole.len() - 2 {
        std::fs::write(file.path(), &whole[..length]).unwrap();
        let error = file.load().unwrap_err();
        assert!(matches!(error, OrdersError::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains("identityd doctor --fix"), "{error}");
    }
    std::fs::write(file.path(), vec![b' '; (LARGEST_FILE + 1) as usize]).unwrap();
    assert!(file.load().unwrap_err().to_string().contains("larger"));
}

#[test]
fn a_file_that_cannot_be_read_has_a_copy_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = OrdersFile::new(directory.path());
    let mut orders = Orders::default();
    orders.hold(hold(None)).unwrap();
    file.change(|now| {
        *now = orders.clone();
        Ok(())
    })
    .unwrap();
    std::fs::remove_file(file.path()).unwrap();
    // EISDIR.
    std::fs::create_dir(file.path()).unwrap();
    assert_eq!(file.load().unwrap(), orders);
    std::fs::remove_file(file.copy()).unwrap();
    assert!(matches!(file.load(), Err(OrdersError::Read { .. })));
}

#[test]
fn a_damaged_file_is_restored_without_ever_being_missing() {
    let directory = tempfile::tempdir().unwrap();
    let file = OrdersFile::new(directory.path());
    let mut orders = Orders::default();
    orders.hold(hold(None)).unwrap();
    file.change(|now| {
        *now = orders.clone();
        Ok(())
    })
    .unwrap();
    std::fs::write(file.path(), "{").unwrap();
    let refused = file.restore(|_| Err(io::ErrorKind::StorageFull.into()));
    assert!(matches!(refused, Err(OrdersError::Write { .. })), "{refused:?}");
    assert_eq!(std::fs::read(file.path()).unwrap(), b"{");
    file.restore(|damaged| {
        assert_eq!(std::fs::read(damaged)?, b"{");
        Ok(())
    })
    .unwrap();
    assert_eq!(file.load_original().unwrap(), orders);

    // Meanwhile somebody has ordered something: that counts, and not the copy.
    orders.hold(hold(Some("2.0.0"))).unwrap();
    file.change(|now| {
        *now = orders.clone();
        Ok(())
    })
    .unwrap();
    std::fs::write(file.copy(), "{}").unwrap();
    file.restore(|_| panic!("there is nothing to restore")).unwrap();
    assert_eq!(file.load_original().unwrap(), orders);
}

#[test]
fn texts_are_one_line_and_not_too_long() {
    assert!(check_text("reason", "we are away, naïvely", LONGEST_REASON).is_ok());
    for text in ["", "two\nlines", "\u{1b}[2J", &"x".repeat(LONGEST_REASON + 1)] {
        assert!(
            matches!(check_text("reason", text, LONGEST_REASON), Err(OrdersError::Text { .. })),
            "{text}"
        );
    }
}
