//! The daemon replaces itself.
//!
//! ```text
//! old daemon: starts guardians ─ stages ─ swaps binary and unit ─ execs the new image in place (same pid)
//! guardian:   (old image, own session) waits for the commit, or the process's end, or the deadline
//! new daemon: looks that it can work ─ commits
//!             dies, hangs                          → a guardian undoes the swap and ends it;
//!                                                    zinit starts what is installed then: the old one
//! guardian:   goes on watching until the new daemon has asked its channel and answers requests
//! new daemon: does                                 → guardians leave, the rest of the release may begin
//!             dies, is silent                      → a guardian reverts the self-update and ends it
//! ```
//!
//! The commit is the acknowledgement: whoever holds the engine's lock first, the new daemon or the
//! guardian, decides, and the other one sees it. What follows it is the **trial**: a daemon that can commit may still
//! fail at its first poll, each time that it is started. The state has a note of the trial, so that one that a power cut
//! has ended goes on at the next start.

mod guardian;
mod put_back;
mod trial;

use std::convert::Infallible;
use std::ffi::CString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bootstrap::durable;
use bootstrap::generation::{StateDir, random_token};
use bootstrap::settings::Settings;
use bootstrap::state_place::StatePlace;
use flist::hub::ReleaseId;
use flist::report;
use serde::{Deserialize, Serialize};
use zinit_client::UnitName;

use crate::agent::{Problem, ProblemKind};

pub use guardian::guardian;

/// The handover that is under way, in the run directory.
const FILE: &str = "handover.json";

/// What guardian and new daemon have to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handover {
    /// The process that is being replaced; its number stays the same.
    pub pid: u32,
    /// Its service.
    pub unit: UnitName,
    /// The generation that the self-update makes.
    pub generation: u64,
    /// The release that the new daemon comes from.
    pub release: ReleaseId,
    /// Seconds until the new daemon must have committed.
    pub seconds: u64,
    /// Bytes of the release that have been fetched so far.
    #[serde(default)]
    pub fetched: u64,
    /// The old daemon runs on, and its files are not all back: guardians act when it ends, however long that takes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    given_up: bool,
    /// Generations before the current one that are kept; `None`: what suits the root.
    #[serde(default)]
    keep: Option<usize>,
    /// Tells this handover from any other.
    #[serde(default)]
    token: String,
    /// What is gone back to when the new daemon does not stand its trial; `None`: it has none.
    #[serde(default)]
    trial: Option<Trial>,
    /// Why the trial has failed: then a guardian has begun to go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    /// Where things are.
    places: Places,
}

/// What is known of a new daemon's trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trial {
    /// The generation before the self-update.
    pub before: u64,
    /// Seconds for which the new daemon may not answer.
    pub seconds: u64,
    /// What was installed, and what the new daemon comes from, for people.
    pub versions: (String, String),
    /// The release that was installed.
    pub release: ReleaseId,
}

/// How far a handover has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The new daemon has not committed yet.
    Pending,
    /// It has, and is on trial.
    Trial,
    /// It has not stood its trial, for this reason, and the old one is not back.
    Failed(String),
    /// There is nothing left to do.
    Over,
}

/// The part of the settings that the guardian needs, so that it needs no configuration file: that may
/// change under it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Places {
    root: PathBuf,
    state_dir: PathBuf,
    run_dir: PathBuf,
    zinit_socket: PathBuf,
}

impl Places {
    /// Where the state is.
    fn state(&self) -> StatePlace {
        StatePlace::new(&self.state_dir, &self.run_dir)
    }
}

impl Handover {
    /// A handover of this process.
    ///
    /// # Errors
    /// A [`Problem`] when /proc is not there.
    pub fn new(
        settings: &Settings,
        unit: UnitName,
        generation: u64,
        release: ReleaseId,
    ) -> Result<Self, Problem> {
        let token = random_token().map_err(|error| local("cannot begin a handover", &error))?;
        let places = Places {
            root: settings.root.clone(),
            state_dir: settings.state_dir.clone(),
            run_dir: settings.run_dir.clone(),
            zinit_socket: settings.zinit_socket.clone(),
        };
        let seconds = settings.handover_timeout.as_secs();
        let (fetched, given_up, trial, failed) = (0, false, None, None);
        let (pid, keep) = (std::process::id(), settings.keep_generations);
        Ok(Self {
            pid,
            unit,
            generation,
            release,
            seconds,
            fetched,
            given_up,
            keep,
            token,
            trial,
            failed,
            places,
        })
    }

    /// The same handover, with a trial after the commit.
    #[must_use]
    pub fn with_trial(self, trial: Option<Trial>) -> Self {
        Self { trial, ..self }
    }

    /// The handover that is under way, if any.
    pub fn read(run_dir: &Path) -> Option<Self> {
        let bytes = std::fs::read(run_dir.join(FILE)).ok()?;
        let read = serde_json::from_slice(&bytes);
        read.inspect_err(|error| tracing::error!(%error, "the note about the handover is not usable")).ok()
    }

