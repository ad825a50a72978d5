//! Everything that the engine does to services and processes, behind one narrow trait.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flist::path::FlistPath;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tracing::instrument;
use zinit_client::{Client, Dialect, Error, ServiceStatus, SignalName, UnitName};

use crate::plan::UNIT_DIRECTORY;
use crate::processes::{self, Uses};

/// Pause between two looks at a process that has no pidfd.
const POLL: Duration = Duration::from_millis(10);

/// In which order a service is ended and its supervisor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopOrder {
    /// The supervisor is told, signals the service once, and leaves the rest to us.
    #[default]
    AskFirst,
    /// We signal, because the supervisor would kill long before the unit's time; it is told as soon as the
    /// process has ended, because it would start it again.
    SignalFirst,
    /// The supervisor is told and signals. It is not made to forget the service then: that would take others
    /// along. It stops what depends on a service together with it.
    AskAndKeep,
}

impl From<Dialect> for StopOrder {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Line => Self::AskFirst,
            Dialect::Jsonrpc => Self::SignalFirst,
            Dialect::Service => Self::AskAndKeep,
        }
    }
}

/// A supervisor and the processes of its services. Each method that changes something is one effect.
#[async_trait]
pub trait Supervisor: Send + Sync + std::fmt::Debug {
    /// In which order a service is stopped.
    ///
    /// # Errors
    /// The supervisor's.
    async fn stop_order(&self) -> Result<StopOrder, Error> {
        Ok(StopOrder::default())
    }

    /// The names of all services that it monitors. With [`StopOrder::AskAndKeep`], in the order of its table.
    ///
    /// # Errors
    /// The supervisor's.
    async fn list(&self) -> Result<Vec<String>, Error>;

    /// What it says of one service.
    ///
    /// # Errors
    /// The supervisor's.
    async fn status(&self, unit: &UnitName) -> Result<ServiceStatus, Error>;

    /// Loads a unit file and starts the service.
    ///
    /// # Errors
    /// The supervisor's.
    async fn monitor(&self, unit: &UnitName) -> Result<(), Error>;

    /// Wants a service up.
    ///
    /// # Errors
    /// The supervisor's.
    async fn start(&self, unit: &UnitName) -> Result<(), Error>;

    /// Wants a service down, and signals its processes.
    ///
    /// # Errors
    /// The supervisor's.
    async fn stop(&self, unit: &UnitName) -> Result<(), Error>;

    /// No longer monitors a stopped service.
    ///
    /// # Errors
    /// The supervisor's.
    async fn forget(&self, unit: &UnitName) -> Result<(), Error>;

    /// Of these stopped services, forgets those whose unit file is gone or has changed, where
    /// [`StopOrder::AskAndKeep`] has kept them.
    ///
    /// # Errors
    /// The supervisor's.
    async fn discard(&self, _stopped: &[UnitName]) -> Result<(), Error> {
        Ok(())
    }

    /// Takes hold of the leader of a service's process group: from here on its number cannot come to mean
    /// another process unnoticed.
    fn hold(&self, pid: u32) -> Box<dyn HeldProcess>;

    /// Who executes the files of `wanted` (by device and inode number), has them mapped or open: of the services
    /// (given by their leaders) and of all other processes. Blocks the thread.
    fn in_use(&self, wanted: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>) -> Uses;

    /// How long a process has been there; `None` when nobody knows.
    fn age(&self, _pid: u32) -> Option<Duration> {
        None
    }

    /// Who runs what upgrades have replaced: what is still `kept`, by device and inode number, and what is not. Blocks the
    /// thread. A supervisor without real processes knows only of the former.
    fn runs_old(&self, kept: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>) -> Uses {
        self.in_use(kept, leaders)
    }
}

/// The leader of a process group that somebody has taken hold of.
#[async_trait]
pub trait HeldProcess: Send + Sync {
    /// Waits for its end, for at most this long.
    async fn ended_within(&self, patience: Duration) -> bool;

    /// Whether its process group has a member. A group keeps its number as long as it has one, so it cannot
    /// be somebody else's.
    fn group_lives(&self) -> bool;

    /// Sends a signal to its process group.
    fn signal_group(&self, signal: SignalName);

