//! Stopping and starting services for real: what the supervisor says is checked against the process.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zinit_client::{Error as ZinitError, Refusal, ServiceStatus, ServiceUnit, UnitName};

use crate::health::{HealthWatch, Judgement};
use crate::supervisor::{HeldProcess, Supervisor};

/// How often the supervisor is asked whether something has happened.
const POLL: Duration = Duration::from_millis(10);

/// How long a killed process may take to be gone: it is in the kernel's hands then.
const KILLED: Duration = Duration::from_secs(10);

/// How long the supervisor may take to notice that a process has ended.
const NOTICED: Duration = Duration::from_secs(10);

/// How long members of the process group may outlive their leader.
const GROUP: Duration = Duration::from_secs(1);

/// How often the supervisor is asked during the health window.
const WATCH: Duration = Duration::from_millis(50);

/// How long the supervisor may be silent during the health window.
const SILENCE: Duration = Duration::from_secs(10);

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
    /// The service did not come up, or did not stay up.
    #[error("{unit} is not well: {why}")]
    NotWell {
        /// The service.
        unit: UnitName,
        /// What is wrong with it.
        why: String,
    },
}

impl ServiceError {
    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Zinit { source, .. } if source.is_retryable())
    }
}

fn failed(action: &'static str, unit: &UnitName) -> impl FnOnce(ZinitError) -> ServiceError {
    let unit = unit.clone();
    move |source| ServiceError::Zinit { action, unit, source }
}

/// What the supervisor says of a service; `None` when it does not know it.
///
/// # Errors
/// [`ServiceError::Zinit`].
pub async fn status(zinit: &dyn Supervisor, unit: &UnitName) -> Result<Option<ServiceStatus>, ServiceError> {
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
    zinit: &dyn Supervisor,
    unit: &UnitName,
    definition: Option<&ServiceUnit>,
) -> Result<(), ServiceError> {
    let Some(before) = status(zinit, unit).await? else { return Ok(()) };
    // Taken before the stop: from here on the number cannot come to mean another process unnoticed.
    let process = before.pid.map(|pid| (pid, zinit.hold(pid)));
    zinit.stop(unit).await.map_err(failed("stop", unit))?;
    if let Some((pid, process)) = process {
        let patience = definition.map_or(Duration::from_secs(10), ServiceUnit::stop_timeout);
        end(process.as_ref(), unit, pid, patience).await?;
    }
    until_noticed(zinit, unit).await?;
    match zinit.forget(unit).await {
        Err(error) if !matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => {
            Err(failed("forget", unit)(error))
        }
        _ => Ok(()),
    }
}

/// How often an order is given again when the supervisor did not answer.
const REPEATS: u32 = 3;

/// How long to wait before that.
const REPEAT_AFTER: Duration = Duration::from_millis(200);

/// Makes the supervisor monitor a service; that starts it. One that is monitored already is started. When
/// the supervisor does not answer, it is asked again some times: the order may have been lost, or only the
/// answer to it.
///
/// # Errors
/// [`ServiceError::Zinit`].
pub async fn monitor(zinit: &dyn Supervisor, unit: &UnitName) -> Result<(), ServiceError> {
    let mut repeats = 0;
    loop {
        let answer = match zinit.monitor(unit).await {
            Err(error) if matches!(error.refusal(), Some(Refusal::AlreadyMonitored { .. })) => {
                zinit.start(unit).await.map_err(failed("start", unit))
            }
            other => other.map_err(failed("monitor", unit)),
        };
        match answer {
            Err(error) if error.is_passing() && repeats < REPEATS => repeats += 1,
            other => return other,
        }
        sleep(REPEAT_AFTER).await;
    }
}

/// Watches services that were just started until they can be kept.
///
/// # Errors
/// [`ServiceError::NotWell`].
pub async fn soak(zinit: &dyn Supervisor, mut watch: HealthWatch) -> Result<(), ServiceError> {
    let started = Instant::now();
    let mut answered = started;
    loop {
        match statuses(zinit, &watch).await {
            Ok(seen) => {
                answered = Instant::now();
                match watch.judge(&seen, started.elapsed()) {
                    Judgement::Keep => return Ok(()),
                    Judgement::Wait => {}
                    Judgement::RollBack { unit, why } => return Err(ServiceError::NotWell { unit, why }),
                }
            }
            // A supervisor that is busy for a moment says nothing about the release.
            Err(error) if error.is_passing() && answered.elapsed() < SILENCE => {}
            Err(error) => return Err(error),
        }
        sleep(WATCH).await;
    }
}

async fn statuses(
    zinit: &dyn Supervisor,
    watch: &HealthWatch,
) -> Result<BTreeMap<UnitName, ServiceStatus>, ServiceError> {
    let mut seen = BTreeMap::new();
    for unit in watch.units() {
        if let Some(status) = status(zinit, unit).await? {
            seen.insert(unit.clone(), status);
        }
    }
    Ok(seen)
}

async fn until_noticed(zinit: &dyn Supervisor, unit: &UnitName) -> Result<(), ServiceError> {
    let started = Instant::now();
    while status(zinit, unit).await?.is_some_and(|status| status.pid.is_some()) {
        if started.elapsed() > NOTICED {
            return Err(ServiceError::Unnoticed { unit: unit.clone(), after: NOTICED });
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Waits for the end that has been asked for, and enforces it.
async fn end(
    process: &dyn HeldProcess,
    unit: &UnitName,
    pid: u32,
    patience: Duration,
) -> Result<(), ServiceError> {
    if !process.ended_within(patience).await {
        tracing::warn!(service = %unit, pid, ?patience, "it does not end, killing its process group");
        process.kill_group();
        if !process.ended_within(KILLED).await {
            return Err(ServiceError::Immortal { unit: unit.clone(), pid, after: KILLED });
        }
    }
    let started = Instant::now();
    while process.group_lives() {
        if started.elapsed() > GROUP {
            tracing::warn!(service = %unit, group = pid, "members of its process group outlive it, killing them");
            process.kill_group();
            break;
        }
        sleep(POLL).await;
    }
    Ok(())
}
