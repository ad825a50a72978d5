//! The daemon replaces itself.
//!
//! ```text
//! old daemon: starts guardian ─ stages ─ swaps binary and unit ─ execs the new image in place (same pid)
//! guardian:   (old image, own session) waits for the commit, or the process's end, or the deadline
//! new daemon: looks that it can work ─ commits          → guardian leaves
//!             dies, hangs                               → guardian stops it, undoes the swap, starts the old
//! ```
//!
//! The commit is the acknowledgement: whoever holds the engine's lock first, the new daemon or the
//! guardian, decides, and the other one sees it.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bootstrap::durable;
use bootstrap::engine::{Engine, LOCK_PATIENCE};
use bootstrap::generation::{StateDir, random_token};
use bootstrap::lock::{self, EngineLock};
use bootstrap::releases::Releases;
use bootstrap::settings::Settings;
use bootstrap::state_place::StatePlace;
use bootstrap::transaction::services::{self, monitor, stop_and_forget};
use flist::hub::ReleaseId;
use flist::report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use zinit_client::{Target, UnitName};

use crate::agent::{Problem, ProblemKind};

/// How often the guardian looks for the commit.
const LOOK: Duration = Duration::from_millis(50);

/// How long the guardian waits for the lock before it looks who hangs with it.
const SHORT: Duration = Duration::from_secs(1);

/// How long a guardian may take to say that it is ready.
const STARTED: Duration = Duration::from_secs(10);

/// What the guardian says when it is ready.
const READY: &str = "ready";

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
    /// Generations before the current one that are kept; `None`: what suits the root.
    #[serde(default)]
    keep: Option<usize>,
    /// Tells this handover from any other.
    #[serde(default)]
    token: String,
    /// Where things are.
    places: Places,
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
    /// The state directory that counts now.
    fn state(&self) -> PathBuf {
        StatePlace::new(&self.state_dir, &self.run_dir).directory()
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
        let (pid, keep) = (std::process::id(), settings.keep_generations);
        Ok(Self { pid, unit, generation, release, seconds, fetched: 0, keep, token, places })
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

    /// Tells the new daemon how much was fetched before it.
    ///
    /// # Errors
    /// A [`Problem`]; the note is as before.
    pub fn note_fetched(&self, bytes: u64) -> Result<(), Problem> {
        Self { fetched: bytes, ..self.clone() }.write()
    }

    fn write(&self) -> Result<(), Problem> {
        let json = serde_json::to_vec(self).map_err(|error| local("cannot describe the handover", &error))?;
        durable::replace(&self.places.run_dir.join(FILE), &json, 0o600)
            .map_err(|error| local("cannot write down the handover", &error))
    }

    /// Writes it down and starts the guardian, which is ready when this returns.
    ///
    /// # Errors
    /// A [`Problem`]; there is no guardian then, and no note.
    #[tracing::instrument(level = "debug", skip_all)]
    pub fn start_guardian(&self) -> Result<(), Problem> {
        let run_dir = &self.places.run_dir;
        self.write()?;
        let started = launch(run_dir);
        if started.is_err() {
            Self::end(run_dir);
        }
        started
    }
}

