//! What a worker tells the parent that restarts it: whether it is a newer bootstrap, and how far that is.
//!
//! A newer bootstrap is not believed: one that ends well without having said that it has committed, does not say in
//! time that it runs, or gets no further for too long, has failed. That it is at work it can say for ever; what counts
//! is how far it is.

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

/// The environment variable that tells a worker to ask for a release itself before it becomes a newer bootstrap,
/// because the one before it got nowhere as that.
pub const OWN_FIRST: &str = "MOLT_BOOT_OWN_FIRST";

/// Longest report that is read, in bytes.
const MAX_REPORT: usize = 4096;

/// How long a newer bootstrap may get no further, where nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(900);

/// Longest time that is waited for anything, in seconds.
pub const MAX_PATIENCE: u64 = 86_400;

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// This process becomes a newer bootstrap, which has so many seconds to start.
    Trying {
        /// Seconds.
        seconds: u64,
        /// Seconds until it has to be further, again and again.
        patience: u64,
    },
    /// A newer bootstrap is at work; said again and again.
    Working {
        /// How far it is: this grows with every byte and every step of the installation.
        done: u64,
    },
    /// A newer bootstrap has committed.
    Committed,
}

/// Where a worker says it.
#[derive(Debug, Clone)]
pub struct Reporter {
    path: PathBuf,
    newer: Option<String>,
    own_first: bool,
}

impl Reporter {
    /// The one of this process; `None` where no parent watches.
    pub fn of_this_process() -> Option<Self> {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Some(Self { path: path.into(), newer: set(NEWER), own_first: set(OWN_FIRST).is_some() })
    }

    /// Which newer bootstrap this process is; `None` when it is the one that was started.
    pub fn newer(&self) -> Option<&str> {
        self.newer.as_deref()
    }

    /// Whether this process shall ask for a release itself now, before it becomes a newer bootstrap: once at most.
    pub fn asks_first(&mut self) -> bool {
        std::mem::take(&mut self.own_first) && self.newer.is_none()
    }

    /// Says that a newer bootstrap is at work, and how far it is, if this is one. Only what grows counts.
    pub fn working(&self, done: u64) {
        if self.newer.is_some()
            && let Err(error) = write(&self.path, &Report::Working { done })
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

    /// Says that this process becomes a newer bootstrap, which has so long to start, and then to get further each time.
    ///
    /// # Errors
    /// Those of the file: nobody would watch it.
    pub fn trying(&self, start: Duration, patience: Duration) -> io::Result<()> {
        let trying = Report::Trying { seconds: start.as_secs(), patience: patience.as_secs() };
        write(&beside(&self.path), &trying)
    }

    /// Takes back that this process becomes another one.
    pub fn not_trying(&self) {
        clear(&self.path);
    }
}

/// Forgets what was said.
pub fn clear(path: &Path) {
    for path in [path, &beside(path)] {
        // What cannot be removed is read as what it says; the next worker says something else.
        let _ = std::fs::remove_file(path);
    }
}

/// What was said last; `None` when nothing was.
pub fn read(path: &Path) -> Option<Report> {
    read_one(path).or_else(|| read_one(&beside(path)))
}

/// Where it is said that a newer bootstrap is tried, and how long it may take: not where that one reports, which it may
/// do before anybody has looked.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".trying");
    name.into()
}

/// Something that nobody understands was said by a newer bootstrap.
fn read_one(path: &Path) -> Option<Report> {
    let bytes = std::fs::read(path).ok()?;
    let report = serde_json::from_slice(bytes.get(..bytes.len().min(MAX_REPORT))?);
    Some(report.unwrap_or(Report::Working { done: 0 }))
}

/// What a newer bootstrap is killed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// It has not said that it runs.
    Silent,
    /// It has got no further for so long.
    Stuck(Duration),
}

/// How long ago a newer bootstrap got further, for who looks again and again. The clock of the node may be set meanwhile,
/// so it is not asked how old the file is.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    trying: Option<(Report, SystemTime)>,
    heard: Option<(Report, SystemTime)>,
    /// Since when it has been no further.
    since: Instant,
    furthest: Option<u64>,
    patience: Duration,
}

