//! Carrying out one step after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flist::path::FlistPath;
use zinit_client::UnitName;

use super::journal::{Header, Journal, JournalPlace, Record, Swap};
use super::left_down::announcement;
use super::opening::{header, kept, kept_states};
use super::states;
use super::{Context, Progress, TransactionError, files, hooks, mounts, services, staging};
use crate::boot_info;
use crate::disk::Replacement;
use crate::generation::{Cause, Generation, Packages};
use crate::plan::{FileChange, Plan, Purpose, Step};
use crate::rehearsal::{self, ConfigReader};
use crate::root::{RootError, Stamp};

/// What the journal takes besides changes and hooks, in bytes.
const OTHER_RECORDS: u64 = 4096;

/// What a hook takes in it: that it is run, and that it is taken back.
const HOOK_RECORDS: u64 = 256;

/// A transaction under way.
pub(super) struct Run<'r> {
    pub(super) plan: &'r Plan,
    pub(super) context: &'r Context<'r>,
    pub(super) journal: Journal,
    pub(super) place: JournalPlace,
    pub(super) generation: Generation,
    pub(super) header: Header,
    pub(super) slots: Vec<Option<FlistPath>>,
    /// The tops of the mounts that something changes in.
    mounts: BTreeSet<FlistPath>,
    pub(super) swaps: Vec<Swap>,
    pub(super) begun: bool,
    pub(super) swapped: Vec<usize>,
    /// Stamps of what was copied up since the plan was made.
    pub(super) stamps: BTreeMap<FlistPath, Stamp>,
    pub(super) stopped: BTreeMap<UnitName, Instant>,
    pub(super) started: Vec<UnitName>,
    /// Services that are to be stopped, and that somebody else has stopped since the plan was made.
    pub(super) left_down: BTreeSet<UnitName>,
    /// Services that were started and are down when the health window begins, where a program of a package has run that
    /// may have stopped them.
    pub(super) stopped_by_hooks: Option<BTreeSet<UnitName>>,
    /// Services that somebody else has stopped after they were started, where it is undone.
    pub(super) stopped_since: BTreeSet<UnitName>,
    /// It is in the journal who is stopped.
    pub(super) announced: bool,
    /// Services that the plan leaves alone and that were well before the swap, with their processes.
    pub(super) bystanders: BTreeMap<UnitName, u32>,
    /// How long those were away that have been stopped and started.
    pub(super) back: BTreeMap<UnitName, Duration>,
    /// Whether the supervisor has forgotten what is stopped and has another unit now.
    pub(super) discarded: bool,
    /// Hooks that were announced, in their order.
    pub(super) hooks: Vec<usize>,
    /// What inverses of hooks left behind, in words.
    pub(super) left: Vec<String>,
    /// What was in each directory of state when it was copied.
    pub(super) copied: Vec<BTreeMap<FlistPath, Stamp>>,
    /// Inode numbers of the copies that are exchanged.
    pub(super) copies: Vec<Option<u64>>,
    /// What the copies held when they were migrated.
    pub(super) contents: Vec<String>,
    /// What the node will have been booted from, written beside its place.
    boot_info: Option<boot_info::ToBe>,
    /// The pointer to the new generation, written beside the one that counts.
    pointer: Option<Replacement>,
    pub(super) committed: bool,
    /// The supervisor has forgotten what it had to after the commit.
    forgotten: bool,
    /// Nobody knows whether it is committed.
    pub(super) undecided: bool,
}

