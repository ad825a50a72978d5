//! A fixed part of the campaign that `cargo xtask torture` runs in full.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;

use molt_model::campaign::{Extent, Tally, missing_endings, run_all};
use molt_model::scenario::{self, Scenario};

/// Runs all cases; none may go wrong.
fn try_all(scenarios: Vec<Scenario>, extent: Extent) -> BTreeMap<&'static str, Tally> {
    let directory = tempfile::tempdir().unwrap();
    let tallies = run_all(scenarios, extent, 2, directory.path(), &|name, tally| {
        println!("{name}: {} operations, {} cases, {:?}", tally.operations, tally.cases, tally.endings);
    })
    .unwrap();
    let problems: Vec<String> = tallies
        .iter()
        .flat_map(|(name, tally)| tally.problems.iter().map(move |problem| format!("{name}: {problem}")))
        .collect();
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
    tallies
}

#[test]
fn no_single_fault_leaves_a_mixture() {
    let tallies = try_all(scenario::all(), Extent { stride: 4, second_stride: 0 });
    assert!(missing_endings(&tallies).is_empty());
}

#[test]
fn no_second_fault_in_a_recovery_leaves_a_mixture() {
    let mut scenarios = scenario::all();
    scenarios.retain(|scenario| ["recovery", "gc"].contains(&scenario.name));
    let tallies = try_all(scenarios, Extent { stride: 3, second_stride: 16 });
    assert!(tallies.values().map(|tally| tally.cases).sum::<usize>() > 1000, "{tallies:?}");
}
