//! Who runs what is no longer installed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flist::path::FlistPath;
use serde::{Deserialize, Serialize};
use zinit_client::UnitName;

use super::{Engine, EngineError, leaders};
use crate::generation::Kept;
use crate::plan::services::runs_until;

/// A service with processes that execute, map or hold open a file that an upgrade has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outdated {
    /// The service; `zinit` is the supervisor itself.
    pub service: UnitName,
    /// The paths that have something else now, as far as what was there is still kept.
    pub files: BTreeSet<FlistPath>,
    /// Until when it runs the old ones, for people.
    pub until: String,
}

impl Engine {
    /// The services that run old files, whether these are still kept for going back or not.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn outdated(&self) -> Result<Vec<Outdated>, EngineError> {
        let identity = self.identity()?;
        let mut replaced = HashMap::<(u64, u64), FlistPath>::new();
        for generation in self.readable_generations()? {
            if !generation.root.survives_in(&identity) {
                continue;
            }
            for Kept { slot, path, .. } in generation.kept.iter().filter(|kept| !kept.path.is_root()) {
                if let Some(there) = self.root.stat(slot).map_err(EngineError::Root)? {
                    replaced.insert(there.inode, path.clone());
                }
            }
        }
        let leaders = leaders(&self.services().await?);
        let zinit = self.zinit.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut found = zinit.in_use(&replaced, &leaders).services;
            for name in zinit.on_removed(&leaders) {
                found.entry(name).or_default();
            }
            found
        });
        let in_use: BTreeMap<UnitName, BTreeSet<FlistPath>> = looked.await.map_err(EngineError::Broken)?;
        let outdated = |(service, files): (UnitName, _)| {
            let until = runs_until(&service).to_owned();
            Outdated { service, files, until }
        };
        Ok(in_use.into_iter().map(outdated).collect())
    }
}
