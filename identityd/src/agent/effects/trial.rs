//! This identityd is new and on trial: somebody watches it, and the rest of its release waits.

use std::time::Duration;

use bootstrap::engine::{Engine, EngineError, ReleaseTree};
use bootstrap::lock::EngineLock;
use tokio::time::{Instant, sleep};

use super::{Effects, local};
use crate::agent::model::Problem;
use crate::handover::{Handover, Trial};

/// How often it is looked whether the trial is over.
const LOOK: Duration = Duration::from_millis(50);

impl Effects {
    /// The trial of an identityd of this release; `None` where nobody knows what could be gone back to.
    pub(super) fn trial(&self, release: &ReleaseTree) -> Result<Option<Trial>, Problem> {
        let Some(current) = self.current()? else { return Ok(None) };
        let versions = (current.version.to_string(), release.version().to_string());
        let (before, seconds) = (current.number, self.trial_time().as_secs());
        Ok(Some(Trial { before, seconds, versions, release: current.release }))
    }

    /// How long a new identityd may be silent: as long as services are watched, and not less than it may take to come up.
    fn trial_time(&self) -> Duration {
        self.settings.health.window.max(self.settings.handover_timeout)
    }

    /// Commits the self-update. Nothing is forgotten that may be gone back to: the rest of the release does that.
    pub(super) async fn commit(&self, lock: &EngineLock, handover: &Handover) -> Result<bool, EngineError> {
        if !handover.has_trial() {
            return self.engine.commit_pending(lock, handover.generation).await;
        }
        let engine = Engine::open(&self.settings)?.keeping(Some(usize::MAX));
        engine.commit_pending(lock, handover.generation).await
    }

    /// Has this process watched if the state says that it is on trial and nobody watches: after a reboot, or where both
    /// guardians were killed.
    pub(super) async fn go_on_with_trial(&self) {
        let Some(trial) = Handover::on_trial(&self.place) else { return };
        if Handover::is_watched(&self.settings.run_dir) {
            return;
        }
        let begun = match self.own_unit().await {
            Ok(Some(unit)) => trial.resumed(&self.settings, unit).and_then(|handover| {
                let noted = handover.begin_trial();
                noted.map_err(|error| local("cannot note that the trial goes on", &error))?;
                handover.start_guardian()
            }),
            // Nobody would start the old one.
            Ok(None) => return,
            Err(problem) => Err(problem),
        };
        match begun {
            Ok(()) => tracing::info!("this identityd is still on trial"),
            Err(problem) => tracing::error!(%problem, "nobody watches whether this identityd is any good"),
        }
    }

    /// Waits until the guardians have seen that this identityd is any good: as long as they may go back to the old one,
    /// nothing is built upon this one. They decide in time; where nobody decides, they are not there.
    pub(super) async fn until_trial_is_over(&self) {
        let run_dir = &self.settings.run_dir;
        let is_on_trial = || Handover::read(run_dir).is_some_and(|handover| handover.is_on_trial());
        let (begun, longest) = (Instant::now(), self.trial_time());
        while begun.elapsed() < longest && is_on_trial() && Handover::is_watched(run_dir) {
            sleep(LOOK).await;
        }
    }
}
