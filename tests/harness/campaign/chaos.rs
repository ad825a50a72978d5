//! Upgrades with something wrong: a bad release, a hub that dies, a store that returns wrong bytes, a
//! killed identityd; or with nothing wrong but a busy machine.
//!
//! After each, the node runs at least as many services as before, in the same life: its PID 1 is the same.
//! A release that is good has to come to its end, at the latest when the fault is over; one that is bad
//! must not.

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;

pub use super::bad_release::BadRelease;
use super::bad_release::{GOOD_UNIT, PROGRAM, VICTIM};
use super::{CONFIG, Extent, LIMIT, Tell, is_current, kill_identityd, on_nodes};
use crate::error::Error;
use crate::{Binaries, Fault, FaultProxy, Node, Payload, Process, Site};

/// Services of good releases.
const SERVICES: [&str; 4] = ["identityd", "web", "idle", VICTIM];

/// Faults that are no release's come at most so long after it is offered.
const SOON: Duration = Duration::from_millis(2500);

/// Threads that keep the machine busy.
const BUSY: usize = 2;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The release is bad.
    Bad(BadRelease),
    /// The hub is killed in the upgrade, and comes back.
    HubDies,
    /// Every answer of the store has a wrong bit, for some time.
    StoreCorrupts,
    /// identityd is killed.
    Kill,
    /// Nothing, but the machine is busy.
    Load,
}

impl Trouble {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [Self::HubDies, Self::StoreCorrupts, Self::Kill, Self::Load];
        BadRelease::ALL.into_iter().map(Self::Bad).chain(others)
    }
}

/// What came of the upgrades.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Upgrades with each trouble.
    pub upgrades: BTreeMap<Trouble, usize>,
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
        let (mut arena, mut tally) = (Arena::set_up(extent.seed.wrapping_add(number))?, Tally::default());
        while another() {
            let trouble = arena.next_trouble();
            match arena.upgrade(trouble) {
                Ok(()) => {
                    *tally.upgrades.entry(trouble).or_default() += 1;
                    tell(&format!("node {number}: {trouble:?}"));
                }
                Err(error) => {
                    tell(&format!("node {number}: {trouble:?}: {error:?}"));
                    tally.problems.push(format!("node {number}, {trouble:?}: {error:?}"));
                    break;
                }
            }
        }
        Ok(tally)
    })?;
    let mut total = Tally::default();
    for tally in tallies {
        for (trouble, count) in tally.upgrades {
            *total.upgrades.entry(trouble).or_default() += count;
        }
        total.problems.extend(tally.problems);
    }
    Ok(total)
}

/// A node whose blocks come through a proxy.
struct Arena {
    site: Site,
    proxy: FaultProxy,
    node: Node,
    init: Process,
    number: u32,
    /// The version that has to be there.
    installed: String,
    coming: Vec<Trouble>,
    random: Rng,
}

impl Arena {
    fn set_up(seed: u64) -> Result<Self, Error> {
        let site = Site::new()?;
        let hub = site.hub.url();
        let address = hub.trim_start_matches("http://").parse();
        let address = address.map_err(|_| Error::Unexpected(format!("{hub} has no plain address")))?;
        let proxy = site.netns.run(|| FaultProxy::start(address))??;
        let installed = "1.0.0".to_owned();
        publish(&site, &proxy, &installed, &payload(&site, &installed)?)?;
        let node = site.node().config(CONFIG).boot()?;
        let (init, random, coming) = (node.init()?, Rng::with_seed(seed), Vec::new());
        let arena = Self { site, proxy, node, init, number: 0, installed, coming, random };
        arena.site.await_version(&arena.node, &arena.installed)?;
        arena.node.wait_for_services(&SERVICES, LIMIT)?;
        Ok(arena)
    }

    fn next_trouble(&mut self) -> Trouble {
        if self.coming.is_empty() {
            self.coming = Trouble::all().collect();
            self.random.shuffle(&mut self.coming);
        }
        self.coming.pop().unwrap_or(Trouble::Load)
    }

    fn upgrade(&mut self, trouble: Trouble) -> Result<(), Error> {
        let before = self.working()?;
        self.number += 1;
        let version = format!("1.{}.0", self.number);
        let payload = payload(&self.site, &version)?;
        match trouble {
            Trouble::Bad(bad) => {
                bad.spoil(&payload)?;
                self.publish(&version, &payload)?;
                self.await_refusal(&version)?;
            }
            Trouble::HubDies => {
                self.publish(&version, &payload)?;
                self.some_time();
                self.site.hub.kill()?;
                self.some_time();
                self.site.hub.restart()?;
            }
            Trouble::StoreCorrupts => {
                // Behind the head of the answer.
                let (at, bits) = (self.random.usize(512..4096), 1 << self.random.u8(0..8));
                let strikes = self.proxy.strikes();
                self.proxy.set(Fault::Flip { at, bits })?;
                self.publish(&version, &payload)?;
                self.node.wait_for("wrong bytes are fetched", LIMIT, || match self.proxy.strikes() {
                    now if now > strikes => Ok(()),
                    now => Err(format!("{now} strikes")),
                })?;
                self.some_time();
                self.must_not_have(&version)?;
                self.proxy.set(Fault::Pass)?;
            }
            Trouble::Kill => {
                let pid = self.node.pid_of("identityd")?;
                self.publish(&version, &payload)?;
                self.some_time();
                kill_identityd(&self.node, pid)?;
            }
            Trouble::Load => self.under_load(&version, &payload)?,
        }
        if !matches!(trouble, Trouble::Bad(_)) {
            self.site.await_version(&self.node, &version)?;
            self.installed = version;
        }
        self.is_as_well_as(before)
    }

