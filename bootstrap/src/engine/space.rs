//! How much space a plan takes on this node.

use std::collections::{BTreeMap, BTreeSet};

use flist::path::FlistPath;

use serde::Serialize;

use super::{Engine, EngineError, Prepared, ReleaseTree};
use crate::disk::Filesystem;
use crate::plan::{FileChange, FilePlan, PackagePlan, Space, SpaceSum};
use crate::root::{Found, failed};
use crate::transaction::staging;

/// What a file is described with in the record of a generation and in the journal, in bytes.
pub(super) const RECORD: u64 = 700;

/// What an upgrade costs besides the space that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Bytes of the files that are kept to go back; nothing has to be fetched for that.
    pub kept_bytes: u64,
    /// They lie in RAM.
    pub kept_in_ram: bool,
    /// Bytes of RAM that are taken at most while it is installed.
    pub ram_bytes: u64,
}

impl Engine {
    /// What a plan costs.
    ///
    /// # Errors
    /// [`EngineError::Generation`].
    pub fn cost(&self, prepared: &Prepared) -> Result<Cost, EngineError> {
        let takes_away =
            |change: &&FileChange| matches!(change, FileChange::Replace { .. } | FileChange::Remove { .. });
        let old = prepared.plan.files.changes.iter().filter(takes_away);
        let kept = old.filter_map(|change| Some(prepared.seen.get(change.path())?.item.size())).sum();
        let in_ram = prepared.plan.space.iter().filter(|space| space.in_ram).map(|space| space.need);
        let kept_bytes = if self.generations_kept()? == 0 { 0 } else { kept };
        Ok(Cost { kept_bytes, kept_in_ram: self.identity()?.volatile, ram_bytes: in_ram.sum() })
    }

    /// What each file system has to take: what is staged, what is copied up for the swap, and the records.
    ///
    /// # Errors
    /// [`EngineError::NoSpace`] names the first one that has too little.
    pub(super) fn space(
        &self,
        (files, packages): (&FilePlan, &PackagePlan),
        found: &BTreeMap<FlistPath, Found>,
        release: &ReleaseTree,
        installed: usize,
    ) -> Result<Vec<Space>, EngineError> {
        let mut sum = SpaceSum::default();
        for change in &files.changes {
            let top = staging::top(&self.root, change.path()).map_err(EngineError::Root)?;
            let filesystem = self.root.disk().filesystem(&top);
            let filesystem = filesystem.map_err(failed("look at the file system of", &top));
            let filesystem = filesystem.map_err(EngineError::Root)?;
            let new = match change.staged() {
                Some((_, item)) => item.size(),
                // A directory takes a page, and one that goes has another one ready for undoing.
                None => u64::from(change.is_of_a_directory()),
            };
            let takes_away = matches!(change, FileChange::Replace { .. } | FileChange::Remove { .. });
            let old = found.get(change.path()).filter(|_| takes_away && filesystem.copies_up);
            let copied = old.map_or(0, |old| old.item.size());
            let at = self.root.outer(&top).display().to_string();
            sum.add(filesystem.device, || describe(&filesystem, at), new.saturating_add(copied));
        }
        for state in &packages.states {
            let mut counted = BTreeSet::new();
            for path in &state.paths {
                let filesystem = self.root.disk().filesystem(path);
                let filesystem = filesystem.map_err(failed("look at the file system of", path));
                let filesystem = filesystem.map_err(EngineError::Root)?;
                let at = self.root.outer(path).display().to_string();
                // A copy is as large as it may become, wherever the parts of it are.
                if counted.insert(filesystem.device) {
                    sum.add(filesystem.device, || describe(&filesystem, at), state.limit);
                }
            }
        }
        let (filesystem, at) = self.state.filesystem().map_err(EngineError::Generation)?;
        let records = (installed + files.changes.len()) as u64 * RECORD + release.recorded_bytes();
        sum.add(filesystem.device, || describe(&filesystem, at), records);
        let spaces = sum.finish();
        match spaces.iter().find(|space| !space.suffices()) {
            Some(space) => Err(EngineError::NoSpace(space.clone())),
            None => Ok(spaces),
        }
    }
}

fn describe(filesystem: &Filesystem, at: String) -> Space {
    Space { at, need: 0, have: filesystem.available, in_ram: filesystem.in_ram }
}
