//! Going back to an earlier generation.

use bootstrap::engine::Engine;
use bootstrap::lock::EngineLock;
use bootstrap::plan::Purpose;
use bootstrap::settings::Settings;
use flist::report;
use tokio::sync::mpsc::UnboundedSender;

use super::{Effects, local, problem};
use crate::agent::model::{Applied, Candidate, Problem, Progress, Target};

/// The engine. While a rollback is under way, nothing is forgotten: identityd goes back first, and the
/// generation that it makes would otherwise count instead of the one that everything else goes back to.
pub(super) fn open(settings: &Settings, rolls_back: bool) -> Result<Engine, Problem> {
    let engine = Engine::open(settings).map_err(|error| local("cannot open the engine", &error))?;
    Ok(engine.keeping(if rolls_back { Some(usize::MAX) } else { settings.keep_generations }))
}

impl Effects {
    /// The generation with this number; without one, the newest with another release than the current one.
    ///
    /// # Errors
    /// A [`Problem`] that names what is kept.
    pub fn target(&mut self, number: Option<u64>) -> Result<Target, Problem> {
        self.follow_state()?;
        let (generation, release) = self.engine.revert_target(number).map_err(|error| problem(&error))?;
        let release = Candidate {
            channel: release.channel().to_string(),
            version: release.version().to_string(),
            release: release.id().to_string(),
        };
        Ok(Target { generation, release })
    }

    /// Puts a generation back: its identityd first, if that is another one; then this process is replaced and
    /// does not return. What is kept on this node is not asked of a store.
    ///
    /// # Errors
    /// As [`Effects::apply`].
    pub async fn revert(
        &mut self,
        target: &Target,
        progress: UnboundedSender<Progress>,
    ) -> Result<Applied, Problem> {
        self.until_trial_is_over().await;
        let lock = self.lock().await?;
        self.settle_state(&lock, 0)?;
        self.engine = open(&self.settings, true)?;
        let found = self.engine.revert_target(Some(target.generation)).map_err(|error| problem(&error));
        let applied = match found {
            Ok((_, release)) => self.install(&lock, &release, Purpose::Revert, progress).await,
            Err(problem) => Err(problem),
        };
        self.engine = open(&self.settings, false)?;
        if matches!(applied, Ok(Applied::Committed { .. })) {
            self.collect(&lock);
        }
        applied
    }

    /// Forgets what nobody can go back to any more.
    fn collect(&self, lock: &EngineLock) {
        if let Err(error) = self.engine.collect(lock, None) {
            tracing::warn!(error = report(&error), "old generations are still recorded");
        }
    }
}
