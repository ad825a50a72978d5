//! Going back: on request, across a restart, and what stays of it.

use super::*;
use crate::orders::{Hold, Rollback};

fn reverted() -> Applying {
    Applying(vec![], None, Ok(Applied::Committed { generation: 3 }))
}

/// A node that runs 2, with 1 to go back to.
fn script(
    resolved: impl Into<VecDeque<Result<Resolved, Problem>>>,
    applied: impl Into<VecDeque<Applying>>,
) -> Script {
    let (target, installed) = (Some("1"), Some("2"));
    Script { resolved: resolved.into(), applied: applied.into(), target, installed, ..Script::default() }
}

async fn idle(script: Script) -> Running {
    let node = Running::start(RARELY, script);
    node.until("idle", |status| status.stage == Stage::Idle).await;
    node
}

fn orders(node: &Running) -> Orders {
    OrdersFile::new(node.directory.path()).load().unwrap()
}

fn problem(answers: &[Answer]) -> &Problem {
    let Some(Answer::Error(problem)) = answers.last() else { panic!("{answers:?}") };
    problem
}

#[tokio::test]
async fn what_is_left_behind_is_held_and_a_newer_one_is_installed() {
    let committed = Applying(vec![], None, Ok(Applied::Committed { generation: 4 }));
    let node = idle(script([Ok(Resolved::Unchanged), offer("2"), offer("3")], [reverted(), committed])).await;
    let answers = all(node.handle.ask(Verb::Rollback, 1000)).await;
    let end = Upgraded { committed: true, version: Some("1".into()), generation: Some(3), withheld: None };
    assert_eq!(answers.last(), Some(&Answer::Ok(Outcome::Apply(end))));
    assert_eq!(orders(&node).rollback, None);

    let answers = all(node.handle.ask(Verb::Apply, 0)).await;
    assert_eq!(problem(&answers).gate, Some(Gate::Hold));
    assert!(problem(&answers).message.contains("rolled back from 2 to 1"), "{answers:?}");
    let status = node.handle.status();
    assert_eq!((status.holds[0].release.as_deref(), status.holds[0].by), (Some("id-2"), 1000));

    let answers = all(node.handle.ask(Verb::Apply, 0)).await;
    assert!(matches!(answers.last(), Some(Answer::Ok(Outcome::Apply(_)))), "{answers:?}");
    let past = History::new(node.directory.path()).read(9).unwrap().records;
    assert_eq!(past[0].cause, Cause::Rollback { by: 1000, to: 1 });
    assert_eq!((past[0].from.as_ref().unwrap().version.as_str(), past[0].to.version.as_str()), ("2", "1"));
    assert_eq!(past[1].to.version, "3");
    node.stop().await;
}

#[tokio::test]
async fn the_version_that_is_offered_under_a_held_id_can_be_let_go_by_name() {
    let committed = Applying(vec![], None, Ok(Applied::Committed { generation: 4 }));
    let node = idle(script([Ok(Resolved::Unchanged), offer("2"), offer("2")], [reverted(), committed])).await;
    all(node.handle.ask(Verb::Rollback, 0)).await;
    all(node.handle.ask(Verb::Check, 0)).await;
    all(node.handle.ask(Asked { release: Some("2".into()), ..Verb::Unhold.into() }, 0)).await;
    let installed = |status: &Status| status.installed.as_ref().map(|installed| installed.version.clone());
    node.until("installed again", |status| installed(status).as_deref() == Some("2")).await;
    node.stop().await;
}

#[tokio::test]
async fn without_anything_to_go_back_to_nothing_is_held_and_polls_go_on() {
    let node = idle(script([Ok(Resolved::Unchanged)], [])).await;
    let answers = all(node.handle.ask(Asked { to: Some(9), ..Verb::Rollback.into() }, 0)).await;
    assert!(problem(&answers).message.contains("these are kept: 1"), "{answers:?}");
    node.until("polled", |status| status.stage == Stage::Idle && status.counters.checks == 2).await;
    assert_eq!(orders(&node), Orders::default());
    assert_eq!(node.calls(), ["recover", "installed", "resolve", "target", "resolve"]);
    assert_eq!(node.handle.status().last_error, None);
    node.stop().await;
}

