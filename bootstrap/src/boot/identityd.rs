//! identityd after an upgrade at boot: it runs from the root before, and nobody has handed over to the new one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flist::hub::ReleaseId;
use zinit_client::{Target, UnitName};

use super::{BootError, Stopped, not_installed};
use crate::engine::{Engine, EngineError, ReleaseTree};
use crate::health::{Bystanders, HealthWatch};
use crate::lock::EngineLock;
use crate::releases::Releases;
use crate::settings::Settings;
use crate::source::{ContentSource, KeptSource};
use crate::state_place::StatePlace;
use crate::transaction::services::{ServiceError, end_by_request, soak, status};

/// The service that upgrades the node once it runs.
const IDENTITYD: &str = "identityd";

/// How often it is looked for the new process.
const LOOK: Duration = Duration::from_millis(20);

/// How long the old one may take to end. It leaves nothing half-done when it is killed then: it cannot be in a transaction
/// while this process has the engine's lock, but it may be waiting for that lock for longer.
const ENDING: Duration = Duration::from_secs(10);

/// Ends an identityd that was started from the root before it was upgraded, and follows the channel before: zinit starts
/// it again. Watches it as a service that an upgrade has started. One that was stopped, or that zinit does not know, is
/// nothing to watch.
///
/// # Errors
/// [`ServiceError::NotWell`]: it does not come up, or does not stay up. That the old one does not end is never that.
pub(super) async fn renew(engine: &Engine, settings: &Settings) -> Result<(), ServiceError> {
    let Ok(unit) = IDENTITYD.parse::<UnitName>() else { return Ok(()) };
    let zinit = engine.zinit();
    if status(zinit, &unit).await?.is_none_or(|status| status.target != Target::Up) {
        return Ok(());
    }
    tracing::info!(service = %unit, "ended, so that it follows the new channel");
    end_by_request(zinit, &unit, ENDING).await?;
    // Only now: the time that the old one takes says nothing about the new one.
    let began = Instant::now();
    while status(zinit, &unit).await?.is_some_and(|status| status.pid.is_none()) {
        if began.elapsed() > settings.health.start_timeout {
            let why = format!("it was not started within {:?}", settings.health.start_timeout);
            return Err(ServiceError::NotWell { unit, why });
        }
        tokio::time::sleep(LOOK).await;
    }
    let mut watch = HealthWatch::new(settings.health, [(unit, false)]);
    let mut others = Bystanders::new(settings.health, []);
    soak(zinit, &mut watch, &mut others, &mut |_| {}).await
}

/// Goes back to the generation `before` the upgrade to this release, whose identityd does not do for this reason.
///
/// # Errors
/// [`BootError::Engine`]: the release stays.
pub(super) async fn go_back(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    (before, release): (u64, ReleaseId),
    (why, stopped): (&ServiceError, &Stopped),
) -> Result<(), BootError> {
    let why = flist::report(why);
    tracing::error!(reason = why, generation = before, "going back to what was installed before");
    let noted = Releases::load(&StatePlace::of(settings)).judged_bad(release, &why);
    if let Err(error) = noted {
        tracing::error!(error = %flist::report(&error), "the failure cannot be remembered");
    }
    revert(engine, lock, before, stopped).await.map_err(|error| not_installed(settings, error))?;
    // The old one is installed, and was well before: nobody could do more for it.
    if let Err(error) = renew(engine, settings).await {
        tracing::error!(error = %flist::report(&error), "the old identityd is not well either");
    }
    Ok(())
}

async fn revert(
    engine: &Engine,
    lock: &EngineLock,
    before: u64,
    stopped: &Stopped,
) -> Result<(), EngineError> {
    // The supervisor may not have answered at the end of the installation, which is then finished here.
    engine.recover(lock).await?;
    let release = ReleaseTree::recorded(engine.state(), before)?;
    let nothing = KeptSource::new(engine.root().clone(), HashMap::new(), None);
    // What the upgrade has replaced is kept.
    let source: Arc<dyn ContentSource> = Arc::new(nothing);
    let prepared = engine.prepare_revert(&release, source.clone()).await?;
    engine.apply(lock, &prepared, source, &|progress| stopped.note(&progress), &|| Ok(())).await
}
