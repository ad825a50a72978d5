//! Carrying out what was chosen; what cannot be installed leads to what this node has.

use std::time::{Duration, Instant};

use flist::hub::{Release, ReleaseId};
use flist::trust::Trusted;

use super::attempt::{Attempt, Failure};
use super::choice::{self, Choice, Other};
use super::identityd;
use super::install::install;
use super::offline::PATIENCE;
use super::{
    BootError, FIRST_PAUSE, LONGEST_PAUSE, Stopped, is_installed, not_installed, open_engine, resume,
};
use crate::engine::{Engine, EngineError, ReleaseTree};
use crate::lock::EngineLock;
use crate::settings::Settings;
use crate::state_place::StatePlace;
use crate::transaction::services::ServiceError;

/// Installs what was chosen, or goes on with what is installed.
///
/// # Errors
/// [`BootError`]; nothing half-installed is left then.
pub(super) async fn carry_out(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    choice: Choice,
    stopped: &Stopped,
) -> Result<(), BootError> {
    stopped.look(engine).await.map_err(|error| not_installed(settings, error))?;
    match choice {
        Choice::Offered(release) => install_offered(engine, lock, settings, *release, stopped).await,
        Choice::Other { other, why } => install_other(engine, lock, settings, (&other, &why), stopped).await,
    }
}

/// Installs what the channel offers, or what this node has where that cannot be done.
async fn install_offered(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    offered: Trusted<Release>,
    stopped: &Stopped,
) -> Result<(), BootError> {
    let other = choice::other(engine, &offered)?;
    if other.is_nothing() {
        return install_patiently(lock, settings, offered, (Duration::ZERO, stopped)).await;
    }
    let place = StatePlace::of(settings);
    let (attempt, release) = (Attempt::begin(&place, offered.id), offered.id);
    let before = engine.current().map_err(BootError::State)?.map(|current| current.number);
    let installed = install_patiently(lock, settings, offered, (PATIENCE, stopped)).await;
    attempt.ended(&place, installed.as_ref().err());
    // Opened anew, because what the release needed may have moved the state.
    match installed {
        Err(error) if Failure::of(&error) != Failure::Node => {
            let engine = open_engine(settings, lock, 0)?;
            install_other(&engine, lock, settings, (&other, &flist::report(&error)), stopped).await
        }
        Ok(()) if other == Other::Installed => {
            let engine = open_engine(settings, lock, 0)?;
            keep_with_identityd(&engine, lock, settings, (before, release), stopped).await
        }
        installed => installed,
    }
}

/// Keeps an upgrade if its identityd does, and goes back to the generation `before` it otherwise.
async fn keep_with_identityd(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    (before, release): (Option<u64>, ReleaseId),
    stopped: &Stopped,
) -> Result<(), BootError> {
    match (identityd::renew(engine, settings).await, before) {
        (Err(error @ ServiceError::NotWell { .. }), Some(before)) => {
            identityd::go_back(engine, lock, settings, (before, release), (&error, stopped)).await?;
            let why = flist::report(&error);
            return install_other(engine, lock, settings, (&Other::Installed, &why), stopped).await;
        }
        (Err(error), _) => {
            tracing::error!(error = flist::report(&error), "nobody knows whether identityd is well");
        }
        (Ok(()), _) => {}
    }
    // An upgrade starts nothing that it does not change.
    is_installed(engine, lock, settings, stopped).await.map(drop)
}

/// Installs what the channel offers. Content that cannot be had is asked for again until so much time has passed.
async fn install_patiently(
    lock: &EngineLock,
    settings: &Settings,
    offered: Trusted<Release>,
    (patience, stopped): (Duration, &Stopped),
) -> Result<(), BootError> {
    let release = ReleaseTree::read(offered).map_err(|error| not_installed(settings, error))?;
    let engine = open_engine(settings, lock, release.records())?;
    let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        match install(&engine, lock, settings, &release, stopped).await {
            Err(error) if Failure::of(&error).may_pass() && start.elapsed() < patience => {
                tracing::warn!(error = %flist::report(&error), "trying again for at most {patience:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            installed => return installed,
        }
    }
}

/// Installs something else than what the channel offers, for this reason.
async fn install_other(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    (other, why): (&Other, &str),
    stopped: &Stopped,
) -> Result<(), BootError> {
    let current = engine.current().map_err(BootError::State)?;
    match (other, current) {
        // Also where it was installed before something else failed.
        (_, Some(current)) => {
            tracing::error!(reason = why, "NOT installing what the channel offers: what is installed counts");
            resume(engine, lock, settings, &current, stopped).await
        }
        // Somebody has taken it away meanwhile; the next attempt finds something else.
        (Other::Installed, None) => Err(not_installed(settings, EngineError::NothingBefore(Vec::new()))),
        (Other::Recorded(numbers), None) => {
            tracing::error!(reason = why, "NOT installing what the channel offers, but what is recorded");
            install_recorded(engine, lock, settings, numbers, stopped).await
        }
    }
}

/// Installs the release of the first of these generations that can be had.
async fn install_recorded(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    numbers: &[u64],
    stopped: &Stopped,
) -> Result<(), BootError> {
    let mut failure = not_installed(settings, EngineError::NothingBefore(numbers.to_vec()));
    for number in numbers {
        let installed = match ReleaseTree::recorded(engine.state(), *number) {
            Ok(release) => install(engine, lock, settings, &release, stopped).await,
            Err(error) => Err(not_installed(settings, error)),
        };
        match installed {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::error!(generation = number, error = %flist::report(&error), "the release of a recorded generation cannot be installed");
                failure = error;
            }
        }
    }
    Err(failure)
}
