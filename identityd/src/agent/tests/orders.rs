//! Orders, gates, and what the history says of them.

use super::*;

/// What came of an order.
fn ordered(answers: &[Answer]) -> &Ordered {
    let Some(Answer::Ok(Outcome::Ordered(ordered))) = answers.last() else { panic!("{answers:?}") };
    ordered
}

fn refusal(answers: &[Answer]) -> &Problem {
    let Some(Answer::Error(problem)) = answers.last() else { panic!("{answers:?}") };
    problem
}

fn committed() -> Applying {
    Applying(vec![], None, Ok(Applied::Committed { generation: 2 }))
}

#[tokio::test]
async fn what_is_held_waits_and_goes_on_when_it_is_let_go() {
    let resolved = [Ok(Resolved::Unchanged), offer("2"), offer("2"), offer("2")].into();
    let node =
        Running::start(RARELY, Script { resolved, applied: [committed()].into(), ..Script::default() });
    node.until("idle", |status| status.stage == Stage::Idle).await;
    let hold = Asked { release: Some("2".into()), reason: Some("later".into()), ..Verb::Hold.into() };
    let answers = all(node.handle.ask(hold, 1000)).await;
    assert_eq!((ordered(&answers).holds[0].by, ordered(&answers).holds.len()), (1000, 1));

    let answers = all(node.handle.ask(Verb::Check, 0)).await;
    let [Answer::Ok(Outcome::Check(offer))] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(offer.candidate, Some(candidate("2")));
    assert_eq!(offer.waits.as_ref().unwrap().gate, Some(Gate::Hold));
    let status = node.handle.status();
    assert_eq!((status.stage, status.gate), (Stage::Waiting, Some(Gate::Hold)));
    assert!(status.reason.unwrap().contains("by user 1000 (later)"));
    assert!(status.next_check.is_some(), "the wait is bounded");
    let now = Asked { now: true, ..Verb::Apply.into() };
    assert_eq!(refusal(&all(node.handle.ask(now, 0)).await).gate, Some(Gate::Hold));

    let answers = all(node.handle.ask(Asked { release: Some("3".into()), ..Verb::Unhold.into() }, 0)).await;
    assert!(refusal(&answers).message.contains("release 3 is not held"));
    assert!(refusal(&answers).absent && !refusal(&answers).misused);
    let nothing = Asked { seconds: Some(0), ..Verb::Hold.into() };
    assert!(refusal(&all(node.handle.ask(nothing, 0)).await).misused);
    assert!(!node.calls().contains(&"apply"));
    all(node.handle.ask(Verb::Unhold, 0)).await;
    node.until("committed", |status| status.stage == Stage::Committed).await;
    node.stop().await;
}

