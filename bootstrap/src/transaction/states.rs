//! State of packages: copied while nobody writes to it, migrated as a copy, exchanged like files.

mod left;
mod marks;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::Duration;

use flist::block::BlockKey;
use flist::path::FlistPath;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::hooks::{self, Side};
use super::journal::Record;
use super::run::Run;
use super::{Context, TransactionError, staging};
use crate::disk::{Disk, Kind, Rename, Special};
use crate::plan::StateChange;
use crate::programs::Call;
use crate::root::{Root, RootError, Stamp, failed};

pub(super) use left::keep_written;
pub(crate) use left::left_of;
pub(super) use marks::mark_all;
pub(crate) use marks::schema_of;

/// Most entries of one package's state that are copied.
const MAX_ENTRIES: usize = 100_000;

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// One directory of state, and the slot of its copy: the copy before the exchange, what it was after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSlot {
    /// The directory.
    pub path: FlistPath,
    /// The slot.
    pub slot: FlistPath,
}

/// The slots of all states, in their order.
///
/// # Errors
/// [`RootError`].
pub(super) fn slots(
    root: &Root,
    states: &[StateChange],
    generation: u64,
) -> Result<Vec<StateSlot>, RootError> {
    let paths = states.iter().flat_map(|state| &state.paths).enumerate();
    let slot = |(number, path): (usize, &FlistPath)| {
        let directory = staging::staging_directory(root, path, generation)?;
        let slot = staging::join(&directory, format!("state-{number}").as_bytes())?;
        Ok(StateSlot { path: path.clone(), slot })
    };
    paths.map(slot).collect()
}

/// The file that holds the space of a copy until it is made.
fn space(slot: &FlistPath) -> Result<FlistPath, RootError> {
    staging::join(&slot.parent().unwrap_or_default(), &[slot.name(), b".space"].concat())
}

/// Bytes and entries beneath a directory, with a stamp of each; more than `most` bytes end the count.
///
/// # Errors
/// [`RootError`]; `E2BIG` for too many entries.
fn stamps(disk: &dyn Disk, top: &FlistPath) -> Result<(BTreeMap<FlistPath, Stamp>, u64), RootError> {
    let (mut found, mut bytes, mut todo) = (BTreeMap::new(), 0_u64, vec![top.clone()]);
    while let Some(directory) = todo.pop() {
        for name in disk.list(&directory).map_err(failed("list", &directory))? {
            let path = staging::join(&directory, &name)?;
            let Some(stat) = disk.stat(&path).map_err(failed("look at", &path))? else { continue };
            if found.len() >= MAX_ENTRIES {
                return Err(failed("count what is in", top)(Errno::E2BIG.into()));
            }
            if stat.kind == Kind::Directory {
                if stat.mount_point {
                    return Err(failed("copy what is mounted on", &path)(Errno::EXDEV.into()));
                }
                todo.push(path.clone());
            }
            // Directories take a page, whatever the file system says.
            bytes = bytes.saturating_add(if stat.kind == Kind::Directory { 4096 } else { stat.size });
            found.insert(path, Stamp::from(&stat));
        }
    }
    Ok((found, bytes))
}

/// Tells what was found from what is there after any change, also when the machine has been restarted meanwhile.
fn digest(found: &BTreeMap<FlistPath, Stamp>) -> String {
    let mut words = Vec::new();
    for (path, Stamp { inode: (_, inode), changed, size }) in found {
        words.extend_from_slice(path.as_bytes());
        words.extend_from_slice(format!("\0{inode} {changed:?} {size}\n").as_bytes());
    }
    BlockKey::of(&words).to_string()
}

/// Bytes in a directory.
///
/// # Errors
/// [`RootError`].
pub(crate) fn size(root: &Root, top: &FlistPath) -> Result<u64, RootError> {
    Ok(stamps(root.disk(), top)?.1)
}

