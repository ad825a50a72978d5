//! What people order: holds, a pause, the end of an upgrade.

use std::mem;
use std::sync::mpsc;
use std::time::Duration;

use bootstrap::lock;
use bootstrap::state_place::{Notice, StatePlaceError};
use tokio::sync::mpsc::UnboundedSender;
use tracing::info;

use super::brake::NotStopped;
use super::handle::{self, Answer, Asked, Ordered, Outcome, Verb};
use super::model::{Problem, ProblemKind};
use super::stage::{Gate, Stage};
use super::state::Event;
use super::worker::Job;
use super::{Agent, Follower, answer, now};
use crate::gates::BEFORE_UPGRADE;
use crate::history::Cause;
use crate::orders::{Hold, LONGEST_REASON, LONGEST_RELEASE, Orders, OrdersError, Pause, check_text, names};

/// How long a person who orders waits for another engine.
const SHORT: Duration = Duration::from_secs(1);

/// How long for the state to be moved from a disk that has failed.
const SETTLED: Duration = Duration::from_secs(5);

impl Agent {
    /// Takes an order. What follows from it is said through `answers`.
    pub(super) fn order(&mut self, asked: &Asked, by: u32, answers: UnboundedSender<Answer>) {
        let done = check_texts(asked).map_err(|error| local(&error)).and_then(|()| match asked.verb {
            Verb::Hold => self.hold(asked, by),
            Verb::Unhold => self.unhold(asked),
            Verb::Pause => self.pause(asked, by),
            Verb::Resume => self.resume(),
            _ => self.cancel(asked, by),
        });
        let lets_go = done.is_ok() && matches!(asked.verb, Verb::Unhold | Verb::Resume);
        match done {
            Ok(message) => {
                info!(by, "{message}");
                if asked.verb == Verb::Cancel {
                    // Answered when the upgrade has stopped.
                    self.followers.push(Follower { verb: Verb::Cancel, answers });
                } else {
                    handle::send(&answers, Answer::Ok(Outcome::Ordered(self.ordered(message))));
                }
            }
            Err(problem) => handle::send(&answers, Answer::Error(problem)),
        }
        if lets_go && self.waits_for_orders() {
            self.handle(Event::CheckRequested);
        } else {
            self.publish();
        }
    }

    /// Forgets that a release failed, and then tries it.
    pub(super) fn retry(&mut self, asked: &Asked, by: u32, answers: UnboundedSender<Answer>) {
        let wanted =
            check_texts(asked).map_err(|error| local(&error)).and_then(|()| self.release_to_retry(asked));
        let release = match wanted {
            Ok(release) => release,
            Err(problem) => return handle::send(&answers, Answer::Error(problem)),
        };
        info!(by, release, "tried again on request");
        // What is being looked into meanwhile is somebody else's.
        self.retried = Some(Cause::Retry { by, now: asked.now });
        self.worker.begin(Job::Forget(release, answers));
    }

    /// The failures are forgotten: on with the upgrade.
    pub(super) fn forgotten(
        &mut self,
        forgotten: Result<Vec<String>, Problem>,
        answers: UnboundedSender<Answer>,
    ) {
        let retried = self.retried.take();
        let let_go = forgotten.and_then(|_| self.let_go_of_candidate());
        if let Err(problem) = let_go {
            return handle::send(&answers, Answer::Error(problem));
        }
        self.cause = mem::take(&mut self.cause).or(retried.unwrap_or_default());
        self.followers.push(Follower { verb: Verb::Retry, answers });
        self.handle(Event::ApplyRequested);
    }

    /// Holds that name what the channel offers go, because it shall be tried again.
    fn let_go_of_candidate(&mut self) -> Result<(), Problem> {
        let Some(offered) = self.state.candidate.clone() else { return Ok(()) };
        self.load_orders();
        self.change(|orders| {
            orders.unhold(|hold| hold.release.is_some() && hold.covers(&offered));
            Ok(())
        })
    }

