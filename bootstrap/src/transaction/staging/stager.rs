//! Fetching the new content and writing it beside its destination.

use flist::block::BLOCK_SIZE;
use flist::path::FlistPath;
use flist::tree::{Content, Kind, Tree};
use nix::errno::Errno;

use super::set_meta;
use crate::disk::{OpenFile, Special};
use crate::item::What;
use crate::plan::FileChange;
use crate::root::{Root, RootError, failed};
use crate::source::{ContentSource, SourceError};
use crate::transaction::journal::Swap;
use crate::transaction::{TransactionError, ahead};

/// Most blocks in memory: being fetched, or waiting to be written.
const MOST_BLOCKS: usize = 16;

/// What is staged, and where it comes from.
pub(in crate::transaction) struct Stager<'s> {
    pub(in crate::transaction) root: &'s Root,
    pub(in crate::transaction) tree: &'s Tree,
    pub(in crate::transaction) source: &'s dyn ContentSource,
    /// Blocks that are fetched at the same time; 0 fetches each when it is needed.
    pub(in crate::transaction) fetched_at_once: usize,
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
    pub(in crate::transaction) fn reserve(
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
    pub(in crate::transaction) fn stage_all(
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
        if let (
            Some(slot),
            FileChange::MakeDirectory { item, .. } | FileChange::RemoveDirectory { item, .. },
        ) = (slot, change)
        {
            let made = self.root.disk().make_directory(slot).map_err(failed("create", slot));
            let made =
                made.and_then(|()| set_meta(self.root, slot, item)).and_then(|()| self.root.inode(slot));
            swap.staged_inode = made.map_err(TransactionError::Root)?;
            return Ok(swap);
        }
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
