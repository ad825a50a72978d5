//! The services that a plan leaves alone: does one that was well before the swap go down after it? Pure.
//!
//! A service that went up and down before says nothing about a release, so only those are watched that have been
//! up with one process for as long as the window. One that ends once says nothing either: it may have lost a server that
//! was restarted, or been killed by somebody. What is told apart:
//!
//! ```text
//! wanted down, or unknown to zinit     somebody has stopped it: watched no longer
//! its process ends, for the first time it has to come up, and to stay up for the window
//! the next one ends, too               roll back
//! zinit has given up starting it       roll back
//! away for longer than a start takes   roll back
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use zinit_client::{ServiceStatus, State, Target, UnitName};

use super::{HealthLimits, Judgement};

/// What is known of one of them.
#[derive(Debug, Clone)]
struct Bystander {
    process: u32,
    /// How many of its processes have ended since the swap.
    ended: u32,
    /// This one has.
    has_ended: bool,
    /// Since when it is up again.
    back: Option<Duration>,
    /// Since when it is not up.
    away: Option<Duration>,
}

/// Watches services that were not touched.
#[derive(Debug, Clone)]
pub struct Bystanders {
    limits: HealthLimits,
    services: BTreeMap<UnitName, Bystander>,
}

impl Bystanders {
    /// Watches these services, by the process that each has had for long enough.
    pub fn new(limits: HealthLimits, services: impl IntoIterator<Item = (UnitName, u32)>) -> Self {
        let watched = |(name, process)| {
            (name, Bystander { process, ended: 0, has_ended: false, back: None, away: None })
        };
        Self { limits, services: services.into_iter().map(watched).collect() }
    }

    /// The process of a service that is up and wanted up, if it may be watched; a oneshot has no business to stay.
    pub fn process_of(status: &ServiceStatus, oneshot: bool) -> Option<u32> {
        let is_up = !oneshot && status.target == Target::Up && !status.state.has_failed();
        status.pid.filter(|_| is_up && status.is_settled(false))
    }

    /// The services that are watched.
    pub fn units(&self) -> impl Iterator<Item = &UnitName> {
        self.services.keys()
    }

    /// Whether nobody is watched.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Judges by what the supervisor says `elapsed` after the swap; services that it does not know are missing in
    /// `seen`. [`Judgement::Keep`] when all are up at this look, and have been for the window if they had ended.
    pub fn judge(&mut self, seen: &BTreeMap<UnitName, ServiceStatus>, elapsed: Duration) -> Judgement {
        let is_wanted = |unit: &UnitName| seen.get(unit).is_some_and(|status| status.target == Target::Up);
        self.services.retain(|unit, _| is_wanted(unit));
        let mut judgement = Judgement::Keep;
        for (unit, bystander) in &mut self.services {
            let Some(status) = seen.get(unit) else { continue };
            match bystander.look(status, elapsed, &self.limits) {
                Ok(true) => {}
                Ok(false) => judgement = Judgement::Wait,
                Err(why) => {
                    let why = format!("it was not restarted and was up before the swap; {why}");
                    return Judgement::RollBack { unit: unit.clone(), why };
                }
            }
        }
        judgement
    }
}

