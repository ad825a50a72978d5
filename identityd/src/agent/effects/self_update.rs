//! The daemon's own part of a release: it comes first, and its commit is the handover's acknowledgement.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bootstrap::engine::{EngineError, Prepared, ReleaseTree};
use bootstrap::lock::EngineLock;
use bootstrap::plan::{FileChange, Purpose, unit_name};
use bootstrap::releases::Releases;
use bootstrap::settings::CONFIG;
use bootstrap::source::ContentSource;
use bootstrap::transaction::Progress as Step;
use flist::path::FlistPath;
use flist::report;
use zinit_client::{Target, UnitName};

use super::{Effects, local, problem};
use crate::agent::model::{Problem, ProblemKind};
use crate::handover::{self, Handover};
use crate::timestamp::Timestamp;

impl Effects {
    /// Replaces this process if the release has another identityd; returns if there is nothing to replace.
    pub(super) async fn update_self(
        &self,
        lock: &EngineLock,
        (release, purpose): (&ReleaseTree, Purpose),
        (source, fetched): (Arc<dyn ContentSource>, &AtomicU64),
        observer: &(dyn Fn(Step) + Send + Sync),
    ) -> Result<(), Problem> {
        let Some(unit) = self.own_unit().await? else {
            tracing::warn!(
                "identityd is not run by zinit, so nobody could restart it: it does not replace itself"
            );
            return Ok(());
        };
        let Some(prepared) = self.own_part(release, &unit, source.clone()).await? else { return Ok(()) };
        if self.brake.minds_downtime() {
            self.minds_the_whole(release, purpose, source.clone()).await?;
        }
        tracing::info!(version = %release.version(), "the release has another identityd: handing over to it first");
        let handover = Handover::new(&self.settings, unit, prepared.generation(), release.id())?;
        let handover = handover.with_trial(self.trial(release)?);
        self.hands_over.store(true, Ordering::Relaxed);
        // Its time begins when everything is staged: fetching may take long.
        let before_swap = || {
            self.brake.enter_swap(Timestamp::from(SystemTime::now()).unix)?;
            handover.start_guardian()?;
            // Counted last: a guardian that cannot be started is not the release's fault.
            Ok(self.attempt(release)?)
        };
        if let Err(error) = self.engine.apply(lock, &prepared, source, observer, &before_swap).await {
            let problem = problem(&error);
            handover.give_up(problem.kind != ProblemKind::Degraded);
            return self.failed((release, purpose), &error, false).and(Err(problem));
        }
        // What was fetched so far counts for the release; nobody else can tell the new daemon.
        if let Err(problem) = handover.note_fetched(fetched.load(Ordering::Relaxed)) {
            tracing::warn!(%problem, "the new daemon will not know what was fetched");
        }
        // The lock goes with this image: its file is closed by the exec.
        let failure = handover::exec(&self.program, &self.arguments(&prepared, &handover.unit));
        let recovered = self.engine.recover(lock).await.map_err(|error| problem(&error));
        handover.give_up(recovered.is_ok());
        self.remember(release, &failure.message);
        recovered.and(Err(failure))
    }

    /// The plan for the release's own identityd; `None` where it is the one that is installed and its unit starts it as
    /// this process was started, or there is none.
    async fn own_part(
        &self,
        release: &ReleaseTree,
        unit: &UnitName,
        source: Arc<dyn ContentSource>,
    ) -> Result<Option<Prepared>, Problem> {
        let Some(paths) = self.own_files(release, &self.program, unit)? else { return Ok(None) };
        let prepared = self.prepare((release, Purpose::SelfUpdate), source, Some(&paths)).await;
        let prepared = prepared.map_err(|error| problem(&error))?;
        let is_own = |path: &FlistPath| self.engine.root().outer(path) == self.program;
        let changes = || prepared.plan.files.changes.iter().map(FileChange::path);
        // Other arguments can be as wrong as another program.
        let restarts = changes().any(|path| unit_name(path).as_ref() == Some(unit))
            && self.arguments(&prepared, unit) != own_words();
        let replaces = changes().any(is_own) || restarts;
        Ok(replaces.then_some(prepared))
    }

    /// What waits for somebody's word waits as a whole: whether the rest of the release would.
    async fn minds_the_whole(
        &self,
        release: &ReleaseTree,
        purpose: Purpose,
        source: Arc<dyn ContentSource>,
    ) -> Result<(), Problem> {
        match self.prepare((release, purpose), source, None).await {
            Ok(whole) => self.within_budget(&whole).map(drop),
            Err(error) if another_may_understand(&error) => {
                tracing::info!(
                    error = report(&error),
                    "the new identityd plans the rest, and asks the gates"
                );
                Ok(())
            }
            // Nobody knows what it would cost: it is not begun by half.
            Err(error) => Err(problem(&error)),
        }
    }

