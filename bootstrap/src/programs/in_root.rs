//! Programs for real: in a root, in a process group of their own, with their output and time limited.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flist::mountinfo::{MountLine, mounts};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{chdir, chroot};
use rustix::fs::syncfs;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::{Call, Ended, How, KEPT_OUTPUT, Programs};

/// Where programs look for others.
const PATH: &str = flist::rehearsal::SEARCH_PATH;

/// The variable that finds a program again.
const MARK: &str = "MOLT_MARK";

/// Longest environment of a process that is looked at, in bytes.
const MAX_ENVIRONMENT: u64 = 1 << 20;

/// How long a killed process may take to be gone: it is in the kernel's hands then.
const KILLED: Duration = Duration::from_secs(10);

/// Runs programs in a root file system.
#[derive(Debug)]
pub struct InRoot {
    root: PathBuf,
}

impl InRoot {
    /// In this root; `/` is the running system's.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

#[async_trait]
impl Programs for InRoot {
    async fn run(&self, call: &Call) -> io::Result<Ended> {
        let (root, work) = (self.root.clone(), call.clone());
        // A thread of its own, because root and mounts are changed for it alone and die with it.
        let (done, ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("program".to_owned());
        thread.spawn(move || {
            // Nobody waits any more: then nobody wants to know.
            let _unwanted = done.send(run(&root, &work));
        })?;
        let ended = ended.await.map_err(io::Error::other)?;
        // What has left the process group is ended too; seen from here, because a root may have no /proc.
        self.end_leftovers(&call.mark).await?;
        ended
    }

    async fn end_leftovers(&self, mark: &str) -> io::Result<()> {
        let mark = mark.to_owned();
        tokio::task::spawn_blocking(move || end_marked(&mark)).await.map_err(io::Error::other)?
    }

    async fn sync(&self) -> io::Result<()> {
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || sync_beneath(&root)).await.map_err(io::Error::other)?
    }
}

/// Syncs the file system of a root and all that are mounted beneath it and lie on a disk of this machine. That one of
/// these fails is told only: a node with a broken disk can be upgraded, and nobody knows whether a program wrote there.
fn sync_beneath(root: &Path) -> io::Result<()> {
    let root = root.canonicalize()?;
    let mut done = BTreeSet::new();
    syncfs(&File::open(&root)?)?;
    for mount in mounts()?.into_iter().filter(|mount| mount.at.starts_with(&root) && has_medium(mount)) {
        if done.insert(mount.device)
            && let Err(error) = File::open(&mount.at).and_then(|top| Ok(syncfs(&top)?))
        {
            tracing::warn!(path = %mount.at.display(), %error, "what programs wrote there may not last");
        }
    }
    Ok(())
}

/// Whether a file system has a medium in this machine. What is in RAM has none, and a server that does not answer must
/// not hold up an upgrade.
fn has_medium(mount: &MountLine) -> bool {
    // These have a number that is no disk's.
    let on_disks = ["bcachefs", "btrfs", "zfs"].contains(&mount.kind.as_str());
    on_disks || mount.device.split(':').next().is_some_and(|major| major != "0")
}

fn run(root: &Path, call: &Call) -> io::Result<Ended> {
    let nothing = File::open("/dev/null")?;
    let (output, writer) = io::pipe()?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    enter(root, call)?;
    let mut command = Command::new(Path::new("/").join(call.program.as_path()));
    command.arg0(&call.words[0]).args(&call.words[1..]).current_dir("/").process_group(0);
    command.env_clear().env("PATH", PATH).env(MARK, &call.mark);
    command.envs(call.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(nothing).stdout(writer.try_clone()?).stderr(Stdio::from(writer));
    let child = command.spawn()?;
    // It holds this side's ends of the pipe.
    drop(command);
    Running { child, output, kept: Vec::new() }.end(call.timeout)
}

/// Gives this thread the root, and what the program sees instead of the state.
fn enter(root: &Path, call: &Call) -> io::Result<()> {
    if !call.instead.is_empty() {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        for (seen, at) in &call.instead {
            let (seen, at) = (root.join(seen.as_path()), root.join(at.as_path()));
            mount(Some(&seen), &at, none, MsFlags::MS_BIND, none)?;
        }
    }
    if root != Path::new("/") {
        unshare(CloneFlags::CLONE_FS)?;
        chroot(root)?;
        chdir("/")?;
    }
    Ok(())
}

struct Running {
    child: Child,
    output: PipeReader,
    /// The end of what it said.
    kept: Vec<u8>,
}

impl Running {
    /// Waits for its end, enforces it, and leaves nobody of its process group behind.
    fn end(mut self, limit: Duration) -> io::Result<Ended> {
        let pid = self.child.id().cast_signed();
        let waited = pidfd(pid).and_then(|process| {
            let in_time = self.wait(&process, Some(limit))?;
            // While the leader is not reaped, its number cannot come to mean another group.
            let _gone = killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            if !in_time {
                self.wait(&process, Some(KILLED))?;
            }
            Ok(in_time)
        });
        if waited.is_err() {
            let _gone = killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        let status = self.child.wait()?;
        self.read()?;
        let how = match (waited?, status.code()) {
            (false, _) => How::TimedOut(limit),
            (true, Some(code)) => How::Exited(code),
            (true, None) => How::Killed(status.signal().unwrap_or(0)),
        };
        Ok(Ended { how, output: self.kept })
    }

    /// Takes what it says until its process ends; `false` when that takes too long.
    fn wait(&mut self, process: &OwnedFd, limit: Option<Duration>) -> io::Result<bool> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut open = true;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left
                .map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            let ended = {
                let mut fds = [
                    PollFd::new(process.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.output.as_fd(), PollFlags::POLLIN),
                ];
                match poll(if open { &mut fds[..] } else { &mut fds[..1] }, timeout) {
                    Err(Errno::EINTR) => continue,
                    polled => polled?,
                };
                fds[0].any().unwrap_or(false)
            };
            open = self.read()? && open;
            if ended {
                return Ok(true);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }

    /// Reads what there is now, and keeps the end of it; `false` when nobody can write any more.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; KEPT_OUTPUT];
        // Not for ever: whoever writes without pause has his time limited.
        for _ in 0..64 {
            match self.output.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.kept.extend_from_slice(&buffer[..read]);
                    let superfluous = self.kept.len().saturating_sub(KEPT_OUTPUT);
                    self.kept.drain(..superfluous);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(Errno::ESRCH))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills every process with this mark in its environment, and waits for their ends.
fn end_marked(mark: &str) -> io::Result<()> {
    let wanted = format!("{MARK}={mark}").into_bytes();
    let deadline = Instant::now() + KILLED;
    // What is killed may have made others meanwhile.
    loop {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // Held before it is looked at, so that what is killed is what was seen.
            let Ok(process) = pidfd(pid) else { continue };
            if has_in_environment(pid, &wanted) {
                found.push(process);
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        for process in &found {
            // Whoever is gone needs no signal.
            let _gone = pidfd_send_signal(process, rustix::process::Signal::KILL);
        }
        for process in &found {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], left) {
                // A signal to this process; the next look finds what is still there.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if Instant::now() >= deadline {
            return Err(Errno::ETIMEDOUT.into());
        }
    }
}

/// Whether a process has a variable; one that has ended has none.
fn has_in_environment(pid: i32, wanted: &[u8]) -> bool {
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else { return false };
    let mut environment = Vec::new();
    let read = file.take(MAX_ENVIRONMENT).read_to_end(&mut environment);
    read.is_ok() && environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
}
