//! Looks again and again whether the kernel that runs is the one of the release, and has done what was decided.

use std::time::{Duration, SystemTime};

use bootstrap::engine::{Engine, EngineError};
use bootstrap::health::Judgement;
use bootstrap::kernel_guard;
use bootstrap::lock;
use bootstrap::offers;
use bootstrap::settings::Settings;
use bootstrap::state_place::StatePlace;
use tokio::sync::watch;

use super::act::{self, StartError, Verb};
use super::health::{self, TrialWatch};
use super::obstacle::{Circumstances, obstacle};
use super::{
    Decision, Health, How, KernelId, KernelStatus, Outcome, ShippedError, Trial, TrialFile, View, decide,
    shipped, startable,
};
use crate::agent::Handle;
use crate::status::Status;
use crate::timestamp::Timestamp;
use bootstrap::maintenance::Windows;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// The service that this is.
const OWN: &str = "identityd";

/// Whoever looks.
pub struct Keeper {
    settings: Settings,
    windows: Option<Windows>,
    boot: String,
    place: StatePlace,
    trials: TrialFile,
    agent: Handle,
    shown: watch::Sender<Option<KernelStatus>>,
    /// The generation that was looked at last, and its kernel.
    seen: Option<(u64, Option<KernelId>)>,
    watching: Option<TrialWatch>,
    /// Why the kernel of this generation cannot be started.
    unfit: Option<(u64, String)>,
    /// Whether it was said that all is well with the kernel of this boot.
    said_well: bool,
}

impl Keeper {
    /// Looks at the node with these settings in this boot; what is to be shown goes to `shown`.
    pub fn new(
        settings: Settings,
        (windows, boot): (Option<Windows>, String),
        agent: Handle,
        shown: watch::Sender<Option<KernelStatus>>,
    ) -> Self {
        let place = StatePlace::of(&settings);
        let trials = TrialFile::at(place.clone());
        let (seen, watching, unfit, said_well) = (None, None, None, false);
        Self { settings, windows, boot, place, trials, agent, shown, seen, watching, unfit, said_well }
    }

