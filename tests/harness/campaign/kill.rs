//! SIGKILL of identityd at random moments of upgrades from one release to another and back.
//!
//! After each kill the channel offers nothing until it is known what recovery made of it: then the node has
//! to be one of the two releases, byte for byte, with all services up. After that the upgrade has to come
//! to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use super::image::Image;
use super::{CONFIG, Extent, LIMIT, Tell, is_current, kill_identityd, on_nodes};
use crate::error::Error;
use crate::{Node, Payload, Site};

/// Services of both releases.
const SERVICES: [&str; 5] = ["identityd", "web", "idle", "first", "second"];

/// Versions that the two releases are published as, and the names under which they are offered.
const RELEASES: [(&str, &str); 2] = [("1.0.0", "one"), ("2.0.0", "two")];

/// Files of each release that differ from those of the other.
const FILES: usize = 40;

/// Kills that wait for the upgrade to begin come at most so long after it: until the swap is over, or until
/// the health window is.
const AFTER_BEGIN: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(1500)];

/// What a kill found, and what recovery made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// The upgrade had not begun.
    NotBegun,
    /// It had begun, and recovery put the old release back.
    Undone,
    /// It had been committed, and recovery finished it.
    Finished,
    /// It was complete.
    Completed,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotBegun => "not begun",
            Self::Undone => "undone",
            Self::Finished => "finished by recovery",
            Self::Completed => "completed",
        })
    }
}

/// What came of the kills.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How often each ending was seen.
    pub endings: BTreeMap<Ending, usize>,
    /// How often identityd was in each stage, as far as its status told at the moment of the kill.
    pub stages: BTreeMap<String, usize>,
    /// What went wrong.
    pub problems: Vec<String>,
}

impl Tally {
    /// Kills in all.
    pub fn kills(&self) -> usize {
        self.endings.values().sum::<usize>() + self.problems.len()
    }

    /// Endings that have to be there, or the kills did not bite: before the upgrade, in it, after it.
    pub fn missing(&self) -> Vec<Ending> {
        let seen = |ending: &Ending| self.endings.contains_key(ending);
        let wanted = [Ending::NotBegun, Ending::Undone, Ending::Completed];
        wanted.into_iter().filter(|ending| !seen(ending)).collect()
    }

    fn add(&mut self, other: Self) {
        for (ending, count) in other.endings {
            *self.endings.entry(ending).or_default() += count;
        }
        for (stage, count) in other.stages {
            *self.stages.entry(stage).or_default() += count;
        }
        self.problems.extend(other.problems);
    }
}

