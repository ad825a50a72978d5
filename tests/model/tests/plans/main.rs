//! Plans for random releases, by the real engine on the machine in memory: which services are affected is what an oracle
//! says that knows nothing of the planner, the same machine and release have the same plan, and what it says of files is
//! what becomes of them.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod case;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bootstrap::lock;
use bootstrap::plan::{FileChange, Plan, Verdict};
use molt_model::Machine;
use molt_model::scenario::Stage;

use case::{Case, Dice, Service, name};

/// Random pairs of releases that the tests of services look at, and those that plan several times or carry plans out.
const PAIRS: u64 = 500;
const FEWER_PAIRS: u64 = 150;

/// Does something with a machine on which the case is about to begin.
fn on_stage<T>(case: &Case, then: impl AsyncFnOnce(&Stage, &lock::EngineLock) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let lock = lock::take(directory.path(), "the test", Duration::ZERO).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let stage = case.scenario().set_up(&lock).await.unwrap();
        then(&stage, &lock).await
    })
}

async fn plan(stage: &Stage) -> Plan {
    let machine = Arc::new(stage.machine.copy());
    stage.prepare(&machine).await.unwrap().plan
}

/// What the plan does to each service that it does something to.
fn affected(plan: &Plan) -> BTreeMap<String, &'static str> {
    let word = |verdict| match verdict {
        Verdict::Start => Some("start"),
        Verdict::Restart => Some("restart"),
        Verdict::Remove => Some("remove"),
        Verdict::Forget => Some("forget"),
        Verdict::Keep => None,
    };
    plan.services.notes.iter().filter_map(|note| Some((note.name.to_string(), word(note.verdict)?))).collect()
}

fn names<'n>(names: impl IntoIterator<Item = &'n zinit_client::UnitName>) -> BTreeSet<String> {
    names.into_iter().map(ToString::to_string).collect()
}

#[test]
fn the_affected_services_of_500_random_releases_are_those_of_a_brute_force_oracle() {
    let mut seen = BTreeMap::<&str, usize>::new();
    for seed in 0..PAIRS {
        let case = Case::random(seed);
        let plan = on_stage(&case, async |stage, _| plan(stage).await);
        let expected = case.oracle();
        assert_eq!(affected(&plan), expected, "seed {seed}: {case:#?}\n{plan}");
        let that = |words: &[&str]| -> BTreeSet<String> {
            let of = expected.iter().filter(|(_, word)| words.contains(word));
            of.map(|(name, _)| name.clone()).collect()
        };
        let services = &plan.services;
        assert_eq!(names(&services.stop), that(&["restart", "remove"]), "seed {seed}");
        assert_eq!(names(&services.start), that(&["restart", "start"]), "seed {seed}");
        assert_eq!(names(&services.forget), that(&["forget"]), "seed {seed}");
        expected.values().for_each(|word| *seen.entry(word).or_default() += 1);
        let untouched = case.old.services.len() - that(&["restart", "remove", "forget"]).len();
        *seen.entry("untouched").or_default() += untouched;
    }
    // Or the cases would say little.
    for (word, least) in
        [("restart", 300), ("start", 200), ("remove", 100), ("forget", 20), ("untouched", 500)]
    {
        assert!(seen.get(word).is_some_and(|count| *count >= least), "{word}: {seen:?}");
    }
}

#[test]
fn one_changed_library_restarts_exactly_the_services_that_map_it() {
    let mut sizes = BTreeSet::new();
    for seed in 0..PAIRS {
        let mut case = Case::random(seed);
        case.edited.clear();
        case.new = case.old.clone();
        let mut dice = Dice(seed ^ 0x5eed);
        let library = dice.below(case.old.libraries.len());
        *case.new.libraries.get_mut(&library).unwrap().files.get_mut(&1).unwrap() += 1;
        let runs = |(number, service): &(&usize, &Service)| {
            let protected = case.protected && **number == 0;
            !service.oneshot && !protected && case.stopped != Some(**number)
        };
        let mapping = case.old.services.iter().filter(runs).filter(|(_, of)| of.maps.contains(&library));
        let expected: BTreeSet<String> = mapping.map(|(number, _)| name(*number, case.protected)).collect();
        let plan = on_stage(&case, async |stage, _| plan(stage).await);
        assert_eq!(names(&plan.services.stop), expected, "seed {seed}: {case:#?}\n{plan}");
        assert_eq!(names(&plan.services.start), expected, "seed {seed}");
        assert!(plan.services.forget.is_empty(), "seed {seed}");
        sizes.insert(expected.len());
    }
    assert!(sizes.len() >= 5 && sizes.contains(&0), "{sizes:?}");
}

