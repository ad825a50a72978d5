//! Deciding after a crash: finish what was committed, undo what was not.

use std::collections::BTreeSet;

use flist::path::FlistPath;
use zinit_client::{Target, UnitName};

use super::ending::end;
use super::hooks::{Begun, sync};
use super::journal::{Header, JournalError, JournalPlace, Record, Swap};
use super::left_down::{changed_units, down_before, forget_after, left_down, left_down_still};
use super::services::{self, ServiceError};
use super::staging::take_rights;
use super::stopped_since::{forget_changed, still_stopped, stopped_since};
use super::undo::{clean_up, problem};
use super::{TransactionError, files, staging, states};
use crate::boot_info;
use crate::generation::{Cause, Generation, RootIdentity, StateDir};
use crate::plan::{Moment, Purpose};
use crate::programs::Programs;
use crate::root::{Root, RootError, failed};
use crate::supervisor::Supervisor;

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// There was nothing to recover.
    Clean,
    /// A committed transaction was finished.
    Finished {
        /// The generation it made.
        generation: u64,
    },
    /// An uncommitted transaction was undone.
    Undone {
        /// What it was for.
        purpose: Purpose,
        /// The generation it was about to make.
        generation: u64,
    },
    /// The root file system that the transaction worked on is gone.
    Discarded,
}

/// Recovers the transaction that was under way when the engine stopped. Doing it twice does nothing more.
/// The lock must be held.
///
/// # Errors
/// [`TransactionError::NotRecovered`] when not everything could be undone; the journal stays then, and the
/// next recovery goes on.
pub async fn recover(
    root: &Root,
    state: &StateDir,
    identity: &RootIdentity,
    zinit: &dyn Supervisor,
    programs: &dyn Programs,
) -> Result<Recovery, TransactionError> {
    let journal = state.journal().map_err(TransactionError::Generation)?;
    let records = match journal.read() {
        // Whatever it says, it is about another root. One without a marker has never had a transaction.
        Err(JournalError::NotUnderstood { root, .. } | JournalError::Damaged { root, .. })
            if root.as_ref().map_or(identity.marker.is_none(), |root| !root.survives_in(identity)) =>
        {
            journal.remove().map_err(TransactionError::Journal)?;
            return Ok(Recovery::Discarded);
        }
        records => records.map_err(TransactionError::Journal)?,
    };
    let Some(header) = records.iter().find_map(as_header) else {
        journal.remove().map_err(TransactionError::Journal)?;
        return Ok(Recovery::Clean);
    };
    if !header.root.survives_in(identity) {
        journal.remove().map_err(TransactionError::Journal)?;
        return Ok(Recovery::Discarded);
    }
    // Whoever was killed may not have synced the last record. What is done now because of it must not outlast it.
    journal.sync().map_err(TransactionError::Journal)?;
    let generation = header.generation;
    let swaps = records.iter().find_map(as_swaps).unwrap_or_default();
    let hooks = Begun::of((root, programs), (header, swaps), &records);
    hooks.end_leftovers().await?;
    // The pointer is what counts: it may have moved without the record about it. Where it says nothing, the record
    // does.
    let pointer = state.current_number().map_err(TransactionError::Generation)?;
    let committed = match pointer {
        Some(current) => current == generation,
        None => records.iter().any(|record| as_commit(record) == Some(generation)),
    };
    if committed {
        tracing::info!(generation, "finishing what was committed before the engine stopped");
        finish_committed(&hooks, state, zinit, &left_down(header, &records), &journal).await?;
        return Ok(Recovery::Finished { generation });
    }
    let missing = not_mounted(root, header).map_err(TransactionError::Root)?;
    if missing.is_empty() && nothing_is_staged(root, header)? {
        tracing::info!(generation, "what was not committed has not begun, or is undone already");
        journal.remove().map_err(TransactionError::Journal)?;
        return Ok(Recovery::Undone { purpose: header.purpose, generation });
    }
    tracing::warn!(generation, version = %header.version, "undoing what was not committed when the engine stopped");
    let unstopped = records.iter().filter_map(as_unstopped).flatten().collect::<BTreeSet<_>>();
    let copies = records.iter().find_map(as_copies).unwrap_or_default();
    undo(&hooks, copies, (&records, &unstopped), &missing, zinit, &journal).await?;
    Ok(Recovery::Undone { purpose: header.purpose, generation })
}

/// Whether there is no staging directory of the transaction: they are there from before its first effect until the
/// last one is undone. A journal can outlive that on a disk that failed meanwhile, and the root can be of a later
/// generation by now.
fn nothing_is_staged(root: &Root, header: &Header) -> Result<bool, TransactionError> {
    for directory in &header.staging {
        if root.stat(directory).map_err(TransactionError::Root)?.is_some() {
            return Ok(false);
        }
    }
    Ok(!header.staging.is_empty())
}

