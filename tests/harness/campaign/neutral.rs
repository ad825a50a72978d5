//! Upgrades to good releases on a busy machine: a rollback would be a false one.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::arena::Arena;
use super::{ByRoot, Extent, Tell, on_nodes};
use crate::error::Error;

/// Settings of the nodes. What is waited for comes later on a busy machine, and a minute is what nodes give it
/// by default; half of it is harder.
const CONFIG: &str = "poll_interval: 1\nhandover_timeout: 30\nhealth_window: 2\nstart_timeout: 30\n";

/// Threads that compute for each processor that there is.
const BUSY: usize = 2;

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Releases that were kept at once.
    pub kept: ByRoot,
    /// What went wrong.
    pub problems: Vec<String>,
}

/// Runs the campaign. A node on which something went wrong is not used any further.
///
/// # Errors
/// A node cannot be set up.
pub fn run(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let done = AtomicBool::new(false);
    let busy = || {
        while !done.load(Ordering::Relaxed) {
            spin_loop();
        }
    };
    let threads = BUSY * thread::available_parallelism().map_or(1, usize::from);
    let tallies = thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(busy)));
        let tallies = on_nodes(extent, |number, another| on_node(extent, tell, number, another));
        done.store(true, Ordering::Relaxed);
        tallies
    })?;
    Ok(tallies.into_iter().fold(Tally::default(), |mut total, tally| {
        total.kept.add(&tally.kept);
        total.problems.extend(tally.problems);
        total
    }))
}

fn on_node(extent: Extent, tell: &Tell<'_>, number: u64, another: &dyn Fn() -> bool) -> Result<Tally, Error> {
    let root = extent.roots.of(number);
    let (mut arena, mut tally) = (Arena::set_up(CONFIG, root, extent.seed)?, Tally::default());
    while another() {
        match arena.neutral_upgrade() {
            Ok(()) => {
                tally.kept.note(root);
                tell(&format!("node {number}, {root}: kept"));
            }
            Err(error) => {
                tell(&format!("node {number}, {root}: {error:?}"));
                tally.problems.push(format!("node {number}, {root}: {error:?}"));
                break;
            }
        }
    }
    Ok(tally)
}
