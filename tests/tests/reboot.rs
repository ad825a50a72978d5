//! A node boots again whose root was in RAM, and of which only the state directory is what it was.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::Path;

use molt_tests::{
    BaseFile, Content, Fault, FaultProxy, Node, NodeBuilder, Signing, Site, UPGRADE_LIMIT, scratch,
};
use tempfile::TempDir;

const STATE: &str = "/var/lib/molt";
const CACHE: &str = "/var/cache/molt";

/// What is kept of a node that has installed one release.
const ONE_RELEASE: [&str; 3] = ["current", "generations/1.json", "generations/1.fl"];

/// A copy of the node's state directory, as a state disk would keep it.
fn state_of(node: &Node) -> TempDir {
    let disk = scratch("state").unwrap();
    copy(&node.path(STATE), disk.path());
    disk
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A node with a new root and these files in its state directory.
fn with_state(site: &Site, disk: &TempDir, names: &[&str]) -> NodeBuilder {
    let of = |name: &str| BaseFile {
        path: Path::new(STATE).join(name),
        mode: 0o600,
        content: Content::Copy(disk.path().join(name)),
    };
    names.iter().fold(site.node(), |node, name| node.file(of(name)))
}

/// A site whose channel offers 2.0.0, and what a node remembers that found it to be bad.
fn found_bad() -> (Site, TempDir) {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    let bad = site.payload("2.0.0").unwrap();
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    site.publish("2.0.0", &bad).unwrap();
    node.wait_for("the release is bad", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if status["gate"] == "Refused" { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    let disk = state_of(&node);
    (site, disk)
}

#[test]
fn a_bad_release_is_not_installed_where_a_good_one_is_recorded() {
    let (site, disk) = found_bad();
    let state = ["current", "releases.json", "generations/1.json", "generations/1.fl"];
    let node = with_state(&site, &disk, &state).boot().unwrap();
    node.wait_for("the good release runs", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        match &status["installed"]["version"] {
            version if version == "1.0.0" && status["gate"] == "Refused" => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .unwrap();
    node.wait_for_services(&["web", "idle", "bootstrap"], UPGRADE_LIMIT).unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert!(node.printed().contains("NOT installing what the channel offers"), "{}", node.console().tail(50));
    assert!(!node.path("/etc/zinit/broken.yaml").exists());
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED BadRelease") && why.contains("broken is not well"), "{why}");

    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
}

#[test]
fn what_was_gone_back_from_stays_away_after_a_reboot() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    site.publish("2.0.0", &site.payload("2.0.0").unwrap()).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    node.run(&["identityd", "rollback"]).unwrap();
    let disk = state_of(&node);
    drop(node);

    let current = fs::read_to_string(disk.path().join("current")).unwrap();
    let record = |kind: &str| format!("generations/{current}.{kind}");
    let state = ["current", "orders.json", &record("json"), &record("fl")];
    let node = with_state(&site, &disk, &state).boot().unwrap();
    node.wait_for("the release before runs", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        match &status["installed"]["version"] {
            version if version == "1.0.0" && status["gate"] == "Hold" => Ok(()),
            _ => Err(status.to_string()),
        }
    })
    .unwrap();
    node.wait_for_services(&["web", "idle", "bootstrap"], UPGRADE_LIMIT).unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert!(node.printed().contains("rolled back from 2.0.0 to 1.0.0"), "{}", node.console().tail(50));
}

#[test]
fn without_a_good_one_another_release_is_waited_for() {
    let (site, disk) = found_bad();
    let node = with_state(&site, &disk, &["releases.json"]).boot().unwrap();
    node.wait_for("the console says what is waited for", UPGRADE_LIMIT, || {
        match node.printed().contains("waiting for another release") {
            true => Ok(()),
            false => Err(node.console().tail(20)),
        }
    })
    .unwrap();
    assert!(node.printed().contains("broken is not well"), "{}", node.console().tail(20));
    assert!(!node.path("/tmp/flist.name").exists() && !node.path("/usr/bin/demo-web").exists());
    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
}

/// A site, and what a node remembers that ran its 1.0.0.
fn ran_the_first() -> (Site, TempDir) {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let disk = state_of(&site.boot("1.0.0").unwrap());
    (site, disk)
}

fn prints(node: &Node, what: &str) {
    node.wait_for(&format!("the console says {what:?}"), UPGRADE_LIMIT, || match node.printed() {
        printed if printed.contains(what) => Ok(()),
        _ => Err(node.console().tail(20)),
    })
    .unwrap();
}

/// Waits until the node runs 1.0.0 instead of what is offered.
fn runs_the_first(site: &Site, node: &Node) {
    node.wait_for("the recorded release runs", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}\n{}", node.console().tail(20)))?;
        if status["installed"]["version"] == "1.0.0" { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    node.wait_for_services(&["web", "idle", "bootstrap"], UPGRADE_LIMIT).unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert!(node.printed().contains("NOT installing what the channel offers"), "{}", node.console().tail(50));
}

#[test]
fn a_release_whose_blocks_are_missing_keeps_no_node_down() {
    let (site, disk) = ran_the_first();
    let payload = site.payload("2.0.0").unwrap();
    assert!(site.hub.publish_without_its_blocks("2.0.0", payload.directory()).unwrap() > 0);
    let node = with_state(&site, &disk, &ONE_RELEASE).boot().unwrap();
    runs_the_first(&site, &node);
    // It is not bad: once it is whole it is taken, as any other release.
    site.publish("2.0.0", &payload).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
}

#[test]
fn a_release_that_cannot_be_planned_keeps_no_node_down() {
    let (site, disk) = ran_the_first();
    let payload = site.payload("2.0.0").unwrap();
    // That is a directory in every root.
    payload.file("/etc/molt", 0o644, "in the way").unwrap();
    site.publish("2.0.0", &payload).unwrap();
    let node = with_state(&site, &disk, &ONE_RELEASE).boot().unwrap();
    runs_the_first(&site, &node);
    assert!(node.printed().contains("is never replaced by"), "{}", node.console().tail(50));
    let whole = site.payload("2.0.1").unwrap();
    site.publish("2.0.1", &whole).unwrap();
    site.await_version(&node, "2.0.1").unwrap();
}

/// As a release does that takes all memory there is.
#[test]
fn a_release_that_kills_three_workers_is_not_tried_again() {
    let (site, disk) = ran_the_first();
    let payload = site.payload("2.0.0").unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(1 << 20).collect();
    payload.file("/usr/share/slow", 0o644, content).unwrap();
    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    let mut proxy = site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap();
    proxy.set(Fault::Throttle(8 << 10)).unwrap();
    let store = format!("http://{}/store", proxy.address());
    site.hub.publish_with("2.0.0", payload.directory(), Some("dev"), &["--route", &store]).unwrap();
    let node = with_state(&site, &disk, &ONE_RELEASE).boot().unwrap();
    for attempt in 1..=3 {
        node.wait_for("a worker stages it", UPGRADE_LIMIT, || {
            let staging = node.printed().matches("staging ").count();
            if staging >= attempt { Ok(()) } else { Err(node.console().tail(20)) }
        })
        .unwrap();
        // The unit's process runs it as /proc/self/exe.
        let worker = node.running("exe").unwrap().remove(0).pid_inside;
        node.run(&["kill", "-KILL", &worker.to_string()]).unwrap();
    }
    runs_the_first(&site, &node);
    // The daemon tells of it once it has asked the hub.
    node.wait_for("why tells that the release is bad", UPGRADE_LIMIT, || {
        let why = node.run(&["identityd", "why"]).map_err(|error| format!("{error:?}"))?;
        if why.contains("CLOSED BadRelease") && why.contains("interrupted") { Ok(()) } else { Err(why) }
    })
    .unwrap();
}

/// Whoever owns the hub gains no more by answers that nobody can trust than by silence.
#[test]
fn a_hub_with_forged_signatures_keeps_only_nodes_down_that_have_nothing() {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    signing.publish(&site.hub, "1.0.0", site.payload("1.0.0").unwrap().directory()).unwrap();
    let node = site.node().file(signing.root().unwrap()).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    // A root in RAM keeps no cache; a state disk has what the hub had.
    let (disk, cache) = (state_of(&node), site.hub.block_directory());
    drop(node);
    let path = site.hub.block_directory().with_file_name("trust").join("timestamp.json");
    let mut forged: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    forged["signed"]["version"] = 99.into();
    fs::write(&path, forged.to_string()).unwrap();

    let again = with_state(&site, &disk, &ONE_RELEASE).file(signing.root().unwrap());
    let again = cached(again, &cache, &cache).boot().unwrap();
    prints(&again, "then what is recorded is installed");
    runs_the_first(&site, &again);
    drop(again);
    let fresh = site.node().file(signing.root().unwrap()).boot().unwrap();
    prints(&fresh, "nothing that is recorded could be installed instead");
    assert!(!fresh.path("/usr/bin/demo-web").exists());
}

/// The node with what is in a directory of this cache.
fn cached(node: NodeBuilder, cache: &Path, directory: &Path) -> NodeBuilder {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.fold(node, |node, path| match path.is_dir() {
        true => cached(node, cache, &path),
        false => node.file(BaseFile {
            path: Path::new(CACHE).join(path.strip_prefix(cache).unwrap()),
            mode: 0o600,
            content: Content::Copy(path),
        }),
    })
}

/// The kernel command line asks for another channel than that of the recorded release, and no hub answers.
#[test]
fn a_recorded_release_of_another_channel_is_not_booted_from_and_it_is_said_why() {
    let (site, disk) = ran_the_first();
    let cache = site.hub.block_directory();
    let asks = |mode: &str| {
        let node = cached(with_state(&site, &disk, &ONE_RELEASE), &cache, &cache);
        node.command_line(format!("console=ttyS0 runmode={mode} hub=http://127.0.0.1:9"))
    };
    // A base image that has an identityd already.
    let payload = site.payload("0.9.0").unwrap();
    let identityd = BaseFile::program("/usr/sbin/identityd", payload.directory().join("sbin/identityd"));
    let unit = include_str!("../../assets/units/identityd.yaml");
    let node = asks("test").file(identityd).unit("identityd", unit).boot().unwrap();
    let said = "version 1.0.0 is recorded, but of tf-zos/zos:development:latest.flist, and runmode= on the kernel \
                command line asks for tf-zos/testing or tf-zos/zos:testing:latest.flist; bring back a hub that \
                offers that, or boot with what asked for tf-zos/zos:development:latest.flist";
    prints(&node, said);
    node.wait_for("the status says it", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        let reason = status["reason"].as_str().unwrap_or_default();
        if status["gate"] == "FlistName" && reason.contains(said) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED FlistName") && why.contains(said), "{why}");
    node.stop_service("identityd").unwrap();
    let asked = node.exec(&["identityd", "status"]).unwrap();
    let stderr = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.code() == Some(3) && stderr.contains(said), "{stderr}");
    assert!(!node.path("/usr/bin/demo-web").exists());
    drop(node);
    // With the channel as it was.
    let node = asks("dev").boot().unwrap();
    runs_the_first(&site, &node);
    assert!(!node.path("/run/molt/boot-waits").exists());
    // It goes on with what is installed when it is told to follow something else, and says so.
    let config = node.read("/etc/molt/config.yaml").unwrap();
    let config = format!("{config}flist: tf-zos/another.flist\n");
    fs::write(node.path("/etc/molt/config.yaml"), config).unwrap();
    node.run(&["kill", &node.service("identityd").unwrap().pid.unwrap().to_string()]).unwrap();
    let said = "flist in the configuration file asks for tf-zos/another.flist";
    node.wait_for("the status says what was asked for", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        let asked = status["asked_channel"].as_str().unwrap_or_default();
        if asked.contains(said) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    for told in ["why", "status"] {
        let told = node.run(&["identityd", told]).unwrap();
        assert!(told.contains(said), "{told}");
    }
}
