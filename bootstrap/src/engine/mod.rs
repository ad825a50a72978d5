//! The engine: looks at the node, makes a plan, carries it out.

mod conflicts;
mod error;
mod generations;
mod layouts;
mod look;
mod outdated;
mod packages;
mod pins;
mod prepare;
mod release;
mod services;
mod space;
mod unproven;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flist::path::FlistPath;
use flist::store::CacheRoom;
use zinit_client::{ServiceUnit, Target, UnitName};

pub use conflicts::Conflicts;
pub use error::EngineError;
pub use generations::{Collected, Listed};
pub use outdated::{Outdated, RunsOld};
pub use release::ReleaseTree;
use services::leaders;
pub use space::Cost;

use crate::generation::{Generation, RootIdentity, Standing, StateDir};
use crate::health::HealthLimits;
use crate::lock::EngineLock;
use crate::plan::services::SUPERVISOR;
use crate::plan::{Plan, Purpose, unit_name};
use crate::programs::{InRoot, Programs};
use crate::root::{Found, Root};
use crate::settings::Settings;
use crate::source::ContentSource;
use crate::state_place::StatePlace;
use crate::supervisor::{self, Supervisor};
use crate::transaction::journal::Record;
use crate::transaction::services::monitor;
use crate::transaction::{
    self, BeforeSwap, Context, FETCHED_AT_ONCE, Observer, Recovery, TransactionError, recover,
};

/// How long an engine waits for another one to finish.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Largest unit file that is read, in bytes.
const MAX_UNIT: usize = zinit_client::MAX_UNIT_BYTES;

/// Most services that are looked at.
const MAX_SERVICES: usize = 10_000;

/// Services that no plan stops: the supervisor, the daemon that does the upgrade, and whoever restarts
/// bootstrap.
const PROTECTED: [&str; 3] = [SUPERVISOR, "identityd", "bootstrap"];

/// A plan with everything that is needed to carry it out.
pub struct Prepared {
    /// What will be done.
    pub plan: Plan,
    release: ReleaseTree,
    seen: BTreeMap<FlistPath, Found>,
    generation: Generation,
    before: BTreeMap<UnitName, ServiceUnit>,
    after: BTreeMap<UnitName, ServiceUnit>,
    /// Services that are left alone and were up, with their processes.
    bystanders: BTreeMap<UnitName, u32>,
    minds_downtime: bool,
}

impl Prepared {
    /// The number of the generation that it makes.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// The same plan, which is undone when a service is away for longer than its unit allows, if it shall be.
    #[must_use]
    pub fn minding_downtime(mut self, minds: bool) -> Self {
        self.minds_downtime = minds;
        self
    }

    /// The longest that each service may be away.
    fn budgets(&self) -> BTreeMap<UnitName, Duration> {
        let of = |(name, unit): (&UnitName, &ServiceUnit)| {
            Some((name.clone(), Duration::from_millis(unit.molt.downtime_budget?)))
        };
        self.after.iter().filter(|_| self.minds_downtime).filter_map(of).collect()
    }

    /// The unit that a service will have.
    pub fn unit(&self, name: &UnitName) -> Option<&ServiceUnit> {
        self.after.get(name)
    }
}

/// The engine of one node.
pub struct Engine {
    root: Arc<Root>,
    state: StateDir,
    zinit: Arc<dyn Supervisor>,
    programs: Arc<dyn Programs>,
    health: HealthLimits,
    keep: Option<usize>,
    fetched_at_once: usize,
    cache_dir: Option<PathBuf>,
    cache_room: CacheRoom,
    protected: BTreeSet<UnitName>,
}

