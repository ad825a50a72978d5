//! A small fixed part of the campaigns that `cargo xtask torture` runs in full.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use molt_tests::campaign::{ByRoot, Ending, Extent, Roots, chaos, kill, named, neutral};

#[test]
fn a_killed_identityd_leaves_the_old_or_the_new_release() {
    let extent = Extent { runs: 12, nodes: 3, seed: 1, roots: Roots::Mixed };
    let tally = kill::run(extent, &|said| println!("{said}")).unwrap();
    println!("{:?} {:?}", tally.endings, tally.stages);
    assert!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));
    assert_eq!(tally.kills(), 12);
}

#[test]
fn so_does_one_that_is_killed_at_a_named_point() {
    let extent = Extent { runs: 8, nodes: 2, seed: 1, roots: Roots::Mixed };
    let reached = named::run(extent, &|said| println!("{said}")).unwrap();
    println!("{:?} {:?}", reached.tally.endings, reached.points);
    assert!(reached.tally.problems.is_empty(), "{}", reached.tally.problems.join("\n"));
    assert!(reached.listed >= 300, "{} points were listed", reached.listed);
    assert_eq!(reached.points.len(), 8);
    // What the node could boot from without a hub is durable before a service stops, and before the commit.
    let at = |what: &str| {
        let is_it = |point: &&String| point.contains("apply:Upgrade/") && point.contains(what);
        let found = reached.in_order.iter().position(|point| is_it(&point));
        found.unwrap_or_else(|| panic!("{what}: {:#?}", reached.in_order))
    };
    assert!(at("keep_cache/leave") < at("/step:stop") && at("keep_cache/leave") < at("/step:commit/enter"));
}

/// Each of these upgrades is complete, but its attempt was counted before, and nobody lived to take that back.
#[test]
fn killed_after_the_commit_again_and_again_it_does_not_take_the_release_for_bad() {
    let endings = named::again_and_again("daemon/apply:Upgrade/step:commit/leave", 4).unwrap();
    assert_eq!(endings, [Ending::Finished; 4]);
}

#[test]
fn whatever_goes_wrong_as_many_services_work_as_before() {
    let extent = Extent { runs: 13, nodes: 3, seed: 1, roots: Roots::Mixed };
    let tally = chaos::run(extent, &|said| println!("{said}")).unwrap();
    assert!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));
    assert_eq!(tally.upgrades.values().map(ByRoot::total).sum::<usize>(), 13);
}

#[test]
fn a_busy_machine_is_no_reason_to_roll_back() {
    let extent = Extent { runs: 6, nodes: 3, seed: 1, roots: Roots::Mixed };
    let tally = neutral::run(extent, &|said| println!("{said}")).unwrap();
    assert!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));
    assert_eq!(tally.kept.total(), 6);
}
