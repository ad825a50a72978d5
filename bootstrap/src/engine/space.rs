//! How much space a plan takes on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use flist::path::FlistPath;
use flist::store::DirStore;
use flist::tree::{Block, Kind};

use serde::Serialize;

use super::{Engine, EngineError, Prepared, ReleaseTree};
use crate::block_cache;
use crate::disk::Filesystem;
use crate::plan::{FileChange, FilePlan, PackagePlan, Place, Space, SpaceSum, left_beside};
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
    /// Bytes of content, as it is installed, that are neither kept on this node nor in its block cache, and so have to be
    /// fetched.
    pub fetched_bytes: u64,
    /// Bytes of RAM that are taken at most while it is installed, the block cache included.
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
        // Whether something is pinned is not known where that cannot be read: it is not forgotten then.
        let nothing_stays = self.generations_kept()? == 0 && self.pinned().is_ok_and(|pins| pins.is_empty());
        let kept_bytes = if nothing_stays { 0 } else { kept };
        let fetched_bytes = self.fetched(prepared)?;
        let ram_bytes = in_ram.sum::<u64>().saturating_add(self.cached_in_ram(fetched_bytes));
        Ok(Cost { kept_bytes, kept_in_ram: self.identity()?.volatile, fetched_bytes, ram_bytes })
    }

    /// Bytes of what is staged that nothing on this node has.
    fn fetched(&self, prepared: &Prepared) -> Result<u64, EngineError> {
        let slots = self.kept_slots()?;
        let cache = self.cache_dir.as_deref().map(DirStore::new);
        let is_cached =
            |block: &Block| cache.as_ref().is_some_and(|cache| cache.path_of(&block.id).is_file());
        let tree = prepared.release.tree();
        let mut bytes = 0_u64;
        for (from, _) in prepared.plan.files.changes.iter().filter_map(FileChange::staged) {
            let Some(Kind::File(content)) = tree.get(from).map(|entry| &entry.kind) else { continue };
            let slot = slots.get(&content.fingerprint()).and_then(|slot| self.root.stat(slot).ok().flatten());
            if slot.is_some_and(|slot| slot.size == content.size) {
                continue;
            }
            let fetched = content.blocks.iter().enumerate().filter(|(_, block)| !is_cached(block));
            let fetched = fetched.map(|(index, _)| content.block_len(index) as u64);
            bytes = fetched.fold(bytes, u64::saturating_add);
        }
        Ok(bytes)
    }

    /// What the block cache takes of the memory at most, where so much is fetched.
    fn cached_in_ram(&self, fetched: u64) -> u64 {
        let filesystem = self.cache_dir.as_deref().and_then(block_cache::filesystem_of);
        filesystem.filter(|filesystem| filesystem.in_ram).map_or(0, |filesystem| {
            block_cache::cache_limit(&filesystem).min(self.cache_room.left()).min(fetched)
        })
    }

    /// Leaves the block cache what is not needed: it fills while files are staged, after their space was taken, and
    /// nothing may fail for its sake.
    fn bound_cache(&self, sum: &SpaceSum) {
        let Some(filesystem) = self.cache_dir.as_deref().and_then(block_cache::filesystem_of) else { return };
        let there = left_beside(sum.need_on(filesystem.device), filesystem.available);
        let in_memory = filesystem.memory.filter(|_| filesystem.in_ram);
        let in_memory = left_beside(sum.in_memory(None).need, in_memory);
        self.cache_room.set(there.min(in_memory));
    }

    /// What each file system has to take: what is staged, what is copied up for the swap, and the records. The block
    /// cache gets what is left.
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
        let (mut sum, mut memory) = (SpaceSum::default(), None);
        for change in &files.changes {
            let top = staging::top(&self.root, change.path()).map_err(EngineError::Root)?;
            let filesystem = self.root.disk().filesystem(&top);
            let filesystem = filesystem.map_err(failed("look at the file system of", &top));
            let filesystem = filesystem.map_err(EngineError::Root)?;
            memory = memory.or(filesystem.memory);
            let new = match change.staged() {
                Some((_, item)) => item.size(),
                // A directory takes a page, and one that goes has another one ready for undoing.
                None => u64::from(change.is_of_a_directory()),
            };
            let takes_away = matches!(change, FileChange::Replace { .. } | FileChange::Remove { .. });
            let old = found.get(change.path()).filter(|_| takes_away && filesystem.copies_up);
            let copied = old.map_or(0, |old| old.item.size());
            let at = self.root.outer(&top);
            sum.add(filesystem.device, || describe(&filesystem, at), new.saturating_add(copied));
        }
        for state in &packages.states {
            let mut counted = BTreeSet::new();
            for path in &state.paths {
                let filesystem = self.root.disk().filesystem(path);
                let filesystem = filesystem.map_err(failed("look at the file system of", path));
                let filesystem = filesystem.map_err(EngineError::Root)?;
                memory = memory.or(filesystem.memory);
                let at = self.root.outer(path);
                // A copy is as large as it may become, wherever the parts of it are.
                if counted.insert(filesystem.device) {
                    sum.add(filesystem.device, || describe(&filesystem, at), state.limit);
                }
            }
        }
        let filesystem = self.state.filesystem().map_err(EngineError::Generation)?;
        let records = (installed + files.changes.len()) as u64 * RECORD + release.recorded_bytes();
        sum.add(filesystem.device, || describe(&filesystem, self.state.path().to_owned()), records);
        let memory = memory.or(filesystem.memory);
        self.bound_cache(&sum);
        let in_memory = sum.in_memory(memory);
        let spaces = sum.finish();
        let lacking = spaces.iter().chain([&in_memory]).find(|space| !space.suffices()).cloned();
        lacking.map_or(Ok(spaces), |space| Err(EngineError::NoSpace(space)))
    }
}

fn describe(filesystem: &Filesystem, at: PathBuf) -> Space {
    let at = Place::Directory(at);
    Space { at, need: 0, have: filesystem.available, in_ram: filesystem.in_ram }
}
