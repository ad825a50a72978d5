//! The agent with a scripted engine.

use bootstrap::state_place::StatePlace;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::status::Daemon;

mod engine;
mod orders;
mod rollback;

use engine::{Applying, Engine, Script};

/// Polls come by themselves while a test waits for them.
const OFTEN: Duration = Duration::from_millis(2);
/// Polls come only when somebody asks for one.
const RARELY: Duration = Duration::from_secs(24 * 3600);
/// More than any condition takes; only a test that fails waits so long.
const DEADLINE: Duration = Duration::from_secs(60);

fn candidate(version: &str) -> Candidate {
    Candidate { channel: "r/c.flist".into(), version: version.into(), release: format!("id-{version}") }
}

fn offer(version: &str) -> Result<Resolved, Problem> {
    Ok(Resolved::Candidate(candidate(version)))
}

fn broken(kind: ProblemKind) -> Problem {
    Problem::new(kind, "it did not work")
}

/// A running agent.
struct Running {
    handle: Handle,
    calls: Arc<Mutex<Vec<&'static str>>>,
    brake: Brake,
    stop: Option<oneshot::Sender<()>>,
    agent: JoinHandle<Result<(), AgentError>>,
    directory: TempDir,
}

impl Running {
    fn start(poll_interval: Duration, script: Script) -> Self {
        Self::start_with(poll_interval, None, script)
    }
    fn start_with(poll_interval: Duration, windows: Option<Windows>, script: Script) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), poll_interval, windows, script)
    }

    fn start_in(
        directory: TempDir,
        poll_interval: Duration,
        windows: Option<Windows>,
        script: Script,
    ) -> Self {
        let file = StatusFile::prepare(&directory.path().join("molt")).unwrap();
        let daemon = Daemon { version: "1".into(), pid: 1, started: Timestamp::from_unix(0), polled: false };
        let status = Status::new(daemon, true);
        let (handle, inbox) = channel(status.clone());
        let (calls, brake) = (Arc::default(), Brake::default());
        let engine = Engine { script, brake: brake.clone(), calls: Arc::clone(&calls) };
        let (stop, stopped) = oneshot::channel();
        let ground = Ground {
            poll_interval,
            windows,
            longest_postponement: Duration::from_secs(14 * 24 * 3600),
            held_by_kernel: false,
            state: StatePlace::fixed(directory.path()),
            run_dir: directory.path().join("molt"),
            boot: "boot".to_owned(),
            handed_over: false,
            brake: brake.clone(),
            kernel: watch::channel(None).1,
        };
        let agent = Agent::new(engine, ground, status, file, inbox);
        let agent = tokio::spawn(agent.run(async move { stopped.await.unwrap() }));
        Self { handle, calls, brake, stop: Some(stop), agent, directory }
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until the status is like that.
    async fn until(&self, what: &str, reached: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.handle.clone().status_receiver();
        let reached = status.wait_for(|status| reached(status));
        match tokio::time::timeout(DEADLINE, reached).await {
            Ok(Ok(status)) => status.as_ref().clone(),
            _ => panic!("never {what}: {:?}", self.handle.status()),
        }
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.agent).await.expect("it ends").unwrap().unwrap();
    }
}

/// All answers, the last one last.
async fn all(mut answers: mpsc::UnboundedReceiver<Answer>) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some(answer) = answers.recv().await {
        all.push(answer);
    }
    all
}

fn stages(answers: &[Answer]) -> Vec<Stage> {
    let stage = |answer: &Answer| match answer {
        Answer::Progress(Progress::Stage(stage)) => Some(*stage),
        _ => None,
    };
    answers.iter().filter_map(stage).collect()
}

#[tokio::test]
async fn it_recovers_looks_and_polls_again_and_again() {
    let node = Running::start(OFTEN, Script::default());
    node.until("polled three times", |status| status.counters.checks == 3).await;
    assert_eq!(node.calls()[..5], ["recover", "installed", "resolve", "resolve", "resolve"]);
    node.stop().await;
}

