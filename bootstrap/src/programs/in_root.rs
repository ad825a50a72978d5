//! Programs for real: in a root, in a process group of their own, with their output and time limited.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
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

/// How long a killed process may take to be gone: it is in the kernel's hands then. Less in the unit tests, which wait
/// for it.
const KILLED: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// How often it is looked whether a killed process is gone, where there is nothing to wait for.
const LOOK: Duration = Duration::from_millis(10);

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
        match (self.end_leftovers(&call.mark).await, &ended) {
            // That one of them cannot be ended is what is told.
            (_, Ok(Ended { how: How::Stuck(_), .. })) | (Ok(()), _) => ended,
            (Err(error), _) => Err(error),
        }
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
        let mut killed = None;
        let waited = pidfd(pid).and_then(|process| {
            let in_time = self.wait(&process, Some(limit))?;
            // While the leader is not reaped, its number cannot come to mean another group.
            let _gone = killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            killed = Some(Instant::now());
            if !in_time {
                self.wait(&process, Some(KILLED))?;
            }
            Ok(in_time)
        });
        if waited.is_err() {
            let _gone = killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        let status = self.reap(killed.unwrap_or_else(Instant::now) + KILLED)?;
        self.read()?;
        let Some(status) = status else {
            let Self { mut child, kept, .. } = self;
            // Whenever it ends, nobody has to keep its number.
            let wait = move || drop(child.wait());
            let _unreaped = std::thread::Builder::new().name("stuck program".to_owned()).spawn(wait);
            return Ok(Ended { how: How::Stuck(KILLED), output: kept });
        };
        let how = match (waited?, status.code()) {
            (false, _) => How::TimedOut(limit),
            (true, Some(code)) => How::Exited(code),
            (true, None) => How::Killed(status.signal().unwrap_or(0)),
        };
        Ok(Ended { how, output: self.kept })
    }

    /// How a process ended that has been killed; `None` when it is still there at this time.
    fn reap(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < deadline => std::thread::sleep(LOOK),
                status => return Ok(status),
            }
        }
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
                found.push((pid, process));
            }
        }
        let Some((first, _)) = found.first() else { return Ok(()) };
        for (_, process) in &found {
            // Whoever is gone needs no signal.
            let _gone = pidfd_send_signal(process, rustix::process::Signal::KILL);
        }
        for (_, process) in &found {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], left) {
                // A signal to this process; the next look finds what is still there.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if Instant::now() >= deadline {
            let why = format!(
                "process {first} was killed and is still there after {KILLED:?}: it hangs in the kernel"
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A file system whose server takes a question and never answers it: whoever asks cannot be killed.
    struct Silent {
        at: tempfile::TempDir,
        server: File,
    }

    impl Silent {
        fn mount() -> Self {
            let at = tempfile::tempdir().unwrap();
            let server = File::options().read(true).write(true).open("/dev/fuse").unwrap();
            let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
            mount(Some("silent"), at.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
            Self { at, server }
        }

        /// Takes the kernel's first words and answers them, and takes the question after that.
        fn listen(mut self) -> Self {
            let mut request = vec![0; 1 << 16];
            let read = self.server.read(&mut request).unwrap();
            // FUSE_INIT (include/uapi/linux/fuse.h): the answer is a header with its number, and version 7.31.
            assert!(read > 40 && request[4..8] == 26_u32.to_ne_bytes());
            let mut answer = [80_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
            answer.extend_from_slice(&request[8..16]);
            answer.extend([7_u32, 31, 0, 0, 0, 4096].map(u32::to_ne_bytes).concat());
            answer.resize(80, 0);
            self.server.write_all(&answer).unwrap();
            assert!(self.server.read(&mut request).unwrap() >= 40);
            self
        }
    }

    impl Drop for Silent {
        fn drop(&mut self) {
            // Who waits is told that nobody will answer once the server's end is closed, which comes after this.
            let _ = nix::mount::umount2(self.at.path(), nix::mount::MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn who_hangs_in_the_kernel_is_not_waited_for_for_ever() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let silent = Silent::mount();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let asks = silent.at.path().join("x");
        std::fs::write(&program, format!("#!/bin/sh\necho begun\n: < {}\n", asks.display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let server = std::thread::spawn(move || silent.listen());
        let call = Call {
            program: program.strip_prefix("/").unwrap().to_str().unwrap().parse().unwrap(),
            words: vec!["program".to_owned()],
            environment: Vec::new(),
            mark: format!("stuck-{}", std::process::id()),
            instead: Vec::new(),
            timeout: Duration::from_secs(2),
        };
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(run(Path::new("/"), &call).map_err(|error| error.to_string())));
        let silent = server.join().unwrap();
        let ended = ended.recv_timeout(Duration::from_secs(60));
        // Also when that failed: otherwise nobody could end this process.
        drop(silent);
        let ended = ended.unwrap().unwrap();
        assert_eq!((ended.how, ended.output.as_slice()), (How::Stuck(KILLED), &b"begun\n"[..]));
        assert!(!ended.is_good() && ended.to_string().contains("hangs in the kernel"), "{ended}");
    }
}
