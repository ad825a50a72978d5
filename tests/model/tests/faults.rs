//! A fixed part of the campaign that `cargo xtask torture` runs in full.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use molt_model::campaign::{Extent, missing_endings, run_all};
use molt_model::scenario;

#[test]
fn no_single_fault_leaves_a_mixture() {
    let directory = tempfile::tempdir().unwrap();
    let extent = Extent { stride: 3, second_stride: 0 };
    let tallies = run_all(scenario::all(), extent, 2, directory.path(), &|name, tally| {
        println!("{name}: {} operations, {} cases, {:?}", tally.operations, tally.cases, tally.endings);
    })
    .unwrap();
    let problems: Vec<String> = tallies
        .iter()
        .flat_map(|(name, tally)| tally.problems.iter().map(move |problem| format!("{name}: {problem}")))
        .collect();
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
    assert!(missing_endings(&tallies).is_empty());
}