    /// Looks until it is aborted.
    pub async fn run(mut self) {
        let Some(running) = KernelId::running() else {
            return tracing::warn!("the system does not tell which kernel runs; another one is not noticed");
        };
        loop {
            self.look(&running).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&mut self, running: &KernelId) {
        let status = self.agent.status();
        // Before the agent has found out, nobody knows, and what is under way is not installed.
        let Some(generation) = status.installed.as_ref().map(|installed| installed.generation) else {
            return;
        };
        let installed = self.installed(generation).await;
        let trials = self.trials.read().map_err(|error| flist::report(&error));
        let obstacle = self.obstacle(&status, generation);
        let health =
            self.judge(trials.as_ref().ok().and_then(|trials| trials.last()), &status, generation).await;
        let ill = match &health {
            Judgement::RollBack { unit, why } => format!("{unit}: {why}"),
            _ => String::new(),
        };
        let view = View {
            installed: installed.as_ref().map(Option::as_ref).map_err(String::as_str),
            running,
            trials: trials.as_deref().map_err(String::as_str),
            policy: self.settings.kernel.policy,
            boot: &self.boot,
            obstacle: obstacle.as_deref(),
            health: match health {
                Judgement::Keep => Health::Well,
                Judgement::Wait => Health::Unknown,
                Judgement::RollBack { .. } => Health::Ill(&ill),
            },
        };
        let (decision, shown) = decide(&view);
        self.show(shown);
        let mut trials = trials.unwrap_or_default();
        self.say_well(&trials, running);
        let trial = trials.pop();
        match (decision, trial) {
            (Decision::Start(how), _) => self.start(how, running, generation).await,
            (Decision::Settle(outcome), Some(trial)) => self.settle(trial, outcome).await,
            (Decision::GoBack(reason), Some(trial)) => self.go_back(trial, reason).await,
            _ => {}
        }
    }

    /// The kernel of the installed release, read once for each generation.
    async fn installed(&mut self, generation: u64) -> Result<Option<KernelId>, String> {
        if let Some((seen, kernel)) = &self.seen
            && *seen == generation
        {
            return Ok(kernel.clone());
        }
        let settings = self.settings.clone();
        let looked = tokio::task::spawn_blocking(move || {
            shipped(&Engine::open(&settings).map_err(ShippedError::Installed)?)
        });
        let kernel = looked.await.map_err(|error| error.to_string())?;
        let kernel = kernel.map_err(|error| flist::report(&error))?;
        self.seen = Some((generation, kernel.clone()));
        Ok(kernel)
    }

    /// What keeps a kernel from being started now.
    fn obstacle(&self, status: &Status, generation: u64) -> Option<String> {
        let unfit = self.unfit.as_ref().filter(|(unfit, _)| *unfit == generation);
        let now = Timestamp::from(SystemTime::now()).unix;
        let earliest = offers::earliest(&self.place).try_into().unwrap_or(0);
        // One that has run out is taken away at the next poll.
        let is_over = |until: &Timestamp| until.unix <= now.max(earliest);
        let held = status
            .holds
            .iter()
            .any(|hold| hold.release.is_none() && !hold.until.as_ref().is_some_and(is_over));
        obstacle(&Circumstances {
            unfit: unfit.map(|(_, why)| why.as_str()),
            in_container: kernel_guard::in_container(),
            stage: status.stage,
            goes_back: status.rollback.is_some(),
            held: self.settings.switches.hold || held || status.pause.is_some(),
            forgets: self.place.notice().is_some(),
            windows: self.windows.as_ref(),
            now,
            earliest,
        })
    }

    /// How the services are after a trial.
    async fn judge(&mut self, trial: Option<&Trial>, status: &Status, generation: u64) -> Judgement {
        let is_under_way = |trial: &&Trial| trial.outcome == Outcome::Pending && trial.from_boot != self.boot;
        let Some(trial) = trial.filter(is_under_way) else { return Judgement::Wait };
        // What an upgrade does to services says nothing about the kernel.
        if status.stage.is_upgrading()
            || self.watching.as_ref().is_some_and(|watch| watch.generation != generation)
        {
            self.watching = None;
            return Judgement::Wait;
        }
        let looked = async {
            let engine = Engine::open(&self.settings)?;
            Ok::<_, EngineError>((engine.services().await?, engine))
        };
        let (seen, engine) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                tracing::warn!(error = %flist::report(&error), "the services cannot be looked at");
                return Judgement::Wait;
            }
        };
        let limits = self.settings.health;
        let watch = self
            .watching
            .get_or_insert_with(|| TrialWatch::new(limits, engine.root(), &trial.services, generation));
        watch.judge(&seen)
    }

    /// Starts the kernel of the release. Comes back only when that failed, or was not to be.
    async fn start(&mut self, how: How, running: &KernelId, generation: u64) {
        // Who is at work now may change what is installed.
        let Ok(_lock) = lock::take(&self.settings.run_dir, "identityd, to start a kernel", Duration::ZERO)
        else {
            return;
        };
        let opened = Engine::open(&self.settings).map_err(ShippedError::Installed);
        let Ok((engine, seen)) = self.with_services(opened).await else { return };
        let startable = match tokio::task::block_in_place(|| startable(&engine)) {
            Ok(startable) if startable.kernel == *running => return,
            Ok(startable) => startable,
            Err(error) => {
                self.unfit = Some((generation, flist::report(&error)));
                return;
            }
        };
        let (from_boot, services) = (self.boot.clone(), health::well(engine.root(), &seen));
        let kernel = startable.kernel.clone();
        let mut trial = Trial { kernel, how, from_boot, services, outcome: Outcome::Pending };
        let deadline = self.settings.kernel.deadline;
        if how == How::Kexec
            && let Err(error) = tokio::task::block_in_place(|| act::load(&startable, deadline))
        {
            return self.settle(trial, Outcome::Bad(flist::report(&error))).await;
        }
        // The note comes first: a boot loader that is prepared and no note would be a trial that nobody knows of.
        if let Err(error) = self.trials.write(&trial) {
            return tracing::error!(error = %flist::report(&error), "the trial cannot be recorded, so it is not made");
        }
        if how == How::Reboot
            && let Err(error) = self.prepare(Verb::Try).await
        {
            return self.settle(trial, Outcome::Bad(flist::report(&error))).await;
        }
        tracing::warn!(kernel = %trial.kernel, ?how, "starting the kernel of the release");
        let error = act::leave(engine.zinit(), OWN, how).await;
        trial.services.clear();
        self.settle(trial, Outcome::Bad(flist::report(&error))).await;
    }

    /// An engine with what the supervisor says.
    async fn with_services(
        &self,
        engine: Result<Engine, ShippedError>,
    ) -> Result<(Engine, health::Seen), ()> {
        let looked = async {
            let engine = engine?;
            let seen = engine.services().await.map_err(ShippedError::Installed)?;
            Ok::<_, ShippedError>((engine, seen))
        };
        looked.await.map_err(|error| {
            tracing::warn!(error = %flist::report(&error), "no kernel is started");
        })
    }

    async fn prepare(&self, verb: Verb) -> Result<(), StartError> {
        match &self.settings.kernel.boot_loader {
            Some(program) => act::prepare(&self.settings.root, program, verb).await,
            None => Ok(()),
        }
    }

    /// Remembers what became of a trial.
    async fn settle(&self, trial: Trial, outcome: Outcome) {
        match &outcome {
            Outcome::Bad(reason) => {
                tracing::error!(kernel = %trial.kernel, reason, "the kernel is not tried again")
            }
            _ => tracing::info!(kernel = %trial.kernel, "all is well with the new kernel"),
        }
        if outcome == Outcome::Good
            && trial.how == How::Reboot
            && let Err(error) = self.prepare(Verb::Keep).await
        {
            tracing::error!(error = %flist::report(&error), "the next boot may start the old kernel");
        }
        // Whoever was interrupted while starting it has ended services.
        let broken_off = trial.from_boot == self.boot;
        let services = trial.services.clone();
        // Which services were well before it is of no use any more.
        if let Err(error) = self.trials.write(&Trial { outcome, services: Vec::new(), ..trial }) {
            tracing::error!(error = %flist::report(&error), "what became of a kernel cannot be recorded");
        }
        if broken_off
            && let Ok((engine, seen)) =
                self.with_services(Engine::open(&self.settings).map_err(ShippedError::Installed)).await
        {
            act::start_services(engine.zinit(), &health::ended(&services, &seen)).await;
        }
    }

    /// Leaves a kernel with which not all is well.
    async fn go_back(&self, trial: Trial, reason: String) {
        let Ok(_lock) = lock::take(&self.settings.run_dir, "identityd, to leave a kernel", Duration::ZERO)
        else {
            return;
        };
        tracing::error!(kernel = %trial.kernel, reason, "not all is well with the new kernel: rebooting, to the old one");
        if trial.how == How::Reboot
            && let Err(error) = self.prepare(Verb::Back).await
        {
            tracing::error!(error = %flist::report(&error), "the next boot may start the new kernel again");
        }
        self.settle(trial, Outcome::Bad(reason)).await;
        let Ok((engine, _)) =
            self.with_services(Engine::open(&self.settings).map_err(ShippedError::Installed)).await
        else {
            return;
        };
        let error = act::leave(engine.zinit(), OWN, How::Reboot).await;
        tracing::error!(error = %flist::report(&error), "the machine stays with the new kernel");
    }

    /// Tells whoever would reboot otherwise that all is well with the kernel of this boot.
    fn say_well(&mut self, trials: &[Trial], running: &KernelId) {
        let last = trials.iter().rev().find(|trial| trial.kernel == *running);
        if self.said_well || last.is_none_or(|trial| trial.outcome != Outcome::Good) {
            return;
        }
        match kernel_guard::say_well(&self.settings.run_dir) {
            Ok(()) => self.said_well = true,
            Err(error) => {
                tracing::error!(%error, "the machine may reboot, because it cannot be said that all is well")
            }
        }
    }

    fn show(&self, status: Option<KernelStatus>) {
        self.shown.send_if_modified(|shown| {
            let changes = *shown != status;
            if changes && let Some(status) = &status {
                tracing::warn!(state = ?status.state, reason = status.reason, "kernel");
            }
            *shown = status;
            changes
        });
    }
}
