//! What is noted of one attempt. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Cause;
use crate::agent::{Candidate, Installed, Stage};
use crate::downtime::{Expected, Prediction};
use crate::orders::Postponed;
use crate::timestamp::Timestamp;

/// The version of a record's layout. Additions do not change it.
const SCHEMA: u32 = 1;
/// Longest reason, in characters.
pub(super) const LONGEST_REASON: usize = 1000;
/// Most services in one record.
const MOST_SERVICES: usize = 256;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The release is installed; of a self-update: the new identityd runs.
    Committed,
    /// There was nothing to do.
    Nothing,
    /// It was installed, did not do, and was undone.
    RolledBack,
    /// It cannot be installed here.
    Refused,
    /// Somebody cancelled it before the swap.
    Cancelled,
    /// It was stopped before the swap by a pause, or by the end of a maintenance window.
    Stopped,
    /// Something failed before the swap, or was undone without being the release's fault.
    Failed,
    /// It could not be undone completely.
    Degraded,
    /// It was cut off.
    Interrupted,
    /// It runs, or a newer version of this program knows how it ended.
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// The outcome's one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Nothing => "nothing",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Degraded => "degraded",
            Self::Interrupted => "interrupted",
            Self::Unknown => "unknown",
        }
    }
}

/// What cut an attempt off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// identityd ended without finishing, while the node went on.
    Killed,
    /// The node went down: power loss, reset, reboot.
    PowerLoss,
    /// A newer version of this program knows.
    #[serde(other)]
    Unknown,
}

/// A release, as far as the history names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its version.
    pub version: String,
    /// Its id.
    pub release: String,
}

impl From<&Installed> for Named {
    fn from(installed: &Installed) -> Self {
        Self { version: installed.version.clone(), release: installed.release.clone() }
    }
}

impl From<&Candidate> for Named {
    fn from(candidate: &Candidate) -> Self {
        Self { version: candidate.version.clone(), release: candidate.release.clone() }
    }
}

/// That a release was postponed before it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutOff {
    /// Since when.
    pub first: Timestamp,
    /// The user who did it first.
    pub by: u32,
}

impl From<&Postponed> for PutOff {
    fn from(postponed: &Postponed) -> Self {
        Self { first: postponed.first.clone(), by: postponed.by }
    }
}

/// How long a stage took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// In milliseconds.
    pub ms: u64,
}

/// What an attempt did to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downtime {
    /// The service.
    pub name: String,
    /// How long it did not run, in milliseconds; `None`: it was not started again.
    pub down_ms: Option<u64>,
    /// How long it was expected not to run, where there was a record of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Prediction>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// Tells it from every other one.
    pub id: String,
    /// The boot in which it began.
    pub boot: String,
    /// On whose behalf.
    pub cause: Cause,
    /// What was installed before, where known.
    pub from: Option<Named>,
    /// What was to be installed.
    pub to: Named,
    /// When it began.
    pub started: Timestamp,
    /// When it ended, or was found cut off.
    pub ended: Option<Timestamp>,
    /// How long each stage took.
    #[serde(default)]
    pub stages: Vec<StageTime>,
    /// Services that were stopped or started.
    #[serde(default)]
    pub services: Vec<Downtime>,
    /// How it ended.
    pub outcome: Outcome,
    /// The gate or the kind of problem that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why it ended so, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What cut it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// Bytes fetched.
    #[serde(default)]
    pub bytes_fetched: u64,
    /// Failures of the release that had been counted when it began.
    #[serde(default)]
    pub failures_before: u32,
    /// Whether it was postponed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed: Option<PutOff>,
    /// What was expected of services that have not been stopped yet.
    #[serde(skip)]
    predicted: BTreeMap<String, Prediction>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Record {
    /// Notes what is expected of services.
    pub fn expect(&mut self, expected: &[Expected]) {
        let known = expected.iter().filter_map(|one| Some((one.service.clone(), one.prediction?)));
        self.predicted = known.collect();
    }

    /// An attempt that begins.
    pub fn begin(
        (id, boot): (String, String),
        cause: Cause,
        (from, to): (Option<Named>, Named),
        started: Timestamp,
    ) -> Self {
        Self {
            schema: SCHEMA,
            id,
            boot,
            cause,
            from,
            to,
            started,
            ended: None,
            stages: Vec::new(),
            services: Vec::new(),
            outcome: Outcome::Unknown,
            code: None,
            reason: None,
            ended_by: None,
            bytes_fetched: 0,
            failures_before: 0,
            postponed: None,
            predicted: BTreeMap::new(),
            unknown: Map::new(),
        }
    }

    /// Says how it ended.
    #[must_use]
    pub fn end(self, outcome: Outcome, code: Option<&str>, reason: Option<&str>, ended: Timestamp) -> Self {
        let reason = reason.map(|reason| reason.chars().take(LONGEST_REASON).collect());
        Self { outcome, code: code.map(str::to_owned), reason, ended: Some(ended), ..self }
    }

    /// Notes that a service was stopped (`None`), or how long it was down.
    pub fn service(&mut self, name: &str, down_ms: Option<u64>) {
        if let Some(service) = self.services.iter_mut().find(|service| service.name == name) {
            service.down_ms = down_ms;
        } else if self.services.len() < MOST_SERVICES {
            let predicted = self.predicted.get(name).copied();
            self.services.push(Downtime { name: name.to_owned(), down_ms, predicted });
        }
    }
}