#[tokio::test]
async fn orders_that_nobody_can_read_close_the_gate_and_are_not_overwritten() {
    let node = Running::start(
        RARELY,
        Script { resolved: [Ok(Resolved::Unchanged), offer("2")].into(), ..Script::default() },
    );
    node.until("idle", |status| status.stage == Stage::Idle).await;
    let path = node.directory.path().join("orders.json");
    std::fs::write(&path, "{").unwrap();
    assert_eq!(refusal(&all(node.handle.ask(Verb::Apply, 0)).await).gate, Some(Gate::Orders));
    for verb in [Verb::Hold, Verb::Unhold, Verb::Pause, Verb::Resume] {
        let answers = all(node.handle.ask(verb, 0)).await;
        assert!(refusal(&answers).message.contains("identityd doctor --fix"), "{verb:?}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"{");
    let answers = all(node.handle.ask(Verb::Why, 0)).await;
    let Some(Answer::Ok(Outcome::Why(gates))) = answers.last() else { panic!("{answers:?}") };
    assert_eq!((gates[0].gate, gates[0].open), (Gate::Orders, false));
    assert_eq!(gates.len(), Gate::ALL.len());
    node.stop().await;
}

#[tokio::test]
async fn a_running_upgrade_is_cancelled_before_the_swap_and_held() {
    let (go_on, wait) = oneshot::channel();
    let applied = Applying(vec![Progress::Stage(Stage::Staging)], Some(wait), Ok(Applied::Nothing));
    let resolved = [offer("2"), offer("2"), offer("2")].into();
    let script = Script { resolved, applied: [applied, committed()].into(), ..Script::default() };
    let node = Running::start(RARELY, script);
    node.until("staging", |status| status.stage == Stage::Staging).await;
    let answers = node.handle.ask(Asked { reason: Some("no".into()), ..Verb::Cancel.into() }, 7);
    node.until("held", |status| !status.holds.is_empty() || status.stage != Stage::Staging).await;
    go_on.send(()).unwrap();
    assert_eq!(ordered(&all(answers).await).message, "cancelled by user 7 (no)");
    let status = node.handle.status();
    assert_eq!((status.gate, status.holds[0].release.as_deref()), (Some(Gate::Hold), Some("id-2")));
    assert_eq!(status.last_error, None);
    assert!(refusal(&all(node.handle.ask(Verb::Cancel, 7)).await).message.contains("no upgrade runs"));

    let past = History::new(node.directory.path()).read(9).unwrap().records;
    assert_eq!(past.last().unwrap().outcome, crate::history::Outcome::Cancelled);
    // To try it again takes the hold away.
    let answers = all(node.handle.ask(Verb::Retry, 7)).await;
    assert!(matches!(answers.last(), Some(Answer::Ok(Outcome::Apply(_)))), "{answers:?}");
    assert!(node.calls().contains(&"forget"));
    let past = History::new(node.directory.path()).read(9).unwrap().records;
    assert_eq!(past.last().unwrap().cause, Cause::Retry { by: 7, now: false });
    node.until("let go", |status| status.holds.is_empty()).await;
    node.stop().await;
}

#[tokio::test]
async fn after_the_swap_has_begun_nothing_is_cancelled_and_a_pause_waits() {
    let (go_on, wait) = oneshot::channel();
    let applied = Applying(
        vec![Progress::Stage(Stage::Swapping)],
        Some(wait),
        Ok(Applied::Committed { generation: 2 }),
    );
    let script =
        Script { resolved: [offer("2"), offer("3")].into(), applied: [applied].into(), ..Script::default() };
    let node = Running::start(RARELY, script);
    node.until("swapping", |status| status.stage == Stage::Swapping).await;
    node.brake.enter_swap(0).unwrap();
    let answers = all(node.handle.ask(Verb::Cancel, 0)).await;
    assert!(refusal(&answers).message.contains("the swap has begun"), "{answers:?}");
    let answers = all(node.handle.ask(Verb::Pause, 0)).await;
    assert!(ordered(&answers).message.contains("finished or undone first"), "{answers:?}");
    go_on.send(()).unwrap();
    node.until("committed", |status| status.stage == Stage::Committed).await;
    assert_eq!(refusal(&all(node.handle.ask(Verb::Apply, 0)).await).gate, Some(Gate::Pause));
    node.stop().await;
}

/// A window that is not open now.
pub(super) fn closed_window() -> Windows {
    let now = now().unix;
    let hour = |ahead: u64| (now / 3600 + ahead) % 24;
    let windows = vec![format!("{:02}:00-{:02}:00", hour(3), hour(4) + if hour(4) == 0 { 24 } else { 0 })];
    let maintenance = bootstrap::settings::Maintenance { timezone: "UTC".into(), windows };
    Windows::new(&maintenance, std::path::Path::new("/nonexistent")).unwrap()
}

#[tokio::test]
async fn outside_of_a_window_only_who_says_now_upgrades() {
    let resolved = [offer("2"), offer("2"), offer("2")].into();
    let script = Script { resolved, applied: [committed()].into(), ..Script::default() };
    let node = Running::start_with(RARELY, Some(closed_window()), script);
    let status = node.until("waits", |status| status.gate == Some(Gate::Maintenance)).await;
    let day = RARELY.as_secs();
    assert!(status.next_check.unwrap().unix < status.last_check.unwrap().unix + day / 2, "when it opens");
    let answers = all(node.handle.ask(Verb::Apply, 0)).await;
    assert!(refusal(&answers).message.contains("identityd apply --now"), "{answers:?}");
    let answers = all(node.handle.ask(Asked { now: true, ..Verb::Apply.into() }, 0)).await;
    assert!(matches!(answers.last(), Some(Answer::Ok(Outcome::Apply(_)))), "{answers:?}");
    let past = History::new(node.directory.path()).read(9).unwrap().records;
    assert_eq!(past[0].cause, Cause::Apply { by: 0, now: true });
    node.stop().await;
}

/// Whoever has stolen a key has signed that it is the year 9998, and its owners have replaced it.
#[tokio::test]
async fn a_time_that_was_signed_with_a_stolen_key_closes_no_window_for_ever() {
    let maintenance =
        bootstrap::settings::Maintenance { timezone: "UTC".into(), windows: vec!["00:00-24:00".to_owned()] };
    let always = Windows::new(&maintenance, std::path::Path::new("/nonexistent")).unwrap();
    let signed = |directory: &TempDir, repository: &str, floor: i64| {
        let directory = directory.path().join(repository);
        std::fs::create_dir_all(&directory).unwrap();
        let progress =
            serde_json::json!({"floor": floor, "uptime": {"boot_id": "", "seconds": 0}, "keys": ["k"]});
        std::fs::write(directory.join("clock"), progress.to_string()).unwrap();
    };
    const YEAR_9998: i64 = 253_339_228_800;
    let resolved = [offer("2"), offer("2")].into();
    let script = Script { resolved, applied: [committed()].into(), ..Script::default() };
    let directory = tempfile::tempdir().unwrap();
    signed(&directory, "trust", YEAR_9998);
    let node = Running::start_in(directory, RARELY, Some(always.clone()), script);
    let status = node.until("waits", |status| status.gate == Some(Gate::Maintenance)).await;
    let said = status.reason.unwrap();
    assert!(said.contains("it is at least 9998"), "{said}");
    signed(&node.directory, "trust", 1_700_000_000);
    assert!(matches!(all(node.handle.ask(Verb::Apply, 0)).await.last(), Some(Answer::Ok(Outcome::Apply(_)))));
    node.stop().await;
    // A director only chooses: it does not say what time it is.
    let script = Script { resolved: [offer("2")].into(), applied: [committed()].into(), ..Script::default() };
    let directory = tempfile::tempdir().unwrap();
    signed(&directory, "director", YEAR_9998);
    let node = Running::start_in(directory, RARELY, Some(always), script);
    node.until("committed", |status| status.stage == Stage::Committed).await;
    node.stop().await;
}

#[tokio::test]
async fn texts_of_orders_are_limited() {
    let node = Running::start(RARELY, Script::default());
    node.until("idle", |status| status.stage == Stage::Idle).await;
    for asked in [
        Asked { reason: Some("x".repeat(501)), ..Verb::Hold.into() },
        Asked { reason: Some("two\nlines".into()), ..Verb::Pause.into() },
        Asked { release: Some(String::new()), ..Verb::Hold.into() },
        Asked { release: Some("x".repeat(129)), ..Verb::Retry.into() },
    ] {
        assert!(refusal(&all(node.handle.ask(asked, 0)).await).message.contains("is not usable"));
    }
    let answers = all(node.handle.ask(Verb::Retry, 0)).await;
    assert!(refusal(&answers).message.contains("nothing to try again"), "{answers:?}");
    node.stop().await;
}
