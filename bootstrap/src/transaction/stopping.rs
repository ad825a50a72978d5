//! Stopping a service for real, in the order that its supervisor needs. This is the one place that knows the
//! difference.
//!
//! ```text
//! AskFirst     tell zinit ─ it signals ─ wait for the process ─ kill what is left ─ forget
//! SignalFirst  signal ─ wait for the process ─ tell zinit at once ─ kill what is left ─ forget
//! AskAndKeep   tell zinit ─ it signals ─ wait for the process ─ kill what is left
//! ```
//!
//! That a process has ended is taken from the kernel. What the supervisor says is only waited for, because it
//! starts nothing anew before it has noticed.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use zinit_client::{Refusal, ServiceUnit, SignalName, Target, UnitName};

use super::services::{ServiceError, failed, status};
use crate::supervisor::{HeldProcess, StopOrder, Supervisor};

/// How often the supervisor is asked whether something has happened.
const POLL: Duration = Duration::from_millis(10);

/// How long a service may take to end whose unit nobody knows.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);

/// How long a killed process may take to be gone: it is in the kernel's hands then.
const KILLED: Duration = Duration::from_secs(10);

/// How long the supervisor may take to notice that a process has ended.
const NOTICED: Duration = Duration::from_secs(10);

/// How long members of the process group may outlive their leader.
const GROUP: Duration = Duration::from_secs(1);

/// How often a service is stopped that was started again just then.
const REPEATS: u32 = 3;

/// Longest delay after which zinit 0.3 starts a failed service again, although it was told to stop it; and a
/// little more.
const REVIVED: Duration = Duration::from_millis(2500);

/// Stops a service and makes the supervisor forget it, unless it is one that keeps what is stopped (see
/// [`StopOrder::AskAndKeep`] and [`discard`]). The service gets its unit's own time to end; then its whole
/// process group is killed.
///
/// # Errors
/// [`ServiceError`].
pub async fn stop_and_forget(
    zinit: &dyn Supervisor,
    unit: &UnitName,
    definition: Option<&ServiceUnit>,
) -> Result<(), ServiceError> {
    let order = stop_order(zinit, unit).await?;
    let mut repeats = 0;
    while let Some(pid) = stop_once(zinit, order, unit, definition).await? {
        if repeats == REPEATS {
            return Err(ServiceError::Revived { unit: unit.clone(), pid });
        }
        repeats += 1;
        tracing::warn!(service = %unit, pid, "it was started again while it was being stopped");
    }
    if order == StopOrder::AskAndKeep {
        return Ok(());
    }
    match zinit.forget(unit).await {
        Err(error) if !matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => {
            Err(failed("forget", unit)(error))
        }
        _ => Ok(()),
    }
}

/// Makes a supervisor that keeps what is stopped forget those of these services whose unit has changed or is
/// gone. All of them must have been stopped, and the unit files must be what they shall be.
///
/// # Errors
/// [`ServiceError::Discard`].
pub async fn discard(zinit: &dyn Supervisor, stopped: &[UnitName]) -> Result<(), ServiceError> {
    if stopped.is_empty() {
        return Ok(());
    }
    zinit.discard(stopped).await.map_err(ServiceError::Discard)
}

/// Kills the process that a service has, and its whole process group, without a word to the supervisor: a service
/// that is wanted up is started again, as what is installed then.
///
/// # Errors
/// [`ServiceError`].
pub async fn end_process(zinit: &dyn Supervisor, unit: &UnitName) -> Result<(), ServiceError> {
    let pid = || async { Ok::<_, ServiceError>(status(zinit, unit).await?.and_then(|status| status.pid)) };
    let Some(first) = pid().await? else { return Ok(()) };
    let process = zinit.hold(first);
    // The number is only known to mean the service's process if it still does now that it is held.
    if pid().await? != Some(first) {
        return Ok(());
    }
    process.kill_group();
    match process.ended_within(KILLED).await {
        true => Ok(()),
        false => Err(ServiceError::Immortal { unit: unit.clone(), pid: first, after: KILLED }),
    }
}

