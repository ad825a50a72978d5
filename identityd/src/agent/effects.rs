//! What the agent can have done: the engine's calls.

mod admission;
mod forecast;
mod judgement;
mod poll;
mod progress;
mod revert;
mod self_update;
mod state;
mod stoppable;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use bootstrap::boot_info::{self, BootInfoError};
use bootstrap::engine::{Engine, EngineError, LOCK_PATIENCE, Prepared, ReleaseTree};
use bootstrap::generation::{Generation, Packages};
use bootstrap::lock::{self, EngineLock};
use bootstrap::offers::Offers;
use bootstrap::plan::Purpose;
use bootstrap::releases::Releases;
use bootstrap::settings::Settings;
use bootstrap::source::{BlockSource, ContentSource, CountingStore, cached, settle_cache};
use bootstrap::state_place::StatePlace;
use bootstrap::transaction::{Progress as Step, Recovery, TransactionError};
use flist::hub::{Channel, ReleaseId};
use flist::package::SchemaRefusal;
use flist::report;
use tokio::sync::mpsc::UnboundedSender;

use tracing::warn;

use super::model::{Applied, Candidate, Installed, Problem, ProblemKind, Progress, Resolved};
use judgement::is_judged;
use progress::observer;
use self_update::own_path;
use stoppable::{StoppableSource, StoppableStore};

use super::brake::{Brake, Stopped};
use super::stage::Stage;
use crate::handover::{self, Handover};
use crate::timestamp::Timestamp;

const USER_AGENT: &str = concat!("identityd/", env!("CARGO_PKG_VERSION"));

/// The engine, as the agent sees it.
pub struct Effects {
    settings: Settings,
    place: StatePlace,
    state_unusable: Option<String>,
    /// Where this program is installed. Asked at the start, because later the file that this process
    /// executes may have been exchanged and have another name.
    program: PathBuf,
    engine: Engine,
    offers: Offers,
    /// Stops an upgrade before the swap.
    brake: Brake,
    /// What the channel offers.
    offered: Option<ReleaseTree>,
    /// What the packages of a release declare, so that it is read once.
    described: Option<(ReleaseId, Packages)>,
}

impl Effects {
    /// For these settings.
    ///
    /// # Errors
    /// A [`Problem`] when the node's root, its state or the hub's address is not usable.
    pub fn new(settings: Settings, brake: Brake) -> Result<Self, Problem> {
        let place = StatePlace::of(&settings);
        state::find(&settings, &place)?;
        let engine = revert::open(&settings, state::rolls_back(&place))?;
        let offers = Offers::open(&settings, USER_AGENT).map_err(|error| local("cannot start", &error))?;
        let program = own_path()?;
        Ok(Self {
            settings,
            place,
            state_unusable: None,
            program,
            engine,
            offers,
            brake,
            offered: None,
            described: None,
        })
    }

    /// Whether nothing that a hub says is checked.
    pub fn is_insecure(&self) -> bool {
        self.offers.is_insecure()
    }

    /// Finishes or undoes what a crash left. In a new daemon it acknowledges the handover: it commits.
    ///
    /// # Errors
    /// A [`Problem`]; may be called again.
    pub async fn recover(&mut self) -> Result<(), Problem> {
        let lock = self.lock().await?;
        self.settle_state(&lock, 0)?;
        if let Some(handover) = Handover::read(&self.settings.run_dir) {
            if handover.pid == std::process::id() {
                return self.acknowledge(&lock, &handover).await;
            }
            // Its process is gone, or another one now: what it has left is recovered as anything else.
            Handover::end(&self.settings.run_dir);
        }
        let recovery = self.engine.recover(&lock).await.map_err(|error| problem(&error))?;
        drop(lock);
        match recovery {
            Recovery::Undone { purpose: Purpose::SelfUpdate, .. } => {
                tracing::warn!("an interrupted self-update was undone; going on with what is installed");
                let arguments: Vec<String> = std::env::args().collect();
                Err(handover::exec(&self.program, &arguments))
            }
            _ => {
                self.excuse_installed();
                Ok(())
            }
        }
    }