/// Copies a directory with everything in it. Hard links become separate files.
fn copy(disk: &dyn Disk, from: &FlistPath, to: &FlistPath) -> Result<(), RootError> {
    let mut todo = vec![(from.clone(), to.clone())];
    let mut directories = Vec::new();
    while let Some((from, to)) = todo.pop() {
        let Some(stat) = disk.stat(&from).map_err(failed("look at", &from))? else { continue };
        let not_made = failed("copy", &from);
        match stat.kind {
            Kind::Directory => {
                disk.make_directory(&to).map_err(not_made)?;
                for name in disk.list(&from).map_err(failed("list", &from))? {
                    todo.push((staging::join(&from, &name)?, staging::join(&to, &name)?));
                }
                // Their times and modes last: making something in them needs the one and changes the other.
                directories.push((from, to));
                continue;
            }
            Kind::File => copy_content(disk, &from, &to).map_err(not_made)?,
            Kind::Symlink => {
                let target = disk.read_link(&from).map_err(failed("read the link", &from))?;
                disk.make_special(&to, Special::Symlink(&target)).map_err(not_made)?;
            }
            Kind::CharDevice => disk.make_special(&to, Special::CharDevice(stat.rdev)).map_err(not_made)?,
            Kind::BlockDevice => disk.make_special(&to, Special::BlockDevice(stat.rdev)).map_err(not_made)?,
            Kind::Fifo => disk.make_special(&to, Special::Fifo).map_err(not_made)?,
            Kind::Socket => disk.make_special(&to, Special::Socket).map_err(not_made)?,
        }
        copy_meta(disk, &from, &to)?;
    }
    directories.iter().rev().try_for_each(|(from, to)| copy_meta(disk, from, to))
}

/// Copies the directories of one package into their slots; gives the stamps of everything that was copied.
fn copy_all(disk: &dyn Disk, slots: &[StateSlot]) -> Result<Vec<BTreeMap<FlistPath, Stamp>>, RootError> {
    if let Some(first) = slots.first() {
        let reserved = space(&first.slot)?;
        disk.remove(&reserved).map_err(failed("give back", &reserved))?;
    }
    let mut copied = Vec::new();
    for StateSlot { path, slot } in slots {
        // Before the copy is made, so that whoever writes meanwhile is found out.
        copied.push(stamps(disk, path)?.0);
        copy(disk, path, slot)?;
    }
    Ok(copied)
}

fn copy_content(disk: &dyn Disk, from: &FlistPath, to: &FlistPath) -> io::Result<()> {
    let file = disk.open(from, false)?;
    disk.create(to)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(()),
            read => {
                disk.append(to, &buffer[..read])?;
                at += read as u64;
            }
        }
    }
}

/// Owner before mode, because a change of owner clears set-uid bits.
fn copy_meta(disk: &dyn Disk, from: &FlistPath, to: &FlistPath) -> Result<(), RootError> {
    let Some(stat) = disk.stat(from).map_err(failed("look at", from))? else { return Ok(()) };
    let kept = |done: io::Result<()>| done.map_err(failed("copy owner, mode and time of", from));
    kept(disk.set_owner(to, stat.uid, stat.gid))?;
    if stat.kind != Kind::Symlink {
        kept(disk.set_mode(to, stat.mode))?;
        let xattrs = disk.xattrs(from).map_err(failed("read the extended attributes of", from))?;
        if !xattrs.is_empty() {
            kept(disk.set_xattrs(to, &xattrs))?;
        }
    }
    kept(disk.set_mtime(to, stat.mtime))
}

/// Removes a directory with everything in it.
///
/// # Errors
/// [`RootError`].
pub(super) fn remove_tree(disk: &dyn Disk, top: &FlistPath) -> Result<(), RootError> {
    disk.remove_tree(top).map_err(failed("remove", top))
}

/// Whether what was to be removed as a file is a directory (unlink(2)).
pub(super) fn is_directory(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EISDIR | Errno::EPERM))
}