async fn stop_order(zinit: &dyn Supervisor, unit: &UnitName) -> Result<StopOrder, ServiceError> {
    zinit.stop_order().await.map_err(failed("say how to stop", unit))
}

/// Stops whatever process the service has; returns the process that it has afterwards.
async fn stop_once(
    zinit: &dyn Supervisor,
    order: StopOrder,
    unit: &UnitName,
    definition: Option<&ServiceUnit>,
) -> Result<Option<u32>, ServiceError> {
    let Some(before) = status(zinit, unit).await? else { return Ok(None) };
    // Taken before anything is said: from here on the number cannot come to mean another process unnoticed.
    let process = before.pid.map(|pid| (pid, zinit.hold(pid)));
    let asked = Instant::now();
    let patience = definition.map_or(UNKNOWN_PATIENCE, ServiceUnit::stop_timeout);
    let tell = || async { zinit.stop(unit).await.map_err(failed("stop", unit)) };
    let Some((pid, process)) = process else {
        tell().await?;
        let revives = order == StopOrder::AskAndKeep && before.target == Target::Up && before.has_failed();
        return if revives { revived(zinit, unit).await } else { Ok(None) };
    };
    match order {
        StopOrder::AskFirst | StopOrder::AskAndKeep => {
            tell().await?;
            end_leader(process.as_ref(), unit, pid, patience).await?;
        }
        StopOrder::SignalFirst => {
            process.signal_group(definition.map_or(SignalName::TERM, |unit| unit.stop_signal));
            end_leader(process.as_ref(), unit, pid, patience).await?;
            // At once: two seconds later it would be started again.
            tell().await?;
        }
    }
    // zinit 0.3 may run a shell in front of the program, which ends before it.
    let group = match order {
        StopOrder::AskAndKeep => patience.saturating_sub(asked.elapsed()).max(GROUP),
        StopOrder::AskFirst | StopOrder::SignalFirst => GROUP,
    };
    end_group(process.as_ref(), (unit, pid), group).await;
    until_noticed(zinit, unit, pid).await
}

/// Waits for the end that has been asked for, and enforces it.
async fn end_leader(
    process: &dyn HeldProcess,
    unit: &UnitName,
    pid: u32,
    patience: Duration,
) -> Result<(), ServiceError> {
    if process.ended_within(patience).await {
        return Ok(());
    }
    tracing::warn!(service = %unit, pid, ?patience, "it does not end, killing its process group");
    process.kill_group();
    match process.ended_within(KILLED).await {
        true => Ok(()),
        false => Err(ServiceError::Immortal { unit: unit.clone(), pid, after: KILLED }),
    }
}

async fn end_group(process: &dyn HeldProcess, (unit, pid): (&UnitName, u32), patience: Duration) {
    let started = Instant::now();
    while process.group_lives() {
        if started.elapsed() > patience {
            tracing::warn!(service = %unit, group = pid, "members of its process group outlive it, killing them");
            process.kill_group();
            break;
        }
        sleep(POLL).await;
    }
}

/// Waits until the supervisor knows that this process has ended; returns the one that it has started instead.
async fn until_noticed(
    zinit: &dyn Supervisor,
    unit: &UnitName,
    pid: u32,
) -> Result<Option<u32>, ServiceError> {
    let started = Instant::now();
    loop {
        match status(zinit, unit).await?.and_then(|status| status.pid) {
            Some(same) if same == pid => {}
            other => return Ok(other),
        }
        if started.elapsed() > NOTICED {
            return Err(ServiceError::Unnoticed { unit: unit.clone(), after: NOTICED });
        }
        sleep(POLL).await;
    }
}

/// Looks whether a service that had failed is started again although it shall not be.
async fn revived(zinit: &dyn Supervisor, unit: &UnitName) -> Result<Option<u32>, ServiceError> {
    let started = Instant::now();
    while started.elapsed() < REVIVED {
        if let Some(pid) = status(zinit, unit).await?.and_then(|status| status.pid) {
            return Ok(Some(pid));
        }
        sleep(POLL).await;
    }
    Ok(None)
}
