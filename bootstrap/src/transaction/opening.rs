//! What a transaction records before it does anything: the journal's header, and what the generation keeps of the one
//! before.

use std::collections::BTreeMap;

use flist::package::PackageName;
use flist::path::FlistPath;

use super::journal::Header;
use super::states::{self, StateSlot};
use super::{Context, TransactionError, staging};
use crate::boot_info::BootInfo;
use crate::generation::{Kept, KeptState};
use crate::plan::{FileChange, Plan};
use crate::root::{Found, Root, RootError, failed};

/// What the journal says first, and where each change is staged.
pub(super) fn header(
    plan: &Plan,
    context: &Context<'_>,
) -> Result<(Header, Vec<Option<FlistPath>>), TransactionError> {
    let Context { root, generation, .. } = context;
    let slots = staging::slots(root, &plan.files.changes, generation.number);
    let slots = slots.map_err(TransactionError::Root)?;
    let states = states::slots(root, &plan.packages.states, generation.number);
    let states = states.map_err(TransactionError::Root)?;
    let header = Header {
        generation: generation.number,
        purpose: plan.purpose,
        release: generation.release,
        version: generation.version.clone(),
        root: generation.root.clone(),
        stop: plan.services.stopped_and_wanted(),
        start: plan.services.start.clone(),
        forget: plan.services.forget.clone(),
        announces_stops: true,
        announces_undo: true,
        staging: staging::directories_of(&slots, &states),
        boot_info: BootInfo::read(root).map_err(TransactionError::BootInfo)?,
        hooks: plan.packages.hooks.clone(),
        states,
    };
    Ok((header, slots))
}

/// What is migrated, and where it lies afterwards as it was. In RAM nobody can afford to keep it.
pub(super) fn kept_states(
    root: &Root,
    plan: &Plan,
    slots: &[StateSlot],
) -> Result<Vec<KeptState>, RootError> {
    let owners = plan.packages.states.iter().flat_map(|state| state.paths.iter().map(|_| &state.package));
    let of = |(package, StateSlot { path, slot }): (&PackageName, &StateSlot)| KeptState {
        package: package.clone(),
        path: path.clone(),
        slot: slot.clone(),
    };
    let mut kept = Vec::new();
    for state in owners.zip(slots).map(of) {
        let look = failed("look at the file system of", &state.path);
        if !root.disk().filesystem(&state.path).map_err(look)?.in_ram {
            kept.push(state);
        }
    }
    Ok(kept)
}

/// What the changes take away, and where it lies after the swap.
pub(super) fn kept(
    changes: &[FileChange],
    slots: &[Option<FlistPath>],
    seen: &BTreeMap<FlistPath, Found>,
) -> Vec<Kept> {
    let of = |(change, slot): (&FileChange, &Option<FlistPath>)| {
        let takes_away = matches!(change, FileChange::Replace { .. } | FileChange::Remove { .. });
        let item = seen.get(change.path()).filter(|_| takes_away)?.item.clone();
        Some(Kept { slot: slot.clone()?, path: change.path().clone(), item })
    };
    changes.iter().zip(slots).filter_map(of).collect()
}
