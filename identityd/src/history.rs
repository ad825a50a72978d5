//! What became of every attempt to upgrade: one line of JSON each, in the state directory.
//!
//! ```text
//! history.jsonl      the newest attempts; at most 512 KiB
//! history.1.jsonl    those before
//! attempt.json       the attempt that runs, so that one that is cut off is not lost
//! ```
//! A line that cannot be read, as a power cut leaves it, is passed over; so is one that only a newer version of this
//! program understands.

mod cause;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bootstrap::durable;
use bootstrap::state_place::{StatePlace, WriteLock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::{Candidate, Installed, Stage};
use crate::downtime::{Expected, Prediction};
use crate::timestamp::Timestamp;

pub use cause::Cause;

/// The file that is written to.
pub const FILE: &str = "history.jsonl";
/// The full one before.
pub const OLD_FILE: &str = "history.1.jsonl";
/// The attempt that runs.
pub const ATTEMPT_FILE: &str = "attempt.json";

/// The version of a record's layout. Additions do not change it.
const SCHEMA: u32 = 1;
/// A file that is longer than this, in bytes, is full.
const FULL: u64 = 512 * 1024;
/// Longer files are not ours.
const LARGEST_FILE: u64 = 4 * FULL;
/// Longest reason, in characters.
const LONGEST_REASON: usize = 1000;
/// Most services in one record.
const MOST_SERVICES: usize = 256;

/// The history cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
pub struct HistoryError {
    /// What was tried.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

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

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// Attempts, the oldest first.
    pub records: Vec<Record>,
    /// Lines that cannot be read.
    pub unreadable: usize,
}

/// The history of a node.
#[derive(Debug, Clone)]
pub struct History {
    state: StatePlace,
}

impl History {
    /// In this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self::at(StatePlace::fixed(state_dir))
    }

    /// Where the state is.
    pub fn at(state: StatePlace) -> Self {
        Self { state }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.directory().join(name)
    }

    /// Nobody else writes, or moves the state, meanwhile.
    fn lock(&self) -> Result<WriteLock, HistoryError> {
        let locked = self.state.write_lock();
        locked.map_err(|source| HistoryError { action: "lock", path: self.state.directory(), source })
    }

    /// The newest `limit` attempts.
    ///
    /// # Errors
    /// [`HistoryError`]. Without files there are none.
    pub fn read(&self, limit: usize) -> Result<Past, HistoryError> {
        let mut past = Past::default();
        for name in [OLD_FILE, FILE] {
            let bytes = self.bytes(name)?.unwrap_or_default();
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                match serde_json::from_slice(line) {
                    Ok(record) => past.records.push(record),
                    Err(_) if is_whole(line) => {}
                    Err(_) => past.unreadable += 1,
                }
            }
        }
        past.records.drain(..past.records.len().saturating_sub(limit));
        Ok(past)
    }

    /// Adds an attempt that has ended; durable when this returns.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn append(&self, record: &Record) -> Result<(), HistoryError> {
        let _lock = self.lock()?;
        let path = self.path(FILE);
        let failed = |action| {
            let path = path.clone();
            move |source| HistoryError { action, path, source }
        };
        let mut line = serde_json::to_vec(record).map_err(|error| failed("write")(error.into()))?;
        line.push(b'\n');
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if length > 0 && length + line.len() as u64 > FULL {
            fs::rename(&path, self.path(OLD_FILE)).map_err(failed("put aside"))?;
        }
        let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let mut file = open.map_err(failed("open"))?;
        if ends_torn(&mut file).map_err(failed("read"))? {
            line.insert(0, b'\n');
        }
        file.write_all(&line).and_then(|()| file.sync_all()).map_err(failed("write"))?;
        // The file may be new.
        self.sync_names()
    }

    /// Remembers the attempt that runs.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn keep_running(&self, record: &Record) -> Result<(), HistoryError> {
        let _lock = self.lock()?;
        let path = self.path(ATTEMPT_FILE);
        let json = serde_json::to_vec(record).map_err(io::Error::from);
        json.and_then(|json| durable::replace(&path, &json, 0o600)).map_err(|source| HistoryError {
            action: "write",
            path,
            source,
        })
    }

    /// The attempt that ran when identityd or the node went away; `None` also when the note is damaged.
    pub fn unfinished(&self) -> Option<Record> {
        let bytes = self.bytes(ATTEMPT_FILE).ok().flatten()?;
        let read = serde_json::from_slice(&bytes);
        read.inspect_err(|error| tracing::warn!(%error, "the note about the last attempt is not usable")).ok()
    }

    /// Nothing runs any more.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn nothing_runs(&self) -> Result<(), HistoryError> {
        let _lock = self.lock()?;
        let path = self.path(ATTEMPT_FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(HistoryError { action: "remove", path, source })
            }
            // Otherwise a power cut could bring it back, and the attempt would be noted twice.
            _ => self.sync_names(),
        }
    }

    fn sync_names(&self) -> Result<(), HistoryError> {
        let path = self.state.directory();
        let synced = File::open(&path).and_then(|directory| directory.sync_all());
        match synced {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(HistoryError { action: "sync", path, source })
            }
            _ => Ok(()),
        }
    }

    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, HistoryError> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HistoryError { action: "read", path, source }),
        }
    }
}

/// Whether this is what was written, if maybe by a version that says more than this one understands.
pub(crate) fn is_whole(record: &[u8]) -> bool {
    serde_json::from_slice::<Map<String, Value>>(record).is_ok()
}

/// Whether the last line has no end.
fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != [b'\n'])
}

#[cfg(test)]
mod tests;