impl Bystander {
    /// Whether it is up for long enough.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn look(
        &mut self,
        status: &ServiceStatus,
        elapsed: Duration,
        limits: &HealthLimits,
    ) -> Result<bool, String> {
        if let Some(now) = status.pid.filter(|now| *now != self.process) {
            self.ends();
            (self.process, self.has_ended) = (now, false);
        }
        if status.pid.is_none() || status.has_failed() {
            self.ends();
        }
        if self.ended > 1 {
            let state = &status.state;
            return Err(format!(
                "its process ended, and the one that zinit started then, too; it is {state}"
            ));
        }
        if status.state == State::Failure {
            return Err(format!("its state is now {}", status.state));
        }
        if Bystanders::process_of(status, false).is_some() {
            self.away = None;
            let back = *self.back.get_or_insert(elapsed);
            return Ok(self.ended == 0 || elapsed.saturating_sub(back) >= limits.window);
        }
        self.back = None;
        let since = *self.away.get_or_insert(elapsed);
        match elapsed.saturating_sub(since) >= limits.start_timeout {
            true => Err(format!("it is {} for {:?} now", status.state, limits.start_timeout)),
            false => Ok(false),
        }
    }

    fn ends(&mut self) {
        if !self.has_ended {
            (self.ended, self.has_ended, self.back) = (self.ended + 1, true, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use zinit_client::ExitCause;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is seen at one look: the state, the process, and whether it is wanted up.
    type Look = (State, Option<u32>, Target);

    fn up(pid: u32) -> Look {
        (State::Running, Some(pid), Target::Up)
    }

    fn failed() -> Look {
        (State::Error(ExitCause::Exited { pid: 7, code: 1 }), None, Target::Up)
    }

    fn ended(target: Target) -> Look {
        (State::Success, None, target)
    }

    /// Looks at `web`, which had process 7, every second.
    fn judged(looks: impl IntoIterator<Item = Option<Look>>) -> Judgement {
        let name: UnitName = "web".parse().unwrap();
        let limits = HealthLimits { start_timeout: SECOND * 3, window: SECOND * 5 };
        let mut watch = Bystanders::new(limits, [(name.clone(), 7)]);
        let mut last = Judgement::Keep;
        for (second, look) in (0..).zip(looks) {
            let seen = look.map(|(state, pid, target)| {
                let name = name.clone();
                ServiceStatus { name, pid, state, target, after: BTreeMap::new() }
            });
            let seen = seen.into_iter().map(|status| (name.clone(), status)).collect();
            last = watch.judge(&seen, SECOND * second);
            if matches!(last, Judgement::RollBack { .. }) {
                break;
            }
        }
        last
    }

    fn why(looks: impl IntoIterator<Item = Look>) -> String {
        match judged(looks.into_iter().map(Some)) {
            Judgement::RollBack { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_that_goes_down_by_itself_is_rolled_back() {
        assert!(why([up(7), failed(), failed(), up(8), failed()]).contains("it is Error"));
        assert!(why([up(7), failed(), failed(), failed(), failed()]).contains("for 3s now"));
        assert!(why([up(7), (State::Failure, None, Target::Up)]).contains("its state is now Failure"));
        assert!(why([up(7), ended(Target::Up), up(8), ended(Target::Up)]).contains("started then, too"));
        assert!(why([up(7), up(8), up(9)]).contains("started then, too"));
        let spawned = || (State::Spawned, Some(8), Target::Up);
        assert!(why([up(7), spawned(), spawned(), spawned(), spawned()]).contains("Spawned for 3s"));
    }

    /// As the client of a server that the upgrade restarts.
    #[test]
    fn one_that_stays_up_or_ends_once_is_kept() {
        assert_eq!(judged([up(7), up(7), up(7)].map(Some)), Judgement::Keep);
        let mut looks = vec![up(7), failed(), failed()];
        for process in [ended(Target::Up), up(8)] {
            assert_eq!(judged(looks.clone().into_iter().map(Some)), Judgement::Wait, "until it is up again");
            looks.push(process);
        }
        let for_long = |mut looks: Vec<Look>, times| {
            looks.extend(std::iter::repeat_n(up(8), times));
            judged(looks.into_iter().map(Some))
        };
        assert_eq!(for_long(looks.clone(), 4), Judgement::Wait, "until it was up for the window");
        assert_eq!(for_long(looks, 5), Judgement::Keep);
        assert_eq!(for_long(vec![up(7)], 6), Judgement::Keep, "it ended between two looks");
    }

    #[test]
    fn whom_the_administrator_stops_or_restarts_says_nothing() {
        let signaled = |target| (State::Error(ExitCause::Other("SIGTERM".to_owned())), None, target);
        for stopped in [ended(Target::Down), signaled(Target::Down)] {
            let looks = [Some(up(7)), Some(stopped.clone()), Some(up(8)), Some(failed()), Some(failed())];
            assert_eq!(judged(looks), Judgement::Keep);
        }
        assert_eq!(judged([Some(up(7)), None, Some(failed()), Some(failed())]), Judgement::Keep, "forgotten");
        // Between being wanted up again and having a process.
        let looks = [up(7), signaled(Target::Up)].into_iter().chain(std::iter::repeat_n(up(8), 6));
        assert_eq!(judged(looks.map(Some)), Judgement::Keep);
    }

    #[test]
    fn only_long_running_services_that_are_up_are_watched() {
        let of = |(state, pid, target): Look, oneshot| {
            let name = "web".parse().unwrap();
            let status = ServiceStatus { name, pid, state, target, after: BTreeMap::new() };
            Bystanders::process_of(&status, oneshot)
        };
        assert_eq!(of(up(7), false), Some(7));
        assert_eq!(of(up(7), true), None);
        for not in [failed(), ended(Target::Up), (State::Spawned, Some(7), Target::Up)] {
            assert_eq!(of(not, false), None);
        }
        assert_eq!(of((State::Running, Some(7), Target::Down), false), None);
    }
}
