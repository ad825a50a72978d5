//! What the agent shows: a snapshot for people and programs.

mod file;

use std::collections::BTreeMap;

use bootstrap::engine::{Outdated, RunsOld};
use bootstrap::plan::Conflict;
use bootstrap::processes::Stranger;
use serde::{Deserialize, Serialize};

use crate::agent::{
    Candidate, Gate, Installed, NodeName, ProblemKind, ServiceEvent, Stage, State, StateInRam,
};
use crate::gates::GateReport;
use crate::kernel::KernelStatus;
use crate::orders::{Hold, Pause, Rollback};
use crate::timestamp::Timestamp;
pub use file::{StatusError, StatusFile};

/// The version of the snapshot's layout. Additions do not change it.
pub const SCHEMA: u32 = 1;

/// Services that are shown with what upgrades did to them.
const MOST_SERVICES: usize = 256;

/// Everything there is to know about the agent at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When this was so. What reads it elsewhere knows by it how old it is.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// What the agent is doing.
    pub stage: Stage,
    /// Why it waits, when it does.
    pub gate: Option<Gate>,
    /// What is waited for, or what went wrong, in words.
    pub reason: Option<String>,
    /// Whether there is no root of trust, so that releases are not authenticated: development only.
    pub insecure: bool,
    /// What runs on this node.
    pub installed: Option<Installed>,
    /// The release that is being installed, or failed last.
    pub candidate: Option<Candidate>,
    /// What is remembered of that release, where it has failed here.
    #[serde(default)]
    pub failed: Option<Failed>,
    /// When the channel was asked last.
    pub last_check: Option<Timestamp>,
    /// When the agent acts next by itself.
    pub next_check: Option<Timestamp>,
    /// What went wrong last; gone after the next success.
    pub last_error: Option<LastError>,
    /// How far fetching is in the current upgrade, or came in the last one.
    pub fetch: Option<Fetch>,
    /// What was done since the node booted.
    pub counters: Counters,
    /// What upgrades did to services since the node booted, by name.
    pub services: BTreeMap<String, ServiceRecord>,
    /// How often something was done to others, for which there was no room.
    #[serde(default)]
    pub more_services: u64,
    /// Processes of no service that run what is no longer installed.
    #[serde(default)]
    pub left_behind: Vec<Stranger>,
    /// How many more of them there are.
    #[serde(default)]
    pub more_left_behind: usize,
    /// Gates that are closed now.
    #[serde(default)]
    pub gates: Vec<GateReport>,
    /// What is held back.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// The pause, if there is one.
    #[serde(default)]
    pub pause: Option<Pause>,
    /// The rollback that has not ended.
    #[serde(default)]
    pub rollback: Option<Rollback>,
    /// Why the state is in RAM; `None`: it is on its disk.
    #[serde(default)]
    pub state_in_ram: Option<StateInRam>,
    /// Why nobody knows what is installed, although something is.
    #[serde(default)]
    pub records_lost: Option<String>,
    /// Services that run what is no longer installed.
    #[serde(default)]
    pub outdated: Vec<Outdated>,
    /// How many more of them there are.
    #[serde(default)]
    pub more_outdated: usize,
    /// Configuration that somebody has changed and that a release has changed too, and where the release's is.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// How many more of them there are.
    #[serde(default)]
    pub more_conflicts: usize,
    /// What is the matter with the kernel; `None`: the one that runs is the release's, or the release has none.
    #[serde(default)]
    pub kernel: Option<KernelStatus>,
    /// What this node is to follow instead of what is installed, and what says so.
    #[serde(default)]
    pub asked_channel: Option<String>,
    /// What the boot of this node waits for.
    #[serde(default)]
    pub boot_waits: Option<String>,
    /// Who this node is to a director, and how that is known.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// The daemon itself.
    pub identityd: Daemon,
}

/// A release that has failed here, or is refused because it would not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its id.
    pub release: String,
    /// How often it failed.
    pub attempts: u32,
    /// Whether it is not tried again.
    pub bad: bool,
    /// Why it failed the last time.
    pub reason: String,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// What was tried, on what, and why it failed.
    pub message: String,
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// When.
    pub at: Timestamp,
    /// How many times in a row something went wrong.
    pub attempts: u32,
}

/// Bytes of one upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Fetched so far.
    pub bytes: u64,
    /// To fetch in all.
    pub total: u64,
}

/// Sums since the node booted; they outlive the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Bytes fetched.
    pub bytes_fetched: u64,
    /// Times the channel was asked.
    pub checks: u64,
    /// Generations committed. A self-update is counted by nobody: it ends the process that did it.
    pub upgrades: u64,
}

/// What an upgrade did to a service last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// `stopped` or `started`; also started where it was found up again that was stopped.
    pub last_event: String,
    /// How long it did not run, in milliseconds; `None` while it is stopped, and where something else has started it.
    pub down_ms: Option<u64>,
}

const STOPPED: &str = "stopped";
const STARTED: &str = "started";

impl ServiceRecord {
    fn is_stopped(&self) -> bool {
        self.last_event == STOPPED
    }
}