/// The mounts that the transaction worked in and that are not there now: what was done in them cannot be told.
fn not_mounted(root: &Root, header: &Header) -> Result<Vec<FlistPath>, RootError> {
    let mut missing = Vec::new();
    for directory in &header.staging {
        let Some(top) = staging::top_of(directory) else { continue };
        if root.stat(directory)?.is_some() {
            continue;
        }
        let disk = root.disk();
        let real = disk.real_directory(&top).map_err(failed("find", &top))?;
        let mounted = match real {
            Some(real) if real == top => {
                disk.mount_top(&top).map_err(failed("find the mount of", &top))? == top
            }
            _ => false,
        };
        if !mounted {
            missing.push(top);
        }
    }
    Ok(missing)
}

pub(super) fn as_header(record: &Record) -> Option<&Header> {
    match record {
        Record::Begin(header) => Some(header),
        _ => None,
    }
}

pub(super) fn as_swaps(record: &Record) -> Option<&[Swap]> {
    match record {
        Record::Staged { swaps } => Some(swaps),
        _ => None,
    }
}

fn as_commit(record: &Record) -> Option<u64> {
    match record {
        Record::Committed { generation } => Some(*generation),
        _ => None,
    }
}

fn as_copies(record: &Record) -> Option<(&[Option<u64>], &[String])> {
    match record {
        Record::Migrated { copies, contents } => Some((copies, contents)),
        _ => None,
    }
}

fn as_unstopped(record: &Record) -> Option<&[UnitName]> {
    match record {
        Record::Unstopped { units } => Some(units),
        _ => None,
    }
}

/// Finishes what was committed.
async fn finish_committed(
    hooks: &Begun<'_>,
    state: &StateDir,
    zinit: &dyn Supervisor,
    left_down: &BTreeSet<UnitName>,
    journal: &JournalPlace,
) -> Result<(), TransactionError> {
    let Begun { root, programs, header, swaps, .. } = *hooks;
    // A damaged record is told to whoever asks what is installed.
    let current = state.recorded(header.generation).map_err(TransactionError::Generation)?;
    if current.is_some() {
        // Also where it is there already: who was killed while moving it may not have synced it, and what follows
        // counts on it.
        state.commit(header.generation).map_err(TransactionError::Generation)?;
    }
    if hooks.are_left() {
        // They come after the services, and the journal is what tells of them.
        monitor_unknown(zinit, header, left_down).await;
        hooks.run_rest().await;
        sync(programs).await?;
    }
    forget_after(zinit, (header, swaps), left_down).await;
    finish(root, (header, swaps), current.as_ref(), journal)?;
    if let Some(current) = current.filter(|current| current.cause != Cause::SelfUpdate) {
        boot_info::write(root, &current.channel, &current.info).map_err(TransactionError::BootInfo)?;
    }
    monitor_unknown(zinit, header, left_down).await;
    Ok(())
}

fn finish(
    root: &Root,
    (header, swaps): (&Header, &[Swap]),
    current: Option<&Generation>,
    journal: &JournalPlace,
) -> Result<(), TransactionError> {
    let Header { staging: directories, states: slots, .. } = header;
    let settled = match current {
        Some(current) => {
            states::mark_all(root, current);
            staging::settle(root, (directories, slots), current)
        }
        // Whoever can read the record one day finds what it kept.
        None => {
            swaps.iter().filter_map(|swap| swap.slot.as_ref()).try_for_each(|slot| take_rights(root, slot))
        }
    };
    settled.map_err(TransactionError::Root)?;
    journal.remove().map_err(TransactionError::Journal)
}

