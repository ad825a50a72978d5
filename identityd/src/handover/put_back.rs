//! Putting the old identityd back.
//!
//! The supervisor is not made to forget the service, nor to stop it. It always wants it up, and starts what is
//! installed.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use bootstrap::engine::{Engine, EngineError};
use bootstrap::generation::{self, boot_id};
use bootstrap::lock::{self, EngineLock};
use bootstrap::releases::Releases;
use bootstrap::supervisor::{self, Supervisor};
use bootstrap::transaction::services::{ServiceError, end_process, monitor, status};
use flist::report;
use zinit_client::{ServiceStatus, Target, UnitName};

use super::guardian::Post;
use super::{Handover, Phase, Places, Trial, local};
use crate::agent::Problem;
use crate::history::{Cause, History, HistoryError, Named, Outcome, Record};
use crate::orders::OrdersFile;
use crate::timestamp::Timestamp;

/// How long a guardian waits for the engine's lock before it ends who may hang with it.
const SHORT: Duration = Duration::from_secs(1);

/// The first pause before the old daemon is put back again where that failed, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Attempts among which the one is looked for that was noted.
const NEWEST: usize = 16;

/// What putting back has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// The old daemon is back, or what was installed meanwhile stays.
    Back,
    /// The new daemon was faster: it has committed, and is on trial or has stood it.
    Faster,
}

