//! Asking the hub what the node's channel offers.

use bootstrap::boot_info;
use bootstrap::engine::ReleaseTree;
use bootstrap::generation::Generation;
use bootstrap::offers::{Asked, OffersError, Question};
use flist::report;
use flist::trust::Verdict;
use flist::trust::director::Who;

use super::{Effects, problem};
use crate::agent::model::{NodeName, Problem, ProblemKind, Withheld};
use crate::agent::stage::Gate;
use crate::timestamp::Timestamp;

impl Effects {
    /// Asks for what is followed, or could be.
    pub(super) async fn poll(&mut self, current: Option<&Generation>) -> Result<(), Problem> {
        // Without a record, what the node was booted from says what it follows.
        let named = || boot_info::read_name(&self.settings.root).ok().flatten();
        let channels = match current.map(|current| current.channel.clone()).or_else(named) {
            Some(channel) => vec![self.settings.followed(&channel)],
            None => self.settings.channels.clone(),
        };
        let installed = current.map(|current| &current.version);
        let answer = self.offers.ask(Question { channels: &channels, installed }).await;
        match answer.map_err(|error| refused(&error))? {
            Asked::Same => {}
            // What was offered before may have been called off since.
            Asked::Nothing => self.offered = None,
            Asked::Release(release) => {
                self.offered = None;
                let read = ReleaseTree::read(release).map_err(|error| problem(&error));
                self.offered = Some(read.inspect_err(|_| self.offers.forget())?);
            }
        }
        Ok(())
    }

    /// What the director keeps from this node. What is installed already it does not, although it may be called off since.
    pub fn withheld(&self) -> Option<Withheld> {
        let (withheld, who) = (self.offers.withheld()?, self.offers.who());
        let installed = self.engine.current().ok().flatten();
        if installed.is_some_and(|installed| installed.release == withheld.release) {
            return None;
        }
        let turn = withheld.turn().and_then(|at| u64::try_from(at).ok());
        Some(Withheld {
            version: withheld.version.to_string(),
            release: withheld.release.to_string(),
            why: withheld.why.to_string(),
            turn: turn.map(Timestamp::from_unix),
            node: who.node.clone(),
            group: who.group.clone(),
            place: place(who),
        })
    }

    /// Who this node is to a director.
    pub fn node(&self) -> NodeName {
        let who = self.offers.who();
        NodeName {
            id: who.node.clone(),
            id_from: self.offers.id_from(),
            group: who.group.clone(),
            group_from: self.settings.trust.group_from,
            place: place(who),
            directed: self.offers.is_directed(),
            director_missed: self.offers.director_missed(),
        }
    }
}

/// The place of a node in waves, in percent.
fn place(who: &Who) -> String {
    format!("{:.2}", who.position() * 100.0)
}

fn refused(error: &OffersError) -> Problem {
    match error.verdict() {
        Some(verdict) => Problem::closed(Gate::Trust, report(error)).helped_by(helps(verdict)),
        None => {
            Problem { absent: error.is_not_offered(), ..Problem::new(ProblemKind::Network, report(error)) }
        }
    }
}

/// What helps against what is wrong with signatures.
fn helps(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clock => "a clock that is right",
        Verdict::Local => "what is said, put right on this node; it is looked at again at each poll",
        Verdict::Unfit => "another release, or a change of this node",
        Verdict::Unreachable => "a hub that answers",
        Verdict::Rollback => "a hub that has what is newest, or a newer release",
        Verdict::Signature | Verdict::Expired | Verdict::Mismatch | Verdict::Unsigned => {
            "new signatures, or another hub"
        }
    }
}
