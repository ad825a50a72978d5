//! Power cuts that lose and reorder what was not flushed: all that an upgrade writes is logged, and disks are made
//! that cuts all along it could have left. Each boots, and has to be one of the two releases.

use std::path::Path;

use fastrand::Rng;

use super::bench::{Bench, Found};
use super::moment::{self, Moment, Spans};
use super::{Ending, LIMIT, ROOT_MIB, Root, Tally};
use crate::campaign::{Extent, Tell};
use crate::error::Error;
use crate::place;
use crate::vm::{DiskImage, IS_FULL, Vm, VmBuilder, WriteLog};

/// Disks that are made of one log of a guest.
const OF_ONE_LOG: usize = 6;

/// When the machines that keep a log are killed, in turn.
const LOG_ENDS: [Moment; 2] = [Moment::Committed, Moment::Swapping];

/// What was written during an upgrade.
struct Record {
    /// The disk before the first request of the log.
    before: DiskImage,
    log: WriteLog,
    /// Requests before the journal of the upgrade began.
    from: usize,
    /// Requests until the power was cut.
    to: usize,
    /// Whether the upgrade had been committed for certain when those were made.
    is_committed: bool,
}

/// Records every write of one upgrade below the machine, in the emulator, and cuts the power along it.
///
/// # Errors
/// The machine cannot be set up.
pub fn reordered(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let (mut bench, mut tally) = (Bench::new()?, Tally::default());
    let disk = DiskImage::ext4("ROOT", ROOT_MIB)?;
    let builder = bench.builder(Root::Disk)?;
    let mut vm = bench.first_boot(&builder.clone().disk(&disk))?;
    vm.end_by("zinit shutdown", LIMIT)?;
    drop(vm);
    let before = disk.duplicate()?;
    let scratch = place::scratch("writes")?;
    let log = scratch.path().join("log");
    let mut vm = builder.clone().logged_disk(&disk, &log)?.boot()?;
    let from = begin(&mut bench, &mut vm, &log)?;
    moment::await_end(&vm)?;
    vm.cut_power()?;
    drop(vm);
    let log = WriteLog::read(&log)?;
    let record = Record { before, from, to: log.len(), log, is_committed: false };
    record.cut(extent.runs, &mut bench, &builder, &mut Rng::with_seed(extent.seed), &mut tally, tell)?;
    Ok(tally)
}

/// Lets the machine's own kernel record every write of upgrades, kills it after the commit of one and in the middle of
/// another, and cuts the power along each record.
///
/// # Errors
/// The machine cannot be set up.
pub fn reordered_by_guest(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let (mut bench, mut tally) = (Bench::new()?, Tally::default());
    let disk = DiskImage::ext4("ROOT", ROOT_MIB)?;
    let (builder, image) = (bench.builder(Root::Disk)?, bench.logging_image()?);
    let mut vm = bench.first_boot(&builder.clone().disk(&disk))?;
    let spans = Spans::measure(&mut bench, &mut vm)?;
    vm.end_by("zinit shutdown", LIMIT)?;
    drop(vm);
    let mut random = Rng::with_seed(extent.seed);
    for moment in LOG_ENDS.into_iter().cycle() {
        let cuts = OF_ONE_LOG.min(extent.runs - tally.cuts());
        if cuts == 0 {
            break;
        }
        tell(&format!("the next machine is killed {moment}"));
        let (before, scratch) = (disk.duplicate()?, place::scratch("writes")?);
        let log = scratch.path().join("log");
        let mut vm = builder.clone().disk_logged_by_guest(&image, &disk, &log)?.boot()?;
        let from = begin(&mut bench, &mut vm, &log)?;
        spans.reach(moment, &vm, &mut random)?;
        // The kernel may have something in hand that it has yet to log.
        vm.run("true")?;
        let to = WriteLog::read(&log)?.len();
        // An entry is there as soon as its beginning is. When the machine has answered once more its data are too.
        vm.run("true")?;
        vm.cut_power()?;
        if vm.console().contains(IS_FULL) {
            return Err(Error::Unexpected(format!("the log of writes has no room: {IS_FULL}")));
        }
        drop(vm);
        let is_committed = moment == Moment::Committed;
        let record = Record { before, log: WriteLog::read(&log)?, from, to, is_committed };
        record.cut(cuts, &mut bench, &builder, &mut random, &mut tally, tell)?;
    }
    Ok(tally)
}

/// Lets a machine that has booted begin one more upgrade; returns how many requests are logged then.
fn begin(bench: &mut Bench, vm: &mut Vm, log: &Path) -> Result<usize, Error> {
    bench.await_release(vm, Found::New)?;
    bench.offer_next()?;
    moment::await_begin(vm)?;
    Ok(WriteLog::read(log)?.len())
}

impl Record {
    /// Boots what so many cuts can have left, one in each part of the upgrade, anywhere in it, the last one at its end.
    fn cut(
        &self,
        cuts: usize,
        bench: &mut Bench,
        builder: &VmBuilder,
        random: &mut Rng,
        tally: &mut Tally,
        tell: &Tell<'_>,
    ) -> Result<(), Error> {
        let (requests, flushes) = (self.to - self.from, self.log.flushes(self.from..self.to));
        tell(&format!(
            "since its journal began the upgrade made {requests} requests, {flushes} of them flushes"
        ));
        if requests == 0 {
            return Err(Error::Unexpected("nothing was logged of the upgrade".to_owned()));
        }
        for cut in 0..cuts {
            let within = if cut + 1 == cuts { 1.0 } else { random.f64() };
            let part = (cut as f64 + within) / cuts as f64;
            let count = self.from + (requests as f64 * part) as usize;
            let crashed = self.before.duplicate()?;
            let replayed = self.log.replay(count, &crashed.path(), random)?;
            tally.writes.0 += replayed.kept;
            tally.writes.1 += replayed.lost;
            let flushed = self.log.flushes(self.from..count);
            tell(&format!(
                "after request {} of {requests} and {flushed} flushes: {} writes kept, {} lost",
                count - self.from,
                replayed.kept,
                replayed.lost
            ));
            let revived = bench.revive(&builder.clone().disk(&crashed), Root::Disk);
            let is_wrong = |ending: Ending| ending.is_old() && self.is_committed && count == self.to;
            let outcome = revived.and_then(|(ending, _)| match is_wrong(ending) {
                true => Err(Error::Unexpected(format!("the commit was lost: {ending}"))),
                false => Ok(ending),
            });
            tally.add(&format!("at {:.0}0 %", (part * 10.0).floor()), outcome, tell);
        }
        Ok(())
    }
}
