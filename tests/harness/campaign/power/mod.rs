//! Power cuts: a virtual machine is killed while it upgrades itself, and has to be one of two releases afterwards.
//!
//! The moments follow the journal of the transaction: some cuts come before its first record, some while files are
//! staged, some between the record that all is staged and the commit, some after that. After each cut the machine
//! boots again from what its disk holds, while no hub is there: then it has to be one of the two releases, byte
//! for byte, with all services up, and what bootstrap says of its recovery has to agree with that. After that the
//! upgrade has to come to its end. Where the root is in RAM there is nothing to go back to: then the release that is
//! offered has to be installed anew, beside a state that an upgrade was cut off in.

mod bench;
mod moment;
mod reordered;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::{Ending as Transaction, Extent, Tell};
use crate::error::Error;
use crate::vm::{DiskImage, Vm};

use bench::{Bench, Found};
use moment::{Moment, Spans};
pub use reordered::{reordered, reordered_by_guest};

/// Longest wait for anything a machine does by itself.
const LIMIT: Duration = Duration::from_secs(240);

/// Size of the disks.
const ROOT_MIB: u64 = 600;
const STATE_MIB: u64 = 96;

/// What has to be seen in a whole campaign with a root on a disk, or the cuts did not bite.
pub const WANTED: [Ending; 3] = [
    Ending::Recovered(Transaction::NotBegun),
    Ending::Recovered(Transaction::Undone),
    Ending::Recovered(Transaction::Completed),
];

/// Where the root file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// On a disk with ext4, with the state in it.
    Disk,
    /// In RAM, with the state on a disk.
    Ram,
}

/// What a machine was after a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// One of the two releases, because this had become of the transaction.
    Recovered(Transaction),
    /// The root was gone with the power, and the release was installed anew.
    Anew,
}

impl Ending {
    /// Whether the machine was the release from before the upgrade.
    fn is_old(self) -> bool {
        matches!(self, Self::Recovered(Transaction::NotBegun | Transaction::Undone))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recovered(transaction) => transaction.fmt(f),
            Self::Anew => f.pad("installed anew"),
        }
    }
}

/// What came of the cuts.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How often each ending was seen.
    pub endings: BTreeMap<Ending, usize>,
    /// How often the cut was when: by the journal, and the stage of identityd.
    pub stages: BTreeMap<String, usize>,
    /// Writes after the last flush that a cut with reordering let through, and that it lost.
    pub writes: (usize, usize),
    /// What went wrong.
    pub problems: Vec<String>,
}

impl Tally {
    /// Cuts in all.
    pub fn cuts(&self) -> usize {
        self.endings.values().sum::<usize>() + self.problems.len()
    }

    /// Which of the endings that a whole campaign has to see are not there.
    pub fn missing(&self) -> Vec<Ending> {
        WANTED.into_iter().filter(|ending| !self.endings.contains_key(ending)).collect()
    }

    /// Whether some machines were the old release, and some the new one.
    pub fn has_both(&self) -> bool {
        let old = self.endings.keys().filter(|ending| ending.is_old()).count();
        (1..self.endings.len()).contains(&old)
    }

    fn add(&mut self, when: &str, outcome: Result<Ending, Error>, tell: &Tell<'_>) {
        let cut = self.cuts() + 1;
        *self.stages.entry(when.to_owned()).or_default() += 1;
        match outcome {
            Ok(ending) => {
                tell(&format!("cut {cut} {when}: {ending}"));
                *self.endings.entry(ending).or_default() += 1;
            }
            Err(error) => {
                tell(&format!("cut {cut} {when}: {error:?}"));
                self.problems.push(format!("cut {cut} {when}: {error:?}"));
            }
        }
    }
}

/// Cuts the power as often as the extent says, of one machine. Ends with the first problem.
///
/// # Errors
/// The machine cannot be set up.
pub fn run(extent: Extent, root: Root, tell: &Tell<'_>) -> Result<Tally, Error> {
    let (mut bench, mut tally) = (Bench::new()?, Tally::default());
    let disk = match root {
        Root::Disk => DiskImage::ext4("ROOT", ROOT_MIB)?,
        Root::Ram => DiskImage::ext4("MOLT", STATE_MIB)?,
    };
    let builder = bench.builder(root)?.disk(&disk);
    let mut random = Rng::with_seed(extent.seed);
    let mut vm = bench.first_boot(&builder)?;
    let spans = Spans::measure(&mut bench, &mut vm)?;
    tell(&format!("moments: {spans}"));
    while tally.cuts() < extent.runs && tally.problems.is_empty() {
        let moment = Moment::of_cut(tally.cuts());
        moment::tell_stages(&vm)?;
        bench.offer_next()?;
        let reached = spans.reach(moment, &vm, &mut random);
        vm.cut_power()?;
        let when = format!("{moment} ({})", moment::stage_of(&vm));
        drop(vm);
        let revived = reached.and_then(|()| bench.revive(&builder, root));
        let (ending, next) = match revived {
            Ok((ending, next)) => (Ok(ending), Some(next)),
            Err(error) => (Err(error), None),
        };
        tally.add(&when, ending, tell);
        let Some(next) = next else { return Ok(tally) };
        vm = next;
    }
    Ok(tally)
}

/// What has become of the transaction: what bootstrap said on the console when it recovered, and what was found.
///
/// # Errors
/// When the two do not agree.
fn ending(vm: &Vm, found: Found) -> Result<Transaction, Error> {
    let said: Vec<_> = RECOVERIES.iter().filter(|(words, _)| vm.console().contains(words)).collect();
    match (&said[..], found) {
        ([], Found::Old) => Ok(Transaction::NotBegun),
        ([], Found::New) => Ok(Transaction::Completed),
        ([(_, ending), ..], Found::Old) if *ending == Transaction::Undone => Ok(*ending),
        ([(_, ending), ..], Found::New) if *ending == Transaction::Finished => Ok(*ending),
        _ => Err(Error::Unexpected(format!("bootstrap said {said:?}, and the root is {found:?}"))),
    }
}

/// What the engine says when it recovers.
const RECOVERIES: [(&str, Transaction); 3] = [
    ("undoing what was not committed", Transaction::Undone),
    ("what was not committed has not begun", Transaction::Undone),
    ("finishing what was committed", Transaction::Finished),
];
