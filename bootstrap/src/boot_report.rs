//! What a worker tells the parent that restarts it: whether it is a newer bootstrap, and how far that is.
//!
//! A newer bootstrap is not believed: one that ends well without having said that it has committed, or says
//! nothing for too long, has failed.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::durable;

/// The environment variable that names the file; it is set only where a parent watches.
pub const VARIABLE: &str = "MOLT_BOOT_REPORT";

/// The environment variable that tells a newer bootstrap which one it is, so that it looks for no other.
pub const NEWER: &str = "MOLT_BOOT_NEWER";

/// Longest report that is read, in bytes.
const MAX_REPORT: usize = 4096;

/// How long a newer bootstrap may be silent once it has started: fetching a large release takes its time.
const SILENCE: Duration = Duration::from_secs(3600);

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// This process becomes a newer bootstrap, which has so many seconds to start.
    Trying {
        /// Seconds.
        seconds: u64,
    },
    /// A newer bootstrap is at work; said again and again.
    Working,
    /// A newer bootstrap has committed.
    Committed,
}

/// Where a worker says it.
#[derive(Debug, Clone)]
pub struct Reporter {
    path: PathBuf,
    newer: Option<String>,
}

impl Reporter {
    /// The one of this process; `None` where no parent watches.
    pub fn of_this_process() -> Option<Self> {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        Some(Self { path: path.into(), newer: std::env::var(NEWER).ok().filter(|newer| !newer.is_empty()) })
    }

    /// Which newer bootstrap this process is; `None` when it is the one that was started.
    pub fn newer(&self) -> Option<&str> {
        self.newer.as_deref()
    }

    /// Says that a newer bootstrap is at work, if this is one.
    pub fn working(&self) {
        if self.newer.is_some()
            && let Err(error) = write(&self.path, &Report::Working)
        {
            tracing::warn!(path = %self.path.display(), %error, "the parent does not hear of this worker");
        }
    }

    /// Says that a newer bootstrap has committed, if this is one.
    pub fn committed(&self) {
        if self.newer.is_some()
            && let Err(error) = write(&self.path, &Report::Committed)
        {
            tracing::error!(path = %self.path.display(), %error, "the parent will run another worker");
        }
    }

    /// Says that this process becomes a newer bootstrap.
    ///
    /// # Errors
    /// Those of the file: nobody would watch it.
    pub fn trying(&self, seconds: u64) -> io::Result<()> {
        write(&self.path, &Report::Trying { seconds })
    }

    /// Takes back that this process becomes another one.
    pub fn not_trying(&self) {
        clear(&self.path);
    }
}

/// Forgets what was said.
pub fn clear(path: &Path) {
    // What cannot be removed is read as what it says; the next worker says something else.
    let _ = std::fs::remove_file(path);
}

/// What was said last; `None` when nothing was. Something that nobody understands was said by a newer
/// bootstrap.
pub fn read(path: &Path) -> Option<Report> {
    let bytes = std::fs::read(path).ok()?;
    let report = serde_json::from_slice(bytes.get(..bytes.len().min(MAX_REPORT))?);
    Some(report.unwrap_or(Report::Working))
}

/// How long ago a newer bootstrap said something, for who looks again and again. The clock of the node may be set
/// meanwhile, so it is not asked how old the file is.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    heard: Option<(Report, SystemTime)>,
    since: Instant,
}

impl Listener {
    /// Listens at `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), heard: None, since: Instant::now() }
    }

    /// Looks whether something new was said, and whether a newer bootstrap has been silent for too long.
    pub fn is_overdue(&mut self) -> bool {
        let said = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified());
        let heard = said.ok().and_then(|said| Some((read(&self.path)?, said)));
        if heard != self.heard {
            (self.heard, self.since) = (heard, Instant::now());
        }
        match &self.heard {
            Some((Report::Trying { seconds }, _)) => self.since.elapsed() > Duration::from_secs(*seconds),
            Some((Report::Working | Report::Committed, _)) => self.since.elapsed() > SILENCE,
            None => false,
        }
    }
}

fn write(path: &Path, report: &Report) -> io::Result<()> {
    durable::replace(path, &serde_json::to_vec(report)?, 0o600)
}

/// The environment of a worker that is watched.
pub fn environment(path: &Path) -> [(&'static str, &OsStr); 2] {
    [(VARIABLE, path.as_os_str()), (NEWER, OsStr::new(""))]
}
