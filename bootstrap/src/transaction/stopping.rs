//! Stopping a service for real, in the order that its supervisor needs. This is the one place that knows the
//! difference.
//!
//! ```text
//! AskFirst     tell zinit ─ it signals ─ wait for the process ─ kill what is left ─ forget
//! SignalFirst  signal ─ wait for the process ─ tell zinit at once ─ kill what is left ─ forget
//! AskAndKeep   tell zinit ─ it signals ─ wait for the process ─ kill what is left
//!              without a process: tell zinit ─ forget, or see that it stays down
//! ```
//!
//! That a process has ended is taken from the kernel. What the supervisor says is only waited for, because it
//! starts nothing anew before it has noticed.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use zinit_client::{Error as ZinitError, Refusal, ServiceUnit, SignalName, Target, UnitName};

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

/// How long members of the process group may outlive a leader that has used up the unit's time.
const GROUP: Duration = Duration::from_secs(1);

/// How often a service is stopped that was started again just then.
const REPEATS: u32 = 3;

/// Longest delay after which zinit 0.3 starts a service again that had ended before it was told to stop it; and a
/// little more.
const REVIVED: Duration = Duration::from_secs(3);

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
    let order = stop(zinit, unit, definition).await?;
    if order == StopOrder::AskAndKeep {
        return Ok(());
    }
    forget(zinit, unit).await
}

/// Stops a service as [`stop_and_forget`] does, which the supervisor goes on to know; one without a process it may
/// forget. Returns in which order that was done.
///
/// # Errors
/// [`ServiceError`].
pub(super) async fn stop(
    zinit: &dyn Supervisor,
    unit: &UnitName,
    definition: Option<&ServiceUnit>,
) -> Result<StopOrder, ServiceError> {
    let order = stop_order(zinit, unit).await?;
    let mut repeats = 0;
    while stop_once(zinit, order, unit, definition).await? == After::Revived {
        if repeats == REPEATS {
            return Err(ServiceError::Revived { unit: unit.clone() });
        }
        repeats += 1;
        tracing::warn!(service = %unit, "it was started again while it was being stopped");
    }
    Ok(order)
}

async fn forget(zinit: &dyn Supervisor, unit: &UnitName) -> Result<(), ServiceError> {
    match zinit.forget(unit).await {
        Err(error) if !matches!(error.refusal(), Some(Refusal::UnknownService { .. })) => {
            Err(failed("forget", unit)(error))
        }
        _ => Ok(()),
    }
}

/// Makes the supervisor forget a service that is down. One that somebody has started meanwhile stays. When the
/// supervisor does not answer, it is asked again some times.
///
/// # Errors
/// [`ServiceError::Zinit`].
pub(super) async fn forget_if_down(zinit: &dyn Supervisor, unit: &UnitName) -> Result<(), ServiceError> {
    let once = async || match status(zinit, unit).await? {
        Some(status) if status.target == Target::Down && status.pid.is_none() => forget(zinit, unit).await,
        _ => Ok(()),
    };
    for _ in 0..REPEATS {
        match once().await {
            Err(error) if error.is_passing() => sleep(POLL).await,
            done => return done,
        }
    }
    once().await
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
#[tracing::instrument(level = "debug", skip_all)]
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

/// Ends the process that a service has, without a word to the supervisor: a service that is wanted up is started again,
/// as what is installed then. The process is asked, and its whole process group is killed when it has not ended within
/// `patience`. Returns when the supervisor has noticed; at once where there is no process.
///
/// # Errors
/// [`ServiceError`]; never [`ServiceError::NotWell`].
#[tracing::instrument(level = "debug", skip_all)]
pub async fn end_by_request(
    zinit: &dyn Supervisor,
    unit: &UnitName,
    patience: Duration,
) -> Result<(), ServiceError> {
    let Held::Process(pid, process) = held(zinit, unit).await? else { return Ok(()) };
    process.signal_group(SignalName::TERM);
    end_leader(process.as_ref(), unit, pid, patience).await?;
    until_noticed(zinit, unit, pid).await.map(drop)
}

pub(super) async fn stop_order(zinit: &dyn Supervisor, unit: &UnitName) -> Result<StopOrder, ServiceError> {
    zinit.stop_order().await.map_err(failed("say how to stop", unit))
}

/// What a service does after it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// It stays down.
    Down,
    /// It was started again, or will be.
    Revived,
}

