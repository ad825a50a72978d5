//! Starting services for real, and watching them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zinit_client::{Error as ZinitError, Refusal, ServiceStatus, State, Target, UnitName};

pub use super::stopping::{discard, end_by_request, end_process, stop_and_forget};
pub(super) use super::stopping::{stop, stop_order};

use crate::health::{Bystanders, HealthLimits, HealthWatch, Judgement};
use crate::supervisor::Supervisor;

/// How often the supervisor is asked during the health window.
const WATCH: Duration = Duration::from_millis(50);

/// Every how many of these looks the services are looked at that were left alone: they are many.
const BYSTANDERS_EVERY: u32 = 5;

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
    /// It runs again and again.
    #[error("{unit} was started again each time that it was stopped")]
    Revived {
        /// The service.
        unit: UnitName,
    },
    /// The supervisor did not forget services whose units have changed.
    #[error("zinit did not forget the services that are stopped and changed")]
    Discard(#[source] ZinitError),
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
    /// Whether the release whose service it is may be to blame: it does not do, or the supervisor takes no such unit. A
    /// supervisor that does not answer and a process that does not end are the node's.
    pub fn may_be_the_releases_fault(&self) -> bool {
        match self {
            Self::NotWell { .. } => true,
            Self::Zinit { action, source, .. } => {
                matches!(*action, MONITOR | START)
                    && matches!(
                        source.refusal(),
                        Some(Refusal::ConfigLoad | Refusal::Unit(_) | Refusal::Other(_))
                    )
            }
            Self::Immortal { .. } | Self::Unnoticed { .. } | Self::Revived { .. } | Self::Discard(_) => false,
        }
    }

    /// Whether asking again may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Zinit { source, .. } | Self::Discard(source) if source.is_retryable())
    }
}

pub(super) fn failed(action: &'static str, unit: &UnitName) -> impl FnOnce(ZinitError) -> ServiceError {
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

/// What a service is started by.
const MONITOR: &str = "monitor";
const START: &str = "start";

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
                zinit.start(unit).await.map_err(failed(START, unit))
            }
            other => other.map_err(failed(MONITOR, unit)),
        };
        match answer {
            Err(error) if error.is_passing() && repeats < REPEATS => repeats += 1,
            other => return other,
        }
        sleep(REPEAT_AFTER).await;
    }
}

