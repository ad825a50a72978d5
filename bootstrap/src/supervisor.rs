//! Everything that the engine does to services and processes, behind one narrow trait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flist::path::FlistPath;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use zinit_client::{Client, Error, ServiceStatus, UnitName};

use crate::processes;

/// A supervisor and the processes of its services. Each method that changes something is one effect.
#[async_trait]
pub trait Supervisor: Send + Sync + std::fmt::Debug {
    /// The names of all services that it monitors.
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

    /// Takes hold of the leader of a service's process group: from here on its number cannot come to mean
    /// another process unnoticed.
    fn hold(&self, pid: u32) -> Box<dyn HeldProcess>;

    /// For each service (given by its leader) the files of `wanted` (by device and inode number) that one
    /// of its processes executes, has mapped or holds open. Blocks the thread.
    fn in_use(
        &self,
        wanted: &HashMap<(u64, u64), FlistPath>,
        leaders: &BTreeMap<UnitName, u32>,
    ) -> BTreeMap<UnitName, BTreeSet<FlistPath>>;
}

/// The leader of a process group that somebody has taken hold of.
#[async_trait]
pub trait HeldProcess: Send + Sync {
    /// Waits for its end, for at most this long.
    async fn ended_within(&self, patience: Duration) -> bool;

    /// Whether its process group has a member. A group keeps its number as long as it has one, so it cannot
    /// be somebody else's.
    fn group_lives(&self) -> bool;

    /// Sends SIGKILL to its process group.
    fn kill_group(&self);
}

/// The real supervisor: zinit, and the processes in /proc.
#[async_trait]
impl Supervisor for Client {
    async fn list(&self) -> Result<Vec<String>, Error> {
        Ok(Client::list(self).await?.into_keys().collect())
    }

    async fn status(&self, unit: &UnitName) -> Result<ServiceStatus, Error> {
        Client::status(self, unit).await
    }

    async fn monitor(&self, unit: &UnitName) -> Result<(), Error> {
        Client::monitor(self, unit).await
    }

    async fn start(&self, unit: &UnitName) -> Result<(), Error> {
        Client::start(self, unit).await
    }

    async fn stop(&self, unit: &UnitName) -> Result<(), Error> {
        Client::stop(self, unit).await
    }

    async fn forget(&self, unit: &UnitName) -> Result<(), Error> {
        Client::forget(self, unit).await
    }

    fn hold(&self, pid: u32) -> Box<dyn HeldProcess> {
        Box::new(Process::open(pid))
    }

    fn in_use(
        &self,
        wanted: &HashMap<(u64, u64), FlistPath>,
        leaders: &BTreeMap<UnitName, u32>,
    ) -> BTreeMap<UnitName, BTreeSet<FlistPath>> {
        processes::in_use(wanted, leaders)
    }
}

/// A process by its pidfd.
struct Process {
    pid: u32,
    /// `None` when it had ended already.
    fd: Option<Arc<OwnedFd>>,
}

impl Process {
    fn open(pid: u32) -> Self {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let fd = raw.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { pid, fd: fd.map(Arc::new) }
    }

    fn group(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.pid.cast_signed())
    }
}

#[async_trait]
impl HeldProcess for Process {
    async fn ended_within(&self, patience: Duration) -> bool {
        match self.fd.clone() {
            Some(fd) => {
                tokio::task::spawn_blocking(move || wait_readable(&fd, patience)).await.unwrap_or(false)
            }
            None => true,
        }
    }

    fn group_lives(&self) -> bool {
        killpg(self.group(), None) != Err(Errno::ESRCH)
    }

    fn kill_group(&self) {
        // Whoever is gone needs no signal.
        let _ = killpg(self.group(), Signal::SIGKILL);
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
