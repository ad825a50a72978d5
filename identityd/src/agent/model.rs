//! What the agent is told by its effects: plain data.

use bootstrap::engine::{Conflicts, RunsOld};
use bootstrap::mirrors::Mirrors;
use bootstrap::offers::{GroupFrom, IdFrom};
use bootstrap::processes::Stranger;
use flist::package::Unmet;
use serde::{Deserialize, Serialize};

use super::stage::{Gate, Stage};
use crate::downtime::Expected;
use crate::timestamp::Timestamp;

/// What runs on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// What the node follows, `<repo>/<name>` as in flist.name.
    pub channel: String,
    /// The version of the release, for people.
    pub version: String,
    /// The release's id, in hexadecimal.
    pub release: String,
    /// The number of the generation.
    pub generation: u64,
}

/// What the channel offers now, other than what is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The channel that offers it.
    pub channel: String,
    /// The version of the release, for people.
    pub version: String,
    /// The release's id, in hexadecimal.
    pub release: String,
}

impl Candidate {
    /// What this release is once it is installed as that generation.
    pub fn installed_as(self, generation: u64) -> Installed {
        let Self { channel, version, release } = self;
        Installed { channel, version, release, generation }
    }
}

/// What somebody wants to go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The number of the generation.
    pub generation: u64,
    /// Its release.
    pub release: Candidate,
}

/// What is to be shown of a node besides what the agent decides about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Why the state is in RAM; `None`: it is on its disk.
    pub state_in_ram: Option<StateInRam>,
    /// Why it cannot be anywhere.
    pub state_unusable: Option<String>,
    /// Why nobody can go back to the release before; `None`: one can, or there is none.
    pub rollback_blocked: Option<String>,
    /// Why nobody knows what is installed, although something is.
    pub records_lost: Option<String>,
    /// Who runs what is no longer installed; `None`: nobody could tell.
    pub runs_old: Option<RunsOld>,
    /// What the director keeps from this node.
    pub withheld: Option<Withheld>,
    /// What the node's hubs say, compared.
    pub mirrors: Mirrors,
    /// Whether nothing that a hub says is checked; `None`: nobody could tell.
    pub insecure: Option<bool>,
    /// Who the node is to a director; `None`: nobody could tell.
    pub node: Option<NodeName>,
    /// What this node is to follow instead of what is installed, and what says so.
    pub asked_channel: Option<String>,
    /// What its boot waits for.
    pub boot_waits: Option<String>,
    /// Configuration that somebody has changed and a release too; `None`: nobody could tell.
    pub conflicts: Option<Conflicts>,
}

/// Who this node is to a director, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeName {
    /// Its id.
    pub id: String,
    /// Where that is from.
    pub id_from: IdFrom,
    /// Its group.
    pub group: Option<String>,
    /// Where that is from.
    pub group_from: Option<GroupFrom>,
    /// Its place in waves: a wave of so many percent or more reaches it.
    pub place: String,
    /// Whether it follows a director.
    pub directed: bool,
    /// Why it follows none now, although it has to: nothing is installed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub director_missed: Option<String>,
}

/// A newer release than what this node is offered, and why the director keeps it from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// The version of the release.
    pub version: String,
    /// Its id, in hexadecimal.
    pub release: String,
    /// Why this node does not get it.
    pub why: String,
    /// When its turn comes, where the clock tells.
    pub turn: Option<Timestamp>,
    /// What the director calls this node.
    pub node: String,
    /// Its group.
    pub group: Option<String>,
    /// Its place in waves: a wave of so many percent or more reaches it.
    pub place: String,
}

/// Why the state is in RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateInRam {
    /// Since when.
    pub since: Timestamp,
    /// What is wrong with its disk.
    pub reason: String,
    /// Files that could not be read from it.
    #[serde(default)]
    pub unread: Vec<String>,
}

/// The answer of one poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// The channel offers what is installed.
    Unchanged,
    /// The channel offers another release.
    Candidate(Candidate),
    /// The channel offers another release, which is not to be installed here.
    Refused {
        /// The release.
        candidate: Candidate,
        /// Why not.
        problem: Problem,
    },
}

/// What an upgrade would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanReport {
    /// For people; several lines.
    pub text: String,
    /// For programs.
    pub json: serde_json::Value,
}

/// Something happened during an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The upgrade came to this stage.
    Stage(Stage),
    /// So much has been fetched.
    Fetched {
        /// Bytes fetched since this upgrade began.
        bytes: u64,
        /// Bytes this upgrade fetches.
        total: u64,
    },
    /// So long services are expected to be down.
    Expected(Vec<Expected>),
    /// A service was stopped or started.
    Service {
        /// The service.
        name: String,
        /// What happened to it.
        #[serde(flatten)]
        event: ServiceEvent,
    },
    /// The upgrade is committed, and these processes of no service run on with what was there before.
    LeftBehind {
        /// Those processes.
        processes: Vec<Stranger>,
    },
}

/// What an upgrade did to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ServiceEvent {
    /// It does not run any more.
    Stopped,
    /// It runs again.
    Started {
        /// How long it did not run, in milliseconds.
        down_ms: u64,
    },
}

/// How an upgrade ended. A self-update is not among these: it replaces the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The release is installed.
    Committed {
        /// The number of the new generation.
        generation: u64,
    },
    /// There was nothing to do.
    Nothing,
    /// It was stopped before the swap, and everything is as before.
    Stopped {
        /// The gate that has closed meanwhile.
        gate: Gate,
        /// Who or what stopped it.
        why: String,
    },
    /// The release was installed, did not do, and was undone.
    RolledBack {
        /// What was wrong with it.
        reason: String,
    },
}

/// Something the agent wanted could not be done. It crosses the control socket, so its causes are
/// already part of the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What was tried, on what, and why it failed.
    pub message: String,
    /// What kind of problem it is; decides what the agent does next.
    pub kind: ProblemKind,
    /// The gate that is closed, where nothing is wrong but that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// What this node lacks for a release, each with its stable code; empty where it is about something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<Unmet>,
    /// What helps, where that is something else than what helps against most problems of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helps: Option<String>,
    /// Whether what was asked for is not there, on the hub that has answered or on this node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
    /// Whether the request itself is wrong, so that the same one is never granted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub misused: bool,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message, kind, gate: None, unmet: Vec::new(), helps: None, absent: false, misused: false }
    }

    /// What was asked for is not there.
    pub fn absent(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { absent: true, ..Self::new(kind, message) }
    }

    /// The same, with what helps.
    pub fn helped_by(self, what: impl Into<String>) -> Self {
        Self { helps: Some(what.into()), ..self }
    }

    /// A closed gate.
    pub fn closed(gate: Gate, message: impl Into<String>) -> Self {
        Self { gate: Some(gate), ..Self::new(ProblemKind::Refused, message) }
    }
}

/// Classes of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProblemKind {
    /// The hub or a store could not be reached, or answered nonsense.
    Network,
    /// The release cannot be installed; only another one helps.
    Refused,
    /// Another program works on the root, or this one is busy with something else.
    Busy,
    /// Something on this node: disk, supervisor, configuration, a bad request.
    Local,
    /// An upgrade could not be undone completely.
    Degraded,
}

impl ProblemKind {
    /// The kind's one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "Network",
            Self::Refused => "Refused",
            Self::Busy => "Busy",
            Self::Local => "Local",
            Self::Degraded => "Degraded",
        }
    }
}