/// Watches services that were just started, and those that were left alone, until all can be kept. Each that was
/// started is told of as soon as it is up.
///
/// # Errors
/// [`ServiceError::NotWell`].
pub async fn soak(
    zinit: &dyn Supervisor,
    watch: &mut HealthWatch,
    bystanders: &mut Bystanders,
    is_up: &mut (dyn FnMut(&UnitName) + Send),
) -> Result<(), ServiceError> {
    let (started, mut told) = (Instant::now(), BTreeSet::new());
    let mut answered = started;
    for look in 0_u32.. {
        match judge_both(zinit, (watch, bystanders), look, started).await {
            Ok(judgement) => {
                answered = Instant::now();
                for unit in watch.settled() {
                    if told.insert(unit.clone()) {
                        is_up(unit);
                    }
                }
                match judgement {
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
    Ok(())
}

/// What is done with the release by this look.
async fn judge_both(
    zinit: &dyn Supervisor,
    (watch, bystanders): (&mut HealthWatch, &mut Bystanders),
    look: u32,
    started: Instant,
) -> Result<Judgement, ServiceError> {
    let seen = statuses(zinit, watch.units()).await?;
    let judgement = watch.judge(&seen, started.elapsed());
    let is_over = judgement == Judgement::Keep;
    if matches!(judgement, Judgement::RollBack { .. }) || !(is_over || look.is_multiple_of(BYSTANDERS_EVERY))
    {
        return Ok(judgement);
    }
    let seen = statuses(zinit, bystanders.units()).await?;
    Ok(match bystanders.judge(&seen, started.elapsed()) {
        Judgement::Keep => judgement,
        other => other,
    })
}

/// Of these services and the processes that they had when the plan was made, those that have them still and have had
/// them for so long. Who cannot be asked about is not among them.
pub async fn steady(
    zinit: &dyn Supervisor,
    planned: &BTreeMap<UnitName, u32>,
    least: Duration,
) -> BTreeMap<UnitName, u32> {
    let mut steady = BTreeMap::new();
    for (unit, process) in planned {
        let now = match status(zinit, unit).await {
            Ok(now) => now.and_then(|now| Bystanders::process_of(&now, false)),
            Err(error) => {
                tracing::warn!(service = %unit, error = %flist::report(&error), "it is not watched after the swap");
                None
            }
        };
        if now == Some(*process) && zinit.age(*process).is_none_or(|age| age >= least) {
            steady.insert(unit.clone(), *process);
        }
    }
    steady
}

/// Waits until services that were left alone are up again, once everything is as it was; one that the supervisor has
/// given up is started. Tells in words of those that are not up after `patience`.
pub async fn settle(
    zinit: &dyn Supervisor,
    bystanders: &BTreeMap<UnitName, u32>,
    patience: Duration,
) -> Vec<String> {
    let (started, mut restarted) = (Instant::now(), BTreeSet::new());
    loop {
        let seen = match statuses(zinit, bystanders.keys()).await {
            Ok(seen) => seen,
            Err(error) if error.is_passing() && started.elapsed() < patience.min(SILENCE) => {
                sleep(WATCH).await;
                continue;
            }
            Err(error) => return vec![flist::report(&error)],
        };
        let is_away = |status: &&ServiceStatus| {
            status.target == Target::Up && Bystanders::process_of(status, false).is_none()
        };
        let away: Vec<_> = seen.values().filter(is_away).collect();
        for given_up in away.iter().filter(|status| status.state == State::Failure) {
            if restarted.insert(given_up.name.clone())
                && let Err(error) = monitor(zinit, &given_up.name).await
            {
                tracing::warn!(service = %given_up.name, error = %flist::report(&error), "it could not be started");
            }
        }
        if away.is_empty() || started.elapsed() >= patience {
            return away
                .iter()
                .map(|now| format!("{} is not well: its state is {}", now.name, now.state))
                .collect();
        }
        sleep(WATCH * BYSTANDERS_EVERY).await;
    }
}

/// Tells of services as they come up, for as long as it is asked to.
pub async fn note_up(
    zinit: &dyn Supervisor,
    mut watched: BTreeMap<UnitName, bool>,
    is_up: &mut (dyn FnMut(&UnitName) + Send),
) -> Infallible {
    loop {
        for (unit, oneshot) in watched.clone() {
            if let Ok(Some(status)) = status(zinit, &unit).await
                && status.is_settled(oneshot)
            {
                is_up(&unit);
                watched.remove(&unit);
            }
        }
        sleep(WATCH).await;
    }
}

/// Waits until services are up again that were put back, and tells in words of those that are not.
pub async fn come_back(
    zinit: &dyn Supervisor,
    mut watch: HealthWatch,
    is_up: &mut (dyn FnMut(&UnitName) + Send),
) -> Vec<String> {
    let (mut not_back, mut nobody) = (Vec::new(), Bystanders::new(HealthLimits::default(), []));
    loop {
        match soak(zinit, &mut watch, &mut nobody, is_up).await {
            Ok(()) => return not_back,
            Err(ServiceError::NotWell { unit, why }) => {
                not_back.push(format!("{unit} is not well: {why}"));
                watch.ignore(&unit);
            }
            Err(error) => {
                not_back.push(flist::report(&error));
                return not_back;
            }
        }
    }
}

async fn statuses(
    zinit: &dyn Supervisor,
    units: impl Iterator<Item = &UnitName> + Send,
) -> Result<BTreeMap<UnitName, ServiceStatus>, ServiceError> {
    let mut seen = BTreeMap::new();
    for unit in units {
        if let Some(status) = status(zinit, unit).await? {
            seen.insert(unit.clone(), status);
        }
    }
    Ok(seen)
}
