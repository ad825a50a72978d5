//! Staging: new content is put beside its destination, verified, before anything is touched.
//!
//! It lies in `.molt/<generation>/<number of the change>` at the top of the mount that its destination is
//! in, because only there it can be exchanged with what is at the destination.

use std::collections::{BTreeMap, BTreeSet};

use flist::block::BLOCK_SIZE;
use flist::path::FlistPath;
use flist::tree::{Content, Kind, Tree};
use nix::errno::Errno;
use nix::unistd::geteuid;

use super::journal::Swap;
use super::states::{self, StateSlot};
use super::{TransactionError, ahead};
use crate::disk::{self, OpenFile, Special, is_absent};
use crate::generation::{Generation, Kept};
use crate::item::{Item, What};
use crate::plan::FileChange;
use crate::root::{Found, Root, RootError, Stamp, failed};
use crate::source::{ContentSource, SourceError};

/// Blocks that are fetched at the same time: more than cores, because the store may be far away.
pub(crate) const FETCHED_AT_ONCE: usize = 8;

/// Most blocks in memory: being fetched, or waiting to be written.
const MOST_BLOCKS: usize = 16;

/// The directory at the top of each mount.
pub(crate) const STAGING: &str = ".molt";

/// Where the new content of each change is staged; `None` for changes that need none.
///
/// # Errors
/// [`RootError`].
pub(super) fn slots(
    root: &Root,
    changes: &[FileChange],
    generation: u64,
) -> Result<Vec<Option<FlistPath>>, RootError> {
    let slot = |(number, change): (usize, &FileChange)| match change.is_of_a_directory() {
        true => Ok(None),
        false => {
            let directory = staging_directory(root, change.path(), generation)?;
            join(&directory, number.to_string().as_bytes()).map(Some)
        }
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
    let disk = root.disk();
    for directory in directories {
        match root.stat(directory)? {
            Some(stat) if stat.kind == disk::Kind::Directory => {}
            Some(_) => return Err(failed("open", directory)(Errno::ENOTDIR.into())),
            None => continue,
        }
        for name in disk.list(directory).map_err(failed("list", directory))? {
            let path = join(directory, &name)?;
            match disk.remove(&path) {
                // A copy of state, or what it has taken the place of.
                Err(error) if states::is_directory(&error) => states::remove_tree(disk, &path)?,
                Err(error) if !is_absent(&error) => return Err(failed("remove", &path)(error)),
                _ => {}
            }
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
    let disk = root.disk();
    if generation.states.is_empty() {
        for StateSlot { slot, .. } in states {
            if root.stat(slot)?.is_some() {
                states::remove_tree(disk, slot)?;
            }
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

/// What is staged, and where it comes from.
pub(super) struct Stager<'s> {
    pub(super) root: &'s Root,
    pub(super) tree: &'s Tree,
    pub(super) source: &'s dyn ContentSource,
    /// Blocks that are fetched at the same time; 0 fetches each when it is needed.
    pub(super) fetched_at_once: usize,
}

/// One block of a file to stage.
struct Wanted<'w> {
    /// Where the file goes.
    destination: &'w FlistPath,
    /// Where it is in the release.
    from: &'w FlistPath,
    content: &'w Content,
    index: usize,
}

/// Gives out the next block, in the order of the changes.
type NextBlock<'n> = dyn FnMut() -> Option<Result<Vec<u8>, SourceError>> + 'n;

impl Stager<'_> {
    /// Takes space for the new content of one change, before a byte of it is fetched.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub(super) fn reserve(
        &self,
        change: &FileChange,
        slot: Option<&FlistPath>,
    ) -> Result<(), TransactionError> {
        let (Some(slot), Some((_, item))) = (slot, change.staged()) else { return Ok(()) };
        if !matches!(item.what, What::File { .. }) {
            return Ok(());
        }
        let disk = self.root.disk();
        disk.create(slot).map_err(failed("create", slot)).map_err(TransactionError::Root)?;
        match disk.reserve(slot, item.size()) {
            // The file system cannot; its free space was looked at before.
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) && item.size() == 0 => Ok(()),
            Err(error) => Err(TransactionError::Root(failed("take space for", change.path())(error))),
            Ok(()) => Ok(()),
        }
    }

    /// Stages all changes in their order, while the next blocks are fetched, and says after each how many of
    /// those that have something to stage are.
    ///
    /// # Errors
    /// [`TransactionError`] about the first change that fails; what comes after it is not staged.
    pub(super) fn stage_all(
        &self,
        changes: &[FileChange],
        slots: &[Option<FlistPath>],
        mut staged: impl FnMut(usize),
    ) -> Result<Vec<Swap>, TransactionError> {
        let with_slot = || changes.iter().zip(slots);
        let wanted: Vec<_> =
            with_slot().flat_map(|(change, slot)| self.blocks(change, slot.as_ref())).collect();
        let fetch = |number: usize| self.block(&wanted[number]);
        ahead::in_order(wanted.len(), self.fetched_at_once, MOST_BLOCKS, fetch, |next| {
            let (mut swaps, mut done) = (Vec::with_capacity(changes.len()), 0);
            for (change, slot) in with_slot() {
                swaps.push(self.stage(change, slot.as_ref(), next)?);
                done += usize::from(change.staged().is_some());
                staged(done);
            }
            Ok(swaps)
        })
    }

    /// The blocks that staging a change takes.
    fn blocks<'w>(
        &'w self,
        change: &'w FileChange,
        slot: Option<&FlistPath>,
    ) -> impl Iterator<Item = Wanted<'w>> {
        let file = slot.and(change.staged()).and_then(|(from, _)| match &self.tree.get(from)?.kind {
            Kind::File(content) => Some((from, content)),
            _ => None,
        });
        file.into_iter().flat_map(move |(from, content)| {
            let wanted = move |index| Wanted { destination: change.path(), from, content, index };
            (0..content.blocks.len()).map(wanted)
        })
    }

    /// A block from the old file, if it has the same, or from the source.
    fn block(&self, wanted: &Wanted<'_>) -> Result<Vec<u8>, SourceError> {
        let Wanted { destination, from, content, index } = *wanted;
        let old = self.root.disk().open(destination, false).ok();
        match old.as_deref().and_then(|old| reusable_block(old, content, index)) {
            Some(plain) => Ok(plain),
            None => self.source.block(from, content, index),
        }
    }

    /// Stages one change: content, owner, mode, time, in this order, because a change of owner clears
    /// set-uid bits. The slot may hold a part of the content when it fails.
    #[tracing::instrument(level = "debug", skip_all, fields(path = %change.path()))]
    fn stage(
        &self,
        change: &FileChange,
        slot: Option<&FlistPath>,
        next: &mut NextBlock<'_>,
    ) -> Result<Swap, TransactionError> {
        let mut swap = Swap { change: change.clone(), slot: slot.cloned(), staged_inode: None };
        let (Some(slot), Some((from, item))) = (slot, change.staged()) else { return Ok(swap) };
        match self.tree.get(from).map(|entry| &entry.kind) {
            Some(Kind::File(content)) => self.write_file(slot, change.path(), content, next)?,
            Some(other) => make_special(self.root, slot, other).map_err(TransactionError::Root)?,
            None => {
                return Err(TransactionError::Root(failed("find in the release", from)(
                    Errno::ENOENT.into(),
                )));
            }
        }
        set_meta(self.root, slot, item).map_err(TransactionError::Root)?;
        swap.staged_inode = self.root.inode(slot).map_err(TransactionError::Root)?;
        Ok(swap)
    }

    fn write_file(
        &self,
        slot: &FlistPath,
        destination: &FlistPath,
        content: &Content,
        next: &mut NextBlock<'_>,
    ) -> Result<(), TransactionError> {
        for _ in &content.blocks {
            let not_fetched = |source| TransactionError::Content { path: destination.clone(), source };
            let not_staged = |source| TransactionError::Root(failed("stage", destination)(source));
            // There is none left only when a thread that fetches has broken off.
            let broken = || not_staged(std::io::ErrorKind::BrokenPipe.into());
            let plain = next().ok_or_else(broken)?.map_err(not_fetched)?;
            self.root.disk().append(slot, &plain).map_err(not_staged)?;
        }
        Ok(())
    }
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

/// A block of the old file that is the same in the new one need not be fetched.
pub(crate) fn reusable_block(old: &dyn OpenFile, content: &Content, index: usize) -> Option<Vec<u8>> {
    let mut plain = vec![0; content.block_len(index)];
    let read = old.read_at(&mut plain, index as u64 * BLOCK_SIZE as u64).ok()?;
    (read == plain.len() && content.blocks[index].key.is_of(&plain)).then_some(plain)
}

fn make_special(root: &Root, slot: &FlistPath, kind: &Kind) -> Result<(), RootError> {
    let special = match kind {
        Kind::Symlink(target) => Special::Symlink(target),
        Kind::CharDevice(rdev) => Special::CharDevice(*rdev),
        Kind::BlockDevice(rdev) => Special::BlockDevice(*rdev),
        Kind::Fifo => Special::Fifo,
        Kind::Socket => Special::Socket,
        // Directories are made in place and files are written by the stager.
        Kind::Directory | Kind::File(_) => return Ok(()),
    };
    root.disk().make_special(slot, special).map_err(failed("stage", slot))
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
