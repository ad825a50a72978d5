//! The mounts that a transaction works in, and having them keep what was done there.

use std::collections::BTreeSet;

use flist::path::FlistPath;

use super::TransactionError;
use super::journal::Record;
use super::recover::{as_header, as_swaps};
use super::staging;
use crate::plan::FileChange;
use crate::root::{Root, RootError, failed};

/// The tops of the mounts that something changes in: where something is staged, and where directories are made and
/// removed in place.
///
/// # Errors
/// [`RootError`].
pub(super) fn tops<'c>(
    root: &Root,
    staged: &[FlistPath],
    changes: impl IntoIterator<Item = &'c FileChange>,
) -> Result<BTreeSet<FlistPath>, RootError> {
    let mut tops: BTreeSet<_> = staged.iter().filter_map(staging::top_of).collect();
    for change in changes.into_iter().filter(|change| change.is_of_a_directory()) {
        tops.insert(staging::top(root, change.path())?);
    }
    Ok(tops)
}

/// Has mounts keep what was done there.
///
/// # Errors
/// [`RootError`].
pub(super) fn sync<'t>(root: &Root, tops: impl IntoIterator<Item = &'t FlistPath>) -> Result<(), RootError> {
    for top in tops {
        root.disk().sync_filesystem(top).map_err(failed("sync", top))?;
    }
    Ok(())
}

/// Has the disks keep a swap that is in the journal, before anything says that it counts.
///
/// # Errors
/// [`TransactionError::Root`].
pub(crate) fn sync_swapped(root: &Root, records: &[Record]) -> Result<(), TransactionError> {
    let Some(header) = records.iter().find_map(as_header) else { return Ok(()) };
    let swaps = records.iter().find_map(as_swaps).unwrap_or_default();
    let tops = tops(root, &header.staging, swaps.iter().map(|swap| &swap.change));
    tops.and_then(|tops| sync(root, &tops)).map_err(TransactionError::Root)
}