    /// What is installed; `None`: live upgrade is disabled.
    ///
    /// # Errors
    /// A [`Problem`] when flist.name cannot be accepted.
    pub async fn installed(&mut self) -> Result<Option<Installed>, Problem> {
        let current = self.current()?;
        let named = match (boot_info::read_name(&self.settings.root), &current) {
            // It is damaged, not missing. What the node follows is recorded where nobody else writes.
            (Err(error @ BootInfoError::Name { .. }), Some(current)) => {
                warn!(error = %flist::report(&error), channel = %current.channel, "written anew");
                boot_info::write(self.engine.root(), &current.channel, &current.info)
                    .map(|()| Some(current.channel.clone()))
            }
            // What is left of a flist's name when it is cut off is a taglink's.
            (Ok(Some(named)), Some(current)) if is_cut_off(&named, &current.channel) => {
                warn!(found = %named, channel = %current.channel, "flist.name is cut off; written anew");
                boot_info::write(self.engine.root(), &current.channel, &current.info)
                    .map(|()| Some(current.channel.clone()))
            }
            (named, _) => named,
        };
        let Some(channel) = named.map_err(|error| local("live upgrade is disabled", &error))? else {
            return Ok(None);
        };
        let (agrees, known) = match &current {
            Some(current) => (channel == current.channel, current.channel.to_string()),
            None => (self.settings.follows(&channel), self.settings.channel_names()),
        };
        if !agrees {
            let message = format!(
                "flist.name says {channel}, but this node was installed from {known}; nothing is followed until they agree"
            );
            return Err(Problem::new(ProblemKind::Local, message));
        }
        Ok(Some(match current {
            Some(current) => Installed {
                channel: channel.to_string(),
                version: current.version.to_string(),
                release: current.release.to_string(),
                generation: current.number,
            },
            // The state was lost: the next release is compared with what is on disk.
            None => Installed {
                channel: channel.to_string(),
                version: "unknown".to_owned(),
                release: String::new(),
                generation: 0,
            },
        }))
    }

    /// One poll.
    ///
    /// # Errors
    /// A [`Problem`]: the hub could not be asked, or what it offers is not to be installed.
    pub async fn resolve(&mut self) -> Result<Resolved, Problem> {
        self.look_after_state()?;
        let current = self.current()?;
        self.poll(current.as_ref()).await?;
        let Some(offered) = &self.offered else { return Ok(Resolved::Unchanged) };
        if current.as_ref().is_some_and(|current| current.release == offered.id) {
            return Ok(Resolved::Unchanged);
        }
        let candidate = Candidate {
            channel: offered.channel.to_string(),
            version: offered.version.to_string(),
            release: offered.id.to_string(),
        };
        if let Some(problem) = self.objection(current.as_ref(), offered) {
            return Ok(Resolved::Refused { candidate, problem });
        }
        // Asked at each poll, because a node can change.
        Ok(match self.admit().await? {
            Some(problem) => Resolved::Refused { candidate, problem },
            None => Resolved::Candidate(candidate),
        })
    }

    /// Forgets that releases failed whose ids begin with this text; tells which.
    ///
    /// # Errors
    /// A [`Problem`] when that cannot be written down.
    pub fn forget(&self, id: &str) -> Result<Vec<String>, Problem> {
        let mut releases = Releases::load(&self.place);
        let forgotten = releases.forget(id).map_err(|error| local("the failures are still known", &error))?;
        Ok(forgotten.iter().map(ToString::to_string).collect())
    }

    /// Installs the candidate: identityd itself first, if the release has another one; then this process
    /// is replaced and does not return.
    ///
    /// # Errors
    /// A [`Problem`]; nothing has changed then, unless it is [`ProblemKind::Degraded`].
    pub async fn apply(
        &mut self,
        candidate: &Candidate,
        progress: UnboundedSender<Progress>,
    ) -> Result<Applied, Problem> {
        let release = self.offered(candidate)?;
        let lock = self.lock().await?;
        self.settle_state(&lock, release.records())?;
        self.engine = revert::open(&self.settings, false)?;
        // What was true without the lock may not be true with it: another engine was at work, or the state has moved.
        if let Some(problem) = self.objection(self.current()?.as_ref(), &release) {
            return Err(problem);
        }
        self.install(&lock, &release, Purpose::Upgrade, progress).await
    }

    async fn install(
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
        let prepared = self.engine.prepare(release, purpose, source.clone(), None).await;
        let prepared = prepared.map_err(|error| problem(&error))?;
        let current = self.current()?.map(|current| current.release);
        if prepared.plan.is_empty() && current == Some(release.id) {
            return Ok(Applied::Nothing);
        }
        let expected = self.within_budget(&prepared)?;
        let _ = progress.send(Progress::Expected(expected));
        tracing::info!(version = %release.version, plan = %prepared.plan, "installing");
        let before_swap = || {
            self.brake.enter_swap(Timestamp::from(SystemTime::now()).unix)?;
            // Counted when the first service is about to stop: what fails before costs nothing.
            Ok(self.attempt(release)?)
        };
        match self.engine.apply(lock, &prepared, source, observer, &before_swap).await {
            Ok(()) => self.succeeded(release, &prepared),
            Err(error) => self.failed(release, &error),
        }
    }

    fn succeeded(&self, release: &ReleaseTree, prepared: &Prepared) -> Result<Applied, Problem> {
        let mut releases = Releases::load(&self.place);
        if let Err(error) = releases.succeeded(release.id) {
            tracing::warn!(error = report(&error), "an old note about the release stays");
        }
        settle_cache(&self.settings.cache_dir);
        Ok(Applied::Committed { generation: prepared.generation() })
    }

