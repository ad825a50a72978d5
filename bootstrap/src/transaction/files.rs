//! Swapping one change in, and out again.
//!
//! A file is replaced by exchanging it with what was staged: its path is never missing, the old content lies
//! in the slot afterwards, and the same exchange goes back. Whether a swap has happened is told by the inode
//! numbers, so undoing twice, or undoing what never happened, does nothing.

use std::io;

use flist::path::FlistPath;
use nix::errno::Errno;

use super::journal::Swap;
use super::staging::set_meta;
use crate::disk::{Disk, Kind, Rename, is_absent};
use crate::item::Item;
use crate::plan::FileChange;
use crate::root::{Root, RootError, Stamp, failed};

/// Makes one change. What is taken away must still be what the plan has `seen` there.
///
/// # Errors
/// [`RootError`]; nothing has changed then.
pub(super) fn swap(root: &Root, swap: &Swap, seen: Option<&Stamp>) -> Result<(), RootError> {
    let takes_away = matches!(swap.change, FileChange::Replace { .. } | FileChange::Remove { .. });
    if takes_away && root.stamp(swap.change.path())?.as_ref() != seen {
        return Err(RootError::Changed(swap.change.path().clone()));
    }
    let disk = root.disk();
    match &swap.change {
        FileChange::RemoveDirectory { path, .. } => remove_if_empty(root, path),
        FileChange::MakeDirectory { path, .. } | FileChange::Add { path, .. } => {
            disk.rename(slot(swap)?, path, Rename::NoReplace).map_err(|error| match error.kind() {
                // Somebody else has put something there meanwhile.
                io::ErrorKind::AlreadyExists => RootError::Changed(path.clone()),
                _ => failed("swap", path)(error),
            })
        }
        FileChange::Replace { path, .. } => exchange(disk, slot(swap)?, path).map_err(failed("swap", path)),
        FileChange::Remove { path } => {
            disk.rename(path, slot(swap)?, Rename::NoReplace).map_err(failed("swap", path))
        }
    }
}

/// Whether a change of a file has happened. Directories are not asked about: nobody runs from them.
///
/// # Errors
/// [`RootError`].
pub(super) fn has_happened(root: &Root, swap: &Swap) -> Result<bool, RootError> {
    match &swap.change {
        FileChange::Add { path, .. } | FileChange::Replace { path, .. } => {
            Ok(swap.staged_inode.is_some() && root.inode(path)? == swap.staged_inode)
        }
        FileChange::Remove { .. } => Ok(root.inode(slot(swap)?)?.is_some()),
        FileChange::MakeDirectory { .. } | FileChange::RemoveDirectory { .. } => Ok(false),
    }
}

/// Undoes one change if it has happened.
///
/// # Errors
/// [`RootError`]; the change is still there then.
#[tracing::instrument(level = "debug", skip_all, fields(path = %swap.change.path()))]
pub(super) fn unswap(root: &Root, swap: &Swap) -> Result<(), RootError> {
    let (disk, path) = (root.disk(), swap.change.path());
    match &swap.change {
        // Another one is somebody else's. An earlier version made it in place, and did not say which it is.
        FileChange::MakeDirectory { .. } => match root.inode(path)? {
            Some(now) if swap.staged_inode.is_none_or(|made| made == now) => remove_if_empty(root, path),
            _ => Ok(()),
        },
        FileChange::RemoveDirectory { item, .. } => put_directory_back(root, swap, item),
        FileChange::Add { .. } if has_happened(root, swap)? => {
            disk.rename(path, slot(swap)?, Rename::NoReplace).map_err(failed("swap back", path))
        }
        FileChange::Replace { .. } if has_happened(root, swap)? => {
            let slot = slot(swap)?;
            // The second way of exchanging may have been interrupted before its last step.
            if root.stat(slot)?.is_none() {
                let aside = aside(slot).map_err(failed("swap back", path))?;
                disk.rename(&aside, slot, Rename::NoReplace).map_err(failed("swap back", path))?;
            }
            exchange(disk, slot, path).map_err(failed("swap back", path))
        }
        FileChange::Remove { .. } if has_happened(root, swap)? => {
            disk.rename(slot(swap)?, path, Rename::NoReplace).map_err(failed("swap back", path))
        }
        FileChange::Add { .. } | FileChange::Replace { .. } | FileChange::Remove { .. } => Ok(()),
    }
}

/// Puts a directory back that was removed: one like it was staged, so that this needs no room. An earlier version staged
/// none.
fn put_directory_back(root: &Root, swap: &Swap, item: &Item) -> Result<(), RootError> {
    let (disk, path) = (root.disk(), swap.change.path());
    let not_made = failed("create directory", path);
    let staged = match &swap.slot {
        Some(slot) if root.inode(slot)?.is_some() => Some(slot),
        _ => None,
    };
    let made = match staged {
        Some(slot) => disk.rename(slot, path, Rename::NoReplace),
        None => disk.make_directory(path),
    };
    match made {
        Ok(()) if staged.is_some() => Ok(()),
        Ok(()) => set_meta(root, path, item),
        // It was never removed, or an earlier undo put it back and did not come further.
        Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => match root.stat(path)? {
            Some(stat) if stat.kind == Kind::Directory => set_meta(root, path, item),
            _ => Ok(()),
        },
        Err(error) => Err(not_made(error)),
    }
}

fn slot(swap: &Swap) -> Result<&FlistPath, RootError> {
    let missing = || failed("find what was staged for", swap.change.path())(Errno::ENOENT.into());
    swap.slot.as_ref().ok_or_else(missing)
}

/// Exchanges a slot with a path. Where the file system cannot do it at once, the old file gets a second name
/// beside the slot, the staged one is renamed over it, and the old one gets the slot's name: the path is
/// never missing either way.
fn exchange(disk: &dyn Disk, slot: &FlistPath, path: &FlistPath) -> io::Result<()> {
    match disk.rename(slot, path, Rename::Exchange) {
        Err(error) if cannot_exchange(&error) => {}
        other => return other,
    }
    let aside = aside(slot)?;
    match disk.remove(&aside) {
        Err(error) if !is_absent(&error) => return Err(error),
        _ => {}
    }
    disk.link(path, &aside)?;
    disk.rename(slot, path, Rename::Replace)?;
    disk.rename(&aside, slot, Rename::NoReplace)
}

pub(super) fn cannot_exchange(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP))
}

pub(super) fn aside(slot: &FlistPath) -> io::Result<FlistPath> {
    let name = [slot.name(), b".old"].concat();
    slot.parent().unwrap_or_default().join(&name).map_err(|_| Errno::ENAMETOOLONG.into())
}

/// A directory that somebody has put something into stays.
fn remove_if_empty(root: &Root, path: &FlistPath) -> Result<(), RootError> {
    let expected = [Errno::ENOTEMPTY, Errno::EEXIST, Errno::ENOENT, Errno::EBUSY];
    match root.disk().remove_directory(path) {
        Err(error) if !expected.iter().any(|errno| error.raw_os_error() == Some(*errno as i32)) => {
            Err(failed("remove directory", path)(error))
        }
        _ => Ok(()),
    }
}
