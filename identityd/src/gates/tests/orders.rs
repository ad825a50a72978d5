//! The gates that people close.

use super::*;

#[test]
fn damaged_orders() {
    let world = World { orders: Err("orders.json is damaged".into()), ..World::default() };
    let blocks = closed_before_upgrade(&world.inputs(), &at(NOON)).unwrap();
    assert_eq!(blocks.gate, Gate::Orders);
    world.closes(Gate::Orders, &["orders.json is damaged"]);
}

#[test]
fn pause() {
    let pause = Pause::new(at(5), 1000, Some("holiday".into()));
    let world = World::ordered(|orders| orders.pause = Some(pause));
    let says = ["paused since 1970-01-01T00:00:05Z by user 1000", "(holiday)", "identityd resume"];
    let report = world.closes(Gate::Pause, &says);
    assert_eq!(report.inputs["pause"]["by"], 1000);
}

#[test]
fn hold() {
    let hold =
        |release: Option<&str>| Hold::new(release.map(str::to_owned), at(5), 1000, Some("later".into()));
    let held = |release| World::ordered(|orders| orders.hold(hold(release)).unwrap());
    let says = ["since 1970-01-01T00:00:05Z by user 1000", "(later)", "identityd unhold"];
    held(None).closes(Gate::Hold, &[&says[..], &["every release is held"]].concat());
    held(Some("2.0.0")).closes(Gate::Hold, &[&says[..], &["release 2.0.0 is held"]].concat());
    held(Some("02020202")).closes(Gate::Hold, &["release 02020202 is held"]);
    let other = held(Some("3.0.0")).reports();
    let report = other.iter().find(|report| report.gate == Gate::Hold).unwrap();
    assert!(
        report.open && report.why.contains("1 release held (3.0.0), but not what the channel offered"),
        "{report:?}"
    );
    // Everything stays held while nothing is offered.
    let nothing = World { candidate: None, ..held(None) };
    assert_eq!(nothing.closes(Gate::Hold, &["every release"]).may_change.on, "`identityd unhold`");
    assert!(held(Some("2.0.0")).closes(Gate::Hold, &[]).may_change.on.contains("another release"));
}

#[test]
fn a_postponement_says_when_it_ends_by_a_clock_that_is_at_least_right() {
    let postponed = || {
        let hold = Hold::new(Some("2.0.0".into()), at(5), 1000, None);
        World::ordered(|orders| orders.hold(hold.ending(at(5), at(NOON + 60))).unwrap())
    };
    let says =
        ["release 2.0.0 is postponed until 1970-01-01T12:01:00Z, since", "user 1000", "identityd unhold"];
    let report = postponed().closes(Gate::Hold, &says);
    assert_eq!(report.may_change.at, Some(at(NOON + 60)));
    World { earliest: NOON + 59, ..postponed() }.closes(Gate::Hold, &says);
    let over = World { earliest: NOON + 60, ..postponed() }.reports();
    assert!(over.iter().all(|report| report.open), "{over:?}");
}

#[test]
fn maintenance() {
    let report = World::with_windows(&["02:00-05:00"], Cause::Poll).closes(
        Gate::Maintenance,
        &["02:00-05:00, UTC", "the next one opens 1970-01-02T02:00:00Z", "identityd apply --now"],
    );
    assert_eq!(report.may_change.at, Some(at(26 * 3600)));
    let by_hand = |now| World::with_windows(&["02:00-05:00"], Cause::Apply { by: 0, now });
    by_hand(false).closes(Gate::Maintenance, &["identityd apply --now"]);
    assert!(by_hand(true).reports().iter().all(|report| report.open));
    let open = World::with_windows(&["11:00-13:00"], Cause::Poll).reports();
    let report = open.iter().find(|report| report.gate == Gate::Maintenance).unwrap();
    assert!(report.open && report.why.contains("open until 1970-01-01T13:00:00Z"), "{report:?}");
}

#[test]
fn a_clock_that_is_known_to_be_wrong_opens_no_maintenance_window() {
    let open = || World::with_windows(&["11:00-13:00"], Cause::Poll);
    let wrong = World { earliest: NOON + 1, ..open() };
    wrong
        .closes(Gate::Maintenance, &["the clock says 1970-01-01", "it is at least", "identityd apply --now"]);
    let now = Cause::Apply { by: 0, now: true };
    let by_hand = World { cause: now, earliest: NOON + 1, ..open() }.reports();
    assert!(by_hand.iter().all(|report| report.open), "{by_hand:?}");
    let right = World { earliest: NOON, ..open() }.reports();
    assert!(right.iter().all(|report| report.open), "{right:?}");
}

#[test]
fn holds_and_pauses_go_before_windows_and_every_name_is_stable() {
    let mut world = World::with_windows(&["02:00-05:00"], Cause::Poll);
    let mut orders = Orders::default();
    orders.hold(Hold::new(None, at(0), 0, None)).unwrap();
    orders.pause = Some(Pause::new(at(0), 0, None));
    world.orders = Ok(orders);
    assert_eq!(closed_before_upgrade(&world.inputs(), &at(NOON)).unwrap().gate, Gate::Pause);
    for gate in Gate::ALL {
        assert_eq!(serde_json::to_string(&gate).unwrap(), format!("\"{gate}\""));
    }
}

#[test]
fn a_hold_of_the_kernel_cannot_be_taken_back_by_an_order() {
    let world = World::default();
    let inputs = Inputs { held_by_kernel: true, ..world.inputs() };
    let closed = closed_before_upgrade(&inputs, &at(NOON)).unwrap();
    assert_eq!(closed.gate, Gate::Hold);
    assert!(closed.why.contains("molt.hold") && !closed.why.contains("unhold"), "{}", closed.why);
}
