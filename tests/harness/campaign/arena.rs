//! A node that gets one release after the other, and what has to hold after each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hint::spin_loop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use serde_json::Value;
use tempfile::TempDir;

use super::bad_release::{GOOD_UNIT, PROGRAM, VICTIM};
use super::chaos::Trouble;
use super::{LIMIT, RESPAWN_DELAY, is_current, kill_identityd, without_debug_information};
use crate::error::{Doing, Error};
use crate::{Binaries, Fault, FaultProxy, Node, Payload, Process, RootKind, Site};

/// Services of good releases.
const SERVICES: [&str; 4] = ["identityd", "web", "idle", VICTIM];

/// Faults that are no release's come at most so long after it is offered.
const SOON: Duration = Duration::from_millis(2500);

/// Threads that keep the machine busy.
const BUSY: usize = 2;

/// MiB of a node's root file system.
const SIZE: u32 = 512;

/// Services and their processes; one that has none has done its work, or is stopped.
type Pids = BTreeMap<String, Option<u32>>;

/// A node whose blocks come through a proxy.
pub(super) struct Arena {
    site: Site,
    proxy: FaultProxy,
    node: Node,
    init: Process,
    number: u32,
    /// The version that has to be there.
    installed: String,
    coming: Vec<Trouble>,
    random: Rng,
    program: (TempDir, PathBuf),
}

impl Arena {
    /// Boots the node, with these settings and such a root, and the first release.
    pub(super) fn set_up(config: &str, root: RootKind, seed: u64) -> Result<Self, Error> {
        let site = Site::new()?;
        let hub = site.hub.url();
        let address = hub.trim_start_matches("http://").parse();
        let address = address.map_err(|_| Error::Unexpected(format!("{hub} has no plain address")))?;
        let proxy = site.netns.run(|| FaultProxy::start(address))??;
        let installed = "1.0.0".to_owned();
        let program = without_debug_information(&Binaries::ensure()?.identityd())?;
        publish(&site, &proxy, &installed, &payload(&site, &program.1, &installed)?)?;
        let node =
            site.node().config(config).root(root).size_mib(SIZE).respawn_delay(RESPAWN_DELAY).boot()?;
        let (init, random, coming) = (node.init()?, Rng::with_seed(seed), Vec::new());
        let arena = Self { site, proxy, node, init, number: 0, installed, coming, random, program };
        arena.site.await_version(&arena.node, &arena.installed)?;
        arena.node.wait_for_services(&SERVICES, LIMIT)?;
        Ok(arena)
    }

    /// Every trouble in turn, in an order that is another one every time.
    pub(super) fn next_trouble(&mut self) -> Trouble {
        if self.coming.is_empty() {
            self.coming = Trouble::all().collect();
            self.random.shuffle(&mut self.coming);
        }
        self.coming.pop().unwrap_or(Trouble::Load)
    }