/// Runs the campaign. A node on which something went wrong is not used any further.
///
/// # Errors
/// A node cannot be set up.
pub fn run(extent: Extent, tell: &Tell<'_>) -> Result<Tally, Error> {
    let tallies = on_nodes(extent, |number, another| {
        let (mut range, mut tally) = (Range::set_up(extent.seed.wrapping_add(number))?, Tally::default());
        while another() {
            match range.kill_once(&mut tally) {
                Ok(ending) => {
                    *tally.endings.entry(ending).or_default() += 1;
                    tell(&format!("node {number}: {ending}"));
                }
                Err(error) => {
                    tell(&format!("node {number}: {error:?}"));
                    tally.problems.push(format!("node {number}, kill {}: {error:?}", tally.kills() + 1));
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

/// A node between two releases.
struct Range {
    site: Site,
    node: Node,
    images: [Image; 2],
    paths: BTreeSet<PathBuf>,
    /// Which release is installed.
    installed: usize,
    /// How long an upgrade takes from the offer to the end.
    span: Duration,
    random: Rng,
}

impl Range {
    fn set_up(seed: u64) -> Result<Self, Error> {
        let site = Site::new()?;
        let payloads = [payload(&site, "one")?, payload(&site, "two")?];
        payloads[0].unit("dropped", "exec: sleep 3000001\n")?;
        for (payload, (version, name)) in payloads.iter().zip(RELEASES) {
            site.publish(version, payload)?;
            site.hub.name(version, name)?;
        }
        site.hub.offer(RELEASES[0].1)?;
        let node = site.node().config(CONFIG).boot()?;
        let images = [Image::of(payloads[0].directory())?, Image::of(payloads[1].directory())?];
        let paths = images.iter().flat_map(Image::paths).cloned().collect();
        let (random, span) = (Rng::with_seed(seed), Duration::ZERO);
        let mut range = Self { site, node, images, paths, installed: 0, span, random };
        range.await_end(0)?;
        for release in [1, 0] {
            let start = Instant::now();
            range.site.hub.offer(RELEASES[release].1)?;
            range.await_end(release)?;
            range.span = range.span.max(start.elapsed());
        }
        Ok(range)
    }

    fn kill_once(&mut self, tally: &mut Tally) -> Result<Ending, Error> {
        let (old, new) = (self.installed, 1 - self.installed);
        let pid = self.node.pid_of("identityd")?;
        self.site.hub.offer(RELEASES[new].1)?;
        let after_begin = self.random.bool();
        let within = match after_begin {
            true => AFTER_BEGIN[self.random.usize(..AFTER_BEGIN.len())],
            false => self.span.mul_f64(1.1),
        };
        if after_begin {
            self.node.wait_for("the upgrade begins", LIMIT, || match self.journal_exists() {
                true => Ok(()),
                false => Err("there is no journal".to_owned()),
            })?;
        }
        // The moment is what is random here; nothing is waited for.
        thread::sleep(within.mul_f64(self.random.f64()));
        let stage = self.node.status().map(|status| status["stage"].to_string()).unwrap_or_default();
        kill_identityd(&self.node, pid)?;
        let begun = self.journal_exists();
        self.site.hub.withdraw()?;
        *tally.stages.entry(stage.trim_matches('"').to_owned()).or_default() += 1;
        self.await_recovery()?;
        let found = self.verdict()?;
        self.site.hub.offer(RELEASES[new].1)?;
        self.await_end(new)?;
        Ok(match (found == old, begun) {
            (true, false) => Ending::NotBegun,
            (true, true) => Ending::Undone,
            (false, true) => Ending::Finished,
            (false, false) => Ending::Completed,
        })
    }

    fn journal_exists(&self) -> bool {
        self.node.path("/var/lib/molt/journal").exists()
    }

    /// Waits until another identityd has recovered, and knows that nothing is offered.
    fn await_recovery(&self) -> Result<(), Error> {
        let rests = |status: &Value| status["stage"] == "Waiting" && status["gate"] == "BackOff";
        self.node.wait_for("a new identityd has recovered", LIMIT, || {
            let status = self.node.status().map_err(|error| format!("{error:?}"))?;
            if rests(&status) && is_current(&self.node, &status) { Ok(()) } else { Err(status.to_string()) }
        })
    }

    /// Which of the two releases the node is now, with all its services up.
    fn verdict(&self) -> Result<usize, Error> {
        let root = self.node.root();
        let mut differences = Vec::new();
        for (release, image) in self.images.iter().enumerate() {
            match image.difference(&root, &self.paths)? {
                None => {
                    self.is_well(release)?;
                    return Ok(release);
                }
                Some(difference) => differences.push(difference),
            }
        }
        Err(Error::Unexpected(format!("the root is a mixture: {}", differences.join("; "))))
    }

    fn is_well(&self, release: usize) -> Result<(), Error> {
        self.node.wait_for_services(&SERVICES, LIMIT)?;
        let has_dropped = self.node.services()?.contains_key("dropped");
        if has_dropped != (release == 0) {
            return Err(Error::Unexpected(format!(
                "release {release} is installed, and zinit knows the dropped service: {has_dropped}"
            )));
        }
        let shows = RELEASES[release].1;
        self.node.wait_for("the web service shows the release", LIMIT, || match self.site.web_version() {
            Ok(shown) if shown == shows => Ok(()),
            other => Err(format!("{other:?}, not {shows}")),
        })
    }

    /// Waits until the release is installed and nothing is left to do.
    fn await_end(&mut self, release: usize) -> Result<(), Error> {
        self.site.await_version(&self.node, RELEASES[release].1)?;
        if let Some(difference) = self.images[release].difference(&self.node.root(), &self.paths)? {
            return Err(Error::Unexpected(format!("{} is installed, and {difference}", RELEASES[release].1)));
        }
        self.is_well(release)?;
        self.installed = release;
        Ok(())
    }
}

fn payload(site: &Site, name: &str) -> Result<Payload, Error> {
    let payload = site.payload(name)?;
    for number in 0..FILES {
        payload.file(&format!("/usr/share/site/many/{number}"), 0o644, format!("{number} of {name}\n"))?;
    }
    payload
        .file(&format!("/usr/share/site/only-{name}"), 0o600, name)?
        .unit("first", "exec: sleep 3000002\nafter: [idle]\n")?
        .unit("second", "exec: sh -c 'trap \"exit 0\" TERM; while :; do sleep 1; done'\nafter: [first]\n")?;
    if name == "two" {
        payload.unit("first", "exec: sleep 3000009\nafter: [web]\n")?;
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_that_did_not_bite_are_told() {
        let mut tally = Tally::default();
        tally.endings.insert(Ending::Undone, 3);
        tally.endings.insert(Ending::Completed, 1);
        assert_eq!((tally.kills(), tally.missing()), (4, vec![Ending::NotBegun]));
    }
}
