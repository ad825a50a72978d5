//! Staging: new content is put beside its destination, verified, before anything is touched.
//!
//! It lies in `.molt/<generation>/<number of the change>` at the top of the mount that its destination is
//! in, because only there it can be exchanged with what is at the destination.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use flist::block::{BLOCK_SIZE, BlockKey};
use flist::path::FlistPath;
use flist::tree::{Content, Kind, Tree};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, symlinkat, unlinkat};

use super::journal::Swap;
use super::{TransactionError, ahead};
use crate::item::Item;
use crate::plan::FileChange;
use crate::root::{Place, Root, RootError, failed};
use crate::source::{ContentSource, SourceError};

/// Blocks that are fetched at the same time: more than cores, because the store may be far away.
const FETCHED_AT_ONCE: usize = 8;

/// Most blocks in memory: being fetched, or waiting to be written.
const MOST_BLOCKS: usize = 16;

/// The directory at the top of each mount.
const DIRECTORY: &[u8] = b".molt";

/// Where the new content of each change is staged; `None` for changes that need none.
///
/// # Errors
/// [`RootError`].
pub(super) fn slots(
    root: &Root,
    changes: &[FileChange],
    generation: u64,
) -> Result<Vec<Option<FlistPath>>, RootError> {
    let slot = |(number, change): (usize, &FileChange)| match change {
        FileChange::MakeDirectory { .. } | FileChange::RemoveDirectory { .. } => Ok(None),
        _ => {
            let directory = staging_directory(root, change.path(), generation)?;
            join(&directory, number.to_string().as_bytes()).map(Some)
        }
    };
    changes.iter().enumerate().map(slot).collect()
}

/// The directories that hold these slots.
pub(super) fn directories_of(slots: &[Option<FlistPath>]) -> Vec<FlistPath> {
    let directories: BTreeSet<_> = slots.iter().flatten().filter_map(FlistPath::parent).collect();
    directories.into_iter().collect()
}

fn staging_directory(root: &Root, path: &FlistPath, generation: u64) -> Result<FlistPath, RootError> {
    // The directory may be one that this very transaction makes: its nearest ancestor is in its mount.
    let mut at = path.clone();
    let place = loop {
        match root.find(&at)? {
            Some(place) => break place,
            None => at = at.parent().unwrap_or_default(),
        }
    };
    let top = root.mount_top(&place.dir, path)?;
    join(&join(&top, DIRECTORY)?, generation.to_string().as_bytes())
}

fn join(path: &FlistPath, name: &[u8]) -> Result<FlistPath, RootError> {
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
            let place = root.place(path)?;
            match mkdirat(&place.dir, place.name(), Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(place.error("create")(errno)),
            }
            let stat = fstatat(&place.dir, place.name(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(place.error("look at"))?;
            let is_directory = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
            if !is_directory || stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
                return Err(place.error("stage in")(Errno::EPERM));
            }
        }
    }
    Ok(())
}

/// Removes staging directories with all that is in them; those that are gone already are fine.
///
/// # Errors
/// [`RootError`].
pub(super) fn clear(root: &Root, directories: &[FlistPath]) -> Result<(), RootError> {
    for directory in directories {
        let Some(place) = root.find(directory)? else { continue };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut open = match nix::dir::Dir::openat(&place.dir, place.name(), flags, Mode::empty()) {
            Ok(open) => open,
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(place.error("open")(errno)),
        };
        let names: Vec<_> =
            open.iter().filter_map(Result::ok).map(|entry| entry.file_name().to_owned()).collect();
        for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            unlinkat(&open, name.as_c_str(), UnlinkatFlags::NoRemoveDir).map_err(place.error("empty"))?;
        }
        unlinkat(&place.dir, place.name(), UnlinkatFlags::RemoveDir).map_err(place.error("remove"))?;
        // The one above goes too, unless another generation has something in it.
        if let Some(top) = directory.parent()
            && let Some(place) = root.find(&top)?
        {
            let _ = unlinkat(&place.dir, place.name(), UnlinkatFlags::RemoveDir);
        }
    }
    Ok(())
}

