//! Staging: new content is put beside its destination, verified, before anything is touched.
//!
//! It lies in `.molt/<generation>/<number of the change>` at the top of the mount that its destination is
//! in, because only there it can be exchanged with what is at the destination.

mod stager;

use std::collections::{BTreeMap, BTreeSet};

use flist::path::FlistPath;
use nix::errno::Errno;
use nix::unistd::geteuid;

pub(super) use stager::Stager;
pub(crate) use stager::reusable_block;

use super::states::{self, StateSlot};
use crate::disk::{self, is_absent};
use crate::generation::{Cause, Generation, Kept};
use crate::item::{Item, What};
use crate::plan::FileChange;
use crate::root::{Found, Root, RootError, Stamp, failed};

/// Blocks that are fetched at the same time: more than cores, because the store may be far away.
pub(crate) const FETCHED_AT_ONCE: usize = 8;

/// The directory at the top of each mount.
pub(crate) const STAGING: &str = ".molt";

/// Where the new content of each change is staged, or the old one is kept. For a directory that goes that is an empty
/// one like it, which undoing only has to put back.
///
/// # Errors
/// [`RootError`].
pub(super) fn slots(
    root: &Root,
    changes: &[FileChange],
    generation: u64,
) -> Result<Vec<Option<FlistPath>>, RootError> {
    let slot = |(number, change): (usize, &FileChange)| {
        let directory = staging_directory(root, change.path(), generation)?;
        join(&directory, number.to_string().as_bytes()).map(Some)
    };
    changes.iter().enumerate().map(slot).collect()
}

/// The directories that hold these slots.
pub(super) fn directories_of(slots: &[Option<FlistPath>], states: &[StateSlot]) -> Vec<FlistPath> {
    let slots = slots.iter().flatten().chain(states.iter().map(|state| &state.slot));
    let directories: BTreeSet<_> = slots.filter_map(FlistPath::parent).collect();
    directories.into_iter().collect()
}

/// The top of the mount that a staging directory lies in.
pub(super) fn top_of(directory: &FlistPath) -> Option<FlistPath> {
    directory.parent()?.parent()
}

/// The top of the mount that a path is in, or will be.
///
/// # Errors
/// [`RootError`].
pub(crate) fn top(root: &Root, path: &FlistPath) -> Result<FlistPath, RootError> {
    // The directory may be one that this very transaction makes: its nearest ancestor is in its mount.
    let mut at = path.parent().unwrap_or_default();
    let directory = loop {
        match root.disk().real_directory(&at).map_err(failed("find the directory of", path))? {
            Some(directory) => break directory,
            None => at = at.parent().unwrap_or_default(),
        }
    };
    root.disk().mount_top(&directory).map_err(failed("find the mount of", path))
}

pub(super) fn staging_directory(
    root: &Root,
    path: &FlistPath,
    generation: u64,
) -> Result<FlistPath, RootError> {
    let top = top(root, path)?;
    join(&join(&top, STAGING.as_bytes())?, generation.to_string().as_bytes())
}

pub(super) fn join(path: &FlistPath, name: &[u8]) -> Result<FlistPath, RootError> {
    path.join(name).map_err(|_| RootError::Outside(path.clone()))
}

/// Makes the staging directories, private to root.
///
/// # Errors
/// [`RootError`], also when somebody else owns what is there.
pub(super) fn make_directories(root: &Root, directories: &[FlistPath]) -> Result<(), RootError> {
    for directory in directories {
        let top = directory.parent().unwrap_or_default();
        for path in [&top, directory] {
            match root.disk().make_directory(path) {
                Err(error) if error.raw_os_error() != Some(Errno::EEXIST as i32) => {
                    return Err(failed("create", path)(error));
                }
                _ => {}
            }
            let private = root.stat(path)?.is_some_and(|stat| {
                stat.kind == disk::Kind::Directory && stat.uid == geteuid().as_raw() && stat.mode & 0o077 == 0
            });
            if !private {
                return Err(failed("stage in", path)(Errno::EPERM.into()));
            }
        }
    }
    Ok(())
}

/// Removes staging directories with all that is in them; those that are gone already are fine.
///
/// # Errors
/// [`RootError`].
pub(crate) fn clear(root: &Root, directories: &[FlistPath]) -> Result<(), RootError> {
    clear_but(root, directories, |_| false)
}

/// As [`clear`], but for what is kept, and the directories that it lies in.
fn clear_but(
    root: &Root,
    directories: &[FlistPath],
    is_kept: impl Fn(&FlistPath) -> bool,
) -> Result<(), RootError> {
    let disk = root.disk();
    for directory in directories {
        match root.stat(directory)? {
            Some(stat) if stat.kind == disk::Kind::Directory => {}
            Some(_) => return Err(failed("open", directory)(Errno::ENOTDIR.into())),
            None => continue,
        }
        let mut keeps = false;
        for name in disk.list(directory).map_err(failed("list", directory))? {
            let path = join(directory, &name)?;
            if is_kept(&path) {
                keeps = true;
                continue;
            }
            match disk.remove(&path) {
                // A copy of state, or what it has taken the place of.
                Err(error) if states::is_directory(&error) => states::remove_tree(disk, &path)?,
                Err(error) if !is_absent(&error) => return Err(failed("remove", &path)(error)),
                _ => {}
            }
        }
        if keeps {
            continue;
        }
        disk.remove_directory(directory).map_err(failed("remove", directory))?;
        // The one above goes too, unless another generation has something in it.
        if let Some(top) = directory.parent() {
            let _ = disk.remove_directory(&top);
        }
    }
    Ok(())
}

