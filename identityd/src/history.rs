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
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bootstrap::durable;
use bootstrap::state_place::{StatePlace, WriteLock};
pub use cause::Cause;
pub use record::{Downtime, EndedBy, Named, Outcome, PutOff, Record, StageTime};
use serde_json::{Map, Value};

/// The file that is written to.
pub const FILE: &str = "history.jsonl";
/// The full one before.
pub const OLD_FILE: &str = "history.1.jsonl";
/// The attempt that runs.
pub const ATTEMPT_FILE: &str = "attempt.json";

/// A file that is longer than this, in bytes, is full.
const FULL: u64 = 512 * 1024;
/// Longer files are not ours.
const LARGEST_FILE: u64 = 4 * FULL;

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
