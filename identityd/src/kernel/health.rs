//! Whether all is well with a kernel on trial: the services that were well before it are well again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bootstrap::health::{HealthLimits, HealthWatch, Judgement};
use bootstrap::plan::UNIT_DIRECTORY;
use bootstrap::root::Root;
use flist::path::FlistPath;
use zinit_client::{MAX_UNIT_BYTES, ServiceStatus, ServiceUnit, Target, UnitName};

/// What the supervisor says of all services.
pub(super) type Seen = BTreeMap<UnitName, ServiceStatus>;

/// Watches the services during one trial, from when identityd began to look.
pub(super) struct TrialWatch {
    limits: HealthLimits,
    watch: HealthWatch,
    since: Instant,
    /// The generation that is watched: an upgrade begins anew.
    pub(super) generation: u64,
}

impl TrialWatch {
    /// Watches those of these services that the root has a unit for: a release that came meanwhile may have dropped some.
    pub(super) fn new(limits: HealthLimits, root: &Root, services: &[UnitName], generation: u64) -> Self {
        let watched = services.iter().filter_map(|name| Some((name.clone(), unit(root, name)?.oneshot)));
        Self { limits, watch: HealthWatch::new(limits, watched), since: Instant::now(), generation }
    }

    /// Judges by what the supervisor says now.
    pub(super) fn judge(&mut self, seen: &Seen) -> Judgement {
        self.judge_after(self.since.elapsed(), seen)
    }

    fn judge_after(&mut self, elapsed: Duration, seen: &Seen) -> Judgement {
        let missing = self.watch.units().any(|unit| !seen.contains_key(unit));
        // The machine has just booted: bootstrap may not have come to all of them.
        if missing && elapsed < self.limits.start_timeout {
            Judgement::Wait
        } else {
            self.watch.judge(seen, elapsed)
        }
    }
}

/// Services that are well now, and so have to be with another kernel too.
pub(super) fn well(root: &Root, seen: &Seen) -> Vec<UnitName> {
    let is_well = |(name, status): &(&UnitName, &ServiceStatus)| {
        let oneshot = unit(root, name).is_some_and(|unit| unit.oneshot);
        status.target == Target::Up && !status.has_failed() && status.is_settled(oneshot)
    };
    seen.iter().filter(is_well).map(|(name, _)| name.clone()).collect()
}

/// Of the services of a trial that was broken off, those that it has ended.
pub(super) fn ended(services: &[UnitName], seen: &Seen) -> Vec<UnitName> {
    let services: BTreeSet<_> = services.iter().collect();
    let is_down = |(name, status): &(&UnitName, &ServiceStatus)| {
        services.contains(name) && status.target == Target::Down
    };
    seen.iter().filter(is_down).map(|(name, _)| name.clone()).collect()
}

/// The unit of a service, where it can be read.
fn unit(root: &Root, name: &UnitName) -> Option<ServiceUnit> {
    let path: FlistPath = format!("{UNIT_DIRECTORY}/{name}.yaml").parse().ok()?;
    let text = root.read_small(&path, MAX_UNIT_BYTES).ok().flatten()?;
    ServiceUnit::parse(name, std::str::from_utf8(&text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use zinit_client::State;

    use super::*;

    fn name(text: &str) -> UnitName {
        text.parse().unwrap()
    }

    fn seen(services: &[(&str, State, Target)]) -> Seen {
        let status = |(text, state, target): &(&str, State, Target)| {
            let pid = (*state == State::Running).then_some(7);
            let (state, target, after) = (state.clone(), *target, BTreeMap::new());
            (name(text), ServiceStatus { name: name(text), pid, state, target, after })
        };
        services.iter().map(status).collect()
    }

    /// A root with the units `web` and `once`.
    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let units = dir.path().join(UNIT_DIRECTORY);
        std::fs::create_dir_all(&units).unwrap();
        std::fs::write(units.join("web.yaml"), "exec: web\n").unwrap();
        std::fs::write(units.join("once.yaml"), "exec: once\noneshot: true\n").unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn what_was_well_before_has_to_be_well_after() {
        let (_dir, root) = root();
        let before = seen(&[
            ("web", State::Running, Target::Up),
            ("once", State::Success, Target::Up),
            ("gone", State::Running, Target::Up),
            ("off", State::Success, Target::Down),
            ("bad", State::Spawned, Target::Up),
        ]);
        let services = well(&root, &before);
        assert_eq!(services, [name("gone"), name("once"), name("web")]);
        let limits = HealthLimits { start_timeout: Duration::from_secs(10), window: Duration::from_secs(5) };
        let second = Duration::from_secs(1);
        let fresh = || TrialWatch::new(limits, &root, &services, 3);

        // The machine comes up; one service is no longer in the release.
        let mut watch = fresh();
        assert_eq!(watch.judge_after(second, &seen(&[])), Judgement::Wait);
        let up = seen(&[("web", State::Running, Target::Up), ("once", State::Success, Target::Up)]);
        assert_eq!(watch.judge_after(second * 2, &up), Judgement::Wait);
        assert_eq!(watch.judge_after(second * 7, &up), Judgement::Keep);

        let why = |judgement| match judgement {
            Judgement::RollBack { unit, .. } => unit,
            other => panic!("{other:?}"),
        };
        let missing = seen(&[("once", State::Success, Target::Up)]);
        assert_eq!(fresh().judge_after(second * 9, &missing), Judgement::Wait);
        assert_eq!(why(fresh().judge_after(second * 10, &missing)), name("web"));
        let failed = seen(&[("web", State::Failure, Target::Up), ("once", State::Success, Target::Up)]);
        assert_eq!(why(fresh().judge_after(second, &failed)), name("web"));
    }

    #[test]
    fn only_what_the_trial_has_ended_is_started_again() {
        let now = seen(&[("web", State::Success, Target::Down), ("off", State::Success, Target::Down)]);
        assert_eq!(ended(&[name("web"), name("once")], &now), [name("web")]);
    }
}
