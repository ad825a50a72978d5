//! A network namespace of our own: only `lo`, nobody else's ports, nothing leaves the machine.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::error::{Doing, Error, require_root};

/// A network namespace with `lo` up; cheap to clone. It lives as long as a clone of it or a process in it.
///
/// A keeper thread is in the namespace while the rest of the process stays where it is. Processes are
/// started by that thread, so that one with a parent-death signal dies with the last clone (or with the
/// whole process), whatever happened to the thread that asked for it.
#[derive(Clone)]
pub struct NetNs {
    keeper: Arc<Keeper>,
}

struct Keeper {
    /// None for that of the machine.
    namespace: Option<File>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl NetNs {
    /// Makes one.
    ///
    /// # Errors
    /// When the caller is not root, or the system has no network namespaces.
    pub fn new() -> Result<Self, Error> {
        require_root("a network namespace")?;
        Self::kept(|| enter_new().map(Some))
    }

    /// The one that everybody is in, for what a person shall reach from a terminal.
    ///
    /// # Errors
    /// None in practice.
    pub fn of_the_machine() -> Result<Self, Error> {
        Self::kept(|| Ok(None))
    }

    fn kept(enter: impl FnOnce() -> io::Result<Option<File>> + Send + 'static) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            // Nobody listens any more when `new` has gone; then there are no jobs either.
            let _ = ready.send(enter());
            for job in queue {
                job();
            }
        });
        let namespace = entered
            .recv()
            .map_err(|_| Error::Unexpected("the keeper of the network namespace died".to_owned()))?
            .doing(|| "make a network namespace".to_owned())?;
        Ok(Self { keeper: Arc::new(Keeper { namespace, jobs: Some(jobs), thread: Some(thread) }) })
    }

    /// Starts a program in the namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child, Error> {
        let line = format!("{command:?}");
        let (done, started) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            let _ = done.send(command.spawn());
        });
        let gone = || Error::Unexpected("the keeper of the network namespace died".to_owned());
        self.keeper.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?.doing(|| format!("run {line}"))
    }

    /// Runs `work` on a thread inside of the namespace and waits for it.
    ///
    /// # Errors
    /// When the thread cannot enter.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let inside = || {
            if let Some(namespace) = &self.keeper.namespace {
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .doing(|| "enter the network namespace".to_owned())?;
            }
            Ok(work())
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A job that panicked has told so already.
            let _ = thread.join();
        }
    }
}

/// Puts this thread into a new namespace with `lo` up.
fn enter_new() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    raise_loopback()?;
    File::open("/proc/thread-self/ns/net")
}

/// Sets IFF_UP on interface 1, which is `lo` in every new namespace. Spoken in rtnetlink(7), because that
/// needs neither `ip` nor an ioctl.
fn raise_loopback() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_WITH_ACK: u16 = 0x1 | 0x4;
    const LOOPBACK: i32 = 1;
    const IFF_UP: u32 = 1;
    let mut request = Vec::with_capacity(32);
    // struct nlmsghdr: length, type, flags, sequence, port
    request.extend(32u32.to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(REQUEST_WITH_ACK.to_ne_bytes());
    request.extend([0; 8]);
    // struct ifinfomsg: family, padding, type, index, flags, mask of changed flags
    request.extend([0; 4]);
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes());

    let route =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(route.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 128];
    let length = recv(route.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // struct nlmsgerr: a header of 16 bytes, then a negated errno, 0 for success
    let code = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(-code).into()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "short answer of rtnetlink")),
    }
}