#[tokio::test]
async fn a_rollback_that_fails_holds_nothing() {
    let ill = Applying(vec![], None, Ok(Applied::RolledBack { reason: "web is ill".into() }));
    let node = idle(script([Ok(Resolved::Unchanged)], [ill])).await;
    let answers = all(node.handle.ask(Verb::Rollback, 0)).await;
    assert!(problem(&answers).message.contains("web is ill"), "{answers:?}");
    assert_eq!(orders(&node), Orders::default());
    assert_eq!(node.handle.status().stage, Stage::RolledBack);
    node.stop().await;
}

#[tokio::test]
async fn holds_pauses_and_windows_do_not_keep_anybody_from_going_back() {
    let (go_on, wait) = oneshot::channel();
    let applied = Applying(vec![Progress::Stage(Stage::Staging)], Some(wait), reverted().2);
    let resolved = [Ok(Resolved::Unchanged)];
    let window = Some(super::orders::closed_window());
    let node = Running::start_with(RARELY, window, script(resolved, [applied]));
    node.until("idle", |status| status.stage == Stage::Idle).await;
    all(node.handle.ask(Verb::Hold, 0)).await;
    all(node.handle.ask(Verb::Pause, 0)).await;
    let answers = node.handle.ask(Verb::Rollback, 0);
    let status = node.until("staging", |status| status.stage == Stage::Staging).await;
    assert_eq!(status.rollback.unwrap().to, 1);
    let paused = all(node.handle.ask(Verb::Pause, 0)).await;
    assert!(format!("{paused:?}").contains("the rollback that runs goes on"), "{paused:?}");
    let second = all(node.handle.ask(Verb::Rollback, 0)).await;
    assert_eq!(problem(&second).kind, ProblemKind::Busy);
    go_on.send(()).unwrap();
    assert!(matches!(all(answers).await.last(), Some(Answer::Ok(Outcome::Apply(_)))));
    assert_eq!((orders(&node).holds.len(), orders(&node).pause.is_some()), (2, true));
    node.stop().await;
}

#[tokio::test]
async fn a_rollback_that_is_cancelled_holds_nothing() {
    let (go_on, wait) = oneshot::channel();
    let applied = Applying(vec![Progress::Stage(Stage::Staging)], Some(wait), reverted().2);
    let node = idle(script([Ok(Resolved::Unchanged)], [applied])).await;
    let answers = node.handle.ask(Verb::Rollback, 0);
    node.until("staging", |status| status.stage == Stage::Staging).await;
    let cancelled = node.handle.ask(Verb::Cancel, 7);
    // The brake is pulled before this is answered.
    all(node.handle.ask(Verb::Why, 0)).await;
    go_on.send(()).unwrap();
    assert!(matches!(all(cancelled).await.last(), Some(Answer::Ok(Outcome::Ordered(_)))));
    assert!(problem(&all(answers).await).message.contains("cancelled by user 7"));
    assert_eq!(orders(&node), Orders::default());
    assert_eq!(node.handle.status().stage, Stage::Idle);
    let past = History::new(node.directory.path()).read(9).unwrap().records;
    assert_eq!(past[0].outcome, crate::history::Outcome::Cancelled);
    node.stop().await;
}

#[tokio::test]
async fn a_rollback_goes_before_what_a_poll_has_found_meanwhile() {
    let (go_on, wait) = oneshot::channel();
    let node = Running::start(
        RARELY,
        Script { polling: Some(wait), ..script([offer("3"), Ok(Resolved::Unchanged)], [reverted()]) },
    );
    node.until("resolving", |status| status.stage == Stage::Resolving).await;
    let answers = node.handle.ask(Verb::Rollback, 0);
    // Answered after the request before it.
    all(node.handle.ask(Verb::Why, 0)).await;
    go_on.send(()).unwrap();
    assert!(matches!(all(answers).await.last(), Some(Answer::Ok(Outcome::Apply(_)))));
    assert_eq!(node.calls(), ["recover", "installed", "resolve", "target", "revert"]);
    node.stop().await;
}