/// Exchanges a directory with its slot. Where the file system cannot do it at once, there is a moment without it;
/// whoever uses it has been stopped.
fn exchange(disk: &dyn Disk, StateSlot { path, slot }: &StateSlot) -> io::Result<()> {
    match disk.rename(slot, path, Rename::Exchange) {
        Err(error) if super::files::cannot_exchange(&error) => {}
        other => return other,
    }
    let aside = super::files::aside(slot)?;
    disk.rename(path, &aside, Rename::NoReplace)?;
    disk.rename(slot, path, Rename::NoReplace)?;
    disk.rename(&aside, slot, Rename::NoReplace)
}

/// Puts a directory back if it was exchanged, also when that broke off in the middle. `copy` is the inode number
/// of what was made to take its place.
///
/// # Errors
/// [`RootError`]; nothing is lost then.
pub(super) fn put_back(root: &Root, state: &StateSlot, copy: u64) -> Result<(), RootError> {
    let (disk, StateSlot { path, slot }) = (root.disk(), state);
    let not_back = failed("put back", path);
    let aside = super::files::aside(slot).map_err(&not_back)?;
    let is_old = |at: &FlistPath| Ok::<_, RootError>(root.inode(at)?.is_some_and(|inode| inode != copy));
    if root.inode(path)? == Some(copy) {
        if is_old(slot)? {
            match disk.rename(slot, path, Rename::Exchange) {
                Err(error) if super::files::cannot_exchange(&error) => {}
                other => return other.map_err(not_back),
            }
            disk.rename(path, &aside, Rename::NoReplace).map_err(&not_back)?;
            return disk.rename(slot, path, Rename::NoReplace).map_err(not_back);
        }
        disk.rename(path, slot, Rename::NoReplace).map_err(&not_back)?;
    }
    if root.inode(path)?.is_none() {
        let old = if is_old(&aside)? { &aside } else { slot };
        if is_old(old)? {
            return disk.rename(old, path, Rename::NoReplace).map_err(not_back);
        }
    }
    Ok(())
}