impl<'r> Run<'r> {
    pub(super) fn begin(plan: &'r Plan, context: &'r Context<'r>) -> Result<Self, TransactionError> {
        let Context { root, state, .. } = context;
        let mut generation = context.generation.clone();
        let (header, slots) = header(plan, context)?;
        let mounts = mounts::tops(root, &header.staging, &plan.files.changes);
        let mounts = mounts.map_err(TransactionError::Root)?;
        generation.states = kept_states(root, plan, &header.states).map_err(TransactionError::Root)?;
        if generation.cause != Cause::FirstBoot {
            generation.kept = kept(&plan.files.changes, &slots, context.seen);
        }
        if generation.cause != Cause::FirstBoot || !generation.states.is_empty() {
            generation.staging.clone_from(&header.staging);
        }
        let recorded = state.prepare(&generation, context.flists.0, context.flists.1);
        recorded.and_then(|()| generation.root.mark(root)).map_err(TransactionError::Generation)?;
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
            mounts,
            swaps: Vec::new(),
            begun: false,
            swapped: Vec::new(),
            stamps: BTreeMap::new(),
            stopped: BTreeMap::new(),
            started: Vec::new(),
            left_down: BTreeSet::new(),
            stopped_by_hooks: None,
            stopped_since: BTreeSet::new(),
            announced: false,
            bystanders: BTreeMap::new(),
            back: BTreeMap::new(),
            discarded: false,
            hooks: Vec::new(),
            left: Vec::new(),
            copied: Vec::new(),
            copies: Vec::new(),
            contents: Vec::new(),
            boot_info: None,
            pointer: None,
            committed: false,
            forgotten: true,
            undecided: false,
        })
    }

    #[tracing::instrument(level = "debug", skip_all, fields(%step))]
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), TransactionError> {
        match step {
            Step::Reserve => self.reserve().await,
            // All are staged together: see `stage_all`.
            Step::Stage { .. } => self.stage_all().await,
            Step::Rehearse => self.rehearse().await,
            Step::Sync => self.sync().await,
            Step::Stop { unit } => self.stop(unit).await,
            Step::Hook { hook } => self.hook_beside_starts(*hook).await,
            Step::CopyStates => self.copy_states().await,
            Step::Migrate { state, program } => self.migrate(*state, *program).await,
            Step::SwapStates => self.swap_states(),
            Step::Swap { change } => self.swap(*change),
            Step::Start { unit } => {
                self.discard_changed().await?;
                self.start(unit).await
            }
            Step::Soak => self.soak().await,
            Step::Record => {
                self.discard_changed().await?;
                self.record()
            }
            Step::Commit => self.commit().await,
        }
    }

    /// Takes space for all that will be staged.
    async fn reserve(&mut self) -> Result<(), TransactionError> {
        let (root, tree) = (self.context.root.clone(), self.context.tree.clone());
        let source = self.context.source.clone();
        let (changes, slots) = (self.plan.files.changes.clone(), self.slots.clone());
        let fetched_at_once = self.context.fetched_at_once;
        // A change in the journal takes its JSON and some words about where it lies.
        let journal: u64 = changes.iter().map(|change| 300 + 2 * change.path().as_bytes().len() as u64).sum();
        let others = announcement(&self.header) + HOOK_RECORDS * self.header.hooks.len() as u64;
        self.journal.reserve(journal + OTHER_RECORDS + others).map_err(TransactionError::Journal)?;
        let step = tracing::Span::current();
        let work = tokio::task::spawn_blocking(move || {
            let (_in_step, source) = (step.enter(), source.as_ref());
            let stager = staging::Stager { root: &root, tree: &tree, source, fetched_at_once };
            changes.iter().zip(&slots).try_for_each(|(change, slot)| stager.reserve(change, slot.as_ref()))
        });
        work.await.map_err(TransactionError::Broken)??;
        self.reserve_states()
    }

    /// Stages every change, on threads that may block, at the first of the stage steps.
    async fn stage_all(&mut self) -> Result<(), TransactionError> {
        if !self.swaps.is_empty() {
            return Ok(());
        }
        let (root, tree) = (self.context.root.clone(), self.context.tree.clone());
        let source = self.context.source.clone();
        let (changes, slots) = (self.plan.files.changes.clone(), self.slots.clone());
        let (fetched_at_once, seen) = (self.context.fetched_at_once, self.context.seen.clone());
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let step = tracing::Span::current();
        let work = tokio::task::spawn_blocking(move || {
            let (_in_step, source) = (step.enter(), source.as_ref());
            let stager = staging::Stager { root: &root, tree: &tree, source, fetched_at_once };
            let total = changes.iter().filter(|change| change.staged().is_some()).count();
            let swaps = stager.stage_all(&changes, &slots, |done| {
                // Nobody listening is no reason to stop.
                let _ = report.send(Progress::Staged { done, total });
            })?;
            let stamps = staging::copy_up(&root, &changes, &seen).map_err(TransactionError::Root)?;
            Ok::<_, TransactionError>((swaps, stamps))
        });
        while let Some(progress) = reports.recv().await {
            (self.context.observer)(progress);
        }
        (self.swaps, self.stamps) = work.await.map_err(TransactionError::Broken)??;
        Ok(())
    }

    async fn rehearse(&mut self) -> Result<(), TransactionError> {
        self.stage_all().await?;
        (self.context.observer)(Progress::Verifying);
        let (root, swaps) = (self.context.root.clone(), self.swaps.clone());
        let (before, after) = (self.context.units.0.clone(), self.context.units.1.clone());
        let packages = match self.plan.purpose {
            // Its generation has the packages of the one before, and runs nothing of them.
            Purpose::SelfUpdate => Packages::new(),
            _ => self.generation.packages.clone(),
        };
        let reader = match self.plan.purpose {
            // The new identityd is put back if it cannot read its configuration.
            Purpose::SelfUpdate => ConfigReader::Newer,
            _ => ConfigReader::ThisOne,
        };
        let work = tokio::task::spawn_blocking(move || {
            rehearsal::findings(&root, &swaps, (&before, &after), &packages, reader)
        });
        let findings = work.await.map_err(TransactionError::Broken)?.map_err(TransactionError::Rehearsal)?;
        for finding in &findings {
            tracing::error!(%finding, "it would not run");
        }
        if findings.is_empty() { Ok(()) } else { Err(TransactionError::WouldNotRun(findings)) }
    }

    async fn sync(&mut self) -> Result<(), TransactionError> {
        // Also when nothing had to be staged: removals and directories are announced all the same.
        self.stage_all().await?;
        self.prepare_record()?;
        self.sync_mounts()?;
        let (zinit, window) = (self.context.zinit, self.health_window());
        self.bystanders = services::steady(zinit, self.context.bystanders, window).await;
        let record = Record::Staged { swaps: self.swaps.clone() };
        self.journal.append(&record).map_err(TransactionError::Journal)?;
        // Staging may have taken long.
        self.look_again().await?;
        (self.context.before_swap)().map_err(TransactionError::NotReady)?;
        self.begun = true;
        (self.context.observer)(Progress::Swapping);
        Ok(())
    }

    fn swap(&mut self, change: usize) -> Result<(), TransactionError> {
        let swap = &self.swaps[change];
        if let FileChange::MakeDirectory { path, .. } = &swap.change
            && self.context.root.stat(path).map_err(TransactionError::Root)?.is_some()
        {
            // Somebody else has made it meanwhile: it is not ours to be taken away again.
            return Err(TransactionError::Root(RootError::Changed(path.clone())));
        }
        self.swapped.push(change);
        let path = swap.change.path();
        let seen = self.stamps.get(path).or_else(|| Some(&self.context.seen.get(path)?.stamp));
        files::swap(&self.context.root, swap, seen).map_err(TransactionError::Root)
    }

    /// What is recorded after the swap is written now: then somebody else may have filled the disks.
    fn prepare_record(&mut self) -> Result<(), TransactionError> {
        // A self-update is committed by its successor.
        if self.plan.purpose == Purpose::SelfUpdate {
            return Ok(());
        }
        let (root, generation) = (&self.context.root, self.context.generation);
        let boot_info = boot_info::ToBe::prepare(root, &generation.channel, &generation.info);
        self.boot_info = boot_info.map_err(TransactionError::BootInfo)?;
        let pointer = self.context.state.prepare_commit(generation.number);
        self.pointer = Some(pointer.map_err(TransactionError::Generation)?);
        Ok(())
    }

    /// Takes away what was prepared and not put in place.
    pub(super) fn discard_record(&self) {
        if let Some(boot_info) = &self.boot_info {
            boot_info.discard(&self.context.root);
        }
        if let Some(pointer) = &self.pointer {
            self.context.state.discard_prepared(pointer);
        }
    }

    fn record(&mut self) -> Result<(), TransactionError> {
        let (root, generation) = (&self.context.root, self.context.generation);
        let written = match &self.boot_info {
            Some(boot_info) => boot_info.put(root),
            None => boot_info::write(root, &generation.channel, &generation.info),
        };
        written.map_err(TransactionError::BootInfo)
    }

    async fn commit(&mut self) -> Result<(), TransactionError> {
        // The swaps, and what hooks did, must be on disk before anything says that they are.
        self.sync_mounts()?;
        if !self.hooks.is_empty() {
            hooks::sync(self.context.programs).await?;
        }
        let number = self.header.generation;
        let committed = match &self.pointer {
            Some(pointer) => self.context.state.commit_prepared(pointer),
            None => self.context.state.commit(number),
        };
        if let Err(error) = committed {
            // The pointer may have moved although syncing it failed.
            match self.context.state.current_number() {
                Ok(Some(current)) if current == number => {
                    tracing::warn!(error = %flist::report(&error), "the new generation may not survive a power cut");
                }
                Ok(_) => return Err(TransactionError::Generation(error)),
                Err(_) => {
                    self.undecided = true;
                    return Err(TransactionError::Generation(error));
                }
            }
        }
        self.committed = true;
        if let Err(error) = self.journal.append(&Record::Committed { generation: number }) {
            tracing::warn!(error = %flist::report(&error), "the commit is not in the journal; the pointer counts");
        }
        self.forgotten = self.forget_stopped().await;
        Ok(())
    }

    /// Tells who was not restarted, as no service has him.
    fn tell_left_behind(&self) {
        let left = self.plan.services.strangers.iter().filter(|stranger| stranger.runs()).cloned().collect();
        (self.context.observer)(Progress::LeftBehind(left));
    }

    pub(super) fn sync_mounts(&self) -> Result<(), TransactionError> {
        mounts::sync(&self.context.root, &self.mounts).map_err(TransactionError::Root)
    }

    pub(super) async fn finish(self) {
        if self.plan.purpose == Purpose::SelfUpdate {
            return;
        }
        self.tell_left_behind();
        let Header { staging, states, .. } = &self.header;
        let settled = staging::settle(&self.context.root, (staging, states), &self.generation);
        let settled = settled.map_err(TransactionError::Root);
        states::mark_all(&self.context.root, &self.generation);
        // Once the journal is gone nobody runs the hooks again that come after the commit.
        let settled = match settled {
            Ok(()) if !self.hooks.is_empty() => hooks::sync(self.context.programs).await,
            settled => settled,
        };
        if !self.forgotten {
            return;
        }
        let ended = settled.and_then(|()| self.journal.end().map_err(TransactionError::Journal));
        if let Err(error) = ended {
            tracing::warn!(error = %flist::report(&error), "what was staged is still there; the next start removes it");
        }
    }
}
