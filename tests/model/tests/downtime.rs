//! While services are away nobody waits for a hub, and for a medium only where a package has state that is migrated, or
//! a hook.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;
use std::time::Duration;

use bootstrap::lock;
use flist::path::FlistPath;
use molt_model::scenario::{self, Act, Scenario, upgrade_with};
use molt_model::{Deed, Volume};

/// What is done from the first deed up to the first stop, and what from there up to the last start; `None` where no
/// service is both stopped and started.
fn before_and_during(scenario: Scenario) -> Option<(Vec<Deed>, Vec<Deed>)> {
    let directory = tempfile::tempdir().unwrap();
    let lock = lock::take(directory.path(), "the test", Duration::ZERO).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let deeds = runtime.block_on(async {
        let stage = scenario.set_up(&lock).await.unwrap();
        let machine = Arc::new(stage.machine.copy());
        machine.plan(None);
        stage.act(&machine, &lock).await.unwrap();
        machine.deeds()
    });
    let first = deeds.iter().position(|deed| matches!(deed, Deed::Stop(_)))?;
    let last = deeds.iter().rposition(|deed| matches!(deed, Deed::Start(_)))?;
    Some((deeds[..first].to_vec(), deeds.get(first..last)?.to_vec()))
}

fn fetches(deeds: &[Deed]) -> usize {
    deeds.iter().filter(|deed| matches!(deed, Deed::Fetch(_))).count()
}

/// What is waited for until it is on its medium.
fn syncs(deeds: &[Deed]) -> Vec<(Volume, FlistPath)> {
    let synced = |deed: &Deed| match deed {
        Deed::Sync(volume, path) => Some((*volume, path.clone())),
        _ => None,
    };
    deeds.iter().filter_map(synced).collect()
}

/// The upgrades, and the ways back, that end well. Some have packages.
fn scenarios(with_packages: bool) -> impl Iterator<Item = Scenario> {
    let is_upgrade =
        |scenario: &Scenario| matches!(scenario.act, Act::Upgrade | Act::Revert) && !scenario.undoes_itself();
    let has_packages = |scenario: &Scenario| scenario.release.iter().any(|file| file.0.contains("packages"));
    // A hook that fails is one that is undone.
    let ends_well = |scenario: &Scenario| scenario.name != "a hook that fails";
    let all = scenario::all().into_iter().filter(is_upgrade).filter(ends_well);
    all.filter(move |scenario| has_packages(scenario) == with_packages)
}

#[test]
fn between_the_first_stop_and_the_last_start_nothing_is_fetched_or_synced() {
    let mut stopped = 0;
    let two = upgrade_with(&[("bin/web", 0o755, "#!/bin/sh\nweb 2"), ("bin/db", 0o755, "#!/bin/sh\ndb 2")]);
    for scenario in scenarios(false).chain([two]) {
        let name = scenario.name;
        let Some((before, during)) = before_and_during(scenario) else { continue };
        assert_eq!((fetches(&during), syncs(&during)), (0, Vec::new()), "{name}: {during:?}");
        // All of it has come before.
        assert!(fetches(&before) > 0 || name == "rollback", "{name}: {before:?}");
        assert!(syncs(&before).contains(&(Volume::Root, FlistPath::root())), "{name}: {before:?}");
        stopped += 1;
    }
    assert!(stopped >= 10, "{stopped} scenarios stop and start services");
}

#[test]
fn for_a_migration_its_copy_and_the_journal_are_waited_for_and_nothing_else() {
    let journal: (Volume, FlistPath) = (Volume::State, "journal".parse().unwrap());
    let mut migrated = 0;
    for scenario in scenarios(true) {
        let name = scenario.name;
        let (_, during) = before_and_during(scenario).unwrap();
        assert_eq!(fetches(&during), 0, "{name}: {during:?}");
        let (records, others): (Vec<_>, Vec<_>) =
            syncs(&during).into_iter().partition(|sync| *sync == journal);
        assert_eq!(others, [(Volume::Root, FlistPath::root())], "{name}: {during:?}");
        assert!(!records.is_empty(), "{name}: {during:?}");
        migrated += 1;
    }
    assert_eq!(migrated, 3);
}