impl Engine {
    /// Opens the node's root, and its state where it is now.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn open(settings: &Settings) -> Result<Self, EngineError> {
        let state = StatePlace::of(settings).directory();
        let engine = Self::open_at(&settings.root, &state, &settings.zinit_socket)?;
        Ok(engine.with_settings(settings))
    }

    /// As [`Engine::open`], for who only looks at what is recorded: nothing is made.
    ///
    /// # Errors
    /// [`EngineError`]; there is no state of a node.
    pub fn look(settings: &Settings) -> Result<Self, EngineError> {
        let root = Root::open(&settings.root).map_err(EngineError::Root)?;
        let state =
            StateDir::there(&StatePlace::of(settings).directory()).map_err(EngineError::Generation)?;
        let zinit = supervisor::at(root.path(), &settings.zinit_socket);
        Ok(Self::on(root, state, Arc::new(zinit)).with_settings(settings))
    }

    fn with_settings(mut self, settings: &Settings) -> Self {
        self.protected.extend(settings.protected.iter().cloned());
        self.cache_dir = Some(settings.cache_dir.clone());
        self.with_health(settings.health)
    }

    /// As [`Engine::open`], for who has no settings.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn open_at(root: &Path, state_dir: &Path, zinit_socket: &Path) -> Result<Self, EngineError> {
        let root = Root::open(root).map_err(EngineError::Root)?;
        let state = StateDir::open(state_dir).map_err(EngineError::Generation)?;
        let zinit = supervisor::at(root.path(), zinit_socket);
        Ok(Self::on(root, state, Arc::new(zinit)))
    }

    /// An engine on this root, this state and this supervisor.
    pub fn on(root: Root, state: StateDir, zinit: Arc<dyn Supervisor>) -> Self {
        let protected = PROTECTED.iter().filter_map(|name| name.parse().ok()).collect();
        let programs = Arc::new(InRoot::new(root.path()));
        Self {
            root: Arc::new(root),
            state,
            zinit,
            programs,
            health: HealthLimits::default(),
            keep: None,
            fetched_at_once: FETCHED_AT_ONCE,
            cache_dir: None,
            cache_room: CacheRoom::default(),
            protected,
        }
    }

    /// The same engine with other limits for the services it starts.
    #[must_use]
    pub fn with_health(mut self, health: HealthLimits) -> Self {
        self.health = health;
        self
    }

    /// The same engine, which has programs of packages run by somebody else.
    #[must_use]
    pub fn running(mut self, programs: Arc<dyn Programs>) -> Self {
        self.programs = programs;
        self
    }

    /// The same engine, which finds and keeps fetched blocks in this directory.
    #[must_use]
    pub fn caching_in(mut self, directory: PathBuf) -> Self {
        self.cache_dir = Some(directory);
        self
    }

    /// The same engine, keeping so many generations before the current one instead of what suits the root.
    #[must_use]
    pub fn keeping(mut self, generations: Option<usize>) -> Self {
        self.keep = generations;
        self
    }

    /// The same engine, fetching so many blocks at the same time; with 0 each when it is needed, so that all
    /// it does is in one order.
    #[must_use]
    pub fn fetching(mut self, at_once: usize) -> Self {
        self.fetched_at_once = at_once;
        self
    }

    /// What the block cache may take beside what the last plan needs.
    pub fn cache_room(&self) -> CacheRoom {
        self.cache_room.clone()
    }

    /// The root file system.
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// The state directory.
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// The supervisor.
    pub fn zinit(&self) -> &dyn Supervisor {
        self.zinit.as_ref()
    }

    /// The root file system's identity.
    ///
    /// # Errors
    /// [`EngineError::Generation`].
    pub fn identity(&self) -> Result<RootIdentity, EngineError> {
        RootIdentity::of(&self.root).map_err(EngineError::Generation)
    }

    /// What the state says about this root.
    ///
    /// # Errors
    /// [`EngineError::Generation`].
    pub fn standing(&self) -> Result<Standing, EngineError> {
        self.state.standing(&self.identity()?).map_err(EngineError::Generation)
    }

    /// What is installed; `None` when nothing is, or nobody knows what.
    ///
    /// # Errors
    /// [`EngineError::Generation`].
    pub fn current(&self) -> Result<Option<Generation>, EngineError> {
        Ok(self.standing()?.generation())
    }

    /// Finishes or undoes what a crash has left.
    ///
    /// # Errors
    /// [`EngineError::Transaction`].
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn recover(&self, lock: &EngineLock) -> Result<Recovery, EngineError> {
        let recovered = {
            let programs = self.programs.as_ref();
            recover(&self.root, &self.state, &self.identity()?, self.zinit(), programs).await
        };
        let recovered = recovered.map_err(EngineError::Transaction)?;
        if recovered != Recovery::Clean
            && let Err(error) = self.collect(lock, None)
        {
            tracing::warn!(error = %flist::report(&error), "old generations are still recorded");
        }
        Ok(recovered)
    }

    /// Commits the self-update that was swapped in and is waiting for it; `false` when it is no longer
    /// waiting, because it was undone.
    ///
    /// # Errors
    /// [`EngineError`].
    #[tracing::instrument(level = "debug", skip_all)]
    pub async fn commit_pending(&self, lock: &EngineLock, generation: u64) -> Result<bool, EngineError> {
        let records = self.state.journal().map_err(EngineError::Generation)?.read();
        let records = records.map_err(|error| EngineError::Transaction(TransactionError::Journal(error)))?;
        let waiting = records.iter().any(|record| match record {
            Record::Begin(header) => header.purpose == Purpose::SelfUpdate && header.generation == generation,
            _ => false,
        });
        if !waiting {
            return Ok(false);
        }
        // The new daemon runs, but its file may be on no disk yet.
        transaction::sync_swapped(&self.root, &records).map_err(EngineError::Transaction)?;
        self.state.commit(generation).map_err(EngineError::Generation)?;
        self.recover(lock).await?;
        Ok(true)
    }

    /// The services that the supervisor knows and that are wanted down: the administrator has stopped them.
    ///
    /// # Errors
    /// [`EngineError`] when the supervisor does not answer.
    pub async fn stopped(&self) -> Result<BTreeSet<UnitName>, EngineError> {
        let known = self.services().await?;
        let stopped = known.into_iter().filter(|(_, status)| status.target == Target::Down);
        Ok(stopped.map(|(unit, _)| unit).collect())
    }

    /// Makes the supervisor monitor the services of a generation that it does not know; tells which. Those that were
    /// `stopped` before a plan had the supervisor forget them stay down. One that cannot be started is reported, and the
    /// others are started all the same.
    ///
    /// # Errors
    /// [`EngineError`] when the supervisor does not answer.
    pub async fn start_missing(
        &self,
        _: &EngineLock,
        generation: &Generation,
        stopped: &BTreeSet<UnitName>,
    ) -> Result<Vec<UnitName>, EngineError> {
        let known = self.services().await?;
        let mut started = Vec::new();
        let is_missing = |unit: &UnitName| !known.contains_key(unit) && !stopped.contains(unit);
        for unit in generation.items.keys().filter_map(unit_name).filter(is_missing) {
            match monitor(self.zinit(), &unit).await {
                Ok(()) => started.push(unit),
                Err(error) => {
                    tracing::error!(service = %unit, error = %flist::report(&error), "it could not be started");
                }
            }
        }
        Ok(started)
    }

    /// Carries out a plan. `before_swap` is called when everything is staged, right before the first stop,
    /// and can still refuse.
    ///
    /// # Errors
    /// [`EngineError::Transaction`].
    #[tracing::instrument(level = "debug", skip_all, fields(purpose = ?prepared.plan.purpose))]
    pub async fn apply(
        &self,
        lock: &EngineLock,
        prepared: &Prepared,
        source: Arc<dyn ContentSource>,
        observer: &Observer<'_>,
        before_swap: &BeforeSwap<'_>,
    ) -> Result<(), EngineError> {
        // Only now, because a plan touches nothing.
        let identity = RootIdentity::to_be(&self.root).map_err(EngineError::Generation)?;
        let generation = Generation { root: identity, ..prepared.generation.clone() };
        let context = Context {
            root: self.root.clone(),
            state: &self.state,
            zinit: self.zinit(),
            programs: self.programs.as_ref(),
            health: self.health,
            fetched_at_once: self.fetched_at_once,
            tree: prepared.release.tree().clone(),
            source: self.with_kept(source)?,
            generation: &generation,
            flists: (prepared.release.flists(), &prepared.release.as_one_flist()),
            seen: &prepared.seen,
            before_swap,
            units: (&prepared.before, &prepared.after),
            bystanders: &prepared.bystanders,
            budgets: prepared.budgets(),
            observer,
        };
        let done = transaction::execute(&prepared.plan, &context).await.map_err(EngineError::Transaction);
        // A self-update is current only when the new daemon has said so.
        if (prepared.plan.purpose != Purpose::SelfUpdate || done.is_err())
            && let Err(error) = self.collect(lock, None)
        {
            tracing::warn!(error = %flist::report(&error), "old generations are still recorded");
        }
        done
    }
}
