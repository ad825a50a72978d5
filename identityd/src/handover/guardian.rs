//! Who watches over a handover: two processes, so that one that is killed is missed by the other.
//!
//! ```text
//! first guardian    has the guardians' lock: acts when the new daemon fails; starts the second one anew when it ends
//! second guardian   takes the lock when the first one is gone, and is the first one from then on
//! ```
//! They leave when the new daemon has stood its trial.
//!
//! Whatever one of them was killed at, the other one does all of it again: each step does nothing where it is done.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::put_back::{Done, put_back_at_last};
use super::trial::{Seen, Watch};
use super::{Handover, Phase, local};
use crate::agent::{Problem, ProblemKind};

/// How often a guardian looks for the commit, and for the other guardian.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// How long a guardian may take to say that it is ready.
const STARTED: Duration = Duration::from_secs(10);

/// How long the guardians of the handover before may take to leave.
const LEFT: Duration = Duration::from_secs(5);

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
    let mut watch = Watch::begin(&handover);
    let mut post = Post { run_dir: run_dir.to_owned(), lock: None, second: None };
    if first {
        post.begin().map_err(|error| local("cannot watch over the handover", &error))?;
        println!("{READY}");
        io::stdout().flush().map_err(|error| local("cannot say that the guardian is ready", &error))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| local("cannot start a runtime", &error))?;
    loop {
        let (phase, acts) = (handover.phase(), post.is_held());
        let why = match phase {
            Phase::Over => {
                if acts {
                    handover.stood();
                }
                return Ok(());
            }
            Phase::Pending => watch.why_not_committed(&handover),
            Phase::Trial if acts => match runtime.block_on(watch.trial(&handover)) {
                Seen::Nothing => None,
                Seen::Stopped => {
                    handover.close();
                    return Ok(());
                }
                Seen::Stands => {
                    handover.stood();
                    return Ok(());
                }
                Seen::Failed(why) => {
                    handover.fail(&why);
                    Some(why)
                }
            },
            Phase::Trial => {
                std::thread::sleep(LOOK);
                None
            }
            Phase::Failed(why) => Some(why),
        };
        match why {
            Some(why) if acts => {
                tracing::error!(why, "the new identityd failed, putting the old one back");
                match runtime.block_on(put_back_at_last(&handover, &mut post, &why))? {
                    Done::Back => return Ok(()),
                    Done::Faster => {}
                }
            }
            Some(_) => std::thread::sleep(LOOK),
            None => {}
        }
    }
}

/// Whether somebody watches over a handover.
pub(super) fn is_there(run_dir: &Path) -> bool {
    let mut post = Post { run_dir: run_dir.to_owned(), lock: None, second: None };
    // Where that cannot be told, a guardian that is begun finds out.
    post.take().is_ok_and(|taken| !taken)
}

/// A pidfd becomes readable when its process ends, a pipe when something is in it or its end is closed.
pub(super) fn is_readable_within(fd: &impl std::os::fd::AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    matches!(poll(&mut fds, Some(&time)), Ok(1..))
}

/// The place of the first guardian. Who is killed loses it: the kernel gives the lock back.
pub(super) struct Post {
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
    pub(super) fn is_held(&mut self) -> bool {
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
