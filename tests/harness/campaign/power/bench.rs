//! A hub with one signed release after the other, and what a machine is that follows it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use super::{Ending, LIMIT, Root, ending};
use crate::Payload;
use crate::campaign::image::Image;
use crate::error::Error;
use crate::image::Image as BootImage;
use crate::vm::{Range, Vm, VmBuilder};

/// Services of all releases.
const SERVICES: [&str; 4] = ["identityd", "web", "idle", "other"];

/// Files of each release that differ from those of the one before.
const FILES: usize = 30;

/// Which of two releases a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The one before the upgrade.
    Old,
    /// The one of the upgrade.
    New,
}

/// A release that was published.
struct Release {
    number: usize,
    image: Image,
}

impl Release {
    fn version(&self) -> String {
        format!("{}.0.0", self.number)
    }

    /// Every other release has one service more than its neighbours.
    fn has_dropped(&self) -> bool {
        has_dropped(self.number)
    }
}

fn has_dropped(number: usize) -> bool {
    number % 2 == 1
}

/// A hub, the release that it offered before, and the one that it offers.
pub(super) struct Bench {
    range: Range,
    old: Option<Release>,
    new: Release,
    paths: BTreeSet<PathBuf>,
}

impl Bench {
    pub(super) fn new() -> Result<Self, Error> {
        let range = Range::new()?;
        let new = publish(&range, 1)?;
        Ok(Self { paths: new.image.paths().cloned().collect(), range, old: None, new })
    }

    pub(super) fn builder(&self, root: Root) -> Result<VmBuilder, Error> {
        let builder = self.range.vm()?;
        Ok(match root {
            Root::Disk => builder.append("root=LABEL=ROOT"),
            Root::Ram => builder,
        })
    }

    /// An image for machines whose own kernel logs what it writes.
    pub(super) fn logging_image(&self) -> Result<BootImage, Error> {
        self.range.write_logging_image()
    }

    pub(super) fn first_boot(&mut self, builder: &VmBuilder) -> Result<Vm, Error> {
        let mut vm = builder.clone().boot()?;
        self.await_release(&mut vm, Found::New)?;
        Ok(vm)
    }

    /// Offers one more release, which differs from the one before in nearly everything.
    pub(super) fn offer_next(&mut self) -> Result<(), Error> {
        let new = publish(&self.range, self.new.number + 1)?;
        self.paths = self.new.image.paths().chain(new.image.paths()).cloned().collect();
        self.old = Some(std::mem::replace(&mut self.new, new));
        Ok(())
    }

    /// Boots after a cut, finds out what the machine is, and lets the upgrade come to its end.
    pub(super) fn revive(&mut self, builder: &VmBuilder, root: Root) -> Result<(Ending, Vm), Error> {
        if root == Root::Ram {
            let mut vm = builder.clone().boot()?;
            self.await_release(&mut vm, Found::New)?;
            return Ok((Ending::Anew, vm));
        }
        self.range.hub.kill()?;
        let verdict = self.verdict_without_hub(builder);
        // Also for whoever goes on with another disk after an error.
        self.range.hub.restart()?;
        let (ending, mut vm) = verdict?;
        self.await_release(&mut vm, Found::New)?;
        Ok((Ending::Recovered(ending), vm))
    }

    fn verdict_without_hub(&self, builder: &VmBuilder) -> Result<(crate::campaign::Ending, Vm), Error> {
        let mut vm = builder.clone().boot()?;
        vm.wait_for("identityd has recovered and asks a hub that is not there", LIMIT, |vm| {
            let status = vm.status().map_err(|error| format!("{error:?}"))?;
            match status["stage"] == "Waiting" && status["gate"] == "BackOff" {
                true => Ok(()),
                false => Err(status.to_string()),
            }
        })?;
        let found = self.verdict(&mut vm)?;
        let ending = ending(&vm, found)?;
        self.is_told(&mut vm, found, ending)?;
        Ok((ending, vm))
    }