impl Listener {
    /// Listens at `path`.
    pub fn new(path: &Path) -> Self {
        let (path, since) = (path.to_owned(), Instant::now());
        Self { path, trying: None, heard: None, since, furthest: None, patience: PATIENCE }
    }

    /// Looks at `now` whether something new was said, and whether a newer bootstrap has taken too long.
    pub fn overdue(&mut self, now: Instant) -> Option<Overdue> {
        let (trying, heard) = (said(&beside(&self.path)), said(&self.path));
        if trying != self.trying {
            self.hear(trying.as_ref().map(|(report, _)| report), now);
        }
        if heard != self.heard {
            self.hear(heard.as_ref().map(|(report, _)| report), now);
        }
        (self.trying, self.heard) = (trying, heard);
        let waited = now.saturating_duration_since(self.since);
        match (&self.heard, &self.trying) {
            (Some(_), _) => (waited > self.patience).then_some(Overdue::Stuck(self.patience)),
            (None, Some((Report::Trying { seconds, .. }, _))) => {
                (waited > Duration::from_secs((*seconds).min(MAX_PATIENCE))).then_some(Overdue::Silent)
            }
            (None, _) => None,
        }
    }

    fn hear(&mut self, report: Option<&Report>, now: Instant) {
        let done = match report {
            Some(Report::Trying { patience, .. }) => {
                self.patience = Duration::from_secs((*patience).min(MAX_PATIENCE));
                (self.furthest, self.since) = (None, now);
                return;
            }
            Some(Report::Working { done }) => *done,
            Some(Report::Committed) => u64::MAX,
            None => return,
        };
        // One that loops may begin again and again, and be no further than it was.
        if self.furthest.is_none_or(|furthest| done > furthest) {
            (self.furthest, self.since) = (Some(done), now);
        }
    }
}

/// What is said there, and when it was.
fn said(path: &Path) -> Option<(Report, SystemTime)> {
    let at = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    Some((read_one(path)?, at))
}

fn write(path: &Path, report: &Report) -> io::Result<()> {
    durable::replace(path, &serde_json::to_vec(report)?, 0o600)
}

/// The environment of a worker that is watched, and that shall ask for itself first.
pub fn environment(path: &Path, own_first: bool) -> [(&'static str, &OsStr); 3] {
    let own_first = OsStr::new(if own_first { "1" } else { "" });
    [(VARIABLE, path.as_os_str()), (NEWER, OsStr::new("")), (OWN_FIRST, own_first)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_gets_further_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        let mut listener = Listener::new(&path);
        let start = Instant::now();
        let mut at = |seconds, report: Option<Report>| {
            match report {
                Some(trying @ Report::Trying { .. }) => {
                    clear(&path);
                    write(&beside(&path), &trying).unwrap();
                }
                Some(report) => write(&path, &report).unwrap(),
                None => {}
            }
            listener.overdue(start + Duration::from_secs(seconds))
        };
        let working = |done| Some(Report::Working { done });
        let stuck = Some(Overdue::Stuck(Duration::from_secs(60)));
        assert_eq!(at(1000, None), None, "the base image's own takes its time");
        assert_eq!(at(1000, Some(Report::Trying { seconds: 10, patience: 60 })), None);
        assert_eq!(at(1010, None), None);
        assert_eq!(at(1011, None), Some(Overdue::Silent));
        assert_eq!(at(1011, working(0)), None);
        // That it works is no news.
        assert_eq!(at(1050, working(0)), None);
        assert_eq!(at(1071, working(0)), None);
        assert_eq!(at(1072, working(0)), stuck);
        assert_eq!(at(1072, working(7)), None);
        assert_eq!(at(1132, working(6)), None, "less is no further");
        assert_eq!(at(1133, working(7)), stuck);
        std::fs::write(&path, "of the future").unwrap();
        assert_eq!(at(1133, None), stuck, "what nobody understands is no progress");
        assert_eq!(at(1133, Some(Report::Committed)), None);
        assert_eq!(at(1200, Some(Report::Committed)), stuck, "it ends when it has committed");
        // However long it asks for.
        assert_eq!(at(2000, Some(Report::Trying { seconds: u64::MAX, patience: u64::MAX })), None);
        assert_eq!(at(2001 + MAX_PATIENCE, None), Some(Overdue::Silent));
    }
}