#[tokio::test]
async fn the_next_poll_is_announced() {
    let node = Running::start(RARELY, Script::default());
    let status = node.until("idle", |status| status.stage == Stage::Idle).await;
    let wait = status.next_check.unwrap().unix - status.last_check.unwrap().unix;
    let day = RARELY.as_secs();
    assert!((day * 9 / 10 - 1..=day * 11 / 10 + DEADLINE.as_secs()).contains(&wait), "{wait} s");
    node.stop().await;
}

#[tokio::test]
async fn without_flist_name_it_looks_until_the_file_is_there() {
    let disabled = Arc::new(AtomicBool::new(true));
    let node = Running::start(OFTEN, Script { disabled: Arc::clone(&disabled), ..Script::default() });
    let status = node.until("disabled", |status| status.gate == Some(Gate::FlistName)).await;
    assert!(status.reason.unwrap().contains("live upgrade is disabled"));
    for verb in [Verb::Check, Verb::Plan, Verb::Apply] {
        let answers = all(node.handle.ask(verb, 0)).await;
        assert!(matches!(&answers[..], [Answer::Error(problem)] if problem.message.contains("flist.name")));
    }
    assert!(!node.calls().contains(&"resolve"));
    disabled.store(false, Ordering::Relaxed);
    let status = node.until("idle", |status| status.stage == Stage::Idle).await;
    assert_eq!(status.installed.unwrap().version, "1");
    node.stop().await;
}

