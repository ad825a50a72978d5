//! Doing what a plan says, or nothing.
//!
//! What is about to be done is in the journal before it is done; a step that fails makes the transaction
//! undo, in reverse order, everything done so far, and go on undoing when one undo fails. What could not
//! be undone is [`TransactionError::Degraded`], never hidden.

mod ahead;
mod files;
pub mod journal;
mod recover;
pub mod services;
mod staging;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flist::path::FlistPath;
use flist::tree::Tree;
use nix::errno::Errno;
use zinit_client::{Client, ServiceUnit, UnitName};

pub use recover::{Recovery, recover};

use crate::boot_info::{self, BootInfo, BootInfoError};
use crate::generation::{Generation, GenerationError, StateDir};
use crate::plan::{Plan, Purpose, Step};
use crate::root::{Root, RootError, Stamp};
use crate::source::{ContentSource, SourceError};
use journal::{Header, Journal, JournalError, Record, Swap};
use services::ServiceError;

/// Why a transaction did not go through.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The root file system did not do what was asked.
    #[error("a file could not be installed")]
    Root(#[source] RootError),
    /// The content of a file could not be had.
    #[error("the content of /{path} cannot be had")]
    Content {
        /// The file.
        path: FlistPath,
        /// The reason.
        #[source]
        source: SourceError,
    },
    /// A service could not be stopped or started.
    #[error("a service could not be switched")]
    Service(#[source] ServiceError),
    /// The journal could not be kept.
    #[error("the transaction cannot be recorded")]
    Journal(#[source] JournalError),
    /// The new generation could not be recorded.
    #[error("the new generation cannot be recorded")]
    Generation(#[source] GenerationError),
    /// The boot information could not be written.
    #[error("the boot information cannot be written")]
    BootInfo(#[source] BootInfoError),
    /// The engine stopped in the middle, and not everything could be undone afterwards.
    #[error("an interrupted transaction could not be undone: {}", .0.join("; "))]
    NotRecovered(Vec<String>),
    /// A thread of the engine failed.
    #[error("staging broke off")]
    Broken(#[source] tokio::task::JoinError),
    /// Services had been stopped or files swapped when it failed; all of that was undone.
    #[error("it failed half-way and was undone")]
    Undone(#[source] Box<TransactionError>),
    /// Whoever has to be ready before the swap was not.
    #[error("the swap could not begin")]
    NotReady(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something failed, and not everything could be undone.
    #[error("the node is degraded: {}", .not_undone.join("; "))]
    Degraded {
        /// What could not be undone.
        not_undone: Vec<String>,
        /// What had failed in the first place.
        #[source]
        source: Box<TransactionError>,
    },
}

/// Answers of the system that are about this node's disk and memory, not about the release.
const NOT_THE_RELEASE: [Errno; 6] =
    [Errno::ENOSPC, Errno::EDQUOT, Errno::EIO, Errno::EROFS, Errno::ENOMEM, Errno::EMFILE];

impl TransactionError {
    /// Whether the release is to blame, so that it is bad after some attempts. Whatever fails before the
    /// first service is stopped costs nothing, and a full or broken disk is nobody's release.
    pub fn is_the_releases_fault(&self) -> bool {
        let Self::Undone(error) = self else { return false };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            let errno = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            if errno.is_some_and(|errno| NOT_THE_RELEASE.contains(&Errno::from_raw(errno))) {
                return false;
            }
            if matches!(error.downcast_ref::<RootError>(), Some(RootError::Changed(_))) {
                return false;
            }
            cause = error.source();
        }
        true
    }
}

/// What happens while a transaction is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A file is staged.
    Staged {
        /// How many are.
        done: usize,
        /// How many there are to stage.
        total: usize,
    },
    /// From here on services are stopped and files swapped.
    Swapping,
    /// A service has stopped.
    Stopped(UnitName),
    /// A service has been started.
    Started {
        /// The service.
        unit: UnitName,
        /// Time since it was asked to stop; `None` if it did not run before.
        down: Option<Duration>,
    },
    /// From here on it is watched whether the started services come up.
    Soaking,
}

/// Where progress is reported to.
pub type Observer<'o> = dyn Fn(Progress) + Send + Sync + 'o;

/// Gets ready for the swap, or refuses it.
pub type BeforeSwap<'b> = dyn Fn() -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'b;

/// Everything a transaction needs besides its plan.
pub struct Context<'c> {
    /// The root file system.
    pub root: Arc<Root>,
    /// Where generations and the journal are.
    pub state: &'c StateDir,
    /// The supervisor.
    pub zinit: &'c Client,
    /// The tree of the release.
    pub tree: Arc<Tree>,
    /// Its content.
    pub source: Arc<dyn ContentSource>,
    /// The generation that the transaction makes.
    pub generation: &'c Generation,
    /// What was seen at the paths that change.
    pub seen: &'c BTreeMap<FlistPath, Stamp>,
    /// Called when everything is staged and announced, right before the first stop; an error ends the
    /// transaction there.
    pub before_swap: &'c BeforeSwap<'c>,
    /// Units before and after the swap.
    pub units: (&'c BTreeMap<UnitName, ServiceUnit>, &'c BTreeMap<UnitName, ServiceUnit>),
    /// Where progress is reported to.
    pub observer: &'c Observer<'c>,
}

/// Carries out a plan. When it returns an error other than [`TransactionError::Degraded`], the node is as
/// it was before. A [`Purpose::SelfUpdate`] ends with the swap: the journal stays, and whoever runs next
/// commits or recovers.
///
/// # Errors
/// [`TransactionError`].
pub async fn execute(plan: &Plan, context: &Context<'_>) -> Result<(), TransactionError> {
    let mut run = Run::begin(plan, context)?;
    for step in &plan.steps {
        if let Err(error) = run.step(step).await {
            return Err(run.undo(error).await);
        }
    }
    run.finish();
    Ok(())
}

struct Run<'r> {
    plan: &'r Plan,
    context: &'r Context<'r>,
    journal: Journal,
    header: Header,
    slots: Vec<Option<FlistPath>>,
    swaps: Vec<Swap>,
    begun: bool,
    swapped: Vec<usize>,
    stopped: BTreeMap<UnitName, Instant>,
    started: Vec<UnitName>,
    boot_info: Option<BootInfo>,
    committed: bool,
}

impl<'r> Run<'r> {
    fn begin(plan: &'r Plan, context: &'r Context<'r>) -> Result<Self, TransactionError> {
        let Context { root, state, generation, .. } = context;
        let slots =
            staging::slots(root, &plan.files.changes, generation.number).map_err(TransactionError::Root)?;
        let header = Header {
            generation: generation.number,
            purpose: plan.purpose,
            release: generation.release,
            version: generation.version.clone(),
            root: generation.root.clone(),
            stop: plan.services.stopped_and_wanted(),
            start: plan.services.start.clone(),
            staging: staging::directories_of(&slots),
        };
        state.prepare(generation).map_err(TransactionError::Generation)?;
        let journal = Journal::begin(&state.journal(), header.clone()).map_err(TransactionError::Journal)?;
        // What an earlier life left there is no longer described by any journal.
        let staged = staging::clear(root, &header.staging)
            .and_then(|()| staging::make_directories(root, &header.staging));
        if let Err(error) = staged {
            journal.end().map_err(TransactionError::Journal)?;
            return Err(TransactionError::Root(error));
        }
        Ok(Self {
            plan,
            context,
            journal,
            header,
            slots,
            swaps: Vec::new(),
            begun: false,
            swapped: Vec::new(),
            stopped: BTreeMap::new(),
            started: Vec::new(),
            boot_info: None,
            committed: false,
        })
    }

    async fn step(&mut self, step: &Step) -> Result<(), TransactionError> {
        match step {
            // All are staged together: see `stage_all`.
            Step::Stage { .. } => self.stage_all().await,
            Step::Sync => self.sync().await,
            Step::Stop { unit } => self.stop(unit).await,
            Step::Swap { change } => self.swap(*change),
            Step::Start { unit } => self.start(unit).await,
            Step::Await { unit } => {
                (self.context.observer)(Progress::Soaking);
                let oneshot = self.context.units.1.get(unit).is_some_and(|unit| unit.oneshot);
                let up = services::until_up(self.context.zinit, unit, oneshot).await;
                up.map_err(TransactionError::Service)
            }
            Step::Record => self.record(),
            Step::Commit => self.commit(),
        }
    }

    /// Stages every change, on threads that may block, at the first of the stage steps.
    async fn stage_all(&mut self) -> Result<(), TransactionError> {
        if !self.swaps.is_empty() {
            return Ok(());
        }
        let (root, tree) = (self.context.root.clone(), self.context.tree.clone());
        let source = self.context.source.clone();
        let (changes, slots) = (self.plan.files.changes.clone(), self.slots.clone());
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let work = tokio::task::spawn_blocking(move || {
            let stager = staging::Stager { root: &root, tree: &tree, source: source.as_ref() };
            let total = changes.iter().filter(|change| change.staged().is_some()).count();
            stager.stage_all(&changes, &slots, |done| {
                // Nobody listening is no reason to stop.
                let _ = report.send(Progress::Staged { done, total });
            })
        });
        while let Some(progress) = reports.recv().await {
            (self.context.observer)(progress);
        }
        self.swaps = work.await.map_err(TransactionError::Broken)??;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), TransactionError> {
        if self.swaps.is_empty() {
            // Nothing had to be staged, but removals and directories are announced all the same.
            self.stage_all().await?;
        }
        self.sync_mounts()?;
        let record = Record::Staged { swaps: self.swaps.clone() };
        self.journal.append(&record).map_err(TransactionError::Journal)?;
        (self.context.before_swap)().map_err(TransactionError::NotReady)?;
        self.begun = true;
        (self.context.observer)(Progress::Swapping);
        Ok(())
    }

    async fn stop(&mut self, unit: &UnitName) -> Result<(), TransactionError> {
        // Counted as stopped from the request on: a stop that fails half-way has to be made good too.
        self.stopped.insert(unit.clone(), Instant::now());
        let definition = self.context.units.0.get(unit);
        let stopped = services::stop_and_forget(self.context.zinit, unit, definition).await;
        stopped.map_err(TransactionError::Service)?;
        (self.context.observer)(Progress::Stopped(unit.clone()));
        Ok(())
    }

    fn swap(&mut self, change: usize) -> Result<(), TransactionError> {
        self.swapped.push(change);
        let swap = &self.swaps[change];
        let seen = self.context.seen.get(swap.change.path());
        files::swap(&self.context.root, swap, seen).map_err(TransactionError::Root)
    }

    async fn start(&mut self, unit: &UnitName) -> Result<(), TransactionError> {
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
        let down = self.stopped.get(unit).map(Instant::elapsed);
        (self.context.observer)(Progress::Started { unit: unit.clone(), down });
        Ok(())
    }

    fn record(&mut self) -> Result<(), TransactionError> {
        let (root, generation) = (self.context.root.path(), self.context.generation);
        self.boot_info = Some(BootInfo::read(root));
        boot_info::write(root, &generation.channel, &generation.info).map_err(TransactionError::BootInfo)
    }

    fn commit(&mut self) -> Result<(), TransactionError> {
        // The swaps must be on disk before anything says that they are.
        self.sync_mounts()?;
        let number = self.header.generation;
        if let Err(error) = self.context.state.commit(number) {
            // The pointer may have moved although syncing it failed.
            if self.context.state.current_number().ok().flatten() != Some(number) {
                return Err(TransactionError::Generation(error));
            }
            tracing::warn!(error = %flist::report(&error), "the new generation may not survive a power cut");
        }
        self.committed = true;
        if let Err(error) = self.journal.append(&Record::Committed { generation: number }) {
            tracing::warn!(error = %flist::report(&error), "the commit is not in the journal; the pointer counts");
        }
        Ok(())
    }

    fn sync_mounts(&self) -> Result<(), TransactionError> {
        for directory in &self.header.staging {
            let open = std::fs::File::open(self.context.root.outer(directory));
            let synced = open.and_then(|open| Ok(rustix::fs::syncfs(&open)?));
            synced.map_err(|source| {
                TransactionError::Root(RootError::At { action: "sync", path: directory.clone(), source })
            })?;
        }
        Ok(())
    }

    fn finish(self) {
        if self.plan.purpose == Purpose::SelfUpdate {
            return;
        }
        if let Err(problem) = clean_up(&self.context.root, &self.header, &self.context.state.journal()) {
            tracing::warn!(problem, "what was staged is still there; the next start removes it");
        }
    }

    /// Undoes everything in reverse order and gives back what is left of it as an error.
    async fn undo(self, error: TransactionError) -> TransactionError {
        tracing::error!(error = %flist::report(&error), "the transaction failed, undoing it");
        if self.committed {
            return error;
        }
        let mut not_undone = Vec::new();
        for unit in self.started.iter().rev() {
            let definition = self.context.units.1.get(unit);
            let stopped = services::stop_and_forget(self.context.zinit, unit, definition).await;
            not_undone.extend(problem(stopped));
        }
        for change in self.swapped.iter().rev() {
            not_undone.extend(problem(files::unswap(&self.context.root, &self.swaps[*change])));
        }
        for unit in self.header.stop.iter().rev().filter(|unit| self.stopped.contains_key(*unit)) {
            not_undone.extend(problem(services::monitor(self.context.zinit, unit).await));
        }
        if let Some(boot_info) = &self.boot_info {
            not_undone.extend(problem(boot_info.restore(self.context.root.path())));
        }
        if not_undone.is_empty() {
            let cleaned = clean_up(&self.context.root, &self.header, &self.context.state.journal());
            not_undone.extend(cleaned.err());
        }
        match (not_undone.is_empty(), self.begun) {
            (true, false) => error,
            (true, true) => TransactionError::Undone(error.into()),
            (false, _) => TransactionError::Degraded { not_undone, source: error.into() },
        }
    }
}

/// What went wrong, in words.
fn problem<E: std::error::Error + 'static>(result: Result<(), E>) -> Option<String> {
    result.err().map(|error| flist::report(&error))
}

/// Removes what was staged, then the journal.
fn clean_up(root: &Root, header: &Header, journal: &Path) -> Result<(), String> {
    staging::clear(root, &header.staging).map_err(|error| flist::report(&error))?;
    journal::remove(journal).map_err(|error| flist::report(&error))
}
