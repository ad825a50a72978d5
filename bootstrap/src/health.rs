//! The health window: are the services that were started still well, and those that were left alone? Pure.

mod bystanders;

use std::collections::BTreeMap;
use std::time::Duration;

use zinit_client::{ServiceStatus, UnitName};

pub use bystanders::Bystanders;

/// How long services are watched before their release is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthLimits {
    /// How long a service may take to reach its state and pass its `test`.
    pub start_timeout: Duration,
    /// How long all of them must stay well after that. A unit can ask for more with `molt: health_window`.
    pub window: Duration,
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self { start_timeout: Duration::from_secs(60), window: Duration::from_secs(60) }
    }
}

/// What is done with the release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// All services stayed well for the whole window.
    Keep,
    /// It is too early to tell.
    Wait,
    /// This service is not well.
    RollBack {
        /// The service.
        unit: UnitName,
        /// What is wrong with it.
        why: String,
    },
}

/// What is known of one service that is watched.
#[derive(Debug, Clone, Default)]
struct Watched {
    oneshot: bool,
    /// The process it was first seen up with.
    process: Option<u32>,
    up: bool,
    /// Somebody has stopped it, when it was last seen.
    stopped: bool,
}

/// Watches services that were just started.
#[derive(Debug, Clone)]
pub struct HealthWatch {
    limits: HealthLimits,
    services: BTreeMap<UnitName, Watched>,
    /// When all of them were up for the first time.
    all_up: Option<Duration>,
}

impl HealthWatch {
    /// Watches these services; `true` for a oneshot.
    pub fn new(limits: HealthLimits, services: impl IntoIterator<Item = (UnitName, bool)>) -> Self {
        let watched = |(name, oneshot)| (name, Watched { oneshot, ..Watched::default() });
        Self { limits, services: services.into_iter().map(watched).collect(), all_up: None }
    }

    /// The services that are watched.
    pub fn units(&self) -> impl Iterator<Item = &UnitName> {
        self.services.keys()
    }

    /// Those that have come up, or whom somebody has stopped meanwhile.
    pub fn settled(&self) -> impl Iterator<Item = &UnitName> {
        self.services.iter().filter(|(_, watched)| watched.up).map(|(unit, _)| unit)
    }

    /// Whether nobody is watched.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Watches this one no longer.
    pub fn ignore(&mut self, unit: &UnitName) {
        self.services.remove(unit);
    }

    /// Judges by what the supervisor says `elapsed` after the start; services that it does not know are
    /// missing in `seen`.
    pub fn judge(&mut self, seen: &BTreeMap<UnitName, ServiceStatus>, elapsed: Duration) -> Judgement {
        let bad = |unit: &UnitName, why: String| Judgement::RollBack { unit: unit.clone(), why };
        let mut late = None;
        for (unit, watched) in &mut self.services {
            let Some(status) = seen.get(unit) else {
                if watched.stopped {
                    // And has made zinit forget it: that says no more.
                    continue;
                }
                return bad(unit, "zinit does not know it".to_owned());
            };
            if status.has_failed() {
                return bad(unit, format!("its state is {}", status.state));
            }
            watched.stopped = status.target == zinit_client::Target::Down;
            if watched.stopped {
                // Somebody stopped it meanwhile: that says nothing about the release.
                watched.up = true;
                continue;
            }
            match (watched.process, status.pid) {
                (Some(before), Some(now)) if before != now && !watched.oneshot => {
                    return bad(unit, format!("its process {before} ended and zinit started another one"));
                }
                _ => {}
            }
            if status.is_settled(watched.oneshot) {
                watched.up = true;
                watched.process = watched.process.or(status.pid);
            } else if watched.up {
                return bad(unit, format!("it was up, and its state is now {}", status.state));
            } else {
                late = Some((unit.clone(), status.state.to_string()));
            }
        }
        match (late, self.all_up) {
            (Some((unit, state)), _) if elapsed >= self.limits.start_timeout => {
                let after = self.limits.start_timeout;
                bad(&unit, format!("it is still {state} after {after:?}"))
            }
            (Some(_), _) => Judgement::Wait,
            (None, None) => {
                self.all_up = Some(elapsed);
                self.in_window(elapsed, elapsed)
            }
            (None, Some(since)) => self.in_window(since, elapsed),
        }
    }