    /// What the machine says of itself: the release that it is, and of an upgrade that was undone what ended it.
    fn is_told(&self, vm: &mut Vm, found: Found, ending: crate::campaign::Ending) -> Result<(), Error> {
        let (version, status) = (self.release(found)?.version(), vm.status()?);
        if status["installed"]["version"] != version.as_str() {
            return Err(Error::Unexpected(format!("the root is {version}, and status says: {status}")));
        }
        if ending != crate::campaign::Ending::Undone {
            return Ok(());
        }
        let history = vm.run("identityd history --json --limit 1")?;
        let told: Value = serde_json::from_str(&history)
            .map_err(|error| Error::Unexpected(format!("the history is no JSON ({error}): {history}")))?;
        match told[0]["ended_by"] == "power-loss" {
            true => Ok(()),
            false => {
                Err(Error::Unexpected(format!("the power went in an upgrade, and the history says: {told}")))
            }
        }
    }

    /// Which of the two releases the machine is now, with all its services up.
    fn verdict(&self, vm: &mut Vm) -> Result<Found, Error> {
        let there = vm.census(&self.paths)?;
        let mut differences = Vec::new();
        for found in [Found::New, Found::Old] {
            match self.release(found)?.image.difference_from(&there, &self.paths) {
                None => return self.is_well(vm, found).map(|()| found),
                Some(difference) => differences.push(difference),
            }
        }
        Err(Error::Unexpected(format!("the root is a mixture: {differences:?}")))
    }

    fn is_well(&self, vm: &mut Vm, found: Found) -> Result<(), Error> {
        let release = self.release(found)?;
        vm.wait_for_services(&SERVICES, LIMIT)?;
        let knows_dropped = vm.services()?.contains_key("dropped");
        if knows_dropped != release.has_dropped() {
            return Err(Error::Unexpected(format!(
                "{} is installed, and zinit knows the dropped service: {knows_dropped}",
                release.version()
            )));
        }
        self.range.await_web(vm, &release.version())
    }

    /// Waits until a release is installed, byte for byte, and nothing is left to do.
    pub(super) fn await_release(&self, vm: &mut Vm, found: Found) -> Result<(), Error> {
        let release = self.release(found)?;
        self.range.await_version(vm, &release.version())?;
        let there = vm.census(&self.paths)?;
        match release.image.difference_from(&there, &self.paths) {
            Some(difference) => {
                Err(Error::Unexpected(format!("{} is installed, and {difference}", release.version())))
            }
            None => self.is_well(vm, found),
        }
    }

    fn release(&self, found: Found) -> Result<&Release, Error> {
        match found {
            Found::New => Ok(&self.new),
            Found::Old => {
                self.old.as_ref().ok_or_else(|| Error::Unexpected("there is no old release".into()))
            }
        }
    }
}

/// Publishes a release with this number, signed.
fn publish(range: &Range, number: usize) -> Result<Release, Error> {
    let version = format!("{number}.0.0");
    let payload = payload(range, number, &version)?;
    range.publish(&version, &payload)?;
    Ok(Release { number, image: Image::of(payload.directory())? })
}

fn payload(range: &Range, number: usize, version: &str) -> Result<Payload, Error> {
    let payload = range.payload(version)?;
    for file in 0..FILES {
        payload.file(&format!("/usr/share/many/{file}"), 0o644, format!("{file} of {version}\n"))?;
    }
    payload
        .file(&format!("/usr/share/site/only-{}", number % 2), 0o600, version)?
        .unit("other", &format!("exec: sleep {}\nafter: [idle]\n", 3_000_002 + number))?;
    if has_dropped(number) {
        payload.unit("dropped", "exec: sleep 3000001\n")?;
        payload.file("/etc/molt-test.conf", 0o640, "of every other one\n")?;
    }
    Ok(payload)
}