    /// It is over, whatever came of it.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn end(run_dir: &Path) {
        match std::fs::remove_file(run_dir.join(FILE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::error!(%error, "the note about the handover cannot be removed");
            }
            _ => {}
        }
    }

    /// It is over, unless another one is under way by now.
    #[tracing::instrument(level = "debug", skip_all)]
    fn close(&self) {
        if self.noted().is_some() {
            Self::end(&self.places.run_dir);
        }
    }

    /// What is noted of it now; `None` where it is over. A note that cannot be read just now says nothing new, so that
    /// nobody leaves because of it.
    fn noted(&self) -> Option<Self> {
        match std::fs::read(self.places.run_dir.join(FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(_) => Some(self.clone()),
            Ok(note) => serde_json::from_slice::<Self>(&note).ok().filter(|now| now.token == self.token),
        }
    }

    /// Tells the new daemon how much was fetched before it.
    ///
    /// # Errors
    /// A [`Problem`]; the note is as before.
    pub fn note_fetched(&self, bytes: u64) -> Result<(), Problem> {
        Self { fetched: bytes, ..self.clone() }.write()
    }

    /// Ends it for a daemon that is not replaced. Unless all of its files are back, the guardians stay: should it end now,
    /// what the supervisor starts may be neither the old nor the new one, and who recovers first ends the handover.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn give_up(&self, is_undone: bool) {
        if is_undone {
            return Self::end(&self.places.run_dir);
        }
        if let Err(problem) = (Self { given_up: true, ..self.clone() }).write() {
            tracing::warn!(%problem, "the guardians will not wait for the end of this process");
        }
    }

    fn is_given_up(&self) -> bool {
        Self::read(&self.places.run_dir).is_some_and(|now| now.token == self.token && now.given_up)
    }

    pub(crate) fn write(&self) -> Result<(), Problem> {
        let json = serde_json::to_vec(self).map_err(|error| local("cannot describe the handover", &error))?;
        durable::replace(&self.places.run_dir.join(FILE), &json, 0o600)
            .map_err(|error| local("cannot write down the handover", &error))
    }

    /// How far it has come.
    fn phase(&self) -> Phase {
        let Some(now) = self.noted() else { return Phase::Over };
        if let Some(why) = now.failed {
            return Phase::Failed(why);
        }
        match self.current() == Some(self.generation) {
            true if self.trial.is_some() => Phase::Trial,
            true => Phase::Over,
            // Numbers only grow: something was installed since, and only who can work installs.
            false if self.trial.is_some() && self.current() > Some(self.generation) => Phase::Over,
            false => Phase::Pending,
        }
    }

    /// The number of the current generation, as far as it can be read.
    fn current(&self) -> Option<u64> {
        let state = StateDir::open(&self.places.state().directory());
        state.ok().and_then(|state| state.current_number().ok()).flatten()
    }

    /// Writes it down and starts the guardians, which are ready when this returns.
    ///
    /// # Errors
    /// A [`Problem`]; no guardian acts then, and there is no note.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn start_guardian(&self) -> Result<(), Problem> {
        let run_dir = &self.places.run_dir;
        self.write()?;
        let started = guardian::launch(run_dir);
        if started.is_err() {
            Self::end(run_dir);
        }
        started
    }
}

/// Replaces this process by the new program; returns only if that fails.
#[tracing::instrument(level = "debug", skip_all, fields(program = %program.display()))]
pub fn exec(program: &Path, arguments: &[String]) -> Problem {
    match try_exec(program, arguments) {
        Ok(never) => match never {},
        Err(error) => local(&format!("cannot execute the new {}", program.display()), &error),
    }
}

fn try_exec(program: &Path, arguments: &[String]) -> Result<Infallible, std::io::Error> {
    let words: Vec<CString> =
        arguments.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?;
    let program = CString::new(program.as_os_str().as_bytes())?;
    Ok(nix::unistd::execv(&program, &words)?)
}

fn local(what: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new(ProblemKind::Local, format!("{what}: {}", report(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two versions of the program share the note, so a newer one must understand an older one's.
    #[test]
    fn the_note_of_the_first_version_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let note = r#"{"pid":7,"unit":"identityd","generation":3,
            "release":"00000000000000000000000000000000000000000000000000000000000000ff","seconds":30,
            "places":{"root":"/","state_dir":"/s","run_dir":"/r","zinit_socket":"/z"}}"#;
        std::fs::write(dir.path().join(FILE), note).unwrap();
        let handover = Handover::read(dir.path()).unwrap();
        assert_eq!((handover.pid, handover.generation, handover.fetched), (7, 3, 0));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Handover::read(dir.path()).is_none());
        Handover::end(dir.path());
        Handover::end(dir.path());
        // A note that cannot be read is no end of the handover.
        assert!(handover.trial.is_none() && handover.failed.is_none());
        let noted = Handover {
            places: Places { run_dir: dir.path().to_owned(), ..handover.places.clone() },
            ..handover
        };
        assert!(noted.noted().is_none());
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        assert!(noted.noted().is_some());
        std::fs::remove_dir(dir.path().join(FILE)).unwrap();
        assert!(!dir.path().join(FILE).exists());
    }
}