    /// The id, or its beginning, of the release that shall be tried again.
    fn release_to_retry(&self, asked: &Asked) -> Result<String, Problem> {
        if self.state.stage.is_upgrading() {
            return Err(answer::upgrade_runs(&self.state));
        }
        let offered = self.state.candidate.clone();
        let offered =
            offered.filter(|offered| asked.release.as_ref().is_none_or(|text| names(text, offered)));
        let Some(offered) = offered else {
            return match &asked.release {
                // Of a release that the channel does not offer, only the id is remembered.
                Some(text) if is_id(text) => Ok(text.to_ascii_lowercase()),
                Some(text) => Err(Problem::absent(
                    ProblemKind::Local,
                    format!(
                        "the channel does not offer release {text}; name one that it does not offer by its id"
                    ),
                )),
                None => Err(Problem::absent(
                    ProblemKind::Local,
                    "the channel offers no release that waits or has failed; there is nothing to try again",
                )),
            };
        };
        Ok(offered.release)
    }

    fn hold(&mut self, asked: &Asked, by: u32) -> Result<String, Problem> {
        let hold = Hold::new(asked.release.clone(), now(), by, asked.reason.clone());
        if let Some(seconds) = asked.seconds {
            return self.postpone(hold, seconds);
        }
        let message = format!("{} is held; `{}` lets it go", hold.what(), hold.lets_go());
        self.change(|orders| orders.hold(hold.clone()))?;
        Ok(self.unless_it_runs(&hold, message))
    }

    /// What is said of a hold, and that it does not stop the upgrade that runs.
    pub(super) fn unless_it_runs(&self, hold: &Hold, message: String) -> String {
        let held = self.state.candidate.as_ref().is_some_and(|candidate| hold.covers(candidate));
        match self.state.stage {
            stage if !held || !stage.is_upgrading() => message,
            Stage::Swapping | Stage::Soaking => format!("{message}; {}", NotStopped::TooLate),
            _ => format!("{message}. The upgrade that runs goes on; `identityd cancel` stops it"),
        }
    }

    fn unhold(&mut self, asked: &Asked) -> Result<String, Problem> {
        let mut gone = Vec::new();
        let offered = self.state.candidate.clone();
        self.change(|orders| {
            gone = orders.unhold(|hold| match (&asked.release, &hold.release) {
                (None, _) => true,
                (Some(_), None) => false,
                // A hold that names the id lets go of the version that the channel offers under it.
                (Some(named), Some(held)) => {
                    let offered = offered.as_ref().filter(|offered| names(named, offered));
                    named == held || offered.is_some_and(|offered| names(held, offered))
                }
            });
            Ok(())
        })?;
        match (&asked.release, gone.len()) {
            (Some(release), 0) => Err(Problem::absent(
                ProblemKind::Local,
                format!(
                    "release {release} is not held under that name; `identityd status` shows what is held"
                ),
            )),
            (None, 0) => Ok("nothing was held".to_owned()),
            (_, 1) => Ok("1 hold is gone".to_owned()),
            (_, number) => Ok(format!("{number} holds are gone")),
        }
    }

    fn pause(&mut self, asked: &Asked, by: u32) -> Result<String, Problem> {
        let pause = Pause::new(now(), by, asked.reason.clone());
        self.change(|orders| {
            orders.pause = Some(pause.clone());
            Ok(())
        })?;
        if self.rollback.is_some() {
            return Ok("paused; the rollback that runs goes on".to_owned());
        }
        Ok(match self.brake.stop(Gate::Pause, format!("paused by user {by}")) {
            Ok(()) => "paused; the upgrade that runs stops before the swap and begins again after \
                       `identityd resume`"
                .to_owned(),
            Err(NotStopped::TooLate) => format!("paused; {}", NotStopped::TooLate),
            Err(NotStopped::Nothing) => "paused; `identityd resume` goes on".to_owned(),
        })
    }

    fn resume(&mut self) -> Result<String, Problem> {
        let mut before = None;
        self.change(|orders| {
            before = orders.pause.take();
            Ok(())
        })?;
        Ok(if before.is_some() { "upgrades go on" } else { "upgrades were not paused" }.to_owned())
    }