    /// What the new daemon is started with.
    fn arguments(&self, prepared: &Prepared, unit: &UnitName) -> Vec<String> {
        let command = prepared.unit(unit).and_then(|unit| unit.command().ok());
        // A unit may start the daemon by way of another program; then the arguments stay as they are.
        let command =
            command.filter(|command| command.first().is_some_and(|first| self.is_this_program(first)));
        command.unwrap_or_else(own_words)
    }

    /// Commits the self-update that this process came from.
    #[tracing::instrument(level = "debug", skip_all)]
    pub(super) async fn acknowledge(
        &mut self,
        lock: &EngineLock,
        handover: &Handover,
    ) -> Result<(), Problem> {
        // A daemon that cannot talk to the supervisor cannot do its work.
        let listed = self.engine.zinit().list().await;
        listed.map_err(|error| local("the new identityd cannot reach zinit", &error))?;
        if handover.has_trial()
            && let Err(error) = handover.begin_trial()
        {
            tracing::warn!(%error, "a reboot would end the trial of this identityd");
        }
        let committed = self.commit(lock, handover).await;
        if committed.map_err(|error| problem(&error))? {
            if !handover.has_trial() {
                Handover::end(&self.settings.run_dir);
                // The rest of the release is an attempt of its own.
                let mut releases = Releases::load(&self.place);
                if let Err(error) = releases.excuse(handover.release) {
                    tracing::warn!(error = report(&error), "the attempt still counts");
                }
            }
            tracing::info!(generation = handover.generation, version = crate::VERSION, "handover complete");
            self.end_if_unwanted(&handover.unit).await;
            return Ok(());
        }
        Handover::end(&self.settings.run_dir);
        tracing::error!("the handover to this identityd was undone before it was ready; going back");
        Err(handover::exec(&self.program, &own_words()))
    }

    /// A stop that was ordered while this process was being replaced went to the old daemon, which finished
    /// what it had begun; the new one does not know of it.
    async fn end_if_unwanted(&self, unit: &UnitName) {
        let status = self.engine.zinit().status(unit).await;
        if status.is_ok_and(|status| status.target == Target::Down) {
            tracing::info!("this service was stopped during the handover");
            // The daemon ends as if it had been asked to now.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
        }
    }

    fn is_this_program(&self, name: &str) -> bool {
        let path = name.strip_prefix('/').and_then(|path| path.parse::<FlistPath>().ok());
        let place = path.and_then(|path| self.engine.root().canonical(&path).ok());
        place.is_some_and(|place| self.engine.root().outer(&place) == self.program)
    }

    /// The service that this process is; `None` when zinit did not start it.
    pub(super) async fn own_unit(&self) -> Result<Option<UnitName>, Problem> {
        let services = self.engine.services().await.map_err(|error| problem(&error))?;
        let own = std::process::id();
        Ok(services.into_iter().find(|(_, status)| status.pid == Some(own)).map(|(name, _)| name))
    }

    /// The release's paths of this program, its unit and its configuration; `None` when the release has no identityd.
    fn own_files(
        &self,
        release: &ReleaseTree,
        program: &Path,
        unit: &UnitName,
    ) -> Result<Option<BTreeSet<FlistPath>>, Problem> {
        let unit = format!("{}/{unit}.yaml", bootstrap::plan::UNIT_DIRECTORY);
        let (mut paths, mut found) = (BTreeSet::new(), false);
        for (path, _, _) in release.tree().files() {
            let place = self
                .engine
                .root()
                .canonical(path)
                .map_err(|error| local("cannot find this program", &error))?;
            let is_program = self.engine.root().outer(&place) == program;
            found |= is_program;
            // With the configuration: one version may know words in it that the other one does not.
            if is_program || place.to_string() == unit || place.to_string() == CONFIG {
                paths.insert(path.clone());
            }
        }
        Ok(found.then_some(paths))
    }
}

/// What this process was started with.
fn own_words() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Whether it is about the words of a release, in which another version of this program may read something else.
fn another_may_understand(error: &EngineError) -> bool {
    error.is_about_molt() || matches!(error, EngineError::Unit { .. } | EngineError::UnitText(_))
}

/// Where this program is installed, also when that file has been replaced since it was started.
pub(super) fn own_path() -> Result<PathBuf, Problem> {
    let link =
        std::fs::read_link("/proc/self/exe").map_err(|error| local("cannot find this program", &error))?;
    let text = link.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| link.clone(), PathBuf::from))
}
