//! Who is stopped, so that it stays so.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use zinit_client::UnitName;

use crate::engine::{Engine, EngineError};
use crate::transaction::Progress;

/// Services that the administrator has stopped: before this process changed anything, or while it did. What it
/// installs, or recovers, may make the supervisor forget them, and they are no less stopped then.
#[derive(Debug, Default)]
pub(super) struct Stopped(Mutex<BTreeSet<UnitName>>);

impl Stopped {
    /// Notes who is stopped now.
    ///
    /// # Errors
    /// [`EngineError`] when the supervisor does not answer.
    pub(super) async fn look(&self, engine: &Engine) -> Result<(), EngineError> {
        let now = engine.stopped().await?;
        self.units(|units| units.extend(now));
        Ok(())
    }

    /// Notes whom a transaction leaves down.
    pub(super) fn note(&self, progress: &Progress) {
        if let Progress::LeftDown(unit) = progress {
            self.units(|units| units.insert(unit.clone()));
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> BTreeSet<UnitName> {
        self.units(|units| units.clone())
    }

    fn units<T>(&self, then: impl FnOnce(&mut BTreeSet<UnitName>) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
