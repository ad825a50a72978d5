//! Asking the hub what the node's channel offers.

use bootstrap::engine::ReleaseTree;
use bootstrap::{boot_info, hubs};
use flist::hub::{Channel, Resolution};
use flist::report;

use super::{Effects, problem};
use crate::agent::model::{Problem, ProblemKind};

impl Effects {
    /// Asks for what is followed, or could be.
    pub(super) async fn poll(&mut self, followed: Option<&Channel>) -> Result<(), Problem> {
        // Without a record, what the node was booted from says what it follows.
        let named = || boot_info::read_name(&self.settings.root).ok().flatten();
        let channels = match followed.cloned().or_else(named) {
            Some(channel) => vec![self.settings.followed(&channel)],
            None => self.settings.channels.clone(),
        };
        let resolution = self.hubs.resolve(&channels, self.seen.as_ref()).await;
        if resolution.is_ok() {
            hubs::remember(&self.settings, &self.hubs);
        }
        match resolution.map_err(|error| Problem::new(ProblemKind::Network, report(&error)))? {
            Resolution::Unchanged(seen) => self.seen = Some(seen),
            Resolution::Release(release, seen) => {
                let tree = ReleaseTree::read(*release).map_err(|error| problem(&error))?;
                self.offered = Some(tree);
                self.seen = Some(seen);
            }
        }
        Ok(())
    }
}
