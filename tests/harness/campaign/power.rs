//! Power cuts: a virtual machine is killed at random moments of upgrades from one release to another and back.
//!
//! After each cut the machine boots again from what its disk holds, while the channel offers nothing: then it has
//! to be one of the two releases, byte for byte, with all services up. After that the upgrade has to come to its
//! end. Where the root is in RAM there is nothing to go back to: then the release that is offered has to be
//! installed anew, beside a state that an upgrade was cut off in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::image::Image;
use super::{Extent, Tell};
use crate::error::Error;
use crate::vm::{DiskImage, Range, Vm, VmBuilder, WriteLog};
use crate::{Payload, place};

/// Longest wait for anything a machine does by itself.
const LIMIT: Duration = Duration::from_secs(240);

/// Services of both releases.
const SERVICES: [&str; 4] = ["identityd", "web", "idle", "other"];

/// Versions that the two releases are published as, and the names under which they are offered.
const RELEASES: [(&str, &str); 2] = [("1.0.0", "one"), ("2.0.0", "two")];

/// Files of each release that differ from those of the other.
const FILES: usize = 30;

/// Size of the disks.
const ROOT_MIB: u64 = 400;
const STATE_MIB: u64 = 64;

/// Where a file says that a transaction is under way.
const JOURNAL: &str = "/var/lib/molt/journal";

/// Tells on the console which stage identityd is in, whenever it changes.
const TELL_STAGES: &str = r#"[ -e /run/telling ] || { : >/run/telling; (while :; do s=$(grep -o '"stage": *"[A-Za-z]*"' /run/molt/status.json | head -n 1);
[ "$s" = "$o" ] || echo "stage: $s" >/dev/console; o=$s; usleep 20000; done) >/dev/null 2>&1 & }"#;

/// Words before a stage in what that prints.
const STAGE: &str = "stage: \"stage\":";

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
    /// The release before the upgrade.
    Old,
    /// The release of the upgrade.
    New,
    /// The root was gone with the power, and the release was installed anew.
    Anew,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Old => "the old release",
            Self::New => "the new release",
            Self::Anew => "the new release, installed anew",
        })
    }
}

/// What came of the cuts.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How often each ending was seen.
    pub endings: BTreeMap<Ending, usize>,
    /// How often identityd was in each stage at the moment of the cut.
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

    fn add(&mut self, stage: String, outcome: Result<Ending, Error>, tell: &Tell<'_>) {
        let cut = self.cuts() + 1;
        *self.stages.entry(stage.clone()).or_default() += 1;
        match outcome {
            Ok(ending) => {
                tell(&format!("cut {cut} in stage {stage}: {ending}"));
                *self.endings.entry(ending).or_default() += 1;
            }
            Err(error) => {
                tell(&format!("cut {cut} in stage {stage}: {error:?}"));
                self.problems.push(format!("cut {cut} in stage {stage}: {error:?}"));
            }
        }
    }
}

/// Cuts the power as often as the extent says, of one machine. Ends with the first problem.
///
/// # Errors
/// The machine cannot be set up.
pub fn run(extent: Extent, root: Root, tell: &Tell<'_>) -> Result<Tally, Error> {
    let (bench, mut tally) = (Bench::new()?, Tally::default());
    let disk = match root {
        Root::Disk => DiskImage::ext4("ROOT", ROOT_MIB)?,
        Root::Ram => DiskImage::ext4("MOLT", STATE_MIB)?,
    };
    let builder = bench.builder(root)?.disk(&disk);
    let mut random = Rng::with_seed(extent.seed);
    let mut vm = bench.first_boot(&builder)?;
    let span = bench.measure(&mut vm)?;
    tell(&format!("an upgrade takes {span:.1?} from the first record to the commit"));
    let mut installed = 0;
    while tally.cuts() < extent.runs && tally.problems.is_empty() {
        let new = 1 - installed;
        bench.begin(&vm, new)?;
        // The moment is what is random here; nothing is waited for.
        thread::sleep(span.mul_f64(random.f64() * 1.05));
        vm.cut_power()?;
        let stage = stage_of(&vm);
        drop(vm);
        let outcome = bench.revive(&builder, root, new);
        let (ending, next) = match outcome {
            Ok((ending, next)) => (Ok(ending), Some(next)),
            Err(error) => (Err(error), None),
        };
        tally.add(stage, ending, tell);
        let Some(next) = next else { return Ok(tally) };
        (vm, installed) = (next, new);
    }
    Ok(tally)
}

