//! What is asked for, and who does it.

use std::mem;

use super::handle::{self, Answer, Outcome, Request, Verb};
use super::model::{Problem, ProblemKind, Progress};
use super::state::Event;
use super::worker::Job;
use super::{Agent, Follower, answer};
use crate::history::Cause;

impl Agent {
    /// Takes one request. While the agent is `leaving`, nothing is begun.
    pub(super) fn request(&mut self, request: Request, leaving: bool) {
        let Request { asked, by, answers } = request;
        let verb = asked.verb;
        if leaving {
            let problem =
                Problem::new(ProblemKind::Busy, "identityd is about to end; ask again when it runs");
            return handle::send(&answers, Answer::Error(problem));
        }
        let upgrading = self.state.stage.is_upgrading();
        match verb {
            Verb::Status => {
                handle::send(&answers, Answer::Ok(Outcome::Status(Box::new(self.status.clone()))));
            }
            Verb::Check | Verb::Plan if upgrading => {
                handle::send(&answers, Answer::Error(answer::upgrade_runs(&self.state)));
            }
            Verb::Plan if self.state.installed.is_none() => {
                handle::send(&answers, Answer::Error(answer::nothing_known(&self.state)));
            }
            Verb::Plan => self.worker.begin(Job::Plan(answers)),
            Verb::Why => {
                self.load_orders();
                handle::send(&answers, Answer::Ok(Outcome::Why(self.gates())));
            }
            Verb::Hold | Verb::Unhold | Verb::Pause | Verb::Resume | Verb::Cancel => {
                self.order(&asked, by, answers);
            }
            Verb::Rollback => self.roll_back(&asked, by, answers),
            Verb::Retry => self.retry(&asked, by, answers),
            Verb::Check => {
                self.cause = mem::take(&mut self.cause).or(Cause::Check { by });
                self.followers.push(Follower { verb, answers });
                self.handle(Event::CheckRequested);
            }
            Verb::Apply => {
                if upgrading {
                    handle::send(&answers, Answer::Progress(Progress::Stage(self.state.stage)));
                } else {
                    let apply = Cause::Apply { by, now: asked.now };
                    self.cause = mem::take(&mut self.cause).or(apply);
                }
                self.followers.push(Follower { verb, answers });
                self.handle(Event::ApplyRequested);
            }
        }
    }
}