/// Starts `identityd guardian` by way of a process that ends at once, so that the guardian is nobody's
/// child: the new daemon does not know that it has one.
#[tracing::instrument(level = "debug", skip_all)]
fn launch(run_dir: &Path) -> Result<(), Problem> {
    let failed = |error: std::io::Error| local("cannot start the guardian", &error);
    let mut launcher = Command::new("/proc/self/exe")
        .args(["guardian", "--launch"])
        .arg(run_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = launcher.stdout.take().filter(|stdout| is_readable_within(stdout, STARTED)) {
        BufReader::new(stdout.take(READY.len() as u64 + 1)).read_line(&mut line).map_err(failed)?;
    }
    let status = launcher.wait().map_err(failed)?;
    match status.success() && line.trim() == READY {
        true => Ok(()),
        false => Err(Problem::new(ProblemKind::Local, format!("the guardian did not start: {status}"))),
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

/// The hidden `guardian` subcommand: `--launch RUN_DIR` starts the guardian and leaves, `RUN_DIR` is it.
///
/// # Errors
/// A [`Problem`].
pub fn guardian(arguments: &[OsString]) -> Result<(), Problem> {
    let failed = |error: std::io::Error| local("cannot start the guardian", &error);
    match arguments {
        [flag, run_dir] if flag == "--launch" => {
            // Out of the process group that zinit signals; and a session of its own ends with nobody.
            nix::unistd::setsid().map_err(|errno| failed(errno.into()))?;
            Command::new("/proc/self/exe").arg("guardian").arg(run_dir).spawn().map_err(failed).map(drop)
        }
        [run_dir] => guard(Path::new(run_dir)),
        _ => Err(Problem::new(ProblemKind::Local, "the guardian is started by identityd itself")),
    }
}

#[tracing::instrument(level = "debug", skip_all)]
fn guard(run_dir: &Path) -> Result<(), Problem> {
    let Some(handover) = Handover::read(run_dir) else {
        return Err(Problem::new(ProblemKind::Local, "there is no handover to watch over"));
    };
    let pid = i32::try_from(handover.pid).ok().and_then(Pid::from_raw);
    let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    println!("{READY}");
    std::io::stdout().flush().map_err(|error| local("cannot say that the guardian is ready", &error))?;

    let deadline = Instant::now() + Duration::from_secs(handover.seconds);
    let why = loop {
        if !is_pending(&handover) {
            return Ok(());
        }
        match &process {
            Some(process) if !is_readable_within(process, LOOK) => {}
            _ => break "it ended before it had said that it runs".to_owned(),
        }
        if Instant::now() >= deadline {
            break format!("it did not say within {} s that it runs", handover.seconds);
        }
    };
    tracing::error!(why, "the new identityd failed, putting the old one back");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| local("cannot start a runtime", &error))?;
    runtime.block_on(put_back(&handover, &why))
}

/// Whether the new daemon has neither committed nor given up.
fn is_pending(handover: &Handover) -> bool {
    let noted = Handover::read(&handover.places.run_dir).is_some_and(|now| now.token == handover.token);
    let state = StateDir::open(&handover.places.state());
    let current = state.ok().and_then(|state| state.current_number().ok()).flatten();
    noted && current != Some(handover.generation)
}

/// A pidfd becomes readable when its process ends, a pipe when something is in it or its end is closed.
fn is_readable_within(fd: &impl std::os::fd::AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    matches!(poll(&mut fds, Some(&time)), Ok(1..))
}

/// Stops the new daemon, undoes the swap, starts the old one; in this order, and each whatever came of the
/// one before.
#[tracing::instrument(level = "debug", skip_all)]
async fn put_back(handover: &Handover, why: &str) -> Result<(), Problem> {
    let Places { root, run_dir, zinit_socket, .. } = &handover.places;
    let unit = &handover.unit;
    let engine = Engine::open_at(root, &handover.places.state(), zinit_socket)
        .map_err(|error| local("cannot put the old identityd back", &error))?
        .keeping(handover.keep);
    let take = |patience| lock::take(run_dir, "identityd's guardian", patience);
    let lock = take(SHORT);
    if lock.is_ok() && !is_pending(handover) {
        // The new daemon was faster: it has committed.
        return Ok(());
    }
    let status = services::status(engine.zinit(), unit).await;
    let wanted_up = status.is_ok_and(|status| status.is_none_or(|status| status.target == Target::Up));
    // Stopped before the lock is waited for: it may be this very daemon that holds it and hangs.
    if let Err(error) = stop_and_forget(engine.zinit(), unit, None).await {
        tracing::error!(error = report(&error), "the new identityd cannot be stopped");
    }
    let lock: EngineLock = match lock {
        Ok(lock) => lock,
        Err(_) => take(LOCK_PATIENCE).map_err(|error| local("cannot put the old identityd back", &error))?,
    };
    let recovered = if is_pending(handover) {
        let recovered = engine.recover(&lock).await;
        let mut releases = Releases::load(&engine.state().releases());
        if let Err(error) = releases.failed(handover.release, &format!("its identityd failed: {why}")) {
            tracing::error!(error = report(&error), "the failure cannot be remembered");
        }
        Handover::end(run_dir);
        recovered.map(drop)
    } else {
        // It has committed while it was being stopped: it is the one to start again.
        Ok(())
    };
    drop(lock);
    if wanted_up {
        let started = monitor(engine.zinit(), unit).await;
        started.map_err(|error| local("identityd cannot be started again", &error))?;
    }
    recovered.map_err(|error| local("the old identityd is not back", &error))?;
    tracing::warn!(%unit, wanted_up, "the old identityd is back");
    Ok(())
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
        assert!(!dir.path().join(FILE).exists());
    }
}