async fn undo(
    hooks: &Begun<'_>,
    (copies, contents): (&[Option<u64>], &[String]),
    (records, unstopped): (&[Record], &BTreeSet<&UnitName>),
    missing: &[FlistPath],
    zinit: &dyn Supervisor,
    journal: &JournalPlace,
) -> Result<(), TransactionError> {
    let Begun { root, header, swaps, .. } = hooks;
    let in_words = |top: &FlistPath| {
        let journal = journal.shown.display();
        format!(
            "nothing is mounted at /{top}, where a part of it was done; mount it, or remove {journal} if it is gone"
        )
    };
    let mut not_undone: Vec<_> = missing.iter().map(in_words).collect();
    hooks.take_back(&[Moment::AfterStart], journal, &mut not_undone).await;
    // What runs of the new generation ends before its files go. After a restart of the machine that can be
    // any of these services: the supervisor found the root in the middle of the swap.
    let swapped = is_swapped(root, (header, swaps), copies, &mut not_undone);
    let since = stopped_since(zinit, (header, records), swapped, journal).await;
    let swapped = swapped != Swapped::No;
    let others = down_before(header, records);
    // Where nothing was swapped nobody is ended, so that nobody has to be asked.
    let left_down = match swapped {
        true => left_down_still(zinit, others, journal, &mut not_undone).await,
        false => others,
    };
    let asks = swapped || since.iter().any(|unit| unstopped.contains(unit));
    let since = match asks {
        true => still_stopped(zinit, since, journal, &mut not_undone).await,
        false => since,
    };
    let ends = |unit: &&UnitName| (swapped && !left_down.contains(*unit)) || unstopped.contains(unit);
    let ended: Vec<_> =
        header.start.iter().chain(&header.forget).chain(&header.stop).filter(ends).cloned().collect();
    end((zinit, root), (&ended, &since, unstopped), journal, &mut not_undone).await?;
    hooks.take_back(&[Moment::BeforeStart], journal, &mut not_undone).await;
    not_undone.extend(states::put_all_back(root, header.states.iter().zip(copies)));
    if let Err(error) = states::keep_written(root, header, copies, contents) {
        not_undone.push(flist::report(&error));
    }
    for swap in swaps.iter().rev() {
        not_undone.extend(problem(files::unswap(root, swap)));
    }
    not_undone.extend(problem(header.boot_info.restore(root)));
    not_undone.extend(problem(services::discard(zinit, &ended).await));
    hooks.take_back(&[Moment::Leave, Moment::BeforeSwap], journal, &mut not_undone).await;
    if !swaps.is_empty() {
        bring_back(zinit, header, &(&left_down | &since), &mut not_undone).await;
    }
    if not_undone.is_empty() {
        let changed = changed_units(swaps.iter().map(|swap| &swap.change));
        not_undone.extend(forget_changed(zinit, &since, &changed).await);
    }
    if not_undone.is_empty() {
        not_undone.extend(clean_up(root, (header, swaps), journal).err());
    }
    if not_undone.is_empty() {
        return Ok(());
    }
    Err(TransactionError::NotRecovered(not_undone))
}

/// Whether anything of the new generation is in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Swapped {
    /// Nothing is.
    No,
    /// Something may be: not everything could be looked at.
    Unknown,
    /// Something is.
    Yes,
}

/// Whether anything of the new generation is in its place, or may be: after this its files go, and nobody would know
/// of it the next time.
fn is_swapped(
    root: &Root,
    (header, swaps): (&Header, &[Swap]),
    copies: &[Option<u64>],
    not_undone: &mut Vec<String>,
) -> Swapped {
    let files = swaps.iter().map(|swap| files::has_happened(root, swap));
    let copies = header.states.iter().zip(copies);
    let states = copies.map(|(state, copy)| Ok(copy.is_some() && root.inode(&state.path)? == *copy));
    let mut swapped = Swapped::No;
    for happened in files.chain(states) {
        match happened {
            Ok(true) => swapped = Swapped::Yes,
            Ok(false) => {}
            Err(error) => {
                swapped = swapped.max(Swapped::Unknown);
                not_undone.push(flist::report(&error));
            }
        }
    }
    swapped
}

/// Monitors what was to be started and the supervisor does not know: what it knows was started before the commit, and
/// may have been stopped by somebody since.
async fn monitor_unknown(zinit: &dyn Supervisor, header: &Header, left_down: &BTreeSet<UnitName>) {
    for unit in header.start.iter().filter(|unit| !left_down.contains(*unit)) {
        let monitored = match services::status(zinit, unit).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => services::monitor(zinit, unit).await,
            Err(error) => Err(error),
        };
        if let Err(error) = monitored {
            tracing::error!(service = %unit, error = %flist::report(&error), "it could not be started");
        }
    }
}

/// Has everything started again that was stopped, but those that stay `down`.
async fn bring_back(
    zinit: &dyn Supervisor,
    header: &Header,
    down: &BTreeSet<UnitName>,
    not_undone: &mut Vec<String>,
) {
    let again = |unit: &&UnitName| !down.contains(*unit);
    for unit in header.forget.iter().chain(header.stop.iter().rev()).filter(again) {
        if let Err(error) = bring_up(zinit, unit).await {
            tracing::error!(service = %unit, error = %flist::report(&error), "it could not be started again");
            // What the supervisor refuses it will refuse again; the files matter more.
            if error.is_passing() {
                not_undone.push(flist::report(&error));
            }
        }
    }
}

/// Makes a service run that was wanted up: one that the supervisor does not know is monitored, one that it
/// was told to stop is started.
async fn bring_up(zinit: &dyn Supervisor, unit: &UnitName) -> Result<(), ServiceError> {
    match services::status(zinit, unit).await? {
        Some(status) if status.target == Target::Up => Ok(()),
        _ => services::monitor(zinit, unit).await,
    }
}