impl Run<'_> {
    /// The numbers of the slots of one state.
    fn numbers_of(&self, number: usize) -> Range<usize> {
        let states = &self.plan.packages.states;
        let before: usize = states[..number].iter().map(|state| state.paths.len()).sum();
        before..before + states[number].paths.len()
    }

    /// The slots of one state.
    fn slots_of(&self, number: usize) -> &[StateSlot] {
        &self.header.states[self.numbers_of(number)]
    }

    /// Takes space for the copies.
    pub(super) fn reserve_states(&self) -> Result<(), TransactionError> {
        let disk = self.context.root.disk();
        for (number, state) in self.plan.packages.states.iter().enumerate() {
            let Some(first) = self.slots_of(number).first() else { continue };
            let at = space(&first.slot).map_err(TransactionError::Root)?;
            let taken = disk.create(&at).and_then(|()| match disk.reserve(&at, state.limit) {
                // Its free space was looked at before.
                Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Ok(()),
                other => other,
            });
            let taken = taken.map_err(failed("take space for a copy of", &first.path));
            taken.map_err(TransactionError::Root)?;
        }
        Ok(())
    }

    /// Copies all state that is migrated; the services that use it have been stopped.
    pub(super) async fn copy_states(&mut self) -> Result<(), TransactionError> {
        self.contents = vec![String::new(); self.header.states.len()];
        for number in 0..self.plan.packages.states.len() {
            let (root, slots) = (self.context.root.clone(), self.slots_of(number).to_vec());
            let work = tokio::task::spawn_blocking(move || copy_all(root.disk(), &slots));
            let copied = work.await.map_err(TransactionError::Broken)?;
            self.copied.extend(copied.map_err(TransactionError::Root)?);
            let slots = self.slots_of(number);
            let taken = slots.iter().try_for_each(|at| marks::take_said(&self.context.root, &at.slot));
            taken.map_err(TransactionError::Root)?;
            self.check_size(number)?;
        }
        Ok(())
    }

    /// Runs one program of a migration, which sees the copies where the state is.
    pub(super) async fn migrate(&mut self, number: usize, step: usize) -> Result<(), TransactionError> {
        let Context { root, programs, .. } = self.context;
        let state = &self.plan.packages.states[number];
        let migration = &state.steps[step];
        let side = match state.direction {
            flist::package::Direction::Up => Side::New,
            flist::package::Direction::Down => Side::Old,
        };
        let program = hooks::locate(root, &self.swaps, migration.run.program(), side);
        let call = Call {
            program: program.map_err(TransactionError::Root)?,
            words: migration.run.words(),
            environment: vec![
                ("MOLT_PACKAGE", state.package.to_string()),
                ("MOLT_MIGRATION", migration.number.to_string()),
            ],
            mark: hooks::mark(&self.header),
            instead: self.slots_of(number).iter().map(|at| (at.slot.clone(), at.path.clone())).collect(),
            timeout: self.time_for(Duration::from_secs(migration.timeout)),
        };
        let what = match side {
            Side::New => format!("migration {} of package {}", migration.number, state.package),
            Side::Old => {
                format!("the inverse of migration {} of package {}", migration.number, state.package)
            }
        };
        tracing::info!(package = %state.package, migration = migration.number, "migrating");
        hooks::run(*programs, &call, &what).await?;
        self.check_size(number)
    }

    /// A copy may grow, but not beyond what was planned for it. What it holds is remembered.
    fn check_size(&mut self, number: usize) -> Result<(), TransactionError> {
        let state = &self.plan.packages.states[number];
        let mut bytes = 0;
        for slot in self.numbers_of(number) {
            let found = stamps(self.context.root.disk(), &self.header.states[slot].slot);
            let (found, size) = found.map_err(TransactionError::Root)?;
            self.contents[slot] = digest(&found);
            bytes += size;
        }
        match bytes <= state.limit {
            true => Ok(()),
            false => Err(TransactionError::StateTooLarge {
                package: state.package.to_string(),
                bytes,
                limit: state.limit,
            }),
        }
    }

    /// Exchanges the copies with the state, if nobody has changed that meanwhile.
    pub(super) fn swap_states(&mut self) -> Result<(), TransactionError> {
        let (root, disk) = (&self.context.root, self.context.root.disk());
        for (number, state) in self.plan.packages.states.iter().enumerate() {
            let Some(schema) = state.leads_to() else { continue };
            // With what is in it: whichever of the two is there tells what it is.
            let marked = self.slots_of(number).iter().try_for_each(|at| marks::write(root, &at.slot, schema));
            marked.map_err(TransactionError::Root)?;
        }
        self.sync_mounts()?;
        let mut copies = Vec::new();
        for (StateSlot { path, slot }, copied) in self.header.states.iter().zip(&self.copied) {
            if stamps(disk, path).map_err(TransactionError::Root)?.0 != *copied {
                return Err(TransactionError::Root(RootError::Changed(path.clone())));
            }
            copies.push(root.inode(slot).map_err(TransactionError::Root)?);
        }
        let record = Record::Migrated { copies: copies.clone(), contents: self.contents.clone() };
        self.journal.append(&record).map_err(TransactionError::Journal)?;
        self.copies = copies;
        for state in &self.header.states {
            let exchanged = exchange(disk, state).map_err(failed("exchange", &state.path));
            exchanged.map_err(TransactionError::Root)?;
        }
        Ok(())
    }

    /// Puts the state back that was exchanged.
    pub(super) fn put_states_back(&mut self, not_undone: &mut Vec<String>) {
        let (root, copies) = (&self.context.root, self.copies.as_slice());
        not_undone.extend(put_all_back(root, self.header.states.iter().zip(copies)));
        match keep_written(root, &self.header, copies, &self.contents) {
            Ok(left) => self.left.extend(left),
            Err(error) => not_undone.push(flist::report(&error)),
        }
    }
}

/// Puts all state back that was exchanged; gives what could not be.
pub(super) fn put_all_back<'s>(
    root: &Root,
    states: impl DoubleEndedIterator<Item = (&'s StateSlot, &'s Option<u64>)> + ExactSizeIterator,
) -> Vec<String> {
    let back = states.rev().filter_map(|(state, copy)| put_back(root, state, (*copy)?).err());
    back.map(|error| flist::report(&error)).collect()
}
