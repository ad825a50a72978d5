//! Installing a release, and remembering what came of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use bootstrap::block_cache::{cached, clear_cache_in_ram, give_back_cache, keep_cache};
use bootstrap::engine::{EngineError, Prepared, ReleaseTree};
use bootstrap::generation::boot_id;
use bootstrap::lock::EngineLock;
use bootstrap::plan::Purpose;
use bootstrap::releases::Releases;
use bootstrap::source::{BlockSource, ContentSource, CountingStore};
use bootstrap::transaction::{Progress as Step, TransactionError};
use flist::path::FlistPath;
use flist::report;
use tokio::sync::mpsc::UnboundedSender;

use super::judgement::is_judged;
use super::progress::observer;
use super::stoppable::{StoppableSource, StoppableStore};
use super::{Effects, drop_on_blocking_thread, local, problem};
use crate::agent::brake::Stopped;
use crate::agent::model::{Applied, Problem, ProblemKind, Progress};
use crate::agent::stage::Stage;
use crate::timestamp::Timestamp;

impl Effects {
    pub(super) async fn install(
        &self,
        lock: &EngineLock,
        release: &ReleaseTree,
        purpose: Purpose,
        progress: UnboundedSender<Progress>,
    ) -> Result<Applied, Problem> {
        // Nobody listening is no reason not to upgrade.
        let _ = progress.send(Progress::Stage(Stage::Fetching));
        let fetched = Arc::new(AtomicU64::new(0));
        let source = self.source(release, fetched.clone()).await?;
        let observer = observer(progress.clone(), fetched.clone());
        let applied = self
            .apply_locked(lock, (release, purpose), (source.clone(), &fetched), (&observer, &progress))
            .await;
        drop_on_blocking_thread(source);
        match (applied, self.brake.check()) {
            // Whatever stopping led to, it is not what is wrong.
            (Err(problem), Err(Stopped { gate, why })) if problem.kind != ProblemKind::Degraded => {
                Ok(Applied::Stopped { gate, why })
            }
            (applied, _) => applied,
        }
    }

    async fn apply_locked(
        &self,
        lock: &EngineLock,
        (release, purpose): (&ReleaseTree, Purpose),
        (source, fetched): (Arc<dyn ContentSource>, &AtomicU64),
        (observer, progress): (&(dyn Fn(Step) + Send + Sync), &UnboundedSender<Progress>),
    ) -> Result<Applied, Problem> {
        self.engine.recover(lock).await.map_err(|error| problem(&error))?;
        if purpose == Purpose::Revert {
            // An older identityd must not come first and then be left alone with what it cannot read.
            let packages = self.engine.packages_of(release, source.clone()).await;
            packages.and_then(|packages| self.engine.admit(&packages)).map_err(|error| problem(&error))?;
        }
        self.update_self(lock, (release, purpose), (source.clone(), fetched), observer).await?;
        let prepared = self.prepare((release, purpose), source.clone(), None).await;
        let prepared = prepared.map_err(|error| problem(&error))?;
        let prepared = prepared.minding_downtime(self.brake.minds_downtime());
        let current = self.current()?.map(|current| current.release);
        if prepared.plan.is_empty() && current == Some(release.id()) {
            return Ok(Applied::Nothing);
        }
        let expected = self.within_budget(&prepared)?;
        let _ = progress.send(Progress::Expected(expected));
        tracing::info!(version = %release.version(), plan = %prepared.plan, "installing");
        let before_swap = || {
            // While all services run: it may take long.
            keep_cache(&self.settings.cache_dir);
            self.brake.enter_swap(Timestamp::from(SystemTime::now()).unix)?;
            // Counted when the first service is about to stop: what fails before costs nothing.
            Ok(self.attempt(release)?)
        };
        match self.engine.apply(lock, &prepared, source, observer, &before_swap).await {
            Ok(()) => self.succeeded(release, &prepared),
            Err(error) => self.failed((release, purpose), &error, !prepared.plan.services.stop.is_empty()),
        }
    }

