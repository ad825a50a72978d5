//! How others talk to the agent: requests in, answers and status out.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::model::{Candidate, Installed, PlanReport, Problem, ProblemKind, Progress, Withheld};
use crate::gates::GateReport;
use crate::orders::{Hold, Pause};
use crate::status::Status;

/// Requests that may wait for the agent; the agent never works on one, so this is plenty.
const WAITING_REQUESTS: usize = 16;

/// One question, as it crosses the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// What is asked for.
    pub verb: Verb,
    /// Of [`Verb::Hold`], [`Verb::Unhold`], [`Verb::Retry`]: a version, or the beginning of a release's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Of [`Verb::Hold`], [`Verb::Pause`], [`Verb::Cancel`]: why, for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of [`Verb::Hold`]: for how many seconds; until it is let go if nothing is said.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Of [`Verb::Apply`], [`Verb::Retry`]: without waiting for a maintenance window.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// Of [`Verb::Rollback`]: the generation; the one before the current release if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

impl From<Verb> for Asked {
    fn from(verb: Verb) -> Self {
        Self { verb, release: None, reason: None, seconds: None, now: false, to: None }
    }
}

/// What can be asked of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// What the agent is doing and what is installed.
    Status,
    /// Poll now, and say what the channel offers.
    Check,
    /// What installing what the channel offers would do.
    Plan,
    /// Poll now, and follow the upgrade to its end.
    Apply,
    /// All gates.
    Why,
    /// Do not install this release, or any.
    Hold,
    /// Take holds away.
    Unhold,
    /// Forget that a release failed, and try it now.
    Retry,
    /// Put an earlier generation back, and follow that to its end.
    Rollback,
    /// Stop before the swap, and begin nothing.
    Pause,
    /// The opposite of [`Verb::Pause`].
    Resume,
    /// Stop the upgrade that runs, before the swap.
    Cancel,
}

impl Verb {
    /// Whether what is asked for is an upgrade, to be followed to its end.
    pub const fn follows_upgrade(self) -> bool {
        matches!(self, Self::Apply | Self::Retry | Self::Rollback)
    }
}

/// One line of an answer. [`Answer::Ok`] and [`Answer::Error`] are the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The upgrade moves.
    Progress(Progress),
    /// Done.
    Ok(Outcome),
    /// Not done.
    Error(Problem),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// To [`Verb::Status`].
    Status(Box<Status>),
    /// To [`Verb::Check`].
    Check(Offer),
    /// To [`Verb::Plan`].
    Plan(Planned),
    /// To [`Verb::Apply`], [`Verb::Retry`] and [`Verb::Rollback`].
    Apply(Upgraded),
    /// To [`Verb::Why`]: the closed gates first.
    Why(Vec<GateReport>),
    /// To the verbs that give an order.
    Ordered(Ordered),
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// What was done, for people.
    pub message: String,
    /// What is held now.
    pub holds: Vec<Hold>,
    /// The pause, if there is one now.
    pub pause: Option<Pause>,
}

/// What is installed and what the channel offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What runs on this node.
    pub installed: Option<Installed>,
    /// What the channel offers; `None`: what is installed.
    pub candidate: Option<Candidate>,
    /// Why the candidate is not installed now; `None`: nothing is in its way.
    #[serde(default)]
    pub waits: Option<Problem>,
    /// The newer release that the director keeps from this node.
    #[serde(default)]
    pub withheld: Option<Box<Withheld>>,
}

/// What an upgrade would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// What the channel offers; `None`: what is installed.
    pub candidate: Option<Candidate>,
    /// What installing the candidate would do; `None` without one.
    pub plan: Option<PlanReport>,
    /// The newer release that the director keeps from this node.
    #[serde(default)]
    pub withheld: Option<Box<Withheld>>,
}

/// How an upgrade ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// Whether a new generation was committed; otherwise there was nothing to do.
    pub committed: bool,
    /// The version that is installed now, where known.
    pub version: Option<String>,
    /// The generation that is current now, where known.
    pub generation: Option<u64>,
    /// The newer release that the director keeps from this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Box<Withheld>>,
}

/// One question, and where its answers go.
#[derive(Debug)]
pub struct Request {
    /// What is asked for; [`Verb::Status`] never comes this way.
    pub asked: Asked,
    /// The user who asks.
    pub by: u32,
    /// Where the answers go. Unbounded, so that a slow reader never holds up an upgrade; what the
    /// agent sends is bounded by what an upgrade does.
    pub answers: mpsc::UnboundedSender<Answer>,
}

/// Talks to a running agent.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Arc<Status>>,
}

/// The agent's end of its handles.
#[derive(Debug)]
pub struct Inbox {
    /// What is asked for; ends when no handle is left.
    pub requests: mpsc::Receiver<Request>,
    /// What handles see.
    pub status: watch::Sender<Arc<Status>>,
}

/// A handle and the end it talks to.
pub fn channel(status: Status) -> (Handle, Inbox) {
    let (request_sender, requests) = mpsc::channel(WAITING_REQUESTS);
    let (status_sender, status) = watch::channel(Arc::new(status));
    (Handle { requests: request_sender, status }, Inbox { requests, status: status_sender })
}

impl Handle {
    /// The latest status; never waits for the agent.
    pub fn status(&self) -> Status {
        self.status.borrow().as_ref().clone()
    }

    /// The status and its changes.
    #[cfg(test)]
    pub(super) fn status_receiver(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Asks, on behalf of the user `by`. The answers end with [`Answer::Ok`] or [`Answer::Error`], or without either when the
    /// agent ends.
    pub fn ask(&self, asked: impl Into<Asked>, by: u32) -> mpsc::UnboundedReceiver<Answer> {
        let (answers, receiver) = mpsc::unbounded_channel();
        let asked = asked.into();
        match asked.verb {
            Verb::Status => {
                let status = Status { at: Some(SystemTime::now().into()), ..self.status() };
                send(&answers, Answer::Ok(Outcome::Status(Box::new(status))));
            }
            _ => {
                let request = Request { asked, by, answers: answers.clone() };
                if self.requests.try_send(request).is_err() {
                    let message = "identityd has too many requests waiting, or is about to end";
                    send(&answers, Answer::Error(Problem::new(ProblemKind::Busy, message)));
                }
            }
        }
        receiver
    }
}

/// Sends to somebody who may have gone.
pub(super) fn send(answers: &mpsc::UnboundedSender<Answer>, answer: Answer) {
    // Nobody waits any more: nothing is lost.
    let _gone = answers.send(answer);
}