    fn publish(&self, version: &str, payload: &Payload) -> Result<(), Error> {
        publish(&self.site, &self.proxy, version, payload)
    }

    /// Lets a random time pass; what happens meanwhile is what is to be found out.
    fn some_time(&mut self) {
        thread::sleep(SOON.mul_f64(self.random.f64()));
    }

    /// Installs a good release on a busy machine; a rollback would be a false one.
    fn under_load(&self, version: &str, payload: &Payload) -> Result<(), Error> {
        let done = AtomicBool::new(false);
        let busy = || {
            while !done.load(Ordering::Relaxed) {
                spin_loop();
            }
        };
        let installed = thread::scope(|scope| {
            (0..BUSY).for_each(|_| drop(scope.spawn(busy)));
            let installed =
                self.publish(version, payload).and_then(|()| self.site.await_version(&self.node, version));
            done.store(true, Ordering::Relaxed);
            installed
        });
        installed?;
        match self.outcomes(version)?.as_slice() {
            [only] if only == "committed" => Ok(()),
            outcomes => Err(Error::Unexpected(format!("a good release was not kept at once: {outcomes:?}"))),
        }
    }

    /// Waits until an attempt to install the release has ended, and not well.
    fn await_refusal(&self, version: &str) -> Result<(), Error> {
        self.node.wait_for(&format!("{version} is not kept"), LIMIT, || {
            let outcomes = self.outcomes(version).map_err(|error| format!("{error:?}"))?;
            if outcomes.is_empty() { Err("no attempt has ended".to_owned()) } else { Ok(()) }
        })?;
        let outcomes = self.outcomes(version)?;
        if outcomes.iter().all(|outcome| outcome == "rolled-back" || outcome == "refused") {
            return self.must_not_have(version);
        }
        Err(Error::Unexpected(format!("the bad release {version} ended as {outcomes:?}")))
    }

    fn must_not_have(&self, version: &str) -> Result<(), Error> {
        let status = self.node.status()?;
        if status["installed"]["version"] == self.installed.as_str() {
            return Ok(());
        }
        Err(Error::Unexpected(format!("{version} must not be installed: {status}")))
    }

    /// How the attempts to install a version have ended, as the history tells.
    fn outcomes(&self, version: &str) -> Result<Vec<String>, Error> {
        let history = self.node.read("/var/lib/molt/history.jsonl")?;
        let records = history.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_version = records.filter(|record| record["to"]["version"] == version);
        Ok(of_version.filter_map(|record| Some(record["outcome"].as_str()?.to_owned())).collect())
    }

    fn working(&self) -> Result<usize, Error> {
        Ok(self.node.services()?.values().filter(|state| state.is_up()).count())
    }

    /// Waits until as many services work as before; then PID 1 has to be the one of the beginning, and the
    /// web service has to show what is installed.
    fn is_as_well_as(&self, before: usize) -> Result<(), Error> {
        self.node.wait_for_services(&SERVICES, LIMIT)?;
        self.node.wait_for("as many services work as before", LIMIT, || {
            let now = self.working().map_err(|error| format!("{error:?}"))?;
            if now >= before { Ok(()) } else { Err(format!("{now} of {before}")) }
        })?;
        self.node.wait_for("identityd speaks for itself", LIMIT, || {
            let status = self.node.status().map_err(|error| format!("{error:?}"))?;
            if is_current(&self.node, &status) { Ok(()) } else { Err(status.to_string()) }
        })?;
        if self.node.init()? != self.init {
            return Err(Error::Unexpected("PID 1 is another process".to_owned()));
        }
        self.node.wait_for("the web service shows what is installed", LIMIT, || {
            match self.site.web_version() {
                Ok(shown) if shown == self.installed => Ok(()),
                other => Err(format!("{other:?}, not {}", self.installed)),
            }
        })
    }
}

fn publish(site: &Site, proxy: &FaultProxy, version: &str, payload: &Payload) -> Result<(), Error> {
    let store = format!("http://{}/store", proxy.address());
    // Bad releases are stopped by the lint otherwise, which is not what is tried here.
    let options = ["--route", &store, "--no-lint"];
    site.hub.publish_with(version, payload.directory(), Some("dev"), &options).map(drop)
}

fn payload(site: &Site, version: &str) -> Result<Payload, Error> {
    let payload = site.payload(version)?;
    payload.program(PROGRAM, &Binaries::ensure()?.web())?.unit(VICTIM, GOOD_UNIT)?;
    Ok(payload)
}
