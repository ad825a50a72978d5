//! What hubs are shown: it may be put right, or replaced, while this program runs.

use super::{Effects, local};
use crate::agent::model::Problem;

impl Effects {
    /// Reads again what hubs are shown. What was read last is used until something else can be.
    ///
    /// # Errors
    /// A [`Problem`] that names the file, what is wrong with it, and the remedy.
    pub(super) fn look_after_secrets(&mut self) -> Result<(), Problem> {
        let hub = &mut self.settings.hub;
        let access = hub.shown.read(&hub.urls);
        let access = access.map_err(|error| local("the hub is not asked", &error))?;
        if access != hub.access {
            let shown = self.offers.show(&access);
            shown.map_err(|error| local("the hub is not asked", &error))?;
            hub.access = access;
        }
        Ok(())
    }
}