/// Stops whatever process the service has.
async fn stop_once(
    zinit: &dyn Supervisor,
    order: StopOrder,
    unit: &UnitName,
    definition: Option<&ServiceUnit>,
) -> Result<After, ServiceError> {
    let held = match held(zinit, unit).await? {
        Held::Unknown => return Ok(After::Down),
        Held::NoProcess => None,
        Held::Process(pid, process) => Some((pid, process)),
    };
    let asked = Instant::now();
    let patience = definition.map_or(UNKNOWN_PATIENCE, ServiceUnit::stop_timeout);
    let tell = || async { zinit.stop(unit).await.map_err(failed("stop", unit)) };
    let Some((pid, process)) = held else {
        tell().await?;
        return match order {
            StopOrder::AskAndKeep => keep_down(zinit, unit).await,
            StopOrder::AskFirst | StopOrder::SignalFirst => Ok(After::Down),
        };
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
    // A shell in front of the program ends before it; the unit's time is for both.
    let group = patience.saturating_sub(asked.elapsed()).max(GROUP);
    end_group(process.as_ref(), (unit, pid), group).await;
    until_noticed(zinit, unit, pid).await
}

/// A service and its process.
enum Held {
    /// The supervisor does not know the service.
    Unknown,
    /// It has no process.
    NoProcess,
    /// Its number, and the process itself.
    Process(u32, Box<dyn HeldProcess>),
}

/// Takes hold of the process of a service. By the time that it is held, its number may have come to mean another
/// process; so it counts only if it still is the service's afterwards. From then on it cannot change unnoticed.
async fn held(zinit: &dyn Supervisor, unit: &UnitName) -> Result<Held, ServiceError> {
    let mut before = status(zinit, unit).await?;
    for _ in 0..=REPEATS {
        let Some(known) = before else { return Ok(Held::Unknown) };
        let Some(pid) = known.pid else { return Ok(Held::NoProcess) };
        let process = zinit.hold(pid);
        let after = status(zinit, unit).await?;
        if after.as_ref().and_then(|status| status.pid) == Some(pid) {
            return Ok(Held::Process(pid, process));
        }
        before = after;
    }
    Err(ServiceError::Revived { unit: unit.clone() })
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

/// Waits until the supervisor knows that this process has ended.
async fn until_noticed(zinit: &dyn Supervisor, unit: &UnitName, pid: u32) -> Result<After, ServiceError> {
    let started = Instant::now();
    loop {
        match status(zinit, unit).await? {
            Some(status) if status.pid == Some(pid) => {}
            // It may have ended by itself in the moment before it was told to.
            Some(status) if status.pid.is_some() || status.target == Target::Up => return Ok(After::Revived),
            _ => return Ok(After::Down),
        }
        if started.elapsed() > NOTICED {
            return Err(ServiceError::Unnoticed { unit: unit.clone(), after: NOTICED });
        }
        sleep(POLL).await;
    }
}

/// Sees to it that a service without a process is not started again, of a supervisor that does so although it was
/// told to stop it. One that it no longer knows it cannot start; where it cannot be made to forget it without
/// harm to others, it is caught when it starts.
async fn keep_down(zinit: &dyn Supervisor, unit: &UnitName) -> Result<After, ServiceError> {
    match zinit.forget(unit).await {
        Ok(()) => return Ok(After::Down),
        Err(ZinitError::Unsafe { .. }) => {}
        Err(error) => {
            return match error.refusal() {
                Some(Refusal::UnknownService { .. }) => Ok(After::Down),
                Some(Refusal::IsUp { .. }) => Ok(After::Revived),
                _ => Err(failed("forget", unit)(error)),
            };
        }
    }
    let started = Instant::now();
    while started.elapsed() < REVIVED {
        match status(zinit, unit).await? {
            Some(status) if status.pid.is_some() || status.target == Target::Up => return Ok(After::Revived),
            _ => sleep(POLL).await,
        }
    }
    Ok(After::Down)
}
