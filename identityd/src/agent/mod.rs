//! The agent: follows the channel, upgrades the node.
//!
//! ```text
//! requests ─┐                        ┌─► worker ─► engine
//! timer ────┼─► Event ─► step ─► Action ─► timer
//! worker ───┘            │
//!                        └─► State ─► status
//! ```
//! `state` decides, `schedule` says how long to wait, `worker` has things done; the [`Agent`] here
//! only carries between them.

mod answer;
mod attempts;
mod brake;
pub mod effects;
mod followers;
mod gating;
mod ground;
mod handle;
mod log;
mod model;
mod operator;
mod postpone;
mod request;
mod rollback;
mod schedule;
mod stage;
mod state;
mod worker;

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bootstrap::mirrors::Mirrors;
use bootstrap::state_place::StatePlace;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

pub use brake::Brake;
pub use ground::Ground;
pub use handle::{
    Answer, Asked, Handle, Inbox, Offer, Ordered, Outcome, Planned, Request, Upgraded, Verb, channel,
};
pub use model::{
    Applied, Candidate, Facts, Installed, NodeName, PlanReport, Problem, ProblemKind, Progress, Resolved,
    ServiceEvent, StateInRam, Target, Withheld,
};
pub use schedule::Delay;
pub use stage::{Gate, Stage};
pub use state::{Action, Event, State, step};
pub use worker::Doing;

use crate::gates::{Failures, OverBudget};
use crate::history::{Cause, History};
use crate::kernel::KernelStatus;
use crate::orders::{Orders, OrdersFile};
use crate::status::{Status, StatusFile};
use crate::timestamp::Timestamp;
use attempts::Attempts;
use bootstrap::maintenance::Windows;
use followers::Follower;
use rollback::Wanted;
use worker::{Job, Report, Worker};

/// Bytes that are being fetched are shown this often at most.
const SHOW_FETCHED_EVERY: Duration = Duration::from_millis(200);

/// The agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The task that runs the engine ended by itself.
    #[error(
        "the engine's task died while the agent was in stage {0}; what it left is recovered at the next start"
    )]
    WorkerDied(Stage),
}

/// Drives decisions: events in, actions out.
#[derive(Debug)]
pub struct Agent {
    state: State,
    worker: Worker,
    inbox: Inbox,
    status: Status,
    file: StatusFile,
    followers: Vec<Follower>,
    poll_interval: Duration,
    windows: Option<Windows>,
    longest_postponement: Duration,
    held_by_kernel: bool,
    place: StatePlace,
    run_dir: PathBuf,
    brake: Brake,
    kernel: watch::Receiver<Option<KernelStatus>>,
    attempts: Attempts,
    orders_file: OrdersFile,
    /// What is ordered, or why nobody knows.
    orders: Result<Orders, String>,
    /// The rollback that has not ended.
    rollback: Option<Wanted>,
    /// On whose behalf the next upgrade begins.
    cause: Cause,
    /// Who wants a release tried again whose failures are being forgotten.
    retried: Option<Cause>,
    /// What is remembered of the candidate.
    failures: Option<Failures>,
    /// The release that would take services away for too long.
    over_budget: Option<OverBudget>,
    /// Why the state cannot be anywhere.
    state_unusable: Option<String>,
    /// What the director keeps from this node.
    withheld: Option<Withheld>,
    /// What the node's hubs say, compared.
    mirrors: Mirrors,
    /// Why nobody can go back to the release before.
    rollback_blocked: Option<String>,
    /// When the channel answered last.
    answered: Option<Timestamp>,
    /// When [`Event::PollDue`] is due.
    due: Option<Instant>,
    /// When fetched bytes were shown last.
    shown: Option<Instant>,
    /// Whether it was said already that live upgrade is disabled.
    said_disabled: bool,
}

impl Agent {
    /// An agent that shows `status` in `file` and through the other end of `inbox`; it begins at once, so that
    /// nobody is ever shown what it has not judged.
    pub fn new(doing: impl Doing, ground: Ground, status: Status, file: StatusFile, inbox: Inbox) -> Self {
        let Ground {
            poll_interval,
            windows,
            longest_postponement,
            held_by_kernel,
            state: place,
            run_dir,
            boot,
            handed_over,
            brake,
            kernel,
        } = ground;
        let attempts = Attempts::open(History::at(place.clone()), boot, handed_over);
        let orders_file = OrdersFile::at(place.clone());
        let orders = orders_file.load().map_err(|error| flist::report(&error));
        let mut agent = Self {
            state: State::default(),
            worker: Worker::start(doing),
            inbox,
            status,
            file,
            followers: Vec::new(),
            poll_interval,
            windows,
            longest_postponement,
            held_by_kernel,
            place,
            run_dir,
            brake,
            kernel,
            cause: attempts.cause().cloned().unwrap_or_default(),
            retried: None,
            attempts,
            rollback: orders.as_ref().ok().and_then(|orders| Wanted::left(orders, handed_over)),
            orders,
            orders_file,
            failures: None,
            over_budget: None,
            state_unusable: None,
            withheld: None,
            mirrors: Mirrors::default(),
            rollback_blocked: None,
            answered: None,
            due: None,
            shown: None,
            said_disabled: false,
        };
        agent.handle(Event::Started);
        agent
    }

