//! A small fixed part of the campaigns that `cargo xtask torture` runs in full.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use molt_tests::campaign::{Extent, chaos, kill};

#[test]
fn a_killed_identityd_leaves_the_old_or_the_new_release() {
    let extent = Extent { runs: 10, nodes: 2, seed: 1 };
    let tally = kill::run(extent, &|said| println!("{said}")).unwrap();
    println!("{:?} {:?}", tally.endings, tally.stages);
    assert!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));
    assert_eq!(tally.kills(), 10);
}

#[test]
fn whatever_goes_wrong_as_many_services_work_as_before() {
    let extent = Extent { runs: 8, nodes: 1, seed: 1 };
    let tally = chaos::run(extent, &|said| println!("{said}")).unwrap();
    assert!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));
    assert_eq!(tally.upgrades.values().sum::<usize>(), 8);
}