/// Records every write of one upgrade, then boots disks that cuts at random moments of it could have left, with
/// what was not flushed reordered and partly lost.
///
/// # Errors
/// The machine cannot be set up.
pub fn reordered(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let (bench, mut tally) = (Bench::new()?, Tally::default());
    let disk = DiskImage::ext4("ROOT", ROOT_MIB)?;
    let builder = bench.builder(Root::Disk)?;
    let mut vm = bench.first_boot(&builder.clone().disk(&disk))?;
    vm.run("zinit shutdown")?;
    vm.await_end(LIMIT)?;
    drop(vm);
    let before = disk.duplicate()?;
    let scratch = place::scratch("writes")?;
    let log = scratch.path().join("log");
    let mut vm = builder.clone().logged_disk(&disk, &log)?.boot()?;
    bench.await_release(&mut vm, 0)?;
    let from = WriteLog::read(&log)?.len();
    bench.begin(&vm, 1)?;
    vm.run(&format!("while [ -e {JOURNAL} ]; do usleep 5000; done"))?;
    vm.cut_power()?;
    drop(vm);
    let log = WriteLog::read(&log)?;
    tell(&format!("the upgrade made {} requests to the disk", log.len() - from));
    let mut random = Rng::with_seed(extent.seed);
    while tally.cuts() < extent.runs {
        // One that went wrong may have left nothing offered.
        bench.range.hub.offer(RELEASES[1].1)?;
        let count = random.usize(from..=log.len());
        let crashed = before.duplicate()?;
        let replayed = log.replay(count, &crashed.path(), &mut random)?;
        tally.writes.0 += replayed.kept;
        tally.writes.1 += replayed.lost;
        let place = format!("after request {} of {}", count - from, log.len() - from);
        tell(&format!("{place}: {} writes kept, {} lost", replayed.kept, replayed.lost));
        let outcome = bench.revive(&builder.clone().disk(&crashed), Root::Disk, 1);
        let decile = (count - from) * 10 / (log.len() - from).max(1);
        tally.add(format!("{decile}0 %"), outcome.map(|(ending, _)| ending), tell);
    }
    Ok(tally)
}

/// A hub with two releases.
struct Bench {
    range: Range,
    images: [Image; 2],
    paths: BTreeSet<PathBuf>,
}

impl Bench {
    fn new() -> Result<Self, Error> {
        let range = Range::new()?;
        let payloads = [payload(&range, "one")?, payload(&range, "two")?];
        for (payload, (version, name)) in payloads.iter().zip(RELEASES) {
            range.publish(version, payload)?;
            range.hub.name(version, name)?;
        }
        range.hub.offer(RELEASES[0].1)?;
        let images = [Image::of(payloads[0].directory())?, Image::of(payloads[1].directory())?];
        let paths = images.iter().flat_map(Image::paths).cloned().collect();
        Ok(Self { range, images, paths })
    }

    fn builder(&self, root: Root) -> Result<VmBuilder, Error> {
        let builder = self.range.vm()?;
        Ok(match root {
            Root::Disk => builder.append("root=LABEL=ROOT"),
            Root::Ram => builder,
        })
    }

    fn first_boot(&self, builder: &VmBuilder) -> Result<Vm, Error> {
        let mut vm = builder.clone().boot()?;
        self.await_release(&mut vm, 0)?;
        Ok(vm)
    }

    /// How long an upgrade takes from the first record to the commit: the longer of one and one back.
    fn measure(&self, vm: &mut Vm) -> Result<Duration, Error> {
        let mut longest = Duration::ZERO;
        for release in [1, 0] {
            self.begin(vm, release)?;
            let start = Instant::now();
            vm.run(&format!("while [ -e {JOURNAL} ]; do usleep 5000; done"))?;
            longest = longest.max(start.elapsed());
            self.await_release(vm, release)?;
        }
        Ok(longest)
    }

