//! What runs on the node, as the plan wants to know it.

use std::collections::{BTreeMap, HashMap};

use flist::path::FlistPath;
use zinit_client::{ServiceStatus, ServiceUnit, UnitName};

use super::{Engine, EngineError, MAX_SERVICES};
use crate::item::Items;
use crate::plan::services::SUPERVISOR;
use crate::plan::{FileChange, ServiceView, Table, unit_name};
use crate::root::Found;
use crate::supervisor::StopOrder;
use crate::transaction::services::status;

/// Where the executable of a unit without a path is looked for, as zinit's environment has it.
const SEARCH_PATH: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];

impl Engine {
    /// Everything that decides about services.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(super) async fn service_view(
        &self,
        changes: &[FileChange],
        found: &BTreeMap<FlistPath, Found>,
        (old, new): (&Items, &Items),
        (before, after): (&BTreeMap<UnitName, ServiceUnit>, &BTreeMap<UnitName, ServiceUnit>),
    ) -> Result<ServiceView, EngineError> {
        let status = self.services().await?;
        let table = self.table().await?;
        let replaced: HashMap<(u64, u64), FlistPath> = changes
            .iter()
            .filter(|change| matches!(change, FileChange::Replace { .. } | FileChange::Remove { .. }))
            .filter_map(|change| Some((found.get(change.path())?.stamp.inode, change.path().clone())))
            .collect();
        let leaders = leaders(&status);
        let mut executables = BTreeMap::new();
        for (name, unit) in after {
            if let Some(path) = self.executable(unit)? {
                executables.insert(name.clone(), path);
            }
        }
        let changed_files = replaced.values().cloned().collect();
        let zinit = self.zinit.clone();
        let in_use = tokio::task::spawn_blocking(move || zinit.in_use(&replaced, &leaders));
        let uses = in_use.await.map_err(EngineError::Broken)?;
        let shipped = |items: &Items| items.keys().filter_map(unit_name).collect();
        Ok(ServiceView {
            before: before.clone(),
            after: after.clone(),
            shipped_before: shipped(old),
            shipped_after: shipped(new),
            status,
            changed_units: changes.iter().filter_map(|change| unit_name(change.path())).collect(),
            changed_files,
            executables,
            in_use: uses.services,
            migrated: BTreeMap::new(),
            strangers: uses.strangers,
            more_strangers: uses.more_strangers,
            table,
            protected: self.protected.clone(),
            starts_missing: false,
        })
    }

    /// What the supervisor says of every service that it knows.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn services(&self) -> Result<BTreeMap<UnitName, ServiceStatus>, EngineError> {
        let listed = self.zinit.list().await.map_err(EngineError::List)?;
        let mut all = BTreeMap::new();
        // A name that cannot be a unit's is nothing that a release could have shipped.
        for name in listed.iter().filter_map(|name| name.parse::<UnitName>().ok()).take(MAX_SERVICES) {
            if let Some(status) = status(self.zinit(), &name).await.map_err(EngineError::Service)? {
                all.insert(name, status);
            }
        }
        Ok(all)
    }

    /// The table of a supervisor that takes others along; `None` of one that does not.
    async fn table(&self) -> Result<Option<Table>, EngineError> {
        if self.zinit.stop_order().await.map_err(EngineError::List)? != StopOrder::AskAndKeep {
            return Ok(None);
        }
        let listed = self.zinit.list().await.map_err(EngineError::List)?;
        let order = listed.into_iter().filter_map(|name| UnitName::try_from(name).ok()).collect();
        Ok(Some(Table { order }))
    }

    /// The path of a unit's executable, without symlinks in its directories; `None` when nobody can tell.
    fn executable(&self, unit: &ServiceUnit) -> Result<Option<FlistPath>, EngineError> {
        let Some(program) = unit.command().ok().and_then(|command| command.into_iter().next()) else {
            return Ok(None);
        };
        let candidates: Vec<FlistPath> = match program.strip_prefix('/') {
            Some(path) => path.parse().into_iter().collect(),
            None => SEARCH_PATH.iter().filter_map(|dir| format!("{dir}/{program}").parse().ok()).collect(),
        };
        let mut first = None;
        for candidate in &candidates {
            let path = self.root.canonical(candidate).map_err(EngineError::Root)?;
            if self.root.inode(&path).map_err(EngineError::Root)?.is_some() {
                return Ok(Some(path));
            }
            first = first.or(Some(path));
        }
        Ok(first)
    }
}

/// The first process of each service, and of the supervisor, which does not list itself.
pub(super) fn leaders(status: &BTreeMap<UnitName, ServiceStatus>) -> BTreeMap<UnitName, u32> {
    let of = |(name, status): (&UnitName, &ServiceStatus)| Some((name.clone(), status.pid?));
    let supervisor = SUPERVISOR.parse().ok().map(|name| (name, 1));
    supervisor.into_iter().chain(status.iter().filter_map(of)).collect()
}
