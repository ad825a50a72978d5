//! Who waits for the end of something.

use tokio::sync::mpsc::UnboundedSender;

use super::handle::{self, Answer, Outcome, Verb};
use super::model::{Applied, Progress};
use super::state::Event;
use super::{Agent, answer};

/// Somebody waits for the end of a check or of an upgrade.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) verb: Verb,
    pub(super) answers: UnboundedSender<Answer>,
}

impl Agent {
    pub(super) fn settle_followers(&mut self, event: &Event) {
        let state = &self.state;
        let ordered = |message: &str| Outcome::Ordered(self.ordered(message.to_owned()));
        let cancelled = match event {
            Event::Blocked { why, .. } | Event::Applied(Ok(Applied::Stopped { why, .. })) => {
                Some(Answer::Ok(ordered(why)))
            }
            Event::Applied(_) => Some(Answer::Error(answer::ended_by_itself(state))),
            _ => None,
        };
        let answer = |verb| match verb {
            Verb::Cancel => cancelled.clone(),
            verb => answer::to(verb, event, state, self.withheld.as_ref()),
        };
        self.followers.retain(|follower| match answer(follower.verb) {
            Some(answer) => {
                handle::send(&follower.answers, answer);
                false
            }
            None => !follower.answers.is_closed(),
        });
    }

    pub(super) fn tell_followers(&self, progress: &Progress) {
        for follower in self.followers.iter().filter(|follower| follower.verb.follows_upgrade()) {
            handle::send(&follower.answers, Answer::Progress(progress.clone()));
        }
    }
}
