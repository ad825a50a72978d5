//! The steps that stop services, start them, and watch them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use zinit_client::UnitName;

use super::left_down::await_end;
use super::run::Run;
use super::{Context, Progress, TransactionError, services};
use crate::health::{Bystanders, HealthLimits, HealthWatch};

/// Longest health window that a unit can ask for.
const MAX_HEALTH_WINDOW: Duration = Duration::from_secs(3600);

impl Run<'_> {
    pub(super) async fn stop(&mut self, unit: &UnitName) -> Result<(), TransactionError> {
        self.announce_stops().await?;
        let definition = self.context.units.0.get(unit);
        if self.is_left_down(unit).await? {
            return await_end(self.context.zinit, unit, definition).await.map_err(TransactionError::Service);
        }
        // Counted as stopped from the request on: a stop that fails half-way has to be made good too.
        self.stopped.insert(unit.clone(), Instant::now());
        let stopped = services::stop_and_forget(self.context.zinit, unit, definition).await;
        stopped.map_err(TransactionError::Service)?;
        (self.context.observer)(Progress::Stopped(unit.clone()));
        Ok(())
    }

    /// Before the first start, or when there is none: units that have changed are to be loaded anew.
    pub(super) async fn discard_changed(&mut self) -> Result<(), TransactionError> {
        if self.discarded {
            return Ok(());
        }
        self.discarded = true;
        let stopped = &self.plan.services.stop;
        services::discard(self.context.zinit, stopped).await.map_err(TransactionError::Service)
    }

    pub(super) async fn start(&mut self, unit: &UnitName) -> Result<(), TransactionError> {
        if self.left_down.contains(unit) {
            return Ok(());
        }
        // Counted as started from the request on: zinit may obey and its answer be lost.
        self.started.push(unit.clone());
        if let Err(error) = services::monitor(self.context.zinit, unit).await {
            if !self.committed {
                return Err(TransactionError::Service(error));
            }
            // On a first boot there is nothing better to go back to: what runs is kept (contract, item 2).
            tracing::error!(service = %unit, error = %flist::report(&error), "it could not be started");
            return Ok(());
        }
        // One that was stopped is away until it is up again: see `soak`.
        if !self.stopped.contains_key(unit) {
            (self.context.observer)(Progress::Started { unit: unit.clone(), down: None });
        }
        Ok(())
    }

    /// Runs a hook. Services that are coming up meanwhile are not away until it ends.
    pub(super) async fn hook_beside_starts(&mut self, hook: usize) -> Result<(), TransactionError> {
        let is_oneshot = |unit| self.context.units.1.get(unit).is_some_and(|unit| unit.oneshot);
        let away = self.started.iter().filter(|unit| !self.back.contains_key(*unit));
        let coming = away.map(|unit| (unit.clone(), is_oneshot(unit))).collect();
        let (context, stopped) = (self.context, self.stopped.clone());
        let mut back = BTreeMap::new();
        let mut is_up = |unit: &UnitName| note_back(context, &stopped, &mut back, unit);
        let done = tokio::select! {
            biased;
            done = self.hook(hook) => done,
            never = services::note_up(context.zinit, coming, &mut is_up) => match never {},
        };
        self.back.extend(back);
        done
    }

    /// How long services are watched: the longest of those that are started.
    pub(super) fn health_window(&self) -> Duration {
        let asked = |unit| self.context.units.1.get(unit)?.molt.health_window.map(Duration::from_secs);
        let default = self.context.health.window;
        let windows = self.starts().map(|unit| asked(unit).unwrap_or(default).min(MAX_HEALTH_WINDOW));
        windows.max().unwrap_or(default)
    }

    fn starts(&self) -> impl Iterator<Item = &UnitName> {
        self.plan.services.start.iter().filter(|unit| !self.left_down.contains(*unit))
    }

    pub(super) async fn soak(&mut self) -> Result<(), TransactionError> {
        (self.context.observer)(Progress::Soaking);
        self.suspect_hooks().await;
        let units = &self.context.units.1;
        let limits = HealthLimits { window: self.health_window(), ..self.context.health };
        let started = self.starts().map(|name| (name, units.get(name)));
        let services = started.map(|(name, unit)| (name.clone(), unit.is_some_and(|unit| unit.oneshot)));
        let mut watch = HealthWatch::new(limits, services);
        let mut bystanders = Bystanders::new(limits, self.bystanders.clone());
        if watch.is_empty() && bystanders.is_empty() {
            return Ok(());
        }
        let (context, stopped, back) = (self.context, &self.stopped, &mut self.back);
        let mut is_up = |unit: &UnitName| note_back(context, stopped, back, unit);
        let soaked = services::soak(context.zinit, &mut watch, &mut bystanders, &mut is_up).await;
        soaked.map_err(TransactionError::Service)
    }
}

/// Notes that a service is up again that was stopped, the first time.
fn note_back(
    context: &Context<'_>,
    stopped: &BTreeMap<UnitName, Instant>,
    back: &mut BTreeMap<UnitName, Duration>,
    unit: &UnitName,
) {
    let Some(down) = stopped.get(unit).map(Instant::elapsed) else { return };
    if !back.contains_key(unit) {
        back.insert(unit.clone(), down);
        (context.observer)(Progress::Started { unit: unit.clone(), down: Some(down) });
    }
}
