//! Stopping and starting services for real: what the supervisor says is checked against the process.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::time::{Instant, sleep};
use zinit_client::{Client, Error as ZinitError, Refusal, ServiceStatus, ServiceUnit, UnitName};

/// How often the supervisor is asked whether something has happened.
const POLL: Duration = Duration::from_millis(10);

/// How long a killed process may take to be gone: it is in the kernel's hands then.
const KILLED: Duration = Duration::from_secs(10);

/// How long the supervisor may take to notice that a process has ended.
const NOTICED: Duration = Duration::from_secs(10);

/// How long members of the process group may outlive their leader.
const GROUP: Duration = Duration::from_secs(1);

/// How long a service may take to come up after its start.
const UP: Duration = Duration::from_secs(30);

/// Why a service could not be stopped or started.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The supervisor did not do what it was asked.
    #[error("zinit did not {action} {unit}")]
    Zinit {
        /// What was asked.
        action: &'static str,
        /// Of which service.
        unit: UnitName,
        /// Its answer.
        #[source]
        source: ZinitError,
    },
    /// The process survived SIGKILL.
    #[error("process {pid} of {unit} is still there {after:?} after SIGKILL")]
    Immortal {
        /// The service.
        unit: UnitName,
        /// Its process.
        pid: u32,
        /// How long it was waited for.
        after: Duration,
    },
    /// The process is gone, but the supervisor says it is there.
    #[error("the process of {unit} has ended, but zinit did not notice within {after:?}")]
    Unnoticed {
        /// The service.
        unit: UnitName,
        /// How long it was waited for.
        after: Duration,
    },
    /// The service did not come up.
    #[error("{unit} did not come up: {why}")]
    NotUp {
        /// The service.
        unit: UnitName,
        /// Its last state.
        why: String,
    },
}

fn failed(action: &'static str, unit: &UnitName) -> impl FnOnce(ZinitError) -> ServiceError {
    let unit = unit.clone();
    move |source| ServiceError::Zinit { action, unit, source }
}

/// What the supervisor says of a service; `None` when it does not know it.
///
/// # Errors
/// [`ServiceError::Zinit`].
pub async fn status(zinit: &Client, unit: &UnitName) -> Result<Option<ServiceStatus>, ServiceError> {
    match zinit.status(unit).await {
        Ok(status) => Ok(Some(status)),
        Err(error) if matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => Ok(None),
        Err(error) => Err(failed("tell the status of", unit)(error)),
    }
}

/// Stops a service and makes the supervisor forget it. It gets its unit's own time to end; then its whole
/// process group is killed.
///
/// # Errors
/// [`ServiceError`].
pub async fn stop_and_forget(
    zinit: &Client,
    unit: &UnitName,
    definition: Option<&ServiceUnit>,
) -> Result<(), ServiceError> {
    let Some(before) = status(zinit, unit).await? else { return Ok(()) };
    // Taken before the stop: from here on the number cannot come to mean another process unnoticed.
    let process = before.pid.map(Process::open);
    zinit.stop(unit).await.map_err(failed("stop", unit))?;
    if let Some(process) = process {
        let patience = definition.map_or(Duration::from_secs(10), ServiceUnit::stop_timeout);
        process.end(unit, patience).await?;
    }
    until_noticed(zinit, unit).await?;
    match zinit.forget(unit).await {
        Err(error) if !matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => {
            Err(failed("forget", unit)(error))
        }
        _ => Ok(()),
    }
}

/// Makes the supervisor monitor a service; that starts it. One that is monitored already is started.
///
/// # Errors
/// [`ServiceError::Zinit`].
pub async fn monitor(zinit: &Client, unit: &UnitName) -> Result<(), ServiceError> {
    match zinit.monitor(unit).await {
        Err(error) if matches!(error.refusal(), Some(Refusal::AlreadyMonitored { .. })) => {
            zinit.start(unit).await.map_err(failed("start", unit))
        }
        other => other.map_err(failed("monitor", unit)),
    }
}

/// Waits until a service that was just started is up: its process runs and its test passes, or a oneshot
/// has done its work. The first failure counts.
///
/// # Errors
/// [`ServiceError::NotUp`].
pub async fn until_up(zinit: &Client, unit: &UnitName, oneshot: bool) -> Result<(), ServiceError> {
    let started = Instant::now();
    loop {
        let Some(status) = status(zinit, unit).await? else {
            return Err(ServiceError::NotUp { unit: unit.clone(), why: "zinit does not know it".to_owned() });
        };
        if status.has_failed() {
            return Err(ServiceError::NotUp { unit: unit.clone(), why: status.state.to_string() });
        }
        if status.is_settled(oneshot) {
            return Ok(());
        }
        if started.elapsed() > UP {
            let why = format!("still {} after {UP:?}", status.state);
            return Err(ServiceError::NotUp { unit: unit.clone(), why });
        }
        sleep(POLL).await;
    }
}

async fn until_noticed(zinit: &Client, unit: &UnitName) -> Result<(), ServiceError> {
    let started = Instant::now();
    while status(zinit, unit).await?.is_some_and(|status| status.pid.is_some()) {
        if started.elapsed() > NOTICED {
            return Err(ServiceError::Unnoticed { unit: unit.clone(), after: NOTICED });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// The leader of a service's process group.
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

    /// Waits for the end that has been asked for, and enforces it.
    async fn end(&self, unit: &UnitName, patience: Duration) -> Result<(), ServiceError> {
        if !self.ended_within(patience).await {
            tracing::warn!(service = %unit, pid = self.pid, ?patience, "it does not end, killing its process group");
            self.signal_group(Signal::SIGKILL);
            if !self.ended_within(KILLED).await {
                return Err(ServiceError::Immortal { unit: unit.clone(), pid: self.pid, after: KILLED });
            }
        }
        let started = Instant::now();
        while self.group_lives() {
            if started.elapsed() > GROUP {
                tracing::warn!(service = %unit, group = self.pid, "members of its process group outlive it, killing them");
                self.signal_group(Signal::SIGKILL);
                break;
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn ended_within(&self, patience: Duration) -> bool {
        match self.fd.clone() {
            Some(fd) => {
                tokio::task::spawn_blocking(move || wait_readable(&fd, patience)).await.unwrap_or(false)
            }
            None => true,
        }
    }

    fn group(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.pid.cast_signed())
    }

    /// A process group keeps its number as long as it has a member, so it cannot be somebody else's.
    fn group_lives(&self) -> bool {
        killpg(self.group(), None) != Err(Errno::ESRCH)
    }

    fn signal_group(&self, signal: Signal) {
        // Whoever is gone needs no signal.
        let _ = killpg(self.group(), signal);
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
