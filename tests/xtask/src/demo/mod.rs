//! `cargo xtask demo`: a node boots from a flist, then replaces its own programs while it runs.
//!
//! Everything is real: a hub over HTTP, a node in namespaces of its own with FUSE, redis and busybox from
//! Debian, and two builds of our own programs.

mod attack;
mod claims;
mod observe;
mod probe;
mod releases;
mod timeline;

use std::path::Path;
use std::time::Duration;

use molt_tests::{Binaries, Error, Hub, NetNs, Node, Signing, require_root};

use claims::{Claim, Evidence};
use observe::Facts;
use probe::Probe;
use releases::{Release, SERVICES};
use timeline::Timeline;

/// Longest wait for one step of the demo.
const LIMIT: Duration = Duration::from_secs(120);

/// So that nobody has to wait ten minutes for the node to look for a new release.
const CONFIG: &str = "poll_interval: 2\nhealth_window: 1\n";

/// Runs the demo; `true` when every claim holds.
pub(crate) fn run(json: Option<&Path>) -> Result<bool, Error> {
    require_root("cargo xtask demo")?;
    println!("Building. The first time this takes some minutes; the demo itself takes less than one.");
    let binaries = Binaries::ensure()?;
    let redis = crate::tools::bring(&binaries)?;
    let old = releases::build(&binaries, &redis, releases::OLD)?;
    let new = releases::build(&binaries, &redis, releases::NEW)?;
    let claims = demonstrate(&old, &new)?;
    claims::print(&claims);
    if let Some(path) = json {
        claims::write(path, &claims)?;
    }
    Ok(claims.iter().all(|claim| claim.holds))
}

/// Boots a node with the old release, publishes the new one, and watches.
fn demonstrate(old: &Release, new: &Release) -> Result<Vec<Claim>, Error> {
    let mut timeline = Timeline::start();
    let netns = NetNs::new()?;
    let hub = Hub::start(&netns)?;
    timeline.now("hub", format!("serves on {}", hub.url()));
    let signing = Signing::new(&hub)?;
    timeline.now("demo", "makes the keys that nodes trust; their root.json goes into the base image");
    publish(&timeline, &hub, &signing, old)?;
    let node = boot(&mut timeline, &netns, &hub, &signing, old.version)?;
    let before = Facts::of(&node)?;

    timeline.now("demo", "asks web, redis and identityd every few milliseconds from now on");
    let reporter = timeline.reporter();
    let probes = [Probe::web, Probe::redis, Probe::identityd].map(|probe| probe(&node, reporter.clone()));
    publish(&timeline, &hub, &signing, new)?;
    timeline.now("demo", "does nothing more: the node finds out and upgrades by itself");
    upgraded(&mut timeline, &node, new)?;
    let after = Facts::of(&node)?;
    let [web, redis, identityd] = probes.map(Probe::stop);
    let (web, redis, identityd) = (web?, redis?, identityd?);

    let (old_blocks, new_blocks) = (hub.blocks_of(old.version)?, hub.blocks_of(new.version)?);
    let fresh = new_blocks.iter().filter(|(id, _)| !old_blocks.contains_key(*id));
    let new_bytes = fresh.map(|(_, bytes)| bytes).sum();
    let release_bytes = new_blocks.values().sum();
    let evidence = Evidence { old, new, before, after, web, redis, identityd, release_bytes, new_bytes };
    let mut claims = evidence.claims();
    claims.push(attack::refused(&mut timeline, &hub, &node, (old, new))?);
    Ok(claims)
}

fn publish(timeline: &Timeline, hub: &Hub, signing: &Signing, release: &Release) -> Result<(), Error> {
    let said = signing.publish(hub, release.version, release.payload.directory())?;
    for line in said.lines() {
        timeline.now("publish", line);
    }
    Ok(())
}

fn boot(
    timeline: &mut Timeline,
    netns: &NetNs,
    hub: &Hub,
    signing: &Signing,
    version: &str,
) -> Result<Node, Error> {
    let command_line = format!("console=ttyS0 runmode=dev hub={}", hub.url());
    timeline.now("demo", format!("boots a node with: {command_line}"));
    let node = Node::builder(netns).command_line(command_line).boot_units().config(CONFIG);
    let node = node.file(signing.root()?).boot()?;
    timeline.now("node", "is up; its supervisor runs the bootstrap unit");
    let names = ["bootstrap"].into_iter().chain(SERVICES).collect::<Vec<_>>();
    timeline.wait(&node, "the node has booted", LIMIT, || {
        let states = node.services().map_err(|error| format!("{error:?}"))?;
        match names.iter().find(|name| !states.get(**name).is_some_and(|state| state.is_up())) {
            Some(down) => Err(format!("{down} is not up: {states:?}")),
            None => Ok(()),
        }
    })?;
    timeline.wait(&node, "the page shows the old version", LIMIT, || shows(&node, version))?;
    timeline.wait(&node, "identityd knows what is installed", LIMIT, || idle_with(&node, version))?;
    timeline.now("node", format!("runs {}; the page shows version {version}", SERVICES.join(", ")));
    Ok(node)
}

fn upgraded(timeline: &mut Timeline, node: &Node, new: &Release) -> Result<(), Error> {
    timeline.wait(node, "the page shows the new version", LIMIT, || shows(node, new.version))?;
    timeline.wait(node, "identityd has finished", LIMIT, || idle_with(node, new.version))?;
    timeline.now("node", format!("runs version {}", new.version));
    Ok(())
}

fn shows(node: &Node, version: &str) -> Result<(), String> {
    match node.netns().run(probe::web_version) {
        Ok(Some(shown)) if shown == version => Ok(()),
        other => Err(format!("it shows {other:?}")),
    }
}

fn idle_with(node: &Node, version: &str) -> Result<(), String> {
    let status = node.status().map_err(|error| format!("{error:?}"))?;
    if status["stage"] == "Idle" && status["installed"]["version"] == version {
        return Ok(());
    }
    Err(status.to_string())
}