#[test]
fn the_same_node_and_release_have_the_same_plan_to_the_byte() {
    for seed in 0..FEWER_PAIRS {
        let case = Case::random(seed);
        let plans = on_stage(&case, async |stage, _| [plan(stage).await, plan(stage).await]);
        // Another machine of the same kind, and the same one after it was asked.
        let again = on_stage(&case, async |stage, _| {
            let before = stage.machine.with(|root, state, _| (root.listing(), state.listing()));
            let first = stage.prepare(&stage.machine).await.unwrap().plan;
            let after = stage.machine.with(|root, state, _| (root.listing(), state.listing()));
            assert_eq!(before, after, "seed {seed}: a plan changes nothing");
            [first, stage.prepare(&stage.machine).await.unwrap().plan]
        });
        let bytes = |plan: &Plan| (plan.to_string(), format!("{plan:?}"));
        let first = bytes(&plans[0]);
        assert!(plans.iter().chain(&again).all(|plan| bytes(plan) == first), "seed {seed}: {case:#?}");
    }
}

/// Everything on the root, but what the engine keeps for itself and what it notes about the boot.
fn listing(machine: &Machine) -> BTreeMap<String, String> {
    let all = machine.with(|root, _, _| root.listing());
    let named = all.into_iter().map(|(path, words)| (path.to_string(), words));
    named.filter(|(path, _)| !path.starts_with(".molt") && !path.starts_with("tmp/flist.")).collect()
}

#[test]
fn what_a_plan_says_of_files_is_what_becomes_of_them() {
    let mut stays = 0;
    for seed in 0..FEWER_PAIRS {
        let case = Case::random(seed);
        let (said, before, after) = on_stage(&case, async |stage, lock| {
            let machine = Arc::new(stage.machine.copy());
            let said = stage.prepare(&machine).await.unwrap().plan;
            let before = listing(&machine);
            if let Err(error) = stage.act(&machine, lock).await {
                panic!("seed {seed}: {}: {case:#?}", flist::report(&error));
            }
            (said, before, listing(&machine))
        });
        let that = |wanted: fn(&FileChange) -> bool| -> BTreeSet<String> {
            let changes = said.files.changes.iter().filter(|change| wanted(change));
            changes.map(|change| change.path().to_string()).collect()
        };
        let added =
            that(|change| matches!(change, FileChange::Add { .. } | FileChange::MakeDirectory { .. }));
        let changed = that(|change| matches!(change, FileChange::Replace { .. }));
        let removed = that(|change| matches!(change, FileChange::Remove { .. }));
        let directories = that(|change| matches!(change, FileChange::RemoveDirectory { .. }));
        // Only what is empty then is taken away.
        let is_full =
            |directory: &&String| after.keys().any(|path| path.starts_with(&format!("{directory}/")));
        let full: BTreeSet<String> = directories.iter().filter(is_full).cloned().collect();
        stays += full.len();
        let removed: BTreeSet<String> =
            removed.into_iter().chain(directories.difference(&full).cloned()).collect();

        let keys = |of: &BTreeMap<String, String>| of.keys().cloned().collect::<BTreeSet<_>>();
        let (there, then) = (keys(&before), keys(&after));
        let differs = |path: &&String| before[*path] != after[*path];
        let became: BTreeSet<String> = there.intersection(&then).filter(differs).cloned().collect();
        assert_eq!(added, &then - &there, "seed {seed}: {case:#?}\n{said}");
        assert_eq!(removed, &there - &then, "seed {seed}: {case:#?}\n{said}");
        assert_eq!(changed, became, "seed {seed}: {case:#?}\n{said}");
    }
    assert!(stays > 0, "no directory of the release before has somebody's file in it");
}
