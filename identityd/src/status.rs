//! What the agent shows: a snapshot for people and programs, and the file it lies in.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bootstrap::engine::{Outdated, RunsOld};
use bootstrap::processes::Stranger;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{
    Candidate, Gate, Installed, NodeName, ProblemKind, ServiceEvent, Stage, State, StateInRam,
};
use crate::gates::GateReport;
use crate::kernel::KernelStatus;
use crate::orders::{Hold, Pause, Rollback};
use crate::timestamp::Timestamp;

/// The version of the snapshot's layout. Additions do not change it.
pub const SCHEMA: u32 = 1;

/// Name of the snapshot in the run directory.
const FILE: &str = "status.json";

/// Services that are shown with what upgrades did to them.
const MOST_SERVICES: usize = 256;

/// Larger snapshots are not ours.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Everything there is to know about the agent at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
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
    /// Services that run what is no longer installed.
    #[serde(default)]
    pub outdated: Vec<Outdated>,
    /// How many more of them there are.
    #[serde(default)]
    pub more_outdated: usize,
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
    /// `stopped` or `started`.
    pub last_event: String,
    /// How long it did not run, in milliseconds; `None` while it is stopped.
    pub down_ms: Option<u64>,
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
            stage: Stage::Waiting,
            gate: Some(Gate::Starting),
            reason: None,
            insecure,
            installed: None,
            candidate: None,
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
            outdated: Vec::new(),
            more_outdated: 0,
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

    /// Shows who runs what is no longer installed.
    pub fn runs_old(&mut self, RunsOld { services, more_services, strangers, more_strangers }: RunsOld) {
        (self.outdated, self.more_outdated) = (services, more_services);
        (self.left_behind, self.more_left_behind) = (strangers, more_strangers);
    }

    /// Drops processes that have ended meanwhile.
    pub fn drop_ended(&mut self) {
        self.left_behind.retain(Stranger::runs);
    }

    /// Notes what an upgrade did to a service.
    pub fn service(&mut self, name: String, event: ServiceEvent) {
        let (last_event, down_ms) = match event {
            ServiceEvent::Stopped => ("stopped", None),
            ServiceEvent::Started { down_ms } => ("started", Some(down_ms)),
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

/// The run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It is not there and cannot be made.
    #[error("could not make the run directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could replace what lies in it.
    #[error(
        "the run directory {} is not a directory of user {owner}'s own; remove it and start again",
        path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Who should own it.
        owner: u32,
    },
    /// The snapshot cannot be written.
    #[error("could not write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The run directory, 0700, and the snapshot in it.
#[derive(Debug)]
pub struct StatusFile {
    directory: PathBuf,
}

impl StatusFile {
    /// Makes the directory where it is missing, and closes it to others.
    pub fn prepare(directory: &Path) -> Result<Self, StatusError> {
        let failed = |source| StatusError::MakeDirectory { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let metadata = fs::symlink_metadata(directory).map_err(failed)?;
        let owner = nix::unistd::geteuid().as_raw();
        if !metadata.is_dir() || metadata.uid() != owner {
            return Err(StatusError::NotOurs { path: directory.to_owned(), owner });
        }
        if metadata.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// What an earlier daemon left; `None` without a readable snapshot of this layout. It may have been a newer one,
    /// before a rollback: then its sums are read, even where this version does not understand where it was.
    pub fn read(&self) -> Option<Status> {
        let mut text = Vec::new();
        let file = File::open(self.directory.join(FILE)).ok()?;
        file.take(LARGEST_FILE).read_to_end(&mut text).ok()?;
        let mut value: Value = serde_json::from_slice(&text).ok()?;
        if value.get("schema") != Some(&SCHEMA.into()) {
            return None;
        }
        if let Ok(status) = Status::deserialize(&value) {
            return Some(status);
        }
        // Where that one was does not outlive it.
        let fields = value.as_object_mut()?;
        for name in [
            "gate",
            "gates",
            "last_error",
            "rollback",
            "state_in_ram",
            "outdated",
            "kernel",
            "node",
            "candidate",
            "installed",
        ] {
            fields.remove(name);
        }
        fields.insert("stage".to_owned(), Stage::Waiting.as_str().into());
        serde_json::from_value(value).ok()
    }

    /// Replaces the snapshot, 0600, at once: readers see the old or the new one. Not synced: the
    /// run directory does not outlive the boot.
    pub fn write(&self, status: &Status) -> Result<(), StatusError> {
        let path = self.directory.join(FILE);
        let draft = self.directory.join(format!(".{FILE}.new"));
        let written = || {
            let text = serde_json::to_vec_pretty(status)?;
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            fs::rename(&draft, &path)
        };
        written().map_err(|source| StatusError::Write { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests;