    /// A failure that is not the release's fault does not count against it.
    fn failed(&self, release: &ReleaseTree, error: &EngineError) -> Result<Applied, Problem> {
        let mut releases = Releases::load(&self.place);
        let problem = problem(error);
        let undone = matches!(
            error,
            EngineError::Transaction(TransactionError::Undone(_) | TransactionError::Left { .. })
        );
        let blamed = matches!(error, EngineError::Transaction(error) if error.is_the_releases_fault());
        let remembered = match blamed {
            true if is_judged(error) => releases.judged_bad(release.id, &problem.message),
            true => releases.failed(release.id, &problem.message),
            // Only what was announced was counted.
            false if undone => releases.excuse(release.id),
            false => Ok(()),
        };
        if let Err(error) = remembered {
            tracing::error!(error = report(&error), "the failure cannot be remembered");
        }
        if blamed { Ok(Applied::RolledBack { reason: problem.message }) } else { Err(problem) }
    }

    fn attempt(&self, release: &ReleaseTree) -> Result<(), Problem> {
        let mut releases = Releases::load(&self.place);
        releases.attempt(release.id).map_err(|error| local("the attempt cannot be counted", &error))
    }

    fn remember(&self, release: &ReleaseTree, reason: &str) {
        let mut releases = Releases::load(&self.place);
        if let Err(error) = releases.failed(release.id, reason) {
            tracing::error!(error = report(&error), "the failure cannot be remembered");
        }
    }

    fn current(&self) -> Result<Option<Generation>, Problem> {
        self.engine.current().map_err(|error| problem(&error))
    }

    fn offered(&self, candidate: &Candidate) -> Result<ReleaseTree, Problem> {
        let offered = self.offered.clone().filter(|offered| offered.id.to_string() == candidate.release);
        offered.ok_or_else(|| {
            Problem::new(ProblemKind::Refused, "the channel offers another release by now; check again")
        })
    }

    async fn lock(&self) -> Result<EngineLock, Problem> {
        let run_dir = self.settings.run_dir.clone();
        let taken =
            tokio::task::spawn_blocking(move || lock::take(&run_dir, "identityd", LOCK_PATIENCE)).await;
        let taken = taken.map_err(|error| local("taking the lock broke off", &error))?;
        taken.map_err(|error| Problem::new(ProblemKind::Busy, report(&error)))
    }

    /// The release's blocks, by way of the cache; what comes from outside is counted.
    async fn source(
        &self,
        release: &ReleaseTree,
        fetched: Arc<AtomicU64>,
    ) -> Result<Arc<dyn ContentSource>, Problem> {
        let (release, cache) = (release.clone(), self.settings.cache_dir.clone());
        let (hub, brake) = (self.settings.hub.clone(), self.brake.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let counted = Arc::new(CountingStore::new(release.open_stores(&hub)?, fetched));
            let store = cached(Arc::new(StoppableStore { inner: counted, brake: brake.clone() }), &cache);
            let source = StoppableSource { inner: Arc::new(BlockSource { store }), brake };
            Ok::<Arc<dyn ContentSource>, flist::store::StoreError>(Arc::new(source))
        });
        let opened = opened.await.map_err(|error| local("opening the stores broke off", &error))?;
        opened.map_err(|error| Problem::new(ProblemKind::Refused, report(&error)))
    }
}

/// The stores' HTTP client ends a runtime of its own when it is dropped, which must not happen on a thread
/// of this one.
fn drop_on_blocking_thread(source: Arc<dyn ContentSource>) {
    tokio::task::spawn_blocking(move || drop(source));
}

/// Whether a name is the beginning of another one.
fn is_cut_off(found: &Channel, whole: &Channel) -> bool {
    found != whole && whole.to_string().starts_with(&found.to_string())
}

fn problem(error: &EngineError) -> Problem {
    let kind = match error {
        EngineError::Transaction(TransactionError::Degraded { .. } | TransactionError::NotRecovered(_)) => {
            ProblemKind::Degraded
        }
        EngineError::Content { .. } | EngineError::Transaction(TransactionError::Content { .. }) => {
            ProblemKind::Network
        }
        EngineError::Flist { .. }
        | EngineError::Merge(_)
        | EngineError::Unit { .. }
        | EngineError::UnitText(_)
        | EngineError::Package { .. }
        | EngineError::Unmet(_)
        | EngineError::Schema(_)
        | EngineError::Plan(_) => ProblemKind::Refused,
        _ => ProblemKind::Local,
    };
    let unmet = match error {
        EngineError::Unmet(unmet) => unmet.clone(),
        EngineError::Schema(refused) => refused.iter().map(SchemaRefusal::as_unmet).collect(),
        _ => Vec::new(),
    };
    Problem { unmet, ..Problem::new(kind, report(error)) }
}

fn local(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new(ProblemKind::Local, format!("{what}: {}", report(error)))
}