/// As [`put_back`], again and again: nobody else does it.
pub(super) async fn put_back_at_last(
    handover: &Handover,
    post: &mut Post,
    why: &str,
) -> Result<Done, Problem> {
    let (mut pause, longest) = PAUSES;
    loop {
        match put_back(handover, post, why).await {
            Err(problem) if is_to_be_done(handover) => {
                tracing::error!(%problem, ?pause, "the old identityd is not back yet; trying again");
            }
            ended => return ended,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Whether the old daemon is to be put back: the new one has not committed, or not stood its trial.
fn is_to_be_done(handover: &Handover) -> bool {
    matches!(handover.phase(), Phase::Pending | Phase::Failed(_))
}

/// Undoes the swap, ends the new daemon, and has the old one started.
#[tracing::instrument(level = "debug", skip_all)]
async fn put_back(handover: &Handover, post: &mut Post, why: &str) -> Result<Done, Problem> {
    let not_back =
        |error: &(dyn std::error::Error + 'static)| local("cannot put the old identityd back", error);
    let Places { root, zinit_socket, .. } = &handover.places;
    let (zinit, unit) = (supervisor::at(root, zinit_socket), &handover.unit);
    let Some(lock) = engine_lock(handover, post, &zinit).await.map_err(|error| not_back(&error))? else {
        let started = start(&zinit, unit).await;
        return started.map(|_| Done::Faster).map_err(|error| not_back(&error));
    };
    let undone = undo(handover, &lock, why).await;
    if matches!(undone, Ok(Undone::Nothing)) {
        handover.close();
        return Ok(Done::Back);
    }
    // What is started now is what is on disk, which is the old one where that much could be undone.
    if (undone.is_ok() || !runs_this_image(&zinit, unit).await)
        && let Err(error) = end_process(&zinit, unit).await
    {
        tracing::error!(error = report(&error), "the new identityd cannot be ended");
    }
    drop(lock);
    let started = start(&zinit, unit).await;
    // The note stays until nothing is left to do: without it nobody watches.
    undone.map_err(|error| not_back(&error))?;
    let wanted_up = started.map_err(|error| local("identityd cannot be started again", &error))?;
    handover.end_trial();
    handover.close();
    tracing::warn!(%unit, wanted_up, "the old identityd is back");
    Ok(Done::Back)
}

/// The engine's lock; `None` when the new daemon has committed meanwhile. Whoever has it for long may be this very
/// daemon, which hangs: it is ended, and the lock taken before the supervisor starts it anew.
async fn engine_lock(
    handover: &Handover,
    post: &mut Post,
    zinit: &dyn Supervisor,
) -> Result<Option<EngineLock>, lock::LockError> {
    loop {
        // However long this takes, whoever does it can be killed.
        post.is_held();
        let taken = lock::take(&handover.places.run_dir, "identityd's guardian", SHORT);
        if !is_to_be_done(handover) {
            return Ok(None);
        }
        match taken {
            Err(held @ lock::LockError::Held { .. }) => {
                tracing::warn!(error = report(&held), "ending the new identityd, which may have it");
                if let Err(error) = end_process(zinit, &handover.unit).await {
                    tracing::error!(error = report(&error), "the new identityd cannot be ended");
                }
            }
            taken => return taken.map(Some),
        }
    }
}

/// What was undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undone {
    /// The self-update.
    SelfUpdate,
    /// Nothing: another release was installed since, by the new daemon.
    Nothing,
}

/// Undoes the swap, or reverts it where it is committed, and remembers why. What is in the state is read only now that
/// nobody else changes it.
///
/// # Errors
/// Not everything could be undone; nothing is remembered then.
#[tracing::instrument(level = "debug", skip_all)]
async fn undo(handover: &Handover, lock: &EngineLock, why: &str) -> Result<Undone, EngineError> {
    let Places { root, zinit_socket, .. } = &handover.places;
    let state = handover.places.state();
    let (failed, engine) = (handover.phase(), Engine::open_at(root, &state.directory(), zinit_socket)?);
    // What was before a self-update that is committed is what is gone back to, also by a rollback that it is part of.
    let keep = if matches!(failed, Phase::Failed(_)) { Some(usize::MAX) } else { handover.keep };
    let engine = engine.keeping(keep);
    engine.recover(lock).await?;
    let reason = format!("its identityd failed: {why}");
    if let (Phase::Failed(_), Some(trial)) = (failed, &handover.trial) {
        let current = engine.current()?.map(|current| (current.number, current.cause));
        match current {
            Some((number, _)) if number == handover.generation => {
                engine.revert_self_update(lock, trial.before).await?;
                collect(handover, &engine, lock);
            }
            // Whoever was the guardian before has done it.
            Some((_, generation::Cause::Revert)) => {}
            _ => return Ok(Undone::Nothing),
        }
        if let Err(error) = note(handover, trial, &reason) {
            tracing::error!(error = report(&error), "the history is not complete");
        }
    }
    if let Err(error) = Releases::load(&state).failed(handover.release, &reason) {
        tracing::error!(error = report(&error), "the failure cannot be remembered");
    }
    Ok(Undone::SelfUpdate)
}

/// Forgets what nobody goes back to any more, unless there is a rollback, which may want it.
fn collect(handover: &Handover, engine: &Engine, lock: &EngineLock) {
    let orders = OrdersFile::at(handover.places.state()).load();
    if orders.is_ok_and(|orders| orders.rollback.is_none())
        && let Err(error) = engine.collect(lock, handover.keep)
    {
        tracing::warn!(error = report(&error), "old generations are still recorded");
    }
}

/// Adds the trial that was not stood to the history, once. What was committed before is noted there already.
fn note(handover: &Handover, trial: &Trial, reason: &str) -> Result<(), HistoryError> {
    let history = History::at(handover.places.state());
    if history.read(NEWEST)?.records.iter().any(|record| record.id == handover.token) {
        return Ok(());
    }
    let (old, new) = trial.versions.clone();
    let from = Named { version: old, release: trial.release.to_string() };
    let to = Named { version: new, release: handover.release.to_string() };
    let now = Timestamp::from(SystemTime::now());
    let id = (handover.token.clone(), boot_id());
    let record = Record::begin(id, Cause::Poll, (Some(from), to), now.clone());
    history.append(&record.end(Outcome::RolledBack, Some("RolledBack"), Some(reason), now))
}

/// Whether the service runs the file that this guardian runs, which is the old one.
async fn runs_this_image(zinit: &dyn Supervisor, unit: &UnitName) -> bool {
    let image = |process: &str| {
        let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let Ok(Some(ServiceStatus { pid: Some(pid), .. })) = status(zinit, unit).await else { return false };
    let own = image("self");
    own.is_some() && own == image(&pid.to_string())
}

/// Has the service started, unless somebody has stopped it; tells whether it is wanted up.
async fn start(zinit: &dyn Supervisor, unit: &UnitName) -> Result<bool, ServiceError> {
    let wanted = status(zinit, unit).await?.is_none_or(|status| status.target == Target::Up);
    if wanted {
        monitor(zinit, unit).await?;
    }
    Ok(wanted)
}
