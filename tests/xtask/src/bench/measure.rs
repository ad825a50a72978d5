//! Running a case and taking its measure.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use molt_tests::{Error, wait_for};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wait4::Wait4;

use super::case::{Case, Invocation, Step};

/// Longest time for one step; the slowest peer needs some seconds.
const LIMIT: Duration = Duration::from_secs(600);

/// How long a wait for the end of a program goes on before it looks whether it shall go on at all.
const SLICE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Most bytes kept of what a program says about its failure.
const MAX_COMPLAINT: u64 = 64 << 10;

/// What something cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// From the start of the first program to the end of the last.
    pub(super) wall: Duration,
    /// User and system time of all programs.
    pub(super) cpu: Duration,
    /// Most memory that one program had, in bytes.
    pub(super) peak: u64,
}

impl Usage {
    fn add(&mut self, rusage: &wait4::ResourceUsage) {
        self.cpu += rusage.utime + rusage.stime;
        self.peak = self.peak.max(rusage.maxrss);
    }
}

/// Runs the steps of a case in its fresh directories.
///
/// # Errors
/// When a program fails or does not end.
pub(super) fn measure(case: &Case) -> Result<Usage, Error> {
    for directory in &case.fresh {
        empty(directory)?;
    }
    let mut usage = Usage::default();
    let mut started = Vec::new();
    let start = Instant::now();
    for step in &case.steps {
        match step {
            Step::Run(invocation) => Running::start(invocation, Stdio::null())?.finish(&mut usage)?,
            Step::Start(invocation) => started.push(Daemon::start(invocation)?.running),
        }
    }
    for running in started {
        running.finish(&mut usage)?;
    }
    usage.wall = start.elapsed();
    Ok(usage)
}

/// Makes a directory, or empties it.
///
/// # Errors
/// When the system does not let us.
pub(super) fn empty(directory: &Path) -> Result<(), Error> {
    let failed = |source| Error::System { action: format!("empty {}", directory.display()), source };
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::create_dir_all(directory).map_err(failed)
}

/// A program that serves until it is dropped, which kills it, or ends by itself.
pub(super) struct Daemon {
    running: Running,
    /// The first line it printed.
    pub(super) said: String,
}

impl Daemon {
    /// Starts it and waits for its first line.
    ///
    /// # Errors
    /// When it ends before.
    pub(super) fn start(invocation: &Invocation) -> Result<Self, Error> {
        let mut running = Running::start(invocation, Stdio::piped())?;
        let mut said = String::new();
        if let Some(stdout) = running.child.stdout.take() {
            let read = BufReader::new(stdout.take(4096)).read_line(&mut said);
            read.map_err(|source| Error::System { action: format!("read from {}", running.line), source })?;
        }
        if said.is_empty() {
            running.finish(&mut Usage::default())?;
            return Err(Error::Unexpected("a program that should serve ended without a word".to_owned()));
        }
        Ok(Self { running, said })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        self.running.child.id().cast_signed()
    }
}

/// A program that has been started; it does not outlive this value.
struct Running {
    child: Child,
    line: String,
    ended: bool,
}

impl Running {
    fn start(invocation: &Invocation, stdout: Stdio) -> Result<Self, Error> {
        let mut command: Command = invocation.command();
        let line = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let child =
            command.spawn().map_err(|source| Error::System { action: format!("run {line}"), source })?;
        Ok(Self { child, line, ended: false })
    }

    /// Waits for its end and adds what it cost.
    fn finish(mut self, usage: &mut Usage) -> Result<(), Error> {
        self.wait()?;
        let failed = |source| Error::System { action: format!("wait for {}", self.line), source };
        let lost = || Error::Unexpected(format!("{} ended and still runs", self.line));
        let used = self.child.try_wait4().map_err(failed)?.ok_or_else(lost)?;
        self.ended = true;
        usage.add(&used.rusage);
        if used.status.success() {
            return Ok(());
        }
        let mut output = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            // It has ended: what it wrote is there, whole.
            let _ = stderr.take(MAX_COMPLAINT).read_to_string(&mut output);
        }
        Err(Error::Command { command: self.line.clone(), status: used.status.to_string(), output })
    }

    /// Waits until it has ended, without taking notice of the end.
    fn wait(&self) -> Result<(), Error> {
        let failed = |errno: rustix::io::Errno| Error::System {
            action: format!("wait for {}", self.line),
            source: errno.into(),
        };
        let pid = Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        wait_for(&format!("{} ends", self.line), LIMIT, || {
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&SLICE)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => Err("it still runs".to_owned()),
                Ok(_) => Ok(Ok(())),
                Err(errno) => Ok(Err(failed(errno))),
            }
        })?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // It may just have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
