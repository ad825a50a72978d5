//! A node that is moved from one release to another and back, and what it has to be after a kill.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ending::Ending;
use super::image::Image;
use super::{CONFIG, LIMIT, RESPAWN_DELAY, is_current, without_debug_information};
use crate::error::Error;
use crate::{Node, Payload, RootKind, Site};

/// Services of both releases.
const SERVICES: [&str; 5] = ["identityd", "web", "idle", "first", "second"];

/// Versions that the two releases are published as, and the names under which they are offered.
const RELEASES: [(&str, &str); 2] = [("1.0.0", "one"), ("2.0.0", "two")];

/// What identityd installs before everything else of a release.
const ITSELF: [&str; 2] = ["sbin/identityd", "etc/zinit/identityd.yaml"];

const JOURNAL: &str = "/var/lib/molt/journal";
const CURRENT: &str = "/var/lib/molt/current";

/// What the two releases are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Releases<'r> {
    /// identityd.
    pub(super) program: &'r Path,
    /// It is another one in each release.
    pub(super) replaces_itself: bool,
    /// Files of each release that differ from those of the other.
    pub(super) files: usize,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The release from before.
    Old,
    /// The release from before with the next one's identityd, which comes first.
    Between,
    /// The release that is offered.
    New,
}

/// The transaction that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    generation: u64,
}

/// A node between two releases.
pub(super) struct Range {
    pub(super) site: Site,
    pub(super) node: Node,
    images: [Image; 2],
    paths: BTreeSet<PathBuf>,
    replaces_itself: bool,
    /// Which release is installed.
    pub(super) installed: usize,
}

impl Range {
    /// Boots the node, with such a root and the first release installed.
    pub(super) fn set_up(releases: Releases<'_>, root: RootKind) -> Result<Self, Error> {
        let site = Site::new()?;
        let (_aside, program) = without_debug_information(releases.program)?;
        let releases = Releases { program: &program, ..releases };
        let payloads = [payload(&site, 0, releases)?, payload(&site, 1, releases)?];
        for (payload, (version, name)) in payloads.iter().zip(RELEASES) {
            site.publish(version, payload)?;
            site.hub.name(version, name)?;
        }
        site.hub.offer(RELEASES[0].1)?;
        let node = site.node().config(CONFIG).root(root).respawn_delay(RESPAWN_DELAY).boot()?;
        let images = [Image::of(payloads[0].directory())?, Image::of(payloads[1].directory())?];
        let paths = images.iter().flat_map(Image::paths).cloned().collect();
        let replaces_itself = releases.replaces_itself;
        let mut range = Self { site, node, images, paths, replaces_itself, installed: 0 };
        range.await_end(0)?;
        Ok(range)
    }

    /// The release that is not installed.
    pub(super) fn other(&self) -> usize {
        1 - self.installed
    }

    /// Lets the channel offer a release.
    pub(super) fn offer(&self, release: usize) -> Result<(), Error> {
        self.site.hub.offer(RELEASES[release].1)
    }

    /// Moves the node to the other release, undisturbed.
    pub(super) fn move_on(&mut self) -> Result<(), Error> {
        let other = self.other();
        self.offer(other)?;
        self.await_end(other)
    }

    /// The number of the current generation.
    pub(super) fn generation(&self) -> Result<u64, Error> {
        let text = self.node.read(CURRENT)?;
        text.trim().parse().map_err(|_| Error::Unexpected(format!("{text:?} is no number of a generation")))
    }

    /// The transaction that is under way, by its journal.
    pub(super) fn begun(&self) -> Option<Begun> {
        let journal = self.node.read(JOURNAL).ok()?;
        let (_checksum, json) = journal.lines().next()?.split_once(' ')?;
        let header: Value = serde_json::from_str(json).ok()?;
        Some(Begun { generation: header["generation"].as_u64()? })
    }

    /// Waits until the transaction of an upgrade has begun.
    pub(super) fn await_begin(&self) -> Result<(), Error> {
        self.node.wait_for("the upgrade begins", LIMIT, || match self.begun() {
            Some(_) => Ok(()),
            None => Err("there is no journal".to_owned()),
        })
    }

    /// Whether the running identityd has nothing to recover any more, and knows that nothing is offered.
    pub(super) fn rests(&self) -> bool {
        let rests = |status: &Value| status["stage"] == "Waiting" && status["gate"] == "BackOff";
        let status = self.node.status();
        status.is_ok_and(|status| rests(&status) && is_current(&self.node, &status))
            && !self.node.path(JOURNAL).exists()
    }

