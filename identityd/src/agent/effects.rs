//! What the agent can have done: the engine's calls.

mod admission;
mod forecast;
mod install;
mod installed;
mod judgement;
mod poll;
mod progress;
mod revert;
mod secrets;
mod self_update;
pub(crate) mod state;
mod stoppable;
mod trial;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bootstrap::engine::{Engine, EngineError, LOCK_PATIENCE, ReleaseTree};
use bootstrap::generation::{Generation, Packages};
use bootstrap::lock::{self, EngineLock};
use bootstrap::offers::Offers;
use bootstrap::plan::services::ServicesError;
use bootstrap::plan::{PlanError, Purpose};
use bootstrap::releases::Releases;
use bootstrap::settings::Settings;
use bootstrap::source::ContentSource;
use bootstrap::state_place::StatePlace;
use bootstrap::transaction::TransactionError;
use bootstrap::transaction::journal::JournalError;
use flist::hub::ReleaseId;
use flist::package::SchemaRefusal;
use flist::report;
use tokio::sync::mpsc::UnboundedSender;

use super::brake::Brake;
use super::model::{Applied, Candidate, Problem, ProblemKind, Progress, Resolved};
use self_update::own_path;

const USER_AGENT: &str = concat!("identityd/", env!("CARGO_PKG_VERSION"));

/// The engine, as the agent sees it.
pub struct Effects {
    settings: Settings,
    place: StatePlace,
    state_unusable: Option<String>,
    /// Whether it was said that nothing says what is installed.
    lost: bool,
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
    /// Whether this image has begun a handover: it is the old one, and acknowledges none.
    hands_over: AtomicBool,
}

impl Effects {
    /// For these settings, which need not have what hubs are shown: that is read here, and again at each poll.
    ///
    /// # Errors
    /// A [`Problem`] when the node's root, its state or the hub's address is not usable.
    pub fn new(settings: Settings, brake: Brake) -> Result<Self, Problem> {
        let place = StatePlace::of(&settings);
        state::find(&settings, &place)?;
        let engine = revert::open(&settings, state::rolls_back(&place))?;
        let offers = Offers::open(&settings, USER_AGENT).map_err(|error| local("cannot start", &error))?;
        let program = own_path()?;
        let mut effects = Self {
            settings,
            place,
            state_unusable: None,
            lost: false,
            program,
            engine,
            offers,
            brake,
            offered: None,
            described: None,
            hands_over: AtomicBool::new(false),
        };
        if let Err(problem) = effects.look_after_secrets() {
            tracing::error!("{problem}");
        }
        Ok(effects)
    }

    /// Whether nothing that a hub says is checked.
    pub fn is_insecure(&self) -> bool {
        self.offers.is_insecure()
    }

    /// One poll.
    ///
    /// # Errors
    /// A [`Problem`]: the hub could not be asked, or what it offers is not to be installed.
    pub async fn resolve(&mut self) -> Result<Resolved, Problem> {
        self.look_after_state()?;
        let current = self.current()?;
        self.look_after_secrets()?;
        self.poll(current.as_ref()).await?;
        let Some(offered) = &self.offered else { return Ok(Resolved::Unchanged) };
        if current.as_ref().is_some_and(|current| current.release == offered.id()) {
            return Ok(Resolved::Unchanged);
        }
        let candidate = Candidate {
            channel: offered.channel().to_string(),
            version: offered.version().to_string(),
            release: offered.id().to_string(),
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
        let forgotten = tokio::task::block_in_place(|| releases.forget(id));
        let forgotten = forgotten.map_err(|error| local("the failures are still known", &error))?;
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
        self.until_trial_is_over().await;
        let lock = self.lock().await?;
        self.settle_state(&lock, release.records())?;
        self.engine = revert::open(&self.settings, false)?;
        // What was true without the lock may not be true with it: another engine was at work, or the state has moved.
        if let Some(problem) = self.objection(self.current()?.as_ref(), &release) {
            return Err(problem);
        }
        self.install(&lock, &release, Purpose::Upgrade, progress).await
    }

    fn current(&self) -> Result<Option<Generation>, Problem> {
        self.engine.current().map_err(|error| problem(&error))
    }

    fn offered(&self, candidate: &Candidate) -> Result<ReleaseTree, Problem> {
        let offered = self.offered.clone().filter(|offered| offered.id().to_string() == candidate.release);
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
}

/// The stores' HTTP client ends a runtime of its own when it is dropped, which must not happen on a thread
/// of this one.
fn drop_on_blocking_thread(source: Arc<dyn ContentSource>) {
    tokio::task::spawn_blocking(move || drop(source));
}

fn problem(error: &EngineError) -> Problem {
    let kind = match error {
        EngineError::Transaction(
            TransactionError::Degraded { .. }
            | TransactionError::NotRecovered(_)
            | TransactionError::Journal(JournalError::Damaged { .. } | JournalError::NotUnderstood { .. }),
        ) => ProblemKind::Degraded,
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
        | EngineError::Plan(_)
        | EngineError::Transaction(TransactionError::WouldNotRun(_)) => ProblemKind::Refused,
        _ => ProblemKind::Local,
    };
    let unmet = match error {
        EngineError::Unmet(unmet) => unmet.clone(),
        EngineError::Schema(refused) => refused.iter().map(SchemaRefusal::as_unmet).collect(),
        _ => Vec::new(),
    };
    let absent = matches!(error, EngineError::NothingBefore(_) | EngineError::NoGeneration(_));
    Problem { unmet, helps: helps(error), absent, ..Problem::new(kind, report(error)) }
}

/// What helps against what keeps a release from this node and is not the release's alone.
fn helps(error: &EngineError) -> Option<String> {
    let EngineError::Plan(error) = error else { return None };
    match error {
        PlanError::Services(ServicesError::HeldUp { needs, .. }) => {
            Some(format!("{needs} that is up; it is looked at again at each poll"))
        }
        PlanError::InTheWay { path, .. } | PlanError::MountPoint(path) => Some(format!(
            "a change of /{path} on this node, which is looked at again at each poll, or another release"
        )),
        _ => None,
    }
}

fn local(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new(ProblemKind::Local, format!("{what}: {}", report(error)))
}