    fn in_window(&self, since: Duration, elapsed: Duration) -> Judgement {
        match elapsed.saturating_sub(since) >= self.limits.window {
            true => Judgement::Keep,
            false => Judgement::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use zinit_client::{State, Target};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(state: State, pid: Option<u32>) -> BTreeMap<UnitName, ServiceStatus> {
        let name: UnitName = "web".parse().unwrap();
        let status =
            ServiceStatus { name: name.clone(), pid, state, target: Target::Up, after: BTreeMap::new() };
        BTreeMap::from([(name, status)])
    }

    fn watch(oneshot: bool) -> HealthWatch {
        let limits = HealthLimits { start_timeout: SECOND * 10, window: SECOND * 5 };
        HealthWatch::new(limits, [("web".parse().unwrap(), oneshot)])
    }

    fn why(judgement: Judgement) -> String {
        match judgement {
            Judgement::RollBack { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_service_that_stays_up_is_kept_when_the_window_is_over() {
        let mut watch = watch(false);
        assert_eq!(watch.judge(&seen(State::Spawned, Some(7)), SECOND), Judgement::Wait);
        assert_eq!(watch.judge(&seen(State::Running, Some(7)), SECOND * 2), Judgement::Wait);
        assert_eq!(watch.judge(&seen(State::Running, Some(7)), SECOND * 6), Judgement::Wait);
        assert_eq!(watch.judge(&seen(State::Running, Some(7)), SECOND * 7), Judgement::Keep);
    }

    #[test]
    fn failures_restarts_and_waiting_for_ever_are_rolled_back() {
        assert!(why(watch(false).judge(&seen(State::TestFailure, Some(7)), SECOND)).contains("state"));
        assert!(why(watch(false).judge(&BTreeMap::new(), SECOND)).contains("not know"));
        assert!(why(watch(false).judge(&seen(State::Spawned, Some(7)), SECOND * 10)).contains("after 10s"));

        let mut restarted = watch(false);
        restarted.judge(&seen(State::Running, Some(7)), SECOND);
        assert!(why(restarted.judge(&seen(State::Running, Some(8)), SECOND * 2)).contains("another one"));

        let mut fell = watch(false);
        fell.judge(&seen(State::Running, Some(7)), SECOND);
        assert!(why(fell.judge(&seen(State::Spawned, None), SECOND * 2)).contains("it was up"));
    }

    #[test]
    fn a_oneshot_is_well_when_it_has_done_its_work() {
        let mut oneshot = watch(true);
        assert_eq!(oneshot.judge(&seen(State::Running, Some(7)), SECOND), Judgement::Wait);
        assert_eq!(oneshot.judge(&seen(State::Success, None), SECOND * 2), Judgement::Wait);
        assert_eq!(oneshot.judge(&seen(State::Success, None), SECOND * 7), Judgement::Keep);
    }

    #[test]
    fn whom_the_administrator_stops_meanwhile_says_nothing() {
        let mut stopped = watch(false);
        stopped.judge(&seen(State::Running, Some(7)), SECOND);
        let mut down = seen(State::Success, None);
        down.values_mut().for_each(|status| status.target = Target::Down);
        let mut forgotten = stopped.clone();
        assert_eq!(stopped.judge(&down, SECOND * 9), Judgement::Keep);

        assert_eq!(forgotten.judge(&down, SECOND * 2), Judgement::Wait);
        assert_eq!(forgotten.judge(&BTreeMap::new(), SECOND * 9), Judgement::Keep, "and forgets");
        // Who is seen up in between is watched again.
        let mut again = watch(false);
        again.judge(&down, SECOND);
        again.judge(&seen(State::Running, Some(7)), SECOND * 2);
        assert!(why(again.judge(&BTreeMap::new(), SECOND * 3)).contains("not know"));
    }
}