    /// Plans what is about to be installed: the daemon's own part, or the whole.
    pub(super) async fn prepare(
        &self,
        (release, purpose): (&ReleaseTree, Purpose),
        source: Arc<dyn ContentSource>,
        only: Option<&BTreeSet<FlistPath>>,
    ) -> Result<Prepared, EngineError> {
        let prepared = self.engine.prepare(release, purpose, source, only).await;
        if let Err(EngineError::NoSpace(lacking)) = &prepared {
            let (lacking, cache_dir) = (lacking.clone(), self.settings.cache_dir.clone());
            let given_back = tokio::task::spawn_blocking(move || give_back_cache(&lacking, &cache_dir)).await;
            if let Err(error) = given_back {
                tracing::warn!(error = report(&error), "giving back the block cache broke off");
            }
        }
        prepared
    }

    fn succeeded(&self, release: &ReleaseTree, prepared: &Prepared) -> Result<Applied, Problem> {
        let mut releases = Releases::load(&self.place);
        if let Err(error) = releases.succeeded(release.id()) {
            tracing::warn!(error = report(&error), "an old note about the release stays");
        }
        clear_cache_in_ram(&self.settings.cache_dir);
        Ok(Applied::Committed { generation: prepared.generation() })
    }

    /// A failure that is not the release's fault does not count against it, unless it was one of several that each
    /// stopped services.
    pub(super) fn failed(
        &self,
        (release, purpose): (&ReleaseTree, Purpose),
        error: &EngineError,
        stops: bool,
    ) -> Result<Applied, Problem> {
        let problem = problem(error);
        if matches!(error, EngineError::Transaction(error) if error.would_not_run()) {
            return Err(self.refused((release, purpose), problem));
        }
        let mut releases = Releases::load(&self.place);
        let undone = matches!(
            error,
            EngineError::Transaction(TransactionError::Undone(_) | TransactionError::Left { .. })
        );
        let blamed = matches!(error, EngineError::Transaction(error) if error.is_the_releases_fault());
        let remembered = match blamed {
            true if is_judged(error) => releases.judged_bad(release.id(), &problem.message),
            true => releases.failed(release.id(), &problem.message),
            // Only what was announced was counted.
            false if undone && stops => releases.excuse_downtime(release.id(), &problem.message, &boot_id()),
            false if undone => releases.excuse(release.id()),
            false => Ok(()),
        };
        if let Err(error) = remembered {
            tracing::error!(error = report(&error), "the failure cannot be remembered");
        }
        if blamed { Ok(Applied::RolledBack { reason: problem.message }) } else { Err(problem) }
    }

    /// One that would not run is refused: nothing of it was installed, so there is no rollback. A person who goes back to
    /// one decides himself whether to try again.
    fn refused(&self, (release, purpose): (&ReleaseTree, Purpose), problem: Problem) -> Problem {
        if purpose == Purpose::Revert {
            return problem;
        }
        if let Err(error) = Releases::load(&self.place).refused(release.id(), &problem.message) {
            tracing::error!(error = report(&error), "that it would not run cannot be remembered");
        }
        let message = format!("{}; it is not tried again until `identityd retry`", problem.message);
        Problem { message, ..problem }
    }

    pub(super) fn attempt(&self, release: &ReleaseTree) -> Result<(), Problem> {
        let mut releases = Releases::load(&self.place);
        releases.attempt(release.id()).map_err(|error| local("the attempt cannot be counted", &error))
    }

    pub(super) fn remember(&self, release: &ReleaseTree, reason: &str) {
        let mut releases = Releases::load(&self.place);
        if let Err(error) = releases.failed(release.id(), reason) {
            tracing::error!(error = report(&error), "the failure cannot be remembered");
        }
    }

    /// The release's blocks, by way of the cache; what comes from outside is counted.
    pub(super) async fn source(
        &self,
        release: &ReleaseTree,
        fetched: Arc<AtomicU64>,
    ) -> Result<Arc<dyn ContentSource>, Problem> {
        let (release, cache) = (release.clone(), self.settings.cache_dir.clone());
        let (hub, brake, room) = (self.settings.hub.clone(), self.brake.clone(), self.engine.cache_room());
        let opened = tokio::task::spawn_blocking(move || {
            let counted = Arc::new(CountingStore::new(release.open_stores(&hub)?, fetched));
            let store =
                cached(Arc::new(StoppableStore { inner: counted, brake: brake.clone() }), &cache, room);
            let source = StoppableSource { inner: Arc::new(BlockSource { store }), brake };
            Ok::<Arc<dyn ContentSource>, flist::store::StoreError>(Arc::new(source))
        });
        let opened = opened.await.map_err(|error| local("opening the stores broke off", &error))?;
        opened.map_err(|error| Problem::new(ProblemKind::Refused, report(&error)))
    }
}