#[tokio::test]
async fn an_unattended_upgrade_is_committed_and_shown() {
    let said = vec![
        Progress::Fetched { bytes: 60, total: 100 },
        Progress::Fetched { bytes: 100, total: 100 },
        Progress::Stage(Stage::Swapping),
        Progress::Service { name: "web".into(), event: ServiceEvent::Stopped },
        Progress::Service { name: "web".into(), event: ServiceEvent::Started { down_ms: 7 } },
    ];
    let applied = Applying(said, None, Ok(Applied::Committed { generation: 2 }));
    let script = Script { resolved: [offer("2")].into(), applied: [applied].into(), ..Script::default() };
    let node = Running::start(RARELY, script);
    let status = node.until("committed", |status| status.stage == Stage::Committed).await;
    assert_eq!(status.installed, Some(candidate("2").installed_as(2)));
    assert_eq!(status.services["web"].down_ms, Some(7));
    assert_eq!((status.counters.bytes_fetched, status.counters.upgrades), (100, 1));
    assert!(status.next_check.is_some());

    let on_disk = std::fs::read(node.directory.path().join("molt/status.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Status>(&on_disk).unwrap(), status);
    node.stop().await;
}

#[tokio::test]
async fn a_check_cuts_a_back_off_and_says_what_is_offered() {
    let failed = Applying(vec![], None, Err(broken(ProblemKind::Local)));
    let committed = Applying(vec![], None, Ok(Applied::Committed { generation: 2 }));
    let node = Running::start(
        RARELY,
        Script {
            resolved: [offer("2"), offer("2")].into(),
            applied: [failed, committed].into(),
            ..Script::default()
        },
    );
    let status = node.until("failed", |status| status.last_error.is_some()).await;
    assert_eq!((status.gate, status.last_error.unwrap().attempts), (Some(Gate::BackOff), 1));
    let offer = Offer {
        installed: Some(candidate("1").installed_as(1)),
        candidate: Some(candidate("2")),
        waits: None,
        withheld: None,
    };
    assert_eq!(all(node.handle.ask(Verb::Check, 0)).await, [Answer::Ok(Outcome::Check(offer))]);
    let status = node.until("committed", |status| status.stage == Stage::Committed).await;
    assert_eq!(status.last_error, None);
    node.stop().await;
}

#[tokio::test]
async fn who_asks_hears_what_the_director_keeps_from_this_node() {
    let withheld = Withheld {
        version: "3".into(),
        release: "id-3".into(),
        why: "this node's turn has not come".into(),
        turn: Some(Timestamp::from_unix(7)),
        node: "n1".into(),
        group: None,
        place: "1.00".into(),
    };
    let script = Script { withheld: Some(withheld.clone()), ..Script::default() };
    let node = Running::start(RARELY, script);
    node.until("idle", |status| status.stage == Stage::Idle).await;
    let mut heard = Vec::new();
    for verb in [Verb::Check, Verb::Plan, Verb::Apply] {
        match all(node.handle.ask(verb, 0)).await.pop() {
            Some(Answer::Ok(Outcome::Check(Offer { candidate: None, withheld, .. }))) => heard.push(withheld),
            Some(Answer::Ok(Outcome::Plan(Planned { candidate: None, withheld, .. }))) => {
                heard.push(withheld)
            }
            Some(Answer::Ok(Outcome::Apply(Upgraded { committed: false, withheld, .. }))) => {
                heard.push(withheld)
            }
            answer => panic!("{answer:?}"),
        }
    }
    assert_eq!(heard, vec![Some(Box::new(withheld)); 3]);
    node.stop().await;
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let node = Running::start(
        RARELY,
        Script { resolved: [Ok(Resolved::Unchanged), offer("2")].into(), ..Script::default() },
    );
    node.until("idle", |status| status.stage == Stage::Idle).await;
    let answers = all(node.handle.ask(Verb::Plan, 0)).await;
    let [Answer::Ok(Outcome::Plan(Planned { candidate: Some(found), plan: Some(plan), .. }))] = &answers[..]
    else {
        panic!("{answers:?}");
    };
    assert_eq!((found, plan.text.as_str()), (&candidate("2"), "to 2"));
    node.until("counted", |status| status.counters.checks == 2).await;
    assert_eq!(node.calls(), ["recover", "installed", "resolve", "resolve", "plan"]);
    node.stop().await;
}

#[tokio::test]
async fn apply_follows_the_upgrade_while_status_answers_and_checks_are_refused() {
    let (go_on, wait) = oneshot::channel();
    let said = vec![Progress::Stage(Stage::Staging), Progress::Stage(Stage::Verifying)];
    let applied = Applying(said, Some(wait), Ok(Applied::Committed { generation: 2 }));
    let node = Running::start(
        RARELY,
        Script {
            resolved: [Ok(Resolved::Unchanged), offer("2")].into(),
            applied: [applied].into(),
            ..Script::default()
        },
    );
    node.until("idle", |status| status.stage == Stage::Idle).await;
    let first = node.handle.ask(Verb::Apply, 0);
    node.until("verifying", |status| status.stage == Stage::Verifying).await;
    for verb in [Verb::Check, Verb::Plan] {
        let answers = all(node.handle.ask(verb, 0)).await;
        assert!(matches!(&answers[..], [Answer::Error(problem)] if problem.kind == ProblemKind::Busy));
    }
    let second = node.handle.ask(Verb::Apply, 0);
    go_on.send(()).unwrap();
    let (first, second) = tokio::join!(all(first), all(second));
    assert_eq!(stages(&first), [Stage::Fetching, Stage::Staging, Stage::Verifying]);
    assert_eq!(stages(&second), [Stage::Verifying]);
    let end = Upgraded { committed: true, version: Some("2".into()), generation: Some(2), withheld: None };
    assert_eq!(first.last(), Some(&Answer::Ok(Outcome::Apply(end.clone()))));
    assert_eq!(second.last(), Some(&Answer::Ok(Outcome::Apply(end))));
    assert_eq!(node.calls().iter().filter(|call| **call == "apply").count(), 1);
    node.stop().await;
}

#[tokio::test]
async fn apply_tells_bad_ends_and_that_there_is_nothing_to_do() {
    let ill = Applying(vec![], None, Ok(Applied::RolledBack { reason: "web is ill".into() }));
    let node = Running::start(
        RARELY,
        Script {
            resolved: [
                Ok(Resolved::Unchanged),
                Ok(Resolved::Unchanged),
                offer("2"),
                Err(broken(ProblemKind::Refused)),
            ]
            .into(),
            applied: [ill].into(),
            ..Script::default()
        },
    );
    node.until("idle", |status| status.stage == Stage::Idle).await;
    let nothing =
        Upgraded { committed: false, version: Some("1".into()), generation: Some(1), withheld: None };
    assert_eq!(all(node.handle.ask(Verb::Apply, 0)).await, [Answer::Ok(Outcome::Apply(nothing))]);

    let answers = all(node.handle.ask(Verb::Apply, 0)).await;
    let Some(Answer::Error(problem)) = answers.last() else { panic!("{answers:?}") };
    assert!(problem.message.contains("web is ill"), "{problem}");
    assert_eq!(node.handle.status().stage, Stage::RolledBack);

    let answers = all(node.handle.ask(Verb::Apply, 0)).await;
    assert_eq!(answers, [Answer::Error(broken(ProblemKind::Refused))]);
    let status = node.handle.status();
    assert_eq!(status.gate, Some(Gate::Refused));
    assert!(status.reason.unwrap().contains("it did not work"));
    node.stop().await;
}

#[tokio::test]
async fn shutdown_finishes_the_transaction_and_begins_nothing_new() {
    let (go_on, wait) = oneshot::channel();
    let applied = Applying(vec![], Some(wait), Ok(Applied::Nothing));
    let script = Script { resolved: [offer("2")].into(), applied: [applied].into(), ..Script::default() };
    let mut node = Running::start(RARELY, script);
    node.until("fetching", |status| status.stage == Stage::Fetching).await;
    node.stop.take().unwrap().send(()).unwrap();
    // The agent hears of it before it answers this.
    let answers = loop {
        let answers = node.handle.ask(Verb::Plan, 0);
        let answers = all(answers).await;
        match &answers[..] {
            [Answer::Error(problem)] if problem.message.contains("about to end") => break answers,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(answers.len(), 1);
    assert!(!node.agent.is_finished());
    assert_eq!(node.handle.status().stage, Stage::Fetching);
    go_on.send(()).unwrap();
    node.agent.await.unwrap().unwrap();
    assert_eq!(node.handle.status().stage, Stage::Idle);
    assert_eq!(node.calls.lock().unwrap().last(), Some(&"apply"));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_poll_or_for_the_next_one() {
    let node = Running::start(RARELY, Script::default());
    node.until("idle", |status| status.stage == Stage::Idle).await;
    node.stop().await;
}

#[tokio::test]
async fn a_failed_recovery_is_tried_again_and_nothing_is_installed_before() {
    let recovered = [Err(broken(ProblemKind::Degraded)), Err(broken(ProblemKind::Busy)), Ok(())];
    let node = Running::start(OFTEN, Script { recovered: recovered.into(), ..Script::default() });
    let status = node.until("degraded", |status| status.stage == Stage::Degraded).await;
    assert_eq!(status.reason.as_deref(), Some("it did not work"));
    node.until("idle", |status| status.stage == Stage::Idle).await;
    assert_eq!(node.calls()[..5], ["recover", "recover", "recover", "installed", "resolve"]);
    node.stop().await;
}

#[tokio::test]
async fn a_dead_engine_ends_the_agent() {
    // There is no upgrade in the script: the engine panics.
    let node = Running::start(RARELY, Script { resolved: [offer("2")].into(), ..Script::default() });
    let ended = node.agent.await.unwrap();
    assert!(matches!(ended, Err(AgentError::WorkerDied(Stage::Fetching))), "{ended:?}");
}
