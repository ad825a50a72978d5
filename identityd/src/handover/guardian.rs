//! Who watches over a handover: two processes, so that one that is killed is missed by the other.
//!
//! ```text
//! first guardian    has the guardians' lock: acts when the new daemon fails; starts the second one anew when it ends
//! second guardian   takes the lock when the first one is gone, and is the first one from then on
//! ```
//! Whatever one of them was killed at, the other one does all of it again: each step does nothing where it is done.
//! The supervisor is not made to forget the service, nor to stop it. It always wants it up, and starts what is
//! installed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bootstrap::engine::{Engine, EngineError};
use bootstrap::lock::{self, EngineLock};
use bootstrap::releases::Releases;
use bootstrap::supervisor::{self, Supervisor};
use bootstrap::transaction::services::{ServiceError, end_process, monitor, status};
use flist::report;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use zinit_client::{ServiceStatus, Target, UnitName};

use super::{Handover, Places, local};
use crate::agent::{Problem, ProblemKind};

/// How often a guardian looks for the commit, and for the other guardian.
const LOOK: Duration = Duration::from_millis(50);

/// How long a guardian waits for the engine's lock before it ends who may hang with it.
const SHORT: Duration = Duration::from_secs(1);

/// How long a guardian may take to say that it is ready.
const STARTED: Duration = Duration::from_secs(10);

/// How long the guardians of the handover before may take to leave.
const LEFT: Duration = Duration::from_secs(5);

/// The first pause before the old daemon is put back again where that failed, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the first guardian says when both are there.
const READY: &str = "ready";

/// The guardians' lock, in the run directory.
const LOCK: &str = "guardian.lock";

/// Starts `identityd guardian` by way of a process that ends at once, so that the guardian is nobody's
/// child: the new daemon does not know that it has one.
#[tracing::instrument(level = "debug", skip_all)]
pub(super) fn launch(run_dir: &Path) -> Result<(), Problem> {
    let failed = |error: io::Error| local("cannot start the guardian", &error);
    let mut launcher =
        again(&["--launch"], run_dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
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

/// This very image as a guardian, wherever its file lies by now.
fn again(flags: &[&str], run_dir: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("guardian").args(flags).arg(run_dir);
    command
}

/// The hidden `guardian` subcommand: `--launch RUN_DIR` starts the first guardian and leaves, `RUN_DIR` is it, and
/// `--second RUN_DIR` the other one.
///
/// # Errors
/// A [`Problem`].
pub fn guardian(arguments: &[OsString]) -> Result<(), Problem> {
    let failed = |error: io::Error| local("cannot start the guardian", &error);
    match arguments {
        [flag, run_dir] if flag == "--launch" => {
            // Out of the process group that zinit signals; and a session of its own ends with nobody.
            nix::unistd::setsid().map_err(|errno| failed(errno.into()))?;
            again(&[], Path::new(run_dir)).spawn().map_err(failed).map(drop)
        }
        [flag, run_dir] if flag == "--second" => guard(Path::new(run_dir), false),
        [run_dir] => guard(Path::new(run_dir), true),
        _ => Err(Problem::new(ProblemKind::Local, "the guardian is started by identityd itself")),
    }
}

#[tracing::instrument(level = "debug", skip_all)]
fn guard(run_dir: &Path, first: bool) -> Result<(), Problem> {
    let Some(handover) = Handover::read(run_dir) else {
        return Err(Problem::new(ProblemKind::Local, "there is no handover to watch over"));
    };
    let pid = i32::try_from(handover.pid).ok().and_then(Pid::from_raw);
    let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut post = Post { run_dir: run_dir.to_owned(), lock: None, second: None };
    if first {
        post.begin().map_err(|error| local("cannot watch over the handover", &error))?;
        println!("{READY}");
        io::stdout().flush().map_err(|error| local("cannot say that the guardian is ready", &error))?;
    }
    let deadline = Instant::now() + Duration::from_secs(handover.seconds);
    let why = loop {
        if !handover.is_pending() {
            return Ok(());
        }
        let acts = post.is_held();
        let why = match &process {
            // Whoever has given up runs on as the old one.
            Some(process) if !is_readable_within(process, LOOK) => (Instant::now() >= deadline
                && !handover.is_given_up())
            .then(|| format!("it did not say within {} s that it runs", handover.seconds)),
            _ => Some("it ended before it had said that it runs".to_owned()),
        };
        match why {
            Some(why) if acts => break why,
            Some(_) => std::thread::sleep(LOOK),
            None => {}
        }
    };
    tracing::error!(why, "the new identityd failed, putting the old one back");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| local("cannot start a runtime", &error))?;
    runtime.block_on(put_back_at_last(&handover, &mut post, &why))
}

/// A pidfd becomes readable when its process ends, a pipe when something is in it or its end is closed.
fn is_readable_within(fd: &impl std::os::fd::AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    matches!(poll(&mut fds, Some(&time)), Ok(1..))
}

/// The place of the first guardian. Who is killed loses it: the kernel gives the lock back.
struct Post {
    run_dir: PathBuf,
    lock: Option<Flock<File>>,
    second: Option<Child>,
}

impl Post {
    /// Takes it, and has the other guardian started.
    fn begin(&mut self) -> io::Result<()> {
        let started = Instant::now();
        while !self.take()? {
            if started.elapsed() > LEFT {
                return Err(io::Error::other("the guardian of another handover is still at work"));
            }
            std::thread::sleep(LOOK);
        }
        self.see_to_second()
    }

    /// Whether this process is the first guardian now. Then there is a second one, too, if one can be started.
    fn is_held(&mut self) -> bool {
        let held = self.take().unwrap_or_else(|error| {
            tracing::warn!(%error, "nobody knows whether there is another guardian");
            false
        });
        if held && let Err(error) = self.see_to_second() {
            tracing::warn!(%error, "this guardian is alone");
        }
        held
    }

    fn take(&mut self) -> io::Result<bool> {
        if self.lock.is_some() {
            return Ok(true);
        }
        let mut open = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
        let file = open.read(true).write(true).create(true).truncate(false).open(self.run_dir.join(LOCK))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => self.lock = Some(lock),
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {}
            Err((_, errno)) => return Err(errno.into()),
        }
        Ok(self.lock.is_some())
    }

    fn see_to_second(&mut self) -> io::Result<()> {
        let there = match &mut self.second {
            Some(second) => second.try_wait()?.is_none(),
            None => false,
        };
        if !there {
            let second =
                again(&["--second"], &self.run_dir).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            self.second = Some(second?);
        }
        Ok(())
    }
}

