//! Asking the hub what the node's channel offers.

use bootstrap::boot_info;
use bootstrap::engine::ReleaseTree;
use bootstrap::generation::Generation;
use bootstrap::offers::{OffersError, Question};
use flist::report;

use super::{Effects, problem};
use crate::agent::model::{Problem, ProblemKind};
use crate::agent::stage::Gate;

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
        if let Some(release) = answer.map_err(|error| refused(&error))? {
            self.offered = Some(ReleaseTree::read(release).map_err(|error| problem(&error))?);
        }
        Ok(())
    }
}

fn refused(error: &OffersError) -> Problem {
    match error.verdict() {
        Some(_) => Problem::closed(Gate::Trust, report(error)),
        None => Problem::new(ProblemKind::Network, report(error)),
    }
}
