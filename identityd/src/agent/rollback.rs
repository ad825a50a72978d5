//! Rollbacks that people order: found out before anything else is installed, held to across a handover.

use tokio::sync::mpsc::UnboundedSender;
use tracing::{info, warn};

use super::handle::{self, Answer, Asked, Outcome, Upgraded, Verb};
use super::model::{Applied, Problem, ProblemKind, Target};
use super::stage::{Gate, Stage};
use super::state::Event;
use super::worker::Job;
use super::{Agent, Follower, answer, now};
use crate::history::Cause;
use crate::orders::{MOST_BEGINNINGS, Orders, Rollback};

/// A rollback that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The generation; `None`: the one before the current release.
    to: Option<u64>,
    by: u32,
    /// The daemon before this one began it and handed over: this is the same beginning.
    handed_over: bool,
}

impl Wanted {
    /// The rollback that an earlier daemon has not ended.
    pub(super) fn left(orders: &Orders, handed_over: bool) -> Option<Self> {
        let rollback = orders.rollback.as_ref()?;
        Some(Self { to: Some(rollback.to), by: rollback.by, handed_over })
    }
}

impl Agent {
    /// Somebody wants to go back. What comes of it is said through `answers`.
    pub(super) fn roll_back(&mut self, asked: &Asked, by: u32, answers: UnboundedSender<Answer>) {
        self.load_orders();
        let problem = match &self.orders {
            _ if self.state.stage.is_upgrading() => Some(answer::upgrade_runs(&self.state)),
            _ if self.rollback.is_some() => {
                Some(Problem::new(ProblemKind::Busy, "a rollback is about to begin already"))
            }
            _ if self.state.installed.is_none() || !self.state.recovered => {
                Some(answer::nothing_known(&self.state))
            }
            Err(problem) => Some(Problem::closed(Gate::Orders, problem)),
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            return handle::send(&answers, Answer::Error(problem));
        }
        info!(by, generation = asked.to, "rollback requested");
        self.rollback = Some(Wanted { to: asked.to, by, handed_over: false });
        self.followers.push(Follower { verb: Verb::Rollback, answers });
        // A poll that runs is waited for; see `goes_back_instead`.
        if self.state.stage != Stage::Resolving {
            self.handle(Event::CheckRequested);
        }
    }

    /// What finds out what to install next.
    pub(super) fn resolving(&mut self) -> Job {
        if self.rollback.is_some() && self.was_committed() {
            self.end_rollback(true);
        }
        self.rollback.map_or(Job::Resolve, |wanted| Job::Target(wanted.to))
    }

    /// Whether a rollback comes before what a poll has found.
    pub(super) fn goes_back_instead(&mut self, event: &Event) -> bool {
        let instead = self.rollback.is_some() && matches!(event, Event::Resolved(_));
        if instead {
            self.count_check();
            let job = self.resolving();
            self.begin_early(job);
        }
        instead
    }

    /// It is known what to go back to, or that there is nothing.
    pub(super) fn targeted(&mut self, target: Result<Target, Problem>) {
        let Some(wanted) = self.rollback else { return };
        let installed = self.state.installed.clone();
        let is_there = |target: &Target| {
            installed.as_ref().is_some_and(|installed| installed.release == target.release.release)
        };
        match target {
            Ok(target) if is_there(&target) => {
                let (version, generation) =
                    (Some(target.release.version), installed.map(|installed| installed.generation));
                let nothing = Upgraded { committed: false, version, generation, withheld: None };
                self.no_rollback(Answer::Ok(Outcome::Apply(nothing)));
            }
            Ok(target) => match self.begin_rollback(wanted, &target) {
                Ok(()) => {
                    self.cause = Cause::Rollback { by: wanted.by, to: target.generation };
                    self.handle(Event::TargetFound(target));
                }
                Err(problem) => self.no_rollback(Answer::Error(problem)),
            },
            Err(problem) if self.tries_rollback_again(&problem) => match self.count_beginning() {
                // The next try comes when the next poll would.
                Ok(()) => self.follow(Event::Resolved(Err(problem))),
                Err(uncounted) => self.no_rollback(Answer::Error(uncounted)),
            },
            Err(problem) => self.no_rollback(Answer::Error(problem)),
        }
    }