    /// Waits until another identityd has recovered, and knows that nothing is offered. Then the node has to be
    /// one of the releases; tells which, and what became of the transaction that had `begun` when the
    /// generation with the number `before` was the current one.
    pub(super) fn recovered(&self, begun: Option<Begun>, before: u64) -> Result<(Found, Ending), Error> {
        self.node.wait_for("a new identityd has recovered", LIMIT, || match self.rests() {
            true => Ok(()),
            false => Err(format!("{:?}", self.node.status())),
        })?;
        let (found, now) = (self.verdict()?, self.generation()?);
        // An identityd that was killed in its trial is as bad as one that has ended.
        if found == Found::Old && now > before && self.is_revert(now)? {
            return Ok((found, Ending::Undone));
        }
        let ending = match begun {
            Some(begun) if begun.generation == now => Ending::Finished,
            Some(_) => Ending::Undone,
            None if now > before => Ending::Completed,
            None => Ending::NotBegun,
        };
        if (found == Found::Old) != (now == before) {
            return Err(Error::Unexpected(format!(
                "it is the {found:?} release, and its generation is {now}, after {before}"
            )));
        }
        Ok((found, ending))
    }

    /// Whether a generation was made by going back.
    fn is_revert(&self, number: u64) -> Result<bool, Error> {
        let text = self.node.read(&format!("/var/lib/molt/generations/{number}.json"))?;
        let generation = serde_json::from_str::<Value>(&text);
        let generation =
            generation.map_err(|error| Error::Unexpected(format!("generation {number}: {error}")))?;
        Ok(generation["cause"] == "revert")
    }

    /// Which release the node is now, with all its services up.
    fn verdict(&self) -> Result<Found, Error> {
        let (old, new) = (&self.images[self.installed], &self.images[self.other()]);
        let mut images =
            vec![(Found::Old, old.clone(), self.installed), (Found::New, new.clone(), self.other())];
        if self.replaces_itself {
            images.push((Found::Between, old.with(new, &ITSELF), self.installed));
        }
        let (root, mut differences) = (self.node.root(), Vec::new());
        for (found, image, services_of) in images {
            match image.difference(&root, &self.paths)? {
                None => {
                    self.is_well(services_of)?;
                    return Ok(found);
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
    pub(super) fn await_end(&mut self, release: usize) -> Result<(), Error> {
        self.site.await_version(&self.node, RELEASES[release].1)?;
        if let Some(difference) = self.images[release].difference(&self.node.root(), &self.paths)? {
            return Err(Error::Unexpected(format!("{} is installed, and {difference}", RELEASES[release].1)));
        }
        self.is_well(release)?;
        self.installed = release;
        Ok(())
    }

    /// Whether the release is installed and identityd has nothing to do.
    pub(super) fn is_at(&self, release: usize) -> bool {
        self.node.status().is_ok_and(|status| {
            status["stage"] == "Idle" && status["installed"]["version"] == RELEASES[release].1
        })
    }
}

fn payload(site: &Site, release: usize, releases: Releases<'_>) -> Result<Payload, Error> {
    let name = RELEASES[release].1;
    let payload = site.payload(name)?;
    payload.program("/sbin/identityd", releases.program)?;
    if releases.replaces_itself {
        payload.marked("/sbin/identityd", name)?;
        let unit = crate::payload::asset_unit("identityd")?;
        payload.unit("identityd", &format!("{unit}\n# {name}\n"))?;
    }
    for number in 0..releases.files {
        payload.file(&format!("/usr/share/site/many/{number}"), 0o644, format!("{number} of {name}\n"))?;
    }
    payload
        .file(&format!("/usr/share/site/only-{name}"), 0o600, name)?
        .file(&format!("/usr/share/{name}/alone"), 0o640, name)?
        .unit("first", "exec: sleep 3000002\nafter: [idle]\n")?
        .unit("second", "exec: sh -c 'trap \"exit 0\" TERM; while :; do sleep 1; done'\nafter: [first]\n")?;
    if release == 0 {
        payload.unit("dropped", "exec: sleep 3000001\n")?;
    } else {
        payload.unit("first", "exec: sleep 3000009\nafter: [web]\n")?;
    }
    Ok(payload)
}
