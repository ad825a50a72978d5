//! Configuration that somebody has changed and that releases have changed too, for as long as nobody has settled it.

use std::collections::BTreeSet;

use flist::path::FlistPath;

use super::{Engine, EngineError};
use crate::disk::Kind;
use crate::generation::Generation;
use crate::plan::{Conflict, FilePlan};

/// Most of them that are told of; how many there are is told besides.
const MAX_SHOWN: usize = 100;

/// Conflicts that nobody has settled yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// Them, by path.
    pub conflicts: Vec<Conflict>,
    /// How many more of them there are.
    pub more: usize,
}

impl Engine {
    /// The conflicts of the current generation that nobody has settled.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn conflicts(&self) -> Result<Conflicts, EngineError> {
        let Some(current) = self.current()? else { return Ok(Conflicts::default()) };
        let mut open = Conflicts::default();
        for conflict in &current.conflicts {
            if !self.is_open(conflict, &current)? {
                continue;
            }
            match open.conflicts.len() < MAX_SHOWN {
                true => open.conflicts.push(conflict.clone()),
                false => open.more += 1,
            }
        }
        Ok(open)
    }

    /// A conflict is settled when what was put beside the file is gone, or the file is the release's. Where nothing was put
    /// beside it, it is settled also by who removes the file.
    fn is_open(&self, conflict: &Conflict, current: &Generation) -> Result<bool, EngineError> {
        let stat = |path| self.root.stat(path).map_err(EngineError::Root);
        let lies_beside = match &conflict.new {
            Some(new) if stat(new)?.is_none() => return Ok(false),
            beside => beside.is_some(),
        };
        let (Some(shipped), Some(there)) = (current.items.get(&conflict.path), stat(&conflict.path)?) else {
            return Ok(lies_beside);
        };
        // It may be long, and is not read then.
        if there.kind == Kind::File && there.size != shipped.size() {
            return Ok(true);
        }
        let codec = shipped.codec().unwrap_or_default();
        let there = self.root.observe(&conflict.path, codec).map_err(EngineError::Root)?;
        Ok(there.is_some_and(|there| !there.item.same_as(shipped)))
    }
}

/// The conflicts of a generation: those of its plan, and those of the generation before that the plan leaves as they
/// are. With `only`, it says nothing of other paths.
pub(super) fn conflicts_after(
    installed: Option<&Generation>,
    files: &FilePlan,
    only: Option<&BTreeSet<FlistPath>>,
) -> Vec<Conflict> {
    let before = installed.into_iter().flat_map(|installed| &installed.conflicts);
    let stays = |conflict: &&Conflict| {
        let is_new = files.conflicts.iter().any(|new| new.path == conflict.path);
        let is_kept = files.kept.contains(&conflict.path);
        !is_new && (is_kept || only.is_some_and(|only| !only.contains(&conflict.path)))
    };
    let mut conflicts: Vec<_> = before.filter(stays).chain(&files.conflicts).cloned().collect();
    conflicts.sort_by(|one, other| one.path.cmp(&other.path));
    conflicts
}