    /// Stops the upgrade that runs, and holds its release back, so that the next poll does not begin it again.
    fn cancel(&mut self, asked: &Asked, by: u32) -> Result<String, Problem> {
        let why = asked.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let why = format!("cancelled by user {by}{why}");
        let stage = self.state.stage;
        let not_cancelled = |problem: NotStopped| {
            Problem::new(ProblemKind::Local, format!("nothing is cancelled in stage {stage}: {problem}"))
        };
        let running = self.state.candidate.clone().filter(|_| stage.is_upgrading());
        let candidate = running.ok_or(NotStopped::Nothing).map_err(not_cancelled)?;
        let version = candidate.version.clone();
        if self.rollback.is_some() {
            self.brake.stop(Gate::Hold, &why).map_err(not_cancelled)?;
            return Ok(format!("the rollback to {version} is cancelled"));
        }
        // The hold first: without it the next poll would begin again what was stopped.
        let hold = Hold::new(Some(candidate.release.clone()), now(), by, Some(why.clone()));
        self.change(|orders| orders.hold(hold.clone()))?;
        if let Err(problem) = self.brake.stop(Gate::Hold, &why) {
            self.change(|orders| {
                let ours = |hold: &Hold| hold.release.as_ref() == Some(&candidate.release);
                orders.unhold(|hold| ours(hold) && hold.reason.as_ref() == Some(&why));
                Ok(())
            })?;
            return Err(not_cancelled(problem));
        }
        Ok(format!("the upgrade to {version} is cancelled, and the release is held"))
    }

    /// What is ordered now.
    pub(super) fn ordered(&self, message: String) -> Ordered {
        let orders = self.orders.clone().unwrap_or_default();
        Ordered { message, holds: orders.holds, pause: orders.pause }
    }

    pub(super) fn load_orders(&mut self) {
        let unknown = self.orders.is_err();
        self.orders = self.orders_file.load().map_err(|error| flist::report(&error));
        // An order to roll back that this daemon has not been able to read before.
        if let Ok(orders) = &self.orders
            && unknown
            && self.rollback.is_none()
        {
            self.rollback = super::rollback::Wanted::left(orders, false);
        }
    }

    /// Changes what is ordered, on disk first.
    pub(super) fn change(
        &mut self,
        mut change: impl FnMut(&mut Orders) -> Result<(), OrdersError>,
    ) -> Result<(), Problem> {
        let mut changed = self.orders_file.change(&mut change);
        let is_disks = |error: &OrdersError| {
            !matches!(error, OrdersError::TooMany | OrdersError::TooLong { .. } | OrdersError::Text { .. })
        };
        if changed.as_ref().is_err_and(is_disks) && self.leaves_failed_disk() {
            changed = self.orders_file.change(&mut change);
        }
        match changed {
            Ok(orders) => {
                self.orders = Ok(orders);
                Ok(())
            }
            Err(error @ (OrdersError::Damaged { .. } | OrdersError::Read { .. })) => {
                let problem = flist::report(&error);
                let closed = Problem::closed(Gate::Orders, &problem);
                self.orders = Err(problem);
                Err(closed)
            }
            Err(error) => Err(local(&error)),
        }
    }

    /// The state's disk may have failed since the last poll: then RAM counts from now on.
    fn leaves_failed_disk(&self) -> bool {
        matches!(self.settle_within(SETTLED), Some(Ok(Some(_))))
    }

    /// Moves the state where it has to be moved, on a thread of its own, because a disk that fails may take its time;
    /// `None` when it is not done by then, or another engine is at work.
    fn settle_within(&self, patience: Duration) -> Option<Result<Option<Notice>, StatePlaceError>> {
        let (run_dir, place) = (self.run_dir.clone(), self.place.clone());
        let (done, settled) = mpsc::sync_channel(1);
        let work = move || {
            if let Ok(lock) = lock::take(&run_dir, "identityd", SHORT) {
                // Whoever has stopped waiting finds it settled the next time.
                let _late = done.send(place.settle(&lock, None, 0));
            }
        };
        std::thread::Builder::new().name("settle".to_owned()).spawn(work).ok()?;
        settled.recv_timeout(patience).ok()
    }

    fn waits_for_orders(&self) -> bool {
        self.state.gate.is_some_and(|gate| BEFORE_UPGRADE.contains(&gate))
    }
}

fn check_texts(asked: &Asked) -> Result<(), OrdersError> {
    let reason = asked.reason.as_ref().map_or(Ok(()), |text| check_text("reason", text, LONGEST_REASON));
    reason.and_then(|()| match &asked.release {
        Some(text) => check_text("release", text, LONGEST_RELEASE),
        None => Ok(()),
    })
}

fn is_id(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn local(error: &OrdersError) -> Problem {
    let misused = matches!(error, OrdersError::TooLong { .. } | OrdersError::Text { .. });
    Problem { misused, ..Problem::new(ProblemKind::Local, flist::report(error)) }
}
