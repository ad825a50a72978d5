//! Going back, and forgetting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use flist::path::FlistPath;
use flist::tree::Fingerprint;
use nix::errno::Errno;

use super::{Engine, EngineError, Prepared, ReleaseTree};
use crate::disk::is_absent;
use crate::generation::{Candidate, Cause, Generation, Retained, retained};
use crate::item::What;
use crate::lock::EngineLock;
use crate::plan::Purpose;
use crate::root::{RootError, failed};
use crate::source::{ContentSource, KeptSource};
use crate::transaction::{STAGING, staging, states};

/// Generations before the current one that are kept where they take memory, and where they do not.
const KEPT_IN_RAM: usize = 1;
const KEPT_ON_DISK: usize = 3;

/// What can be said of a generation in a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// Its number.
    pub number: u64,
    /// It is installed now.
    pub current: bool,
    /// It can be gone back to.
    pub target: bool,
    /// Why it cannot be gone back to all the same: its release could not read the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// What it came from.
    pub cause: Cause,
    /// Its release's version.
    pub version: String,
    /// Its release.
    pub release: flist::hub::ReleaseId,
    /// Bytes of the files that are kept for going back before it.
    pub kept_bytes: u64,
}

/// What was forgotten, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Generations.
    pub generations: Vec<u64>,
    /// Directories with files of generations that nobody can go back to.
    pub directories: Vec<String>,
    /// Bytes of the files that were kept for them, as far as that is recorded.
    pub bytes: u64,
    /// Generations that stay only because they are pinned.
    pub pinned: Vec<u64>,
    /// Generations that stay only because what they replaced leads back to a pinned one.
    pub on_the_way: Vec<u64>,
}

impl Engine {
    /// The generations of this root, oldest first.
    ///
    /// # Errors
    /// [`EngineError::Generation`].
    pub fn generations(&self) -> Result<Vec<Listed>, EngineError> {
        let current = self.current()?.map(|current| current.number);
        let identity = self.identity()?;
        let mut listed = Vec::new();
        for generation in self.readable_generations()? {
            let number = generation.number;
            let here = generation.root.survives_in(&identity) && current.is_some_and(|at| number <= at);
            if !here {
                continue;
            }
            let is_current = current == Some(number);
            let target = !is_current && generation.cause != Cause::SelfUpdate;
            let blocked = self.unreadable(&generation)?.filter(|_| target);
            let blocked = blocked.map(|refused| flist::report(&refused));
            listed.push(Listed {
                number,
                current: is_current,
                target,
                blocked,
                cause: generation.cause,
                version: generation.version.to_string(),
                release: generation.release,
                kept_bytes: kept_bytes(&generation),
            });
        }
        Ok(listed)
    }

    /// Why a recorded generation could not read the state on this node, as its packages were described when it was
    /// installed.
    fn unreadable(&self, generation: &Generation) -> Result<Option<EngineError>, EngineError> {
        match self.migrations(&generation.packages, self.current()?.as_ref()) {
            Ok(_) => Ok(None),
            Err(refused @ EngineError::Schema(_)) => Ok(Some(refused)),
            Err(error) => Err(error),
        }
    }

    /// Why the generation that [`Engine::revert_target`] would choose cannot be gone back to; `None` when it can, or
    /// there is none.
    ///
    /// # Errors
    /// [`EngineError::Generation`].
    pub fn blocked_target(&self) -> Result<Option<String>, EngineError> {
        let listed = self.generations()?;
        let now = listed.iter().find(|listed| listed.current).map(|listed| listed.release);
        let target = listed.into_iter().rev().find(|listed| listed.target && Some(listed.release) != now);
        Ok(target.and_then(|target| Some(format!("to {}: {}", target.version, target.blocked?))))
    }

    /// What is recorded and not damaged.
    fn recorded_generations(&self) -> Result<Vec<Generation>, EngineError> {
        let mut generations = Vec::new();
        for number in self.state.numbers().map_err(EngineError::Generation)? {
            generations.extend(self.state.recorded(number).map_err(EngineError::Generation)?);
        }
        Ok(generations)
    }

    /// As [`Engine::recorded_generations`], for who can do without: what cannot be read is told and passed over.
    pub(super) fn readable_generations(&self) -> Result<Vec<Generation>, EngineError> {
        let mut generations = Vec::new();
        for number in self.state.numbers().map_err(EngineError::Generation)? {
            match self.state.recorded(number) {
                Ok(generation) => generations.extend(generation),
                Err(error) => {
                    tracing::warn!(error = %flist::report(&error), "this generation cannot be gone back to");
                }
            }
        }
        Ok(generations)
    }