    /// Offers a release, and waits for the first record of its installation.
    fn begin(&self, vm: &Vm, release: usize) -> Result<(), Error> {
        vm.run(TELL_STAGES)?;
        self.range.hub.offer(RELEASES[release].1)?;
        vm.run(&format!("while ! [ -e {JOURNAL} ]; do usleep 5000; done")).map(drop)
    }

    /// Boots after a cut, finds out what the machine is, and lets the upgrade to `new` come to its end.
    fn revive(&self, builder: &VmBuilder, root: Root, new: usize) -> Result<(Ending, Vm), Error> {
        if root == Root::Ram {
            let mut vm = builder.clone().boot()?;
            self.await_release(&mut vm, new)?;
            return Ok((Ending::Anew, vm));
        }
        self.range.hub.withdraw()?;
        let mut vm = builder.clone().boot()?;
        vm.wait_for("identityd has recovered", LIMIT, |vm| {
            let status = vm.status().map_err(|error| format!("{error:?}"))?;
            match status["stage"] == "Waiting" && status["gate"] == "BackOff" {
                true => Ok(()),
                false => Err(status.to_string()),
            }
        })?;
        let found = self.verdict(&mut vm)?;
        self.range.hub.offer(RELEASES[new].1)?;
        self.await_release(&mut vm, new)?;
        Ok((if found == new { Ending::New } else { Ending::Old }, vm))
    }

    /// Which of the two releases the machine is now, with all its services up.
    fn verdict(&self, vm: &mut Vm) -> Result<usize, Error> {
        let differences = self.differences(vm)?;
        let Some(release) = differences.iter().position(Option::is_none) else {
            return Err(Error::Unexpected(format!("the root is a mixture: {differences:?}")));
        };
        self.is_well(vm, release)?;
        Ok(release)
    }

    fn is_well(&self, vm: &mut Vm, release: usize) -> Result<(), Error> {
        vm.wait_for_services(&SERVICES, LIMIT)?;
        let knows_dropped = vm.services()?.contains_key("dropped");
        if knows_dropped != (release == 0) {
            return Err(Error::Unexpected(format!(
                "{} is installed, and zinit knows the dropped service: {knows_dropped}",
                RELEASES[release].1
            )));
        }
        let shows = RELEASES[release].1;
        vm.wait_for("the web service shows the release", LIMIT, |_| match self.range.web_version() {
            Ok(shown) if shown == shows => Ok(()),
            other => Err(format!("{other:?}, not {shows}")),
        })
    }

    /// Waits until the release is installed, byte for byte, and nothing is left to do.
    fn await_release(&self, vm: &mut Vm, release: usize) -> Result<(), Error> {
        self.range.await_version(vm, RELEASES[release].1)?;
        match &self.differences(vm)?[release] {
            Some(difference) => {
                Err(Error::Unexpected(format!("{} is installed, and {difference}", RELEASES[release].1)))
            }
            None => self.is_well(vm, release),
        }
    }

    /// In what the machine's root differs from each release.
    fn differences(&self, vm: &Vm) -> Result<[Option<String>; 2], Error> {
        let found = vm.census(&self.paths)?;
        Ok([0, 1].map(|release| self.images[release].difference_from(&found, &self.paths)))
    }
}

fn payload(range: &Range, name: &str) -> Result<Payload, Error> {
    let payload = range.payload(name)?;
    for number in 0..FILES {
        payload.file(&format!("/usr/share/many/{number}"), 0o644, format!("{number} of {name}\n"))?;
    }
    let seconds = if name == RELEASES[0].1 { 3_000_002 } else { 3_000_003 };
    payload
        .file(&format!("/usr/share/site/only-{name}"), 0o600, name)?
        .unit("other", &format!("exec: sleep {seconds}\nafter: [idle]\n"))?;
    if name == RELEASES[0].1 {
        payload.unit("dropped", "exec: sleep 3000001\n")?;
        payload.file("/etc/molt-test.conf", 0o640, "of one\n")?;
    }
    Ok(payload)
}

/// The stage that the console told last.
fn stage_of(vm: &Vm) -> String {
    let lines = vm.console().lines();
    let told = lines.iter().rev().find_map(|line| line.text.split_once(STAGE)).map(|(_, stage)| stage);
    told.map_or("unknown", |stage| stage.trim_matches(['"', ' '])).to_owned()
}