    /// Sends SIGKILL to its process group.
    fn kill_group(&self) {
        self.signal_group(SignalName::KILL);
    }
}

/// The real supervisor that listens at `socket`, with the units of this root.
pub fn at(root: &Path, socket: &Path) -> Client {
    Client::new(socket).with_units(root.join(UNIT_DIRECTORY))
}

/// The real supervisor: zinit, and the processes in /proc. Each effect is a span of the log.
#[async_trait]
impl Supervisor for Client {
    async fn stop_order(&self) -> Result<StopOrder, Error> {
        Ok(self.dialect().await?.into())
    }

    async fn list(&self) -> Result<Vec<String>, Error> {
        Ok(self.table().await?.into_iter().map(|(name, _)| name).collect())
    }

    async fn status(&self, unit: &UnitName) -> Result<ServiceStatus, Error> {
        Client::status(self, unit).await
    }

    #[instrument(level = "trace", skip_all, fields(%unit))]
    async fn monitor(&self, unit: &UnitName) -> Result<(), Error> {
        Client::monitor(self, unit).await
    }

    #[instrument(level = "trace", skip_all, fields(%unit))]
    async fn start(&self, unit: &UnitName) -> Result<(), Error> {
        Client::start(self, unit).await
    }

    #[instrument(level = "trace", skip_all, fields(%unit))]
    async fn stop(&self, unit: &UnitName) -> Result<(), Error> {
        Client::stop(self, unit).await
    }

    #[instrument(level = "trace", skip_all, fields(%unit))]
    async fn forget(&self, unit: &UnitName) -> Result<(), Error> {
        Client::forget(self, unit).await
    }

    async fn discard(&self, stopped: &[UnitName]) -> Result<(), Error> {
        self.discard_changed(stopped).await
    }

    fn hold(&self, pid: u32) -> Box<dyn HeldProcess> {
        Box::new(Process::open(pid))
    }

    fn in_use(&self, wanted: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>) -> Uses {
        processes::in_use(wanted, leaders)
    }

    fn age(&self, pid: u32) -> Option<Duration> {
        processes::age(pid)
    }

    fn runs_old(&self, kept: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>) -> Uses {
        processes::runs_old(kept, leaders)
    }
}

/// A process by its pidfd.
struct Process {
    pid: u32,
    handle: Handle,
}

/// What a process is known by.
enum Handle {
    Fd(Arc<OwnedFd>),
    /// It had ended already.
    Ended,
    /// There is no pidfd to be had: too many files are open, or the kernel is too old. All that is left is asking
    /// for the number.
    Number,
}

impl Process {
    fn open(pid: u32) -> Self {
        let opened =
            i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let handle = match opened {
            Some(Ok(fd)) => Handle::Fd(Arc::new(fd)),
            None | Some(Err(rustix::io::Errno::SRCH)) => Handle::Ended,
            Some(Err(error)) => {
                tracing::warn!(pid, %error, "the process cannot be held, it is known by its number only");
                Handle::Number
            }
        };
        Self { pid, handle }
    }

    fn group(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.pid.cast_signed())
    }
}

#[async_trait]
impl HeldProcess for Process {
    async fn ended_within(&self, patience: Duration) -> bool {
        match &self.handle {
            Handle::Fd(fd) => {
                let fd = fd.clone();
                tokio::task::spawn_blocking(move || wait_readable(&fd, patience)).await.unwrap_or(false)
            }
            Handle::Ended => true,
            Handle::Number => {
                let gone = || kill(self.group(), None) == Err(Errno::ESRCH);
                let deadline = tokio::time::Instant::now() + patience;
                while !gone() && tokio::time::Instant::now() < deadline {
                    tokio::time::sleep(POLL).await;
                }
                gone()
            }
        }
    }

    fn group_lives(&self) -> bool {
        killpg(self.group(), None) != Err(Errno::ESRCH)
    }

    #[instrument(level = "trace", skip_all, fields(pid = self.pid, %signal))]
    fn signal_group(&self, signal: SignalName) {
        // All names are Linux's; whoever is gone needs no signal.
        if let Ok(signal) = Signal::from_str(signal.as_str()) {
            let _ = killpg(self.group(), signal);
        }
    }
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
fn wait_readable(fd: &OwnedFd, patience: Duration) -> bool {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}
