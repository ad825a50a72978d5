//! The hub dies at random moments of boots, and comes back.

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Extent, Tell};
use crate::error::Error;
use crate::vm::Range;

/// How many boots may have ended before the hub dies, for each that counts.
const TOO_LATE: usize = 2;

/// Longest wait for a boot.
const LIMIT: Duration = Duration::from_secs(300);

/// Version of the release.
const VERSION: &str = "1.0.0";

/// Bytes of a file that cannot be compressed, so that there is something to fetch.
const LOAD: usize = 24 << 20;

/// Longest time without a hub.
const LONGEST_ABSENCE: Duration = Duration::from_secs(12);

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// For each boot: how long after its start the hub died, and how long after its return the node had booted.
    pub boots: Vec<(Duration, Duration)>,
    /// What went wrong.
    pub problems: Vec<String>,
}

impl Tally {
    /// The longest time from the hub's return to the end of the boot.
    pub fn longest(&self) -> Duration {
        self.boots.iter().map(|(_, after)| *after).max().unwrap_or_default()
    }
}

/// Boots machines as often as the extent says.
///
/// # Errors
/// Nothing can be set up.
pub fn run(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let mut range = Range::new()?;
    let mut random = Rng::with_seed(extent.seed);
    let payload = range.payload(VERSION)?;
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(LOAD).collect();
    payload.file("/usr/share/load", 0o644, noise)?;
    range.publish(VERSION, &payload)?;
    let start = Instant::now();
    let mut vm = range.vm()?.boot()?;
    let answers = |range: &Range| range.web_version().is_ok_and(|shown| shown == VERSION);
    vm.wait_for(
        "the boot ends",
        LIMIT,
        |_| if answers(&range) { Ok(()) } else { Err("no answer".to_owned()) },
    )?;
    let span = start.elapsed();
    range.await_version(&mut vm, VERSION)?;
    drop(vm);
    tell(&format!("a boot takes {span:.1?}"));
    let (mut tally, mut too_late) = (Tally::default(), 0);
    while tally.boots.len() + tally.problems.len() < extent.runs {
        let mut vm = range.vm()?.boot()?;
        let dies_after = span.mul_f64(random.f64());
        // Moments are what is random here; nothing is waited for.
        thread::sleep(dies_after);
        // What has booted already does not need the hub.
        if answers(&range) {
            tell(&format!("after {dies_after:.1?} the machine had booted already"));
            too_late += 1;
            if too_late > TOO_LATE * extent.runs {
                return Err(Error::Unexpected(format!("boots end before {span:?}, again and again")));
            }
            continue;
        }
        range.hub.kill()?;
        thread::sleep(LONGEST_ABSENCE.mul_f64(random.f64()));
        range.hub.restart()?;
        let back = Instant::now();
        let booted = vm.wait_for("the boot ends", LIMIT, |_| match range.web_version() {
            Ok(shown) if shown == VERSION => Ok(back.elapsed()),
            other => Err(format!("{other:?}")),
        });
        match booted {
            Ok(after) => {
                tell(&format!("the hub died after {dies_after:.1?}; {after:.1?} after its return all is up"));
                tally.boots.push((dies_after, after));
            }
            Err(error) => tally.problems.push(format!("the hub died after {dies_after:.1?}: {error:?}")),
        }
    }
    Ok(tally)
}