/// The agent after a restart that found this order, with that many beginnings.
fn restarted(begun: u32, script: Script) -> Running {
    restarted_and_polling(begun, RARELY, script)
}

fn restarted_and_polling(begun: u32, poll_interval: Duration, script: Script) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let mut orders = Orders::default();
    let order = Rollback::new((1, "id-1".to_owned()), Some("id-2".to_owned()), Timestamp::from_unix(7), 1000);
    orders.begin_rollback(order, "rolled back".to_owned()).unwrap();
    orders.rollback.as_mut().unwrap().begun = begun;
    OrdersFile::new(directory.path())
        .change(|now| {
            *now = orders.clone();
            Ok(())
        })
        .unwrap();
    Running::start_in(directory, poll_interval, None, script)
}

fn held(node: &Running) -> Vec<Hold> {
    let orders = orders(node);
    assert_eq!(orders.rollback, None);
    orders.holds
}

#[tokio::test]
async fn a_rollback_that_was_cut_off_goes_on_before_anything_else() {
    let node = restarted(1, script([], [reverted()]));
    node.until("committed", |status| status.stage == Stage::Committed).await;
    assert_eq!(node.calls(), ["recover", "installed", "target", "revert"]);
    assert_eq!(held(&node)[0].release.as_deref(), Some("id-2"));
    let past = History::new(node.directory.path()).read(9).unwrap().records;
    assert_eq!(past[0].cause, Cause::Rollback { by: 1000, to: 1 });
    node.stop().await;
}

#[tokio::test]
async fn a_rollback_that_had_committed_is_not_done_again() {
    let node = restarted(1, Script { installed: Some("1"), ..script([Ok(Resolved::Unchanged)], []) });
    node.until("idle", |status| status.stage == Stage::Idle).await;
    assert_eq!(node.calls(), ["recover", "installed", "resolve"]);
    assert_eq!(held(&node)[0].release.as_deref(), Some("id-2"));
    node.stop().await;
}

#[tokio::test]
async fn a_rollback_that_was_cut_off_outlasts_what_is_only_so_at_the_moment() {
    let busy = || Problem::new(ProblemKind::Busy, "another engine works here");
    let not_begun = Script { untold: [busy()].into(), ..script([], [reverted()]) };
    let undone = script([], [Applying(vec![], None, Err(busy())), reverted()]);
    for script in [not_begun, undone] {
        let node = restarted_and_polling(1, OFTEN, script);
        node.until("committed", |status| status.counters.upgrades == 1).await;
        let calls = node.calls();
        let resolved = calls.iter().position(|call| *call == "resolve").unwrap_or(calls.len());
        let last_try = calls.iter().rposition(|call| *call == "revert").unwrap();
        assert!(last_try < resolved, "{calls:?}");
        assert_eq!(held(&node)[0].release.as_deref(), Some("id-2"));
        node.stop().await;
    }
}

#[tokio::test]
async fn an_order_to_roll_back_that_could_not_be_read_at_first_is_found() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join(crate::orders::FILE)).unwrap();
    let node = Running::start_in(directory, OFTEN, None, script([], [reverted()]));
    node.until("polled", |status| status.counters.checks > 0).await;
    assert!(!node.calls().contains(&"target"));
    let mut orders = Orders::default();
    let order = Rollback::new((1, "id-1".to_owned()), Some("id-2".to_owned()), Timestamp::from_unix(7), 1000);
    orders.begin_rollback(order, "rolled back".to_owned()).unwrap();
    let file = node.directory.path().join(crate::orders::FILE);
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, serde_json::to_vec(&orders).unwrap()).unwrap();
    node.until("committed", |status| status.counters.upgrades == 1).await;
    node.stop().await;
}

#[tokio::test]
async fn a_rollback_that_is_cut_off_each_time_is_given_up() {
    let node = restarted(crate::orders::MOST_BEGINNINGS, script([Ok(Resolved::Unchanged)], []));
    node.until("idle", |status| status.stage == Stage::Idle).await;
    assert_eq!(node.calls(), ["recover", "installed", "target", "resolve"]);
    assert_eq!(held(&node), []);
    node.stop().await;
}