    /// The release of an earlier generation, to be installed again with [`Engine::prepare_revert`]; without
    /// a number, that of the newest generation whose release is not the current one.
    ///
    /// # Errors
    /// [`EngineError::NoGeneration`], [`EngineError::NothingBefore`], [`EngineError::Schema`].
    pub fn revert_target(&self, number: Option<u64>) -> Result<(u64, ReleaseTree), EngineError> {
        let listed = self.generations()?;
        let now = listed.iter().find(|listed| listed.current).map(|listed| listed.release);
        let number = match number {
            Some(number) => listed.iter().find(|listed| listed.number == number && listed.target),
            None => listed.iter().rev().find(|listed| listed.target && Some(listed.release) != now),
        };
        let number = match number {
            Some(listed) => listed.number,
            None => {
                let targets = listed.iter().filter(|listed| listed.target).map(|listed| listed.number);
                return Err(EngineError::NothingBefore(targets.collect()));
            }
        };
        let target = self.state.recorded(number).map_err(EngineError::Generation)?;
        let target = target.ok_or(EngineError::NoGeneration(number))?;
        match self.unreadable(&target)? {
            Some(refused) => Err(refused),
            None => Ok((number, ReleaseTree::recorded(&self.state, number)?)),
        }
    }

    /// Plans to put an earlier generation back; touches nothing. What is kept on this node is not asked of
    /// `source`.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn prepare_revert(
        &self,
        release: &ReleaseTree,
        source: Arc<dyn ContentSource>,
    ) -> Result<Prepared, EngineError> {
        self.prepare(release, Purpose::Revert, source, None).await
    }

    /// A source that first looks at what earlier upgrades replaced on this node.
    pub(super) fn with_kept(
        &self,
        next: Arc<dyn ContentSource>,
    ) -> Result<Arc<dyn ContentSource>, EngineError> {
        Ok(Arc::new(KeptSource::new(self.root.clone(), self.kept_slots()?, Some(next))))
    }

    /// Where the content of files lies that earlier upgrades replaced on this node.
    pub(super) fn kept_slots(&self) -> Result<HashMap<Fingerprint, FlistPath>, EngineError> {
        let identity = self.identity()?;
        let mut slots = HashMap::new();
        for generation in self.readable_generations()? {
            if generation.root.survives_in(&identity) {
                slots.extend(generation.kept.into_iter().filter_map(|kept| match kept.item.what {
                    What::File { fingerprint, .. } => Some((fingerprint, kept.slot)),
                    _ => None,
                }));
            }
        }
        Ok(slots)
    }

    /// How many generations before the current one are kept, if nobody says otherwise.
    pub(super) fn generations_kept(&self) -> Result<usize, EngineError> {
        Ok(self.keep.unwrap_or(if self.identity()?.volatile { KEPT_IN_RAM } else { KEPT_ON_DISK }))
    }

    /// Forgets generations that are neither the current one nor among the `keep` before it, with the files
    /// that only they need.
    ///
    /// # Errors
    /// [`EngineError`]; [`EngineError::Unfinished`] while a transaction is under way.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn collect(&self, _: &EngineLock, keep: Option<usize>) -> Result<Collected, EngineError> {
        let (collected, unneeded) = self.outlived(keep)?;
        // Files before records: what is recorded can be found again.
        staging::clear(&self.root, &unneeded).map_err(EngineError::Root)?;
        for number in &collected.generations {
            self.state.forget(*number).map_err(EngineError::Generation)?;
        }
        Ok(collected)
    }

    /// What [`Engine::collect`] would forget. Without the lock it may be out of date at once.
    ///
    /// # Errors
    /// As there.
    pub fn collectable(&self, keep: Option<usize>) -> Result<Collected, EngineError> {
        self.outlived(keep).map(|(collected, _)| collected)
    }

    /// What is forgotten, and the directories that go with it.
    fn outlived(&self, keep: Option<usize>) -> Result<(Collected, Vec<FlistPath>), EngineError> {
        let journal = self.state.journal().map_err(EngineError::Generation)?;
        let records = journal.read().map_err(|error| {
            EngineError::Transaction(crate::transaction::TransactionError::Journal(error))
        })?;
        if !records.is_empty() {
            return Err(EngineError::Unfinished);
        }
        // Without a pointer nobody can tell which one counts.
        let Some(current) = self.state.current_number().map_err(EngineError::Generation)? else {
            return Ok((Collected::default(), Vec::new()));
        };
        let keep = match keep {
            Some(keep) => keep,
            None => self.generations_kept()?,
        };
        let identity = self.identity()?;
        let generations = self.recorded_generations()?;
        let pins = self.pinned()?;
        let candidate = |generation: &Generation| Candidate {
            number: generation.number,
            cause: generation.cause,
            here: generation.root.survives_in(&identity),
            pinned: pins.contains(&generation.number),
        };
        let candidates: Vec<_> = generations.iter().map(candidate).collect();
        let Retained { numbers, oldest } = retained(&candidates, current, keep);
        let unpinned: Vec<_> = candidates.iter().map(|of| Candidate { pinned: false, ..*of }).collect();
        let without_pins = retained(&unpinned, current, keep).numbers;
        let (pinned, on_the_way) =
            numbers.difference(&without_pins).partition(|number| pins.contains(number));
        let mut collected = Collected { pinned, on_the_way, ..Collected::default() };
        for number in self.state.numbers().map_err(EngineError::Generation)? {
            if !numbers.contains(&number) {
                collected.generations.push(number);
            }
        }
        let gone =
            |generation: &&Generation| !numbers.contains(&generation.number) || generation.number == oldest;
        collected.bytes = generations.iter().filter(gone).map(kept_bytes).sum();
        let unneeded = self.unneeded(&generations, &numbers, (oldest, current))?;
        collected.directories = unneeded.iter().map(|path| format!("/{path}")).collect();
        Ok((collected, unneeded))
    }

    /// The staging directories that no generation needs any more, recorded or not.
    fn unneeded(
        &self,
        generations: &[Generation],
        numbers: &BTreeSet<u64>,
        (oldest, current): (u64, u64),
    ) -> Result<Vec<FlistPath>, EngineError> {
        let tops =
            generations.iter().flat_map(|generation| &generation.staging).filter_map(FlistPath::parent);
        // Nothing can be gone back to from a first boot, but state that it has migrated may be all there is of it.
        let keeps =
            |generation: &&Generation| generation.cause == Cause::FirstBoot && !generation.states.is_empty();
        let keeping: BTreeSet<_> = generations.iter().filter(keeps).map(|kept| kept.number).collect();
        let is_needed =
            |number: &u64| numbers.contains(number) && (*number > oldest || keeping.contains(number));
        // What is kept for generations that could not be read is needed when they can be read again.
        let floor = self.state.floor().map_err(EngineError::Generation)?;
        let mut unneeded = Vec::new();
        for top in tops.chain(STAGING.parse()).collect::<BTreeSet<_>>() {
            let staged = self.staged_in(&top)?.into_iter();
            let staged = staged.filter(|(_, number)| *number > floor && !is_needed(number));
            let left = self.names_in(&top)?.into_iter();
            let left = left.filter_map(|name| Some((states::left_of(&name)?, name)));
            let left = left.filter(|(of, _)| *of <= current).map(|(_, name)| name);
            for name in staged.map(|(name, _)| name).chain(left) {
                let outside = |_| EngineError::Root(failed("name something in", &top)(Errno::EINVAL.into()));
                unneeded.push(top.join(&name).map_err(outside)?);
            }
        }
        Ok(unneeded)
    }

    /// The number that the next generation gets if it changes these paths: higher than any that is recorded, and than
    /// any under which files of a generation are kept that could not be read.
    pub(super) fn next_number<'p>(
        &self,
        paths: impl Iterator<Item = &'p FlistPath>,
    ) -> Result<u64, EngineError> {
        let mut number = self.state.next_number().map_err(EngineError::Generation)?;
        let mut tops = BTreeSet::new();
        // One of each directory will do.
        for path in paths.map(|path| (path.parent(), path)).collect::<BTreeMap<_, _>>().values() {
            tops.insert(staging::top(&self.root, path).map_err(EngineError::Root)?);
        }
        for top in tops {
            let staging = top.join(STAGING.as_bytes());
            let staging = staging.map_err(|_| EngineError::Root(RootError::Outside(top)))?;
            let highest = self.staged_in(&staging)?.into_iter().map(|(_, number)| number).max();
            number = number.max(highest.map_or(0, |highest| highest.saturating_add(1)));
        }
        Ok(number)
    }

    /// The numbered directories in one of staging directories.
    fn staged_in(&self, top: &FlistPath) -> Result<Vec<(Vec<u8>, u64)>, EngineError> {
        let numbered = |name: Vec<u8>| {
            let number = std::str::from_utf8(&name).ok()?.parse::<u64>().ok()?;
            Some((name, number))
        };
        Ok(self.names_in(top)?.into_iter().filter_map(numbered).collect())
    }

    /// What is in one of the staging directories.
    fn names_in(&self, top: &FlistPath) -> Result<Vec<Vec<u8>>, EngineError> {
        match self.root.disk().list(top) {
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            names => names.map_err(failed("list", top)).map_err(EngineError::Root),
        }
    }
}

fn kept_bytes(generation: &Generation) -> u64 {
    generation.kept.iter().map(|kept| kept.item.size()).sum()
}