    /// Runs until `shutdown` comes. A transaction that runs then is finished first.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut leaving = false;
        while !leaving || self.worker.in_transaction() {
            let due = self.due;
            tokio::select! {
                () = &mut shutdown, if !leaving => {
                    leaving = true;
                    self.leave();
                }
                report = self.worker.next() => match report {
                    Some(report) => self.report(report, leaving),
                    None => return Err(AgentError::WorkerDied(self.state.stage)),
                },
                Ok(()) = self.kernel.changed() => self.publish(),
                Some(request) = self.inbox.requests.recv() => self.request(request, leaving),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    self.handle(Event::PollDue);
                }
            }
        }
        info!("identityd ends");
        Ok(())
    }

    fn leave(&mut self) {
        self.due = None;
        if self.worker.in_transaction() {
            info!(stage = %self.state.stage, "asked to end; finishes the running transaction first");
        }
    }

    fn report(&mut self, report: Report, leaving: bool) {
        match report {
            Report::Planned => {
                self.count_check();
                self.publish();
            }
            // An order that is not begun is lost with whoever gave it; one that was begun is on disk.
            Report::Target(_) if leaving => {}
            Report::Target(target) => self.targeted(target),
            Report::Done(event) if leaving => self.handle_last(event),
            Report::Done(event) => self.handle(event),
            Report::Progress(progress) => self.progress(progress),
            Report::Forgotten(forgotten, answers) => self.forgotten(forgotten, answers),
            // Shown with the job's end.
            Report::Facts(facts) => self.facts(*facts),
        }
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Stage(stage) => return self.handle(Event::Progress(stage)),
            Progress::Expected(ref expected) => return self.attempts.expect(expected),
            Progress::Fetched { bytes, total } => {
                self.status.fetched(bytes, total);
                self.attempts.fetched(bytes);
                // What is not shown now is shown with the next stage at the latest.
                if self.shown.is_some_and(|shown| shown.elapsed() < SHOW_FETCHED_EVERY) {
                    return;
                }
                self.shown = Some(Instant::now());
                self.publish();
            }
            Progress::Service { ref name, event } => {
                match event {
                    ServiceEvent::Stopped => info!(service = name, "service stopped"),
                    ServiceEvent::Started { down_ms } => info!(service = name, down_ms, "service started"),
                }
                self.status.service(name.clone(), event);
                self.attempts.service(name, event);
                self.publish();
            }
            Progress::LeftBehind { ref processes } => {
                for process in processes {
                    warn!("{process}, and runs on with what was there before");
                }
            }
        }
        self.tell_followers(&progress);
    }

    /// One event, with everything that follows from it.
    fn handle(&mut self, event: Event) {
        if self.goes_back_instead(&event) {
            return self.publish();
        }
        self.follow(event);
    }

    /// As [`Agent::handle`], also where a rollback is wanted.
    fn follow(&mut self, event: Event) {
        let event = self.gated(event);
        let actions = self.decide(event);
        for action in actions {
            self.act(action);
        }
        if self.state.stage != Stage::Resolving
            && !self.state.stage.is_upgrading()
            && self.state.gate != Some(Gate::Starting)
        {
            self.cause = Cause::Poll;
        }
        self.publish();
    }

    /// The end of the transaction that was waited for: nothing new begins after it.
    fn handle_last(&mut self, event: Event) {
        let event = self.gated(event);
        let _not_begun = self.decide(event);
        self.status.next_check = None;
        self.publish();
    }

    fn decide(&mut self, event: Event) -> Vec<Action> {
        let before = self.state.stage;
        self.note(&event);
        match &event {
            Event::Blocked { .. } if before == Stage::Resolving => self.count_check(),
            Event::Resolved(_) => self.count_check(),
            Event::Applied(Ok(Applied::Committed { .. })) => self.status.counters.upgrades += 1,
            _ => {}
        }
        let (state, actions) = step(mem::take(&mut self.state), event.clone());
        self.state = state;
        self.status.identityd.polled |= before == Stage::Resolving && self.state.stage != Stage::Resolving;
        self.settle_rollback(&event);
        self.load_failures();
        self.log(before, &event);
        self.status.follow(&self.state, &now());
        self.settle_followers(&event);
        if self.state.stage != before && self.state.stage.is_upgrading() {
            self.tell_followers(&Progress::Stage(self.state.stage));
        }
        actions
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Recover => self.worker.begin(Job::Recover),
            Action::LookForInstalled => self.worker.begin(Job::LookForInstalled),
            Action::Resolve => {
                let job = self.resolving();
                self.begin_early(job);
            }
            Action::Apply(candidate) => {
                self.status.fetch = None;
                self.note_begin(&candidate);
                self.begin_early(Job::Apply(candidate));
            }
            Action::Revert(target) => {
                self.status.fetch = None;
                self.note_begin(&target.release);
                self.begin_early(Job::Revert(target));
            }
            Action::PollAfter(delay) => {
                // Keyed anew each time, which is all the randomness that spreading polls needs.
                let random = RandomState::new().hash_one(());
                let delay = schedule::duration(delay, self.poll_interval, random);
                self.due = Instant::now().checked_add(delay);
                self.status.next_check = SystemTime::now().checked_add(delay).map(Timestamp::from);
            }
        }
    }

    /// Begins what the timer would have begun.
    fn begin_early(&mut self, job: Job) {
        self.due = None;
        self.status.next_check = None;
        self.worker.begin(job);
    }

    fn count_check(&mut self) {
        self.status.counters.checks += 1;
        self.status.last_check = Some(now());
    }

    fn publish(&mut self) {
        self.show_gates();
        self.status.drop_ended();
        self.status.at = Some(now());
        // A tmpfs takes this small file faster than another thread would.
        if let Err(error) = self.file.write(&self.status) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(cause, "{error}");
        }
        self.inbox.status.send_replace(Arc::new(self.status.clone()));
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests;