    /// Takes the order off the books when it has ended. Part of every decision.
    pub(super) fn settle_rollback(&mut self, event: &Event) {
        if let Event::Applied(applied) = event
            && self.rollback.is_some()
            && !matches!(applied, Err(problem) if self.tries_rollback_again(problem))
        {
            self.end_rollback(matches!(applied, Ok(Applied::Committed { .. })));
        }
    }

    /// Whether a rollback that an earlier daemon has left to this one is tried again after this problem: nobody is there
    /// who could order it again, and what is only so at the moment is no reason to give it up.
    fn tries_rollback_again(&self, problem: &Problem) -> bool {
        let passes = match problem.kind {
            ProblemKind::Network | ProblemKind::Busy | ProblemKind::Local | ProblemKind::Degraded => true,
            ProblemKind::Refused => false,
        };
        let order = self.orders.as_ref().ok().and_then(|orders| orders.rollback.as_ref());
        let asked = self.followers.iter().any(|follower| follower.verb == Verb::Rollback);
        passes && !asked && order.is_some_and(|order| order.begun < MOST_BEGINNINGS)
    }

    /// What could not even be begun counts as a beginning.
    fn count_beginning(&mut self) -> Result<(), Problem> {
        self.change(|orders| {
            if let Some(rollback) = &mut orders.rollback {
                rollback.begun += 1;
            }
            Ok(())
        })
    }

    /// Writes the order down, with what it leaves behind held.
    fn begin_rollback(&mut self, wanted: Wanted, target: &Target) -> Result<(), Problem> {
        let installed = self.state.installed.clone();
        let from = installed.as_ref().map_or("an unknown release", |installed| &installed.version);
        let reason = format!("rolled back from {from} to {}", target.release.version);
        let left = installed.as_ref().map(|installed| installed.release.clone());
        let left = left.filter(|left| !left.is_empty());
        let begun = self.orders.as_ref().ok().and_then(|orders| orders.rollback.clone());
        if let Some(Rollback { begun, .. }) = &begun
            && *begun >= MOST_BEGINNINGS
            && !wanted.handed_over
        {
            let message =
                format!("the rollback was begun {begun} times and cut off each time; it is given up");
            return Err(Problem::new(ProblemKind::Local, message));
        }
        let what = (target.generation, target.release.release.clone());
        let mut order = begun.unwrap_or_else(|| Rollback::new(what, left, now(), wanted.by));
        // The daemon before this one has counted this beginning.
        order.begun = order.begun.saturating_sub(u32::from(wanted.handed_over));
        self.rollback = Some(Wanted { to: Some(target.generation), handed_over: false, ..wanted });
        self.change(|orders| orders.begin_rollback(order.clone(), reason.clone()))
    }

    /// There will be no rollback; on with what the channel offers.
    fn no_rollback(&mut self, answer: Answer) {
        if let Answer::Error(problem) = &answer {
            warn!("there is no rollback: {problem}");
        }
        self.end_rollback(false);
        self.followers.retain(|follower| {
            let asks = follower.verb == Verb::Rollback;
            if asks {
                handle::send(&follower.answers, answer.clone());
            }
            !asks
        });
        let job = self.resolving();
        self.begin_early(job);
        self.publish();
    }

    fn end_rollback(&mut self, done: bool) {
        self.rollback = None;
        let ended = self.change(|orders| {
            orders.end_rollback(done);
            Ok(())
        });
        if let Err(problem) = ended {
            warn!("the order to roll back is still there: {problem}");
        }
    }

    /// Whether the daemon before this one has put back what was wanted, and ended before it could say so.
    fn was_committed(&self) -> bool {
        let order = self.orders.as_ref().ok().and_then(|orders| orders.rollback.as_ref());
        let left = order.and_then(|order| order.left.as_ref());
        let installed = self.state.installed.as_ref().map(|installed| &installed.release);
        left.is_some() && installed.is_some() && left != installed
    }
}