/// As [`put_back`], again and again: nobody else does it.
async fn put_back_at_last(handover: &Handover, post: &mut Post, why: &str) -> Result<(), Problem> {
    let (mut pause, longest) = PAUSES;
    loop {
        match put_back(handover, post, why).await {
            Err(problem) if handover.is_pending() => {
                tracing::error!(%problem, ?pause, "the old identityd is not back yet; trying again");
            }
            ended => return ended,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Undoes the swap, ends the new daemon, and has the old one started.
#[tracing::instrument(level = "debug", skip_all)]
async fn put_back(handover: &Handover, post: &mut Post, why: &str) -> Result<(), Problem> {
    let not_back =
        |error: &(dyn std::error::Error + 'static)| local("cannot put the old identityd back", error);
    let Places { root, zinit_socket, .. } = &handover.places;
    let (zinit, unit) = (supervisor::at(root, zinit_socket), &handover.unit);
    let Some(lock) = engine_lock(handover, post, &zinit).await.map_err(|error| not_back(&error))? else {
        // The new daemon was faster: it has committed, and is the one to run.
        return start(&zinit, unit).await.map(drop).map_err(|error| not_back(&error));
    };
    let undone = undo(handover, &lock, why).await;
    // What is started now is what is on disk, which is the old one where that much could be undone.
    if (undone.is_ok() || !runs_this_image(&zinit, unit).await)
        && let Err(error) = end_process(&zinit, unit).await
    {
        tracing::error!(error = report(&error), "the new identityd cannot be ended");
    }
    drop(lock);
    let started = start(&zinit, unit).await;
    // The note stays until nothing is left to do: without it nobody watches.
    undone.map_err(|error| not_back(&error))?;
    let wanted_up = started.map_err(|error| local("identityd cannot be started again", &error))?;
    handover.close();
    tracing::warn!(%unit, wanted_up, "the old identityd is back");
    Ok(())
}

/// The engine's lock; `None` when the new daemon has committed meanwhile. Whoever has it for long may be this very
/// daemon, which hangs: it is ended, and the lock taken before the supervisor starts it anew.
async fn engine_lock(
    handover: &Handover,
    post: &mut Post,
    zinit: &dyn Supervisor,
) -> Result<Option<EngineLock>, lock::LockError> {
    loop {
        // However long this takes, whoever does it can be killed.
        post.is_held();
        let taken = lock::take(&handover.places.run_dir, "identityd's guardian", SHORT);
        if !handover.is_pending() {
            return Ok(None);
        }
        match taken {
            Err(held @ lock::LockError::Held { .. }) => {
                tracing::warn!(error = report(&held), "ending the new identityd, which may have it");
                if let Err(error) = end_process(zinit, &handover.unit).await {
                    tracing::error!(error = report(&error), "the new identityd cannot be ended");
                }
            }
            taken => return taken.map(Some),
        }
    }
}

/// Undoes the swap, and remembers why. What is in the state is read only now that nobody else changes it.
///
/// # Errors
/// Not everything could be undone; nothing is remembered then.
#[tracing::instrument(level = "debug", skip_all)]
async fn undo(handover: &Handover, lock: &EngineLock, why: &str) -> Result<(), EngineError> {
    let Places { root, zinit_socket, .. } = &handover.places;
    let engine =
        Engine::open_at(root, &handover.places.state().directory(), zinit_socket)?.keeping(handover.keep);
    engine.recover(lock).await?;
    let mut releases = Releases::load(&handover.places.state());
    if let Err(error) = releases.failed(handover.release, &format!("its identityd failed: {why}")) {
        tracing::error!(error = report(&error), "the failure cannot be remembered");
    }
    Ok(())
}

/// Whether the service runs the file that this guardian runs, which is the old one.
async fn runs_this_image(zinit: &dyn Supervisor, unit: &UnitName) -> bool {
    let image = |process: &str| {
        let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let Ok(Some(ServiceStatus { pid: Some(pid), .. })) = status(zinit, unit).await else { return false };
    let own = image("self");
    own.is_some() && own == image(&pid.to_string())
}

/// Has the service started, unless somebody has stopped it; tells whether it is wanted up.
async fn start(zinit: &dyn Supervisor, unit: &UnitName) -> Result<bool, ServiceError> {
    let wanted = status(zinit, unit).await?.is_none_or(|status| status.target == Target::Up);
    if wanted {
        monitor(zinit, unit).await?;
    }
    Ok(wanted)
}
