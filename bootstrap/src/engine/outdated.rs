//! Who runs what is no longer installed.

use std::collections::{BTreeSet, HashMap};

use flist::path::FlistPath;
use serde::{Deserialize, Serialize};
use zinit_client::UnitName;

use super::{Engine, EngineError, leaders};
use crate::generation::Kept;
use crate::plan::services::runs_until;
use crate::processes::{MAX_SHOWN_BYTES, Stranger, Uses, shown};

/// Most services that are told of by name.
const MAX_SERVICES_SHOWN: usize = 100;

/// Who runs what is no longer installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunsOld {
    /// Services.
    pub services: Vec<Outdated>,
    /// How many more of them there are.
    pub more_services: usize,
    /// Processes of no service.
    pub strangers: Vec<Stranger>,
    /// How many more of them there are.
    pub more_strangers: usize,
    /// The services that are up, with whatever files.
    pub up: BTreeSet<UnitName>,
}

/// A service with processes that execute, map or hold open a file that an upgrade has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outdated {
    /// The service; `zinit` is the supervisor itself.
    pub service: UnitName,
    /// The paths that have something else now, as far as what was there is still kept.
    pub files: BTreeSet<FlistPath>,
    /// How many more there are of them.
    #[serde(default)]
    pub more_files: usize,
    /// Until when it runs the old ones, for people.
    pub until: String,
}

impl Engine {
    /// Who runs old files, whether these are still kept for going back or not.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn runs_old(&self) -> Result<RunsOld, EngineError> {
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
        let known = self.services().await?;
        let up = known.iter().filter(|(_, status)| status.is_up()).map(|(name, _)| name.clone()).collect();
        let leaders = leaders(&known);
        let zinit = self.zinit.clone();
        let looked = tokio::task::spawn_blocking(move || zinit.runs_old(&replaced, &leaders));
        let Uses { services, strangers, more_strangers } = looked.await.map_err(EngineError::Broken)?;
        let (more_services, mut room) = (services.len().saturating_sub(MAX_SERVICES_SHOWN), MAX_SHOWN_BYTES);
        let outdated = |(service, files): (UnitName, _)| {
            let until = runs_until(&service).to_owned();
            let (files, more_files) = shown(files, &mut room);
            Outdated { service, files, more_files, until }
        };
        let services = services.into_iter().take(MAX_SERVICES_SHOWN).map(outdated).collect();
        Ok(RunsOld { services, more_services, strangers, more_strangers, up })
    }
}