/// What is staged, and where it comes from.
pub(super) struct Stager<'s> {
    pub(super) root: &'s Root,
    pub(super) tree: &'s Tree,
    pub(super) source: &'s dyn ContentSource,
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
    /// Stages all changes in their order, while the next blocks are fetched, and says after each how many of those
    /// that have something to stage are.
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
        ahead::in_order(wanted.len(), FETCHED_AT_ONCE, MOST_BLOCKS, fetch, |next| {
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

    fn block(&self, wanted: &Wanted<'_>) -> Result<Vec<u8>, SourceError> {
        let Wanted { destination, from, content, index } = *wanted;
        match self.old_file(destination).and_then(|old| reusable_block(&old, content, index)) {
            Some(plain) => Ok(plain),
            None => self.source.block(from, content, index),
        }
    }

    /// Stages one change: content, owner, mode, time, in this order, because a change of owner clears
    /// set-uid bits. The slot may hold a part of the content when it fails.
    fn stage(
        &self,
        change: &FileChange,
        slot: Option<&FlistPath>,
        next: &mut NextBlock<'_>,
    ) -> Result<Swap, TransactionError> {
        let mut swap = Swap { change: change.clone(), slot: slot.cloned(), staged_inode: None };
        let (Some(slot), Some((from, item))) = (slot, change.staged()) else { return Ok(swap) };
        let place = self.root.place(slot).map_err(TransactionError::Root)?;
        match self.tree.get(from).map(|entry| &entry.kind) {
            Some(Kind::File(content)) => write_file(&place, change.path(), content, next)?,
            Some(other) => make_special(&place, other).map_err(TransactionError::Root)?,
            None => return Err(TransactionError::Root(failed("find in the release", from)(Errno::ENOENT))),
        }
        set_meta(&place, item).map_err(TransactionError::Root)?;
        swap.staged_inode = self.root.inode(slot).map_err(TransactionError::Root)?;
        Ok(swap)
    }

    /// What is at the destination now, if it is a file: some of its blocks may be the new ones.
    fn old_file(&self, destination: &FlistPath) -> Option<File> {
        let place = self.root.find(destination).ok()??;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&place.dir, place.name(), flags, Mode::empty()).ok()?);
        file.metadata().ok()?.is_file().then_some(file)
    }
}

fn write_file(
    place: &Place,
    destination: &FlistPath,
    content: &Content,
    next: &mut NextBlock<'_>,
) -> Result<(), TransactionError> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = openat(&place.dir, place.name(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
    let mut file = File::from(file.map_err(place.error("create")).map_err(TransactionError::Root)?);
    for _ in &content.blocks {
        let failed = |source| TransactionError::Content { path: destination.clone(), source };
        let not_staged = |source| {
            TransactionError::Root(RootError::At { action: "stage", path: destination.clone(), source })
        };
        // There is none left only when a thread that fetches has broken off.
        let plain = next().ok_or_else(|| not_staged(io::ErrorKind::BrokenPipe.into()))?.map_err(failed)?;
        file.write_all(&plain).map_err(not_staged)?;
    }
    Ok(())
}

/// A block of the old file that is the same in the new one need not be fetched.
fn reusable_block(old: &File, content: &Content, index: usize) -> Option<Vec<u8>> {
    let mut plain = vec![0; content.block_len(index)];
    let read: io::Result<()> = old.read_exact_at(&mut plain, index as u64 * BLOCK_SIZE as u64);
    (read.is_ok() && BlockKey::of(&plain) == content.blocks[index].key).then_some(plain)
}

fn make_special(place: &Place, kind: &Kind) -> Result<(), RootError> {
    let (dir, name): (&OwnedFd, _) = (&place.dir, place.name());
    let node = |kind, rdev| mknodat(dir, name, kind, Mode::S_IRUSR, rdev);
    let made = match kind {
        Kind::Symlink(target) => symlinkat(target.as_slice(), dir, name),
        Kind::CharDevice(rdev) => node(SFlag::S_IFCHR, *rdev),
        Kind::BlockDevice(rdev) => node(SFlag::S_IFBLK, *rdev),
        Kind::Fifo => node(SFlag::S_IFIFO, 0),
        Kind::Socket => node(SFlag::S_IFSOCK, 0),
        // Directories are made in place and files are written by the stager.
        Kind::Directory | Kind::File(_) => Ok(()),
    };
    made.map_err(place.error("stage"))
}

/// Sets owner, mode, extended attributes and time of something that was just made.
///
/// # Errors
/// [`RootError`].
pub(super) fn set_meta(place: &Place, item: &Item) -> Result<(), RootError> {
    let (uid, gid) = (Some(Uid::from_raw(item.uid)), Some(Gid::from_raw(item.gid)));
    fchownat(&place.dir, place.name(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(place.error("set the owner of"))?;
    if !matches!(item.what, crate::item::What::Symlink { .. }) {
        let mode = Mode::from_bits_truncate(item.mode);
        fchmodat(&place.dir, place.name(), mode, FchmodatFlags::FollowSymlink)
            .map_err(place.error("set the mode of"))?;
    }
    flist::xattr::write(&place.through_descriptor(), &item.xattrs).map_err(|source| RootError::At {
        action: "set the extended attributes of",
        path: place.path.clone(),
        source,
    })?;
    let time = TimeSpec::new(item.mtime, 0);
    utimensat(&place.dir, place.name(), &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(place.error("set the time of"))
}