    /// An upgrade with this trouble.
    pub(super) fn upgrade(&mut self, trouble: Trouble) -> Result<(), Error> {
        let before = self.working()?;
        let (version, payload) = self.next_release()?;
        match trouble {
            Trouble::Bad(bad) => {
                let pids = self.pids()?;
                bad.spoil(&payload)?;
                self.publish(&version, &payload)?;
                if bad.is_found_before() {
                    self.await_end(&version, &["refused"])?;
                    self.nobody_was_touched(&pids)?;
                } else {
                    self.await_end(&version, &["rolled-back"])?;
                    self.is_known_to_be_bad(&version)?;
                }
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
            Trouble::DiskFull => {
                self.publish(&version, &payload)?;
                self.some_time();
                let filler = self.node.path("/filler");
                fill(&filler)?;
                self.some_time();
                fs::remove_file(&filler).doing(|| "make room in the node".to_owned())?;
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

    fn next_release(&mut self) -> Result<(String, Payload), Error> {
        self.number += 1;
        let version = format!("1.{}.0", self.number);
        let payload = payload(&self.site, &self.program.1, &version)?;
        Ok((version, payload))
    }

    /// An upgrade to a good release with no trouble at all; a rollback would be a false one.
    pub(super) fn neutral_upgrade(&mut self) -> Result<(), Error> {
        let before = self.working()?;
        let (version, payload) = self.next_release()?;
        self.publish(&version, &payload)?;
        self.is_kept_at_once(&version)?;
        self.installed = version;
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
        thread::scope(|scope| {
            (0..BUSY).for_each(|_| drop(scope.spawn(busy)));
            let kept = self.publish(version, payload).and_then(|()| self.is_kept_at_once(version));
            done.store(true, Ordering::Relaxed);
            kept
        })
    }

    fn is_kept_at_once(&self, version: &str) -> Result<(), Error> {
        self.site.await_version(&self.node, version)?;
        match self.outcomes(version)?.as_slice() {
            [only] if only == "committed" => Ok(()),
            outcomes => Err(Error::Unexpected(format!("a good release was not kept at once: {outcomes:?}"))),
        }
    }

    /// Waits until an attempt to install a bad release has ended. Each has to have ended like one of these.
    fn await_end(&self, version: &str, wanted: &[&str]) -> Result<(), Error> {
        self.node.wait_for(&format!("{version} is not kept"), LIMIT, || {
            let outcomes = self.outcomes(version).map_err(|error| format!("{error:?}"))?;
            if outcomes.is_empty() { Err("no attempt has ended".to_owned()) } else { Ok(()) }
        })?;
        let outcomes = self.outcomes(version)?;
        if outcomes.iter().all(|outcome| wanted.contains(&outcome.as_str())) {
            return self.must_not_have(version);
        }
        Err(Error::Unexpected(format!("the bad release {version} ended as {outcomes:?}, not {wanted:?}")))
    }

    /// The process of each service that the supervisor knows.
    fn pids(&self) -> Result<Pids, Error> {
        let names = self.node.services()?;
        names.into_keys().map(|name| Ok((name.clone(), self.node.service(&name)?.pid))).collect()
    }

    /// A release that would not run costs nobody anything.
    fn nobody_was_touched(&self, before: &Pids) -> Result<(), Error> {
        match self.pids()? {
            now if now == *before => Ok(()),
            now => Err(Error::Unexpected(format!("the services were {before:?} and are {now:?}"))),
        }
    }

    /// Its services did not do, and finding that out again would cost another downtime.
    fn is_known_to_be_bad(&self, version: &str) -> Result<(), Error> {
        let release = self
            .records(version)?
            .into_iter()
            .find_map(|record| Some(record["to"]["release"].as_str()?.to_owned()));
        let release = release.ok_or_else(|| Error::Unexpected(format!("no record names {version}")))?;
        let notes = self.node.read("/var/lib/molt/releases.json")?;
        let notes: Value =
            serde_json::from_str(&notes).doing(|| "understand the notes of releases".to_owned())?;
        match &notes["releases"][&release] {
            note if note["judged"] == true => Ok(()),
            note => Err(Error::Unexpected(format!("{version} is not known to be bad: {note}"))),
        }
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
        let outcome = |record: Value| Some(record["outcome"].as_str()?.to_owned());
        Ok(self.records(version)?.into_iter().filter_map(outcome).collect())
    }

    /// What the history has of the attempts to install a version.
    fn records(&self, version: &str) -> Result<Vec<Value>, Error> {
        let history = self.node.read("/var/lib/molt/history.jsonl")?;
        let records = history.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(records.filter(|record| record["to"]["version"] == version).collect())
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

/// Takes all the space that there is.
fn fill(path: &Path) -> Result<(), Error> {
    let action = || format!("fill {}", path.display());
    let file = File::create(path).doing(action)?;
    let statistics = fstatvfs(&file).doing(action)?;
    let (mut at, mut step) = (0, statistics.blocks_available().saturating_mul(statistics.fragment_size()));
    // What others take or give back meanwhile is why it is more than one call.
    while step >= statistics.fragment_size() {
        match fallocate(&file, FallocateFlags::empty(), at, step.cast_signed()) {
            Ok(()) => at += step.cast_signed(),
            Err(Errno::ENOSPC) => step /= 2,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing(action),
        }
    }
    Ok(())
}

fn payload(site: &Site, identityd: &Path, version: &str) -> Result<Payload, Error> {
    let payload = site.payload(version)?;
    payload
        .program("/sbin/identityd", identityd)?
        .program(PROGRAM, &Binaries::ensure()?.web())?
        .unit(VICTIM, GOOD_UNIT)?;
    Ok(payload)
}