/// What was swapped out stays for going back, but can no longer give rights to anybody. Without any of it
/// the directories go.
///
/// # Errors
/// [`RootError`].
pub(super) fn settle(
    root: &Root,
    (directories, states): (&[FlistPath], &[StateSlot]),
    generation: &Generation,
) -> Result<(), RootError> {
    if generation.kept.is_empty() && generation.states.is_empty() {
        return clear(root, directories);
    }
    let is_kept = |slot: &FlistPath| generation.states.iter().any(|kept| kept.slot == *slot);
    if generation.cause == Cause::FirstBoot {
        // Of the files nothing is kept, and what was migrated may be all that there is of it.
        return clear_but(root, directories, is_kept);
    }
    let disk = root.disk();
    for StateSlot { slot, .. } in states.iter().filter(|state| !is_kept(&state.slot)) {
        if root.stat(slot)?.is_some() {
            states::remove_tree(disk, slot)?;
        }
    }
    for Kept { slot, item, .. } in &generation.kept {
        if matches!(item.what, What::File { .. }) && (item.mode & 0o6000 != 0 || !item.xattrs.is_empty()) {
            take_rights(root, slot)?;
        }
    }
    Ok(())
}

/// Takes away what a file in a slot could give rights by.
///
/// # Errors
/// [`RootError`]; a slot that is gone, or holds no file, is fine.
pub(super) fn take_rights(root: &Root, slot: &FlistPath) -> Result<(), RootError> {
    let Some(stat) = root.stat(slot)?.filter(|stat| stat.kind == disk::Kind::File) else { return Ok(()) };
    let failed = failed("take the rights of", slot);
    // The kernel takes capabilities and the set-uid bit away with any change of owner, even to the same (chown(2)); a
    // set-group-ID bit may stay.
    root.disk().set_owner(slot, stat.uid, stat.gid).map_err(&failed)?;
    root.disk().set_mode(slot, stat.mode & !0o6000).map_err(&failed)
}

/// Where the file system copies up: has what the changes take away, and the directories that they change, copied
/// now, so that the swap only renames. What is taken away must still be what the plan has `seen`; its stamps from
/// now on come back.
///
/// # Errors
/// [`RootError`]; copies that were made stay, with the same content.
pub(super) fn copy_up(
    root: &Root,
    changes: &[FileChange],
    seen: &BTreeMap<FlistPath, Found>,
) -> Result<BTreeMap<FlistPath, Stamp>, RootError> {
    let (disk, mut stamps, mut directories) = (root.disk(), BTreeMap::new(), BTreeSet::new());
    for change in changes {
        let path = change.path();
        let directory = path.parent().unwrap_or_default();
        // One that this transaction makes is in the layer that is written to.
        let Some(directory) =
            disk.real_directory(&directory).map_err(failed("find the directory of", path))?
        else {
            continue;
        };
        if !disk.filesystem(&directory).map_err(failed("look at the file system of", path))?.copies_up {
            continue;
        }
        if matches!(change, FileChange::Replace { .. } | FileChange::Remove { .. }) {
            let known = seen.get(path).map(|found| found.stamp);
            let before = root.stat(path)?;
            if before.as_ref().map(Stamp::from) != known {
                return Err(RootError::Changed(path.clone()));
            }
            disk.copy_up(path).map_err(failed("copy up", path))?;
            let after = root.stat(path)?;
            let same = |a: &disk::Stat, b: &disk::Stat| {
                (a.kind, a.mode, a.size, a.mtime) == (b.kind, b.mode, b.size, b.mtime)
            };
            match (before, after) {
                (Some(before), Some(after)) if same(&before, &after) => {
                    stamps.insert(path.clone(), Stamp::from(&after));
                }
                _ => return Err(RootError::Changed(path.clone())),
            }
        }
        directories.insert(directory);
    }
    for directory in directories {
        disk.copy_up(&directory).map_err(failed("copy up", &directory))?;
    }
    Ok(stamps)
}

/// Sets owner, mode, extended attributes and time of something that was just made.
///
/// # Errors
/// [`RootError`].
pub(super) fn set_meta(root: &Root, path: &FlistPath, item: &Item) -> Result<(), RootError> {
    let disk = root.disk();
    disk.set_owner(path, item.uid, item.gid).map_err(failed("set the owner of", path))?;
    if !matches!(item.what, What::Symlink { .. }) {
        disk.set_mode(path, item.mode).map_err(failed("set the mode of", path))?;
    }
    if !item.xattrs.is_empty() {
        disk.set_xattrs(path, &item.xattrs).map_err(failed("set the extended attributes of", path))?;
    }
    disk.set_mtime(path, item.mtime).map_err(failed("set the time of", path))
}
