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
pub(crate) mod staging;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flist::path::FlistPath;
use flist::rehearsal::Finding;
use flist::tree::Tree;
use nix::errno::Errno;
use zinit_client::{ServiceUnit, UnitName};

pub use recover::{Recovery, recover};
pub(crate) use staging::{FETCHED_AT_ONCE, STAGING};

use crate::boot_info::{self, BootInfo, BootInfoError};
use crate::generation::{Cause, Generation, GenerationError, Kept, StateDir};
use crate::health::{HealthLimits, HealthWatch};
use crate::plan::{FileChange, Plan, Purpose, Step};
use crate::rehearsal;
use crate::root::{Found, Root, RootError, failed};
use crate::source::{ContentSource, SourceError};
use crate::supervisor::Supervisor;
use journal::{Header, Journal, JournalError, JournalPlace, Record, Swap};
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
    /// It could not be found out whether the release would run.
    #[error("the release cannot be rehearsed")]
    Rehearsal(#[source] flist::rehearsal::RootError),
    /// The root would not run after the swap; no service was touched.
    #[error("the release would not run on this node: {}", in_words(.0))]
    WouldNotRun(Vec<Finding>),
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

/// Findings that are told in a message; the log has all.
const FINDINGS_TOLD: usize = 5;

fn in_words(findings: &[Finding]) -> String {
    let told: Vec<_> = findings.iter().take(FINDINGS_TOLD).map(ToString::to_string).collect();
    match findings.len().saturating_sub(FINDINGS_TOLD) {
        0 => told.join("; "),
        more => format!("{}; and {more} more", told.join("; ")),
    }
}

/// Longest health window that a unit can ask for.
const MAX_HEALTH_WINDOW: Duration = Duration::from_secs(3600);

/// Answers of the system that are about this node's disk and memory, not about the release.
const NOT_THE_RELEASE: [Errno; 6] =
    [Errno::ENOSPC, Errno::EDQUOT, Errno::EIO, Errno::EROFS, Errno::ENOMEM, Errno::EMFILE];

impl TransactionError {
    /// Whether the release is to blame. Whatever fails before the first service is stopped costs nothing, unless
    /// it was the rehearsal that found what would fail; a full or broken disk is nobody's release.
    pub fn is_the_releases_fault(&self) -> bool {
        let error = match self {
            Self::WouldNotRun(_) => return true,
            Self::Undone(error) => error,
            _ => return false,
        };
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
    pub zinit: &'c dyn Supervisor,
    /// How long started services are watched.
    pub health: HealthLimits,
    /// Blocks that are fetched at the same time; 0 fetches each when it is needed.
    pub fetched_at_once: usize,
    /// The tree of the release.
    pub tree: Arc<Tree>,
    /// Its content.
    pub source: Arc<dyn ContentSource>,
    /// The generation that the transaction makes.
    pub generation: &'c Generation,
    /// The flist that the generation comes from, to be recorded with it.
    pub flist: &'c [u8],
    /// What was seen at the paths that change.
    pub seen: &'c BTreeMap<FlistPath, Found>,
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
    place: JournalPlace,
    generation: Generation,
    header: Header,
    slots: Vec<Option<FlistPath>>,
    swaps: Vec<Swap>,
    begun: bool,
    swapped: Vec<usize>,
    stopped: BTreeMap<UnitName, Instant>,
    started: Vec<UnitName>,
    committed: bool,
}

impl<'r> Run<'r> {
    fn begin(plan: &'r Plan, context: &'r Context<'r>) -> Result<Self, TransactionError> {
        let Context { root, state, .. } = context;
        let mut generation = context.generation.clone();
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
            boot_info: BootInfo::read(root).map_err(TransactionError::BootInfo)?,
        };
        if generation.cause != Cause::FirstBoot {
            generation.staging.clone_from(&header.staging);
            generation.kept = kept(&plan.files.changes, &slots, context.seen);
        }
        state.prepare(&generation, context.flist).map_err(TransactionError::Generation)?;
        let place = state.journal().map_err(TransactionError::Generation)?;
        let journal = Journal::begin(place.clone(), header.clone()).map_err(TransactionError::Journal)?;
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
            place,
            generation,
            header,
            slots,
            swaps: Vec::new(),
            begun: false,
            swapped: Vec::new(),
            stopped: BTreeMap::new(),
            started: Vec::new(),
            committed: false,
        })
    }

    async fn step(&mut self, step: &Step) -> Result<(), TransactionError> {
        match step {
            Step::Reserve => self.reserve().await,
            // All are staged together: see `stage_all`.
            Step::Stage { .. } => self.stage_all().await,
            Step::Rehearse => self.rehearse().await,
            Step::Sync => self.sync().await,
            Step::Stop { unit } => self.stop(unit).await,
            Step::Swap { change } => self.swap(*change),
            Step::Start { unit } => self.start(unit).await,
            Step::Soak => self.soak().await,
            Step::Record => self.record(),
            Step::Commit => self.commit(),
        }
    }

    async fn soak(&self) -> Result<(), TransactionError> {
        (self.context.observer)(Progress::Soaking);
        let units = &self.context.units.1;
        let started = || self.plan.services.start.iter().map(|name| (name, units.get(name)));
        let asked = |unit: Option<&ServiceUnit>| unit?.molt.health_window.map(Duration::from_secs);
        let default = self.context.health.window;
        let windows = started().map(|(_, unit)| asked(unit).unwrap_or(default).min(MAX_HEALTH_WINDOW));
        let window = windows.max().unwrap_or(default);
        let limits = HealthLimits { window, ..self.context.health };
        let services = started().map(|(name, unit)| (name.clone(), unit.is_some_and(|unit| unit.oneshot)));
        let soaked = services::soak(self.context.zinit, HealthWatch::new(limits, services)).await;
        soaked.map_err(TransactionError::Service)
    }

    /// Takes space for all that will be staged.
    async fn reserve(&mut self) -> Result<(), TransactionError> {
        let (root, tree) = (self.context.root.clone(), self.context.tree.clone());
        let source = self.context.source.clone();
        let (changes, slots) = (self.plan.files.changes.clone(), self.slots.clone());
        let fetched_at_once = self.context.fetched_at_once;
        // A change in the journal takes its JSON and some words about where it lies.
        let journal = changes.iter().map(|change| 300 + 2 * change.path().as_bytes().len() as u64).sum();
        self.journal.reserve(journal).map_err(TransactionError::Journal)?;
        let work = tokio::task::spawn_blocking(move || {
            let source = source.as_ref();
            let stager = staging::Stager { root: &root, tree: &tree, source, fetched_at_once };
            changes.iter().zip(&slots).try_for_each(|(change, slot)| stager.reserve(change, slot.as_ref()))
        });
        work.await.map_err(TransactionError::Broken)?
    }

    /// Stages every change, on threads that may block, at the first of the stage steps.
    async fn stage_all(&mut self) -> Result<(), TransactionError> {
        if !self.swaps.is_empty() {
            return Ok(());
        }
        let (root, tree) = (self.context.root.clone(), self.context.tree.clone());
        let source = self.context.source.clone();
        let (changes, slots) = (self.plan.files.changes.clone(), self.slots.clone());
        let fetched_at_once = self.context.fetched_at_once;
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let work = tokio::task::spawn_blocking(move || {
            let source = source.as_ref();
            let stager = staging::Stager { root: &root, tree: &tree, source, fetched_at_once };
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

    async fn rehearse(&mut self) -> Result<(), TransactionError> {
        self.stage_all().await?;
        let (root, swaps) = (self.context.root.clone(), self.swaps.clone());
        let (before, after) = (self.context.units.0.clone(), self.context.units.1.clone());
        let work = tokio::task::spawn_blocking(move || rehearsal::findings(&root, &swaps, (&before, &after)));
        let findings = work.await.map_err(TransactionError::Broken)?.map_err(TransactionError::Rehearsal)?;
        for finding in &findings {
            tracing::error!(%finding, "it would not run");
        }
        if findings.is_empty() { Ok(()) } else { Err(TransactionError::WouldNotRun(findings)) }
    }

    async fn sync(&mut self) -> Result<(), TransactionError> {
        // Also when nothing had to be staged: removals and directories are announced all the same.
        self.stage_all().await?;
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
        let seen = self.context.seen.get(swap.change.path()).map(|found| &found.stamp);
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
        let (root, generation) = (&self.context.root, self.context.generation);
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
            let synced = self.context.root.disk().sync_filesystem(directory);
            synced.map_err(failed("sync", directory)).map_err(TransactionError::Root)?;
        }
        Ok(())
    }

    fn finish(self) {
        if self.plan.purpose == Purpose::SelfUpdate {
            return;
        }
        let settled = staging::settle(&self.context.root, &self.header.staging, &self.generation.kept);
        let settled = settled.map_err(TransactionError::Root);
        let ended = settled.and_then(|()| self.journal.end().map_err(TransactionError::Journal));
        if let Err(error) = ended {
            tracing::warn!(error = %flist::report(&error), "what was staged is still there; the next start removes it");
        }
    }

    /// Ends what runs of the new generation; tells what could not be ended.
    async fn end_started(&mut self) -> Vec<String> {
        let (mut problems, mut units) = (Vec::new(), Vec::new());
        for unit in self.started.iter().rev() {
            let definition = self.context.units.1.get(unit);
            if let Err(error) = services::stop_and_forget(self.context.zinit, unit, definition).await {
                problems.push(flist::report(&error));
                units.push(unit.clone());
            }
        }
        if !units.is_empty() {
            problems.extend(problem(self.journal.append(&Record::Unstopped { units })));
        }
        problems
    }

    /// Undoes everything in reverse order and gives back what is left of it as an error.
    async fn undo(mut self, error: TransactionError) -> TransactionError {
        tracing::error!(error = %flist::report(&error), "the transaction failed, undoing it");
        if self.committed {
            return error;
        }
        let mut not_undone = self.end_started().await;
        for change in self.swapped.iter().rev() {
            not_undone.extend(problem(files::unswap(&self.context.root, &self.swaps[*change])));
        }
        for unit in self.header.stop.iter().rev().filter(|unit| self.stopped.contains_key(*unit)) {
            not_undone.extend(problem(services::monitor(self.context.zinit, unit).await));
        }
        not_undone.extend(problem(self.header.boot_info.restore(&self.context.root)));
        if not_undone.is_empty() {
            let cleaned = clean_up(&self.context.root, &self.header, &self.place);
            not_undone.extend(cleaned.err());
        }
        match (not_undone.is_empty(), self.begun) {
            (true, false) => error,
            (true, true) => TransactionError::Undone(error.into()),
            (false, _) => TransactionError::Degraded { not_undone, source: error.into() },
        }
    }
}

/// What the changes take away, and where it lies after the swap.
fn kept(changes: &[FileChange], slots: &[Option<FlistPath>], seen: &BTreeMap<FlistPath, Found>) -> Vec<Kept> {
    let of = |(change, slot): (&FileChange, &Option<FlistPath>)| {
        let takes_away = matches!(change, FileChange::Replace { .. } | FileChange::Remove { .. });
        let item = seen.get(change.path()).filter(|_| takes_away)?.item.clone();
        Some(Kept { slot: slot.clone()?, item })
    };
    changes.iter().zip(slots).filter_map(of).collect()
}

/// What went wrong, in words.
fn problem<E: std::error::Error + 'static>(result: Result<(), E>) -> Option<String> {
    result.err().map(|error| flist::report(&error))
}

/// Ends what was undone: everything must be on disk before the journal goes, or a power cut could bring a
/// part of the swap back without anybody knowing. Then what was staged is removed.
fn clean_up(root: &Root, header: &Header, journal: &JournalPlace) -> Result<(), String> {
    for top in header.staging.iter().filter_map(|directory| directory.parent()?.parent()) {
        let synced = root.disk().sync_filesystem(&top).map_err(failed("sync", &top));
        synced.map_err(|error| flist::report(&error))?;
    }
    staging::clear(root, &header.staging).map_err(|error| flist::report(&error))?;
    journal.remove().map_err(|error| flist::report(&error))
}
