//! Going back from a self-update that is committed already.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use flist::path::FlistPath;

use super::{Engine, EngineError, Prepared, ReleaseTree};
use crate::generation::{Cause, Generation};
use crate::item::Items;
use crate::lock::EngineLock;
use crate::plan::Purpose;
use crate::source::{ContentSource, KeptSource};

impl Engine {
    /// Puts back what the current generation, a self-update, has of its own, as it was in the generation `before` it:
    /// as a revert, which is a generation as every other. All that it needs is kept on this node. Tells its number, or
    /// that of the current one where nothing differs.
    ///
    /// # Errors
    /// [`EngineError`]; the self-update is current then, and what a crash has left of this is undone by
    /// [`Engine::recover`].
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn revert_self_update(&self, lock: &EngineLock, before: u64) -> Result<u64, EngineError> {
        let missing = || EngineError::NoGeneration(before);
        let earlier = self.state.recorded(before).map_err(EngineError::Generation)?.ok_or_else(missing)?;
        let current = self.current()?.ok_or_else(missing)?;
        let release = ReleaseTree::recorded(&self.state, before)?;
        let differing = differing(&earlier.items, &current.items);
        if differing.is_empty() {
            return Ok(current.number);
        }
        let only = self.names_in_release(&release, differing)?;
        let nothing = KeptSource::new(self.root.clone(), HashMap::new(), None);
        let source: Arc<dyn ContentSource> = Arc::new(nothing);
        let prepared = self.prepare(&release, Purpose::SelfUpdate, source.clone(), Some(&only)).await?;
        let generation = Generation { cause: Cause::Revert, ..prepared.generation.clone() };
        let prepared = Prepared { generation, ..prepared };
        self.apply(lock, &prepared, source, &|_| {}, &|| Ok(())).await?;
        self.commit_pending(lock, prepared.generation()).await?;
        Ok(prepared.generation())
    }

    /// These paths, and the names under which the release has them.
    fn names_in_release(
        &self,
        release: &ReleaseTree,
        places: BTreeSet<FlistPath>,
    ) -> Result<BTreeSet<FlistPath>, EngineError> {
        let mut names = BTreeSet::new();
        for (name, _) in release.tree().iter() {
            if places.contains(&self.root.canonical(name).map_err(EngineError::Root)?) {
                names.insert(name.clone());
            }
        }
        names.extend(places);
        Ok(names)
    }
}

/// The paths at which two generations have something else.
fn differing(earlier: &Items, current: &Items) -> BTreeSet<FlistPath> {
    let paths = earlier.keys().chain(current.keys());
    paths.filter(|path| earlier.get(*path) != current.get(*path)).cloned().collect()
}
