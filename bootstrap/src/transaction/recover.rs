//! Deciding after a crash: finish what was committed, undo what was not.

use zinit_client::UnitName;

use super::journal::{Header, JournalPlace, Record, Swap};
use super::{TransactionError, clean_up, files, services};
use crate::boot_info;
use crate::generation::{Cause, RootIdentity, StateDir};
use crate::plan::Purpose;
use crate::root::Root;
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
) -> Result<Recovery, TransactionError> {
    let journal = state.journal().map_err(TransactionError::Generation)?;
    let records = journal.read().map_err(TransactionError::Journal)?;
    let Some(header) = records.iter().find_map(as_header) else {
        journal.remove().map_err(TransactionError::Journal)?;
        return Ok(Recovery::Clean);
    };
    if !header.root.survives_in(identity) {
        journal.remove().map_err(TransactionError::Journal)?;
        return Ok(Recovery::Discarded);
    }
    let generation = header.generation;
    // The pointer is what counts: it may have moved without the record about it.
    let current = state.standing(identity).map_err(TransactionError::Generation)?.generation();
    if let Some(current) = current.filter(|current| current.number == generation) {
        tracing::info!(generation, "finishing what was committed before the engine stopped");
        finish(root, header, &journal)?;
        if current.cause != Cause::SelfUpdate {
            boot_info::write(root, &current.channel, &current.info).map_err(TransactionError::BootInfo)?;
        }
        start_missing(zinit, &header.start).await;
        return Ok(Recovery::Finished { generation });
    }
    tracing::warn!(generation, version = %header.version, "undoing what was not committed when the engine stopped");
    undo(root, header, records.iter().find_map(as_swaps).unwrap_or_default(), zinit, &journal).await?;
    Ok(Recovery::Undone { purpose: header.purpose, generation })
}

fn as_header(record: &Record) -> Option<&Header> {
    match record {
        Record::Begin(header) => Some(header),
        _ => None,
    }
}

fn as_swaps(record: &Record) -> Option<&[Swap]> {
    match record {
        Record::Staged { swaps } => Some(swaps),
        _ => None,
    }
}

fn finish(root: &Root, header: &Header, journal: &JournalPlace) -> Result<(), TransactionError> {
    super::staging::clear(root, &header.staging).map_err(TransactionError::Root)?;
    journal.remove().map_err(TransactionError::Journal)
}

async fn undo(
    root: &Root,
    header: &Header,
    swaps: &[Swap],
    zinit: &dyn Supervisor,
    journal: &JournalPlace,
) -> Result<(), TransactionError> {
    let mut not_undone = Vec::new();
    if !swaps.is_empty() {
        // What runs of the new generation ends before its files go.
        for unit in header.start.iter().rev() {
            let stopped = services::stop_and_forget(zinit, unit, None).await;
            not_undone.extend(stopped.err().map(|error| flist::report(&error)));
        }
    }
    for swap in swaps.iter().rev() {
        not_undone.extend(files::unswap(root, swap).err().map(|error| flist::report(&error)));
    }
    if !swaps.is_empty() {
        start_missing(zinit, &header.stop.iter().rev().cloned().collect::<Vec<_>>()).await;
    }
    if not_undone.is_empty() {
        not_undone.extend(clean_up(root, header, journal).err());
    }
    if not_undone.is_empty() {
        return Ok(());
    }
    Err(TransactionError::NotRecovered(not_undone))
}

/// Services that the supervisor does not know are monitored again. One that cannot be is reported; the
/// others matter more.
async fn start_missing(zinit: &dyn Supervisor, units: &[UnitName]) {
    for unit in units {
        let started = match services::status(zinit, unit).await {
            Ok(None) => services::monitor(zinit, unit).await,
            Ok(Some(_)) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            tracing::error!(service = %unit, error = %flist::report(&error), "it could not be started again");
        }
    }
}
