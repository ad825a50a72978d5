//! SIGKILL of identityd at random moments of upgrades from one release to another and back.
//!
//! After each kill the channel offers nothing until it is known what recovery made of it: then the node has
//! to be one of the two releases, byte for byte, with all services up. After that the upgrade has to come
//! to its end. On every other node identityd itself is another one in each release. The nodes have roots of every kind.

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::ending::{Ending, Tally};
use super::range::{Range, Releases};
use super::{Extent, Tell, kill_identityd, on_nodes};
use crate::error::Error;
use crate::{Binaries, RootKind};

/// Files of each release that differ from those of the other.
const FILES: usize = 40;

/// Kills that wait for the upgrade to begin come at most so long after it: until the swap is over, or until
/// the health window is.
const AFTER_BEGIN: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(1500)];

/// What has to be among the endings: kills before upgrades, in them, and after them.
pub const WANTED: [Ending; 3] = [Ending::NotBegun, Ending::Undone, Ending::Completed];

/// Runs the campaign. A node on which something went wrong is not used any further.
///
/// # Errors
/// A node cannot be set up.
pub fn run(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let identityd = Binaries::ensure()?.identityd();
    let tallies = on_nodes(extent, |number, another| {
        let releases = Releases { program: &identityd, replaces_itself: number % 2 == 1, files: FILES };
        let root = extent.roots.of(number);
        let mut gun = Gun::set_up(releases, root, extent.seed.wrapping_add(number))?;
        let mut tally = Tally::default();
        while another() {
            match gun.kill_once() {
                Ok((ending, stage)) => {
                    tell(&format!("node {number}, {root}: {ending} (in {stage})"));
                    tally.note(ending, stage, root);
                }
                Err(error) => {
                    tell(&format!("node {number}, {root}: {error:?}"));
                    let kill = tally.kills() + 1;
                    tally.problems.push(format!("node {number}, {root}, kill {kill}: {error:?}"));
                    break;
                }
            }
        }
        Ok(tally)
    })?;
    let mut total = Tally::default();
    tallies.into_iter().for_each(|tally| total.add(tally));
    Ok(total)
}

struct Gun {
    range: Range,
    /// How long an upgrade takes from the offer to the end.
    span: Duration,
    random: Rng,
}

impl Gun {
    fn set_up(releases: Releases<'_>, root: RootKind, seed: u64) -> Result<Self, Error> {
        let mut range = Range::set_up(releases, root)?;
        let mut span = Duration::ZERO;
        for _ in 0..2 {
            let start = Instant::now();
            range.move_on()?;
            span = span.max(start.elapsed());
        }
        Ok(Self { range, span, random: Rng::with_seed(seed) })
    }

    fn kill_once(&mut self) -> Result<(Ending, String), Error> {
        let range = &mut self.range;
        let new = range.other();
        let before = range.generation()?;
        range.offer(new)?;
        let after_begin = self.random.bool();
        let within = match after_begin {
            true => AFTER_BEGIN[self.random.usize(..AFTER_BEGIN.len())],
            false => self.span.mul_f64(1.1),
        };
        if after_begin {
            range.await_begin()?;
        }
        // The moment is what is random here; nothing is waited for.
        thread::sleep(within.mul_f64(self.random.f64()));
        let pid = range.node.pid_of("identityd")?;
        // Before the kill, so that what comes after it finds nothing offered.
        range.site.hub.withdraw()?;
        let stage = range.node.status().map(|status| status["stage"].to_string()).unwrap_or_default();
        let begun = range.begun();
        kill_identityd(&range.node, pid)?;
        let (_found, ending) = range.recovered(begun, before)?;
        range.offer(new)?;
        range.await_end(new)?;
        Ok((ending, stage.trim_matches('"').to_owned()))
    }
}