/// Which daemon says all this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// Whether it has asked its channel, or looked for what to go back to, whatever came of it.
    #[serde(default)]
    pub polled: bool,
}

impl Status {
    /// Before anything is known.
    pub fn new(identityd: Daemon, insecure: bool) -> Self {
        Self {
            schema: SCHEMA,
            at: None,
            stage: Stage::Waiting,
            gate: Some(Gate::Starting),
            reason: None,
            insecure,
            installed: None,
            candidate: None,
            failed: None,
            last_check: None,
            next_check: None,
            last_error: None,
            fetch: None,
            counters: Counters::default(),
            services: BTreeMap::new(),
            more_services: 0,
            left_behind: Vec::new(),
            more_left_behind: 0,
            gates: Vec::new(),
            holds: Vec::new(),
            pause: None,
            rollback: None,
            state_in_ram: None,
            records_lost: None,
            outdated: Vec::new(),
            more_outdated: 0,
            conflicts: Vec::new(),
            more_conflicts: 0,
            kernel: None,
            asked_channel: None,
            boot_waits: None,
            node: None,
            identityd,
        }
    }

    /// Goes on with the sums of the daemon that ran before on this boot. One that handed over says how many
    /// bytes it had `fetched` in that upgrade; what it still wrote into its status may be less.
    pub fn continued_from(self, earlier: Option<Self>, fetched: Option<u64>) -> Self {
        let Some(earlier) = earlier else { return self };
        let mut counters = earlier.counters;
        let written = earlier.fetch.map_or(0, |fetch| fetch.bytes);
        counters.bytes_fetched += fetched.unwrap_or(0).saturating_sub(written);
        let mut services = earlier.services;
        // Whoever wrote it may have had another limit.
        let more = services.len().saturating_sub(MOST_SERVICES);
        (0..more).for_each(|_| drop(services.pop_last()));
        let more_services = earlier.more_services.saturating_add(more as u64);
        Self { counters, services, more_services, ..self }
    }

    /// Shows what the agent decided; `now` dates what is new.
    pub fn follow(&mut self, state: &State, now: &Timestamp) {
        let failed_again = self.last_error.as_ref().is_none_or(|error| error.attempts != state.attempts);
        match &state.problem {
            None => self.last_error = None,
            Some(problem) if failed_again => {
                self.last_error = Some(LastError {
                    message: problem.message.clone(),
                    kind: problem.kind,
                    at: now.clone(),
                    attempts: state.attempts,
                });
            }
            Some(_) => {}
        }
        self.stage = state.stage;
        self.gate = state.gate;
        self.reason = reason(state);
        self.installed.clone_from(&state.installed);
        self.candidate.clone_from(&state.candidate);
    }

    /// Notes how far an upgrade has come.
    pub fn fetched(&mut self, bytes: u64, total: u64) {
        let before = self.fetch.map_or(0, |fetch| fetch.bytes);
        self.counters.bytes_fetched += bytes.saturating_sub(before);
        self.fetch = Some(Fetch { bytes, total });
    }

    /// Shows who runs what is no longer installed, and that services are up again which somebody else has started: a
    /// recovery, the supervisor, a person.
    pub fn runs_old(&mut self, RunsOld { services, more_services, strangers, more_strangers, up }: RunsOld) {
        (self.outdated, self.more_outdated) = (services, more_services);
        (self.left_behind, self.more_left_behind) = (strangers, more_strangers);
        for name in &up {
            if let Some(record) = self.services.get_mut(name.as_str()).filter(|record| record.is_stopped()) {
                *record = ServiceRecord { last_event: STARTED.to_owned(), down_ms: None };
            }
        }
    }

    /// Drops processes that have ended meanwhile.
    pub fn drop_ended(&mut self) {
        self.left_behind.retain(Stranger::runs);
    }

    /// Notes what an upgrade did to a service.
    pub fn service(&mut self, name: String, event: ServiceEvent) {
        let (last_event, down_ms) = match event {
            ServiceEvent::Stopped => (STOPPED, None),
            ServiceEvent::Started { down_ms } => (STARTED, Some(down_ms)),
        };
        if self.services.len() >= MOST_SERVICES && !self.services.contains_key(&name) {
            self.more_services = self.more_services.saturating_add(1);
            return;
        }
        self.services.insert(name, ServiceRecord { last_event: last_event.to_owned(), down_ms });
    }
}

/// Why the agent is where it is; nothing to say where all is well.
fn reason(state: &State) -> Option<String> {
    let problem = state.problem.as_ref().map(|problem| problem.message.as_str());
    match (state.stage, state.gate, problem) {
        (Stage::Waiting, Some(gate @ (Gate::BackOff | Gate::Refused | Gate::Trust)), Some(problem)) => {
            Some(format!("{}: {problem}", gate.explanation()))
        }
        (Stage::Waiting, Some(gate), _) => Some(gate.explanation().to_owned()),
        (Stage::RolledBack | Stage::Degraded, _, Some(problem)) => Some(problem.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
