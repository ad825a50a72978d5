//! Upgrades with something wrong: a bad release, a hub that dies, a store that returns wrong bytes, a full disk,
//! a killed identityd; or with nothing wrong but a busy machine.
//!
//! After each, the node runs at least as many services as before, in the same life: its PID 1 is the same.
//! A release that is good has to come to its end, at the latest when the fault is over; one that is bad
//! must not.

use std::collections::BTreeMap;

use super::arena::Arena;
pub use super::bad_release::BadRelease;
use super::{ByRoot, CONFIG, Extent, Tell, on_nodes};
use crate::error::Error;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The release is bad.
    Bad(BadRelease),
    /// The hub is killed in the upgrade, and comes back.
    HubDies,
    /// Every answer of the store has a wrong bit, for some time.
    StoreCorrupts,
    /// Somebody fills the root file system in the upgrade, and makes room again.
    DiskFull,
    /// identityd is killed.
    Kill,
    /// Nothing, but the machine is busy.
    Load,
}

impl Trouble {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [Self::HubDies, Self::StoreCorrupts, Self::DiskFull, Self::Kill, Self::Load];
        BadRelease::ALL.into_iter().map(Self::Bad).chain(others)
    }
}

/// What came of the upgrades.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Upgrades with each trouble.
    pub upgrades: BTreeMap<Trouble, ByRoot>,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// Runs the campaign: every trouble in turn, in an order that is another one every time. A node on which
/// something went wrong is not used any further.
///
/// # Errors
/// A node cannot be set up.
pub fn run(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let tallies = on_nodes(extent, |number, another| {
        let (root, seed) = (extent.roots.of(number), extent.seed.wrapping_add(number));
        let (mut arena, mut tally) = (Arena::set_up(CONFIG, root, seed)?, Tally::default());
        while another() {
            let trouble = arena.next_trouble();
            match arena.upgrade(trouble) {
                Ok(()) => {
                    tally.upgrades.entry(trouble).or_default().note(root);
                    tell(&format!("node {number}, {root}: {trouble:?}"));
                }
                Err(error) => {
                    tell(&format!("node {number}, {root}: {trouble:?}: {error:?}"));
                    tally.problems.push(format!("node {number}, {root}, {trouble:?}: {error:?}"));
                    break;
                }
            }
        }
        Ok(tally)
    })?;
    let mut total = Tally::default();
    for tally in tallies {
        for (trouble, count) in tally.upgrades {
            total.upgrades.entry(trouble).or_default().add(&count);
        }
        total.problems.extend(tally.problems);
    }
    Ok(total)
}
