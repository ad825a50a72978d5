//! Swapping one change in, and out again.
//!
//! A file is replaced by `renameat2(RENAME_EXCHANGE)`: its path is never missing, the old content lies in
//! the slot afterwards, and the same exchange goes back. Whether a swap has happened is told by the inode
//! numbers, so undoing twice, or undoing what never happened, does nothing.

use std::os::fd::OwnedFd;

use flist::path::FlistPath;
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::{RenameFlags, renameat_with};

use super::journal::Swap;
use super::staging::set_meta;
use crate::plan::FileChange;
use crate::root::{Place, Root, RootError, Stamp, failed};

/// Makes one change. What is taken away must still be what the plan has `seen` there.
///
/// # Errors
/// [`RootError`]; nothing has changed then.
pub(super) fn swap(root: &Root, swap: &Swap, seen: Option<&Stamp>) -> Result<(), RootError> {
    let takes_away = matches!(swap.change, FileChange::Replace { .. } | FileChange::Remove { .. });
    if takes_away && root.stamp(swap.change.path())?.as_ref() != seen {
        return Err(RootError::Changed(swap.change.path().clone()));
    }
    match &swap.change {
        FileChange::MakeDirectory { path, item } => {
            let place = root.place(path)?;
            mkdirat(&place.dir, place.name(), Mode::S_IRWXU).map_err(place.error("create directory"))?;
            set_meta(&place, item)
        }
        FileChange::RemoveDirectory { path, .. } => remove_if_empty(&root.place(path)?),
        FileChange::Add { path, .. } => {
            rename(&slot(root, swap)?, &root.place(path)?, RenameFlags::NOREPLACE)
        }
        FileChange::Replace { path, .. } => {
            rename(&slot(root, swap)?, &root.place(path)?, RenameFlags::EXCHANGE)
        }
        FileChange::Remove { path } => rename(&root.place(path)?, &slot(root, swap)?, RenameFlags::NOREPLACE),
    }
}

/// Undoes one change if it has happened.
///
/// # Errors
/// [`RootError`]; the change is still there then.
pub(super) fn unswap(root: &Root, swap: &Swap) -> Result<(), RootError> {
    let inode = |path: &FlistPath| root.inode(path);
    let path = swap.change.path();
    match &swap.change {
        FileChange::MakeDirectory { .. } => match root.find(path)? {
            Some(place) => remove_if_empty(&place),
            None => Ok(()),
        },
        FileChange::RemoveDirectory { item, .. } => {
            let place = root.place(path)?;
            match mkdirat(&place.dir, place.name(), Mode::S_IRWXU) {
                Ok(()) => set_meta(&place, item),
                Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(place.error("create directory")(errno)),
            }
        }
        FileChange::Add { .. } if swap.staged_inode.is_some() && inode(path)? == swap.staged_inode => {
            rename(&root.place(path)?, &slot(root, swap)?, RenameFlags::NOREPLACE)
        }
        FileChange::Replace { .. } if swap.staged_inode.is_some() && inode(path)? == swap.staged_inode => {
            rename(&slot(root, swap)?, &root.place(path)?, RenameFlags::EXCHANGE)
        }
        FileChange::Remove { .. } if inode(slot_path(swap)?)?.is_some() => {
            rename(&slot(root, swap)?, &root.place(path)?, RenameFlags::NOREPLACE)
        }
        FileChange::Add { .. } | FileChange::Replace { .. } | FileChange::Remove { .. } => Ok(()),
    }
}

fn slot_path(swap: &Swap) -> Result<&FlistPath, RootError> {
    swap.slot.as_ref().ok_or_else(|| failed("find what was staged for", swap.change.path())(Errno::ENOENT))
}

fn slot(root: &Root, swap: &Swap) -> Result<Place, RootError> {
    root.place(slot_path(swap)?)
}

fn rename(from: &Place, to: &Place, flags: RenameFlags) -> Result<(), RootError> {
    let (old, new): (&OwnedFd, &OwnedFd) = (&from.dir, &to.dir);
    renameat_with(old, from.name(), new, to.name(), flags)
        .map_err(|errno| to.error("swap")(Errno::from_raw(errno.raw_os_error())))
}

/// A directory that somebody has put something into stays.
fn remove_if_empty(place: &Place) -> Result<(), RootError> {
    match unlinkat(&place.dir, place.name(), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT | Errno::EBUSY) => Ok(()),
        Err(errno) => Err(place.error("remove directory")(errno)),
    }
}
