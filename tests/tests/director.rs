//! Nodes with a director install what it has chosen for them, at their first boot too.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use molt_tests::{BaseFile, Content, Hub, Node, NodeBuilder, Signing, Site, UPGRADE_LIMIT, scratch};
use serde_json::Value;

const CHANNEL: &str = "tf-zos/zos:development:latest.flist";

struct Fleet {
    site: Site,
    signing: Signing,
    director: Signing,
}

impl Fleet {
    /// A hub with these releases, signed.
    fn with(versions: &[&str]) -> Self {
        let site = Site::new().unwrap();
        let signing = Signing::new(&site.hub).unwrap();
        let director = Signing::director(&site.hub).unwrap();
        let fleet = Self { site, signing, director };
        versions.iter().for_each(|version| fleet.publish(version));
        fleet
    }

    fn publish(&self, version: &str) {
        let payload = self.site.payload(version).unwrap();
        self.signing.publish(&self.site.hub, version, payload.directory()).unwrap();
    }

    /// Has the director say something of a release.
    fn direct(&self, verb: &str, version: &str, more: &[&str]) {
        let root = self.signing.directory().join("root.json").display().to_string();
        let url = self.site.hub.url();
        let mut arguments = vec![verb, "--hub", &url, "--run-mode", "dev", "--version", version];
        if matches!(verb, "assign" | "wave") {
            arguments.extend(["--root", &root, "--channel", CHANNEL]);
        }
        arguments.extend(more);
        self.director.run(&self.site.hub, &arguments).unwrap();
    }

    /// What `flist director statistics` makes of what a node says of itself: of the release, and of the documents.
    fn statistics(&self, node: &Node, version: &str) -> (Value, Value) {
        let collected = self.director.directory().with_file_name("collected");
        let said = node.run(&["identityd", "status", "--json"]).unwrap();
        fs::write(&collected, format!("connection refused\n{said}\n{said}\n")).unwrap();
        let arguments = ["statistics", "--json", "--nodes", collected.to_str().unwrap()];
        let written = self.director.run(&self.site.hub, &arguments).unwrap();
        let mut written: Value = serde_json::from_str(&written).unwrap();
        let release = written["releases"].as_array_mut().unwrap();
        let release = release.iter_mut().find(|release| release["version"] == version).unwrap().take();
        (release, written["collected"].take())
    }

    fn boot(&self, config: &str) -> Node {
        self.boot_from(&self.site.hub.url(), config)
    }

    /// Boots a node that is told these addresses of hubs.
    fn boot_from(&self, hubs: &str, config: &str) -> Node {
        self.undirected(hubs, config).file(self.director.root().unwrap()).boot().unwrap()
    }

    /// A node whose base image has no director.
    fn undirected(&self, hubs: &str, config: &str) -> NodeBuilder {
        let mut text = "poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\n".to_owned();
        text.push_str(config);
        let node = self.site.node().command_line(format!("console=ttyS0 runmode=dev hub={hubs}"));
        let node = node.file(self.signing.root().unwrap());
        node.file(BaseFile::text("/etc/molt/config.yaml", text))
    }
}

fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if reached(&status) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
}

/// What `why` says of the director's gate.
fn gate(node: &Node) -> Value {
    gate_of(node, "Director")
}

fn gate_of(node: &Node, name: &str) -> Value {
    let gates: Value = serde_json::from_str(&node.run(&["identityd", "why", "--json"]).unwrap()).unwrap();
    let gates = gates.as_array().or_else(|| gates["gates"].as_array()).unwrap();
    gates.iter().find(|gate| gate["gate"] == name).unwrap().clone()
}

/// How a hub stands to what the node has accepted, of the releases or of the director.
fn standing(node: &Node, whose: &str, hub: &Hub) -> Value {
    gate_of(node, "Trust")["inputs"]["mirrors"][whose][format!("{}/", hub.url())]["standing"].clone()
}

/// What a hub has, on disk: its names, blocks, and the metadata in `trust` and `director`.
fn place(hub: &Hub) -> PathBuf {
    hub.block_directory().parent().unwrap().to_owned()
}

/// Makes one directory what another one is.
fn copy(from: &Path, to: &Path) {
    let text = r#"mkdir -p "$2" && cp -a "$1/." "$2""#;
    let mut command = Command::new("sh");
    command.args(["-c", text, "sh"]).arg(from).arg(to);
    molt_tests::run(&mut command, UPGRADE_LIMIT).unwrap();
}

#[test]
fn a_fresh_boot_outside_the_canary_group_does_not_get_the_canary_and_says_why() {
    let fleet = Fleet::with(&["1.0.0", "2.0.0"]);
    fleet.direct("wave", "1.0.0", &["--percent", "100", "--hours", "0"]);
    fleet.direct("assign", "2.0.0", &["--group", "canary"]);
    let node = fleet.boot("node_id: n1\n");
    fleet.site.await_version(&node, "1.0.0").unwrap();
    let waits = gate(&node);
    assert_eq!((&waits["open"], &waits["inputs"]["withheld"]["node"]), (&false.into(), &"n1".into()));
    assert!(waits["why"].as_str().unwrap().contains("chosen it for other nodes"), "{waits}");
    for verb in ["check", "plan", "apply"] {
        let said = node.run(&["identityd", verb]).unwrap();
        let parts = ["the director keeps 2.0.0", "(n1)", "until it signs another choice", "for other nodes"];
        assert!(parts.iter().all(|part| said.contains(part)), "{verb}: {said}");
    }

    // The whole fleet gets it in a wave that begins next year: now the clock says when.
    fleet.direct("wave", "2.0.0", &["--percent", "100", "--hours", "1", "--start", "2999-01-01T00:00:00Z"]);
    until(&node, "the turn is known", |_| gate(&node)["may_change"]["at"].is_object());
    let told = node.run(&["identityd", "check"]).unwrap();
    assert!(told.contains("until 2999-01-01T0"), "{told}");
    let waits = gate(&node);
    assert!(waits["may_change"]["at"]["at"].as_str().unwrap().starts_with("2999-01-01T0"), "{waits}");
    assert_eq!(node.status().unwrap()["installed"]["version"], "1.0.0");
    // And this node by its name.
    fleet.direct("assign", "2.0.0", &["--node", "n1"]);
    fleet.site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(gate(&node)["open"], true);
}

#[test]
fn a_release_that_is_called_off_is_not_installed_by_a_node_that_waits_with_it() {
    let fleet = Fleet::with(&["1.0.0"]);
    fleet.direct("wave", "1.0.0", &["--percent", "100", "--hours", "0"]);
    // What the kernel was told counts more than the file.
    let told = format!("console=ttyS0 runmode=dev hub={} molt.group=canary", fleet.site.hub.url());
    let node = fleet.undirected(&fleet.site.hub.url(), "group: others\n").command_line(told);
    let node = node.file(fleet.director.root().unwrap()).boot().unwrap();
    fleet.site.await_version(&node, "1.0.0").unwrap();
    let status = node.status().unwrap();
    let named = (&status["node"]["group"], &status["node"]["group_from"]);
    assert_eq!(named, (&"canary".into(), &"kernel".into()), "{status}");
    node.run(&["identityd", "pause"]).unwrap();
    fleet.publish("2.0.0");
    fleet.direct("assign", "2.0.0", &["--group", "canary"]);
    until(&node, "the node waits with the release", |status| {
        status["gate"] == "Pause" && status["candidate"]["version"] == "2.0.0"
    });
    let (two, collected) = fleet.statistics(&node, "2.0.0");
    assert_eq!(
        (&two["due"], &two["waits"]["Pause"], &two["stale"]),
        (&1.into(), &1.into(), &0.into()),
        "{two}"
    );
    assert_eq!(
        (&two["rules"][0]["rule"]["group"], &two["rules"][0]["waiting"]),
        (&"canary".into(), &1.into())
    );
    assert_eq!(
        (&collected["documents"], &collected["damaged"], &collected["repeated"]),
        (&3.into(), &1.into(), &1.into())
    );
    assert_eq!(fleet.statistics(&node, "1.0.0").0["superseded"], 1);
    fleet.direct("abort", "2.0.0", &[]);
    until(&node, "the node has heard of it", |status| status["candidate"].is_null());
    node.run(&["identityd", "resume"]).unwrap();
    let checks = |status: &Value| status["counters"]["checks"].as_u64().unwrap();
    let before = checks(&node.status().unwrap());
    until(&node, "the node has looked again", |status| {
        status["stage"] == "Idle" && checks(status) >= before + 3
    });
    assert_eq!(node.status().unwrap()["installed"]["version"], "1.0.0");
    assert!(gate(&node)["why"].as_str().unwrap().contains("called it off"), "{}", gate(&node));
    let (two, _) = fleet.statistics(&node, "2.0.0");
    assert_eq!((&two["aborted"], &two["due"]), (&true.into(), &0.into()), "{two}");
    // Called on again it is installed, although it was known before.
    fleet.direct("assign", "2.0.0", &["--group", "canary"]);
    fleet.site.await_version(&node, "2.0.0").unwrap();
    let (two, _) = fleet.statistics(&node, "2.0.0");
    assert_eq!((&two["installed"], &two["share_reached"]), (&1.into(), &100.0.into()), "{two}");
    // What is called off stays where it is installed, and nothing is kept from that node.
    fleet.direct("abort", "2.0.0", &[]);
    let before = checks(&node.status().unwrap());
    until(&node, "the node has looked once more", |status| {
        status["stage"] == "Idle" && checks(status) >= before + 3
    });
    assert_eq!(gate(&node)["open"], true, "{}", gate(&node));
}

/// Both hubs are up to date in one thing and keep the other one back; a node takes the newer of each.
#[test]
fn a_hub_that_keeps_the_directors_choices_back_is_seen_by_what_another_one_has() {
    let fleet = Fleet::with(&["1.0.0", "2.0.0"]);
    fleet.direct("wave", "1.0.0", &["--percent", "100", "--hours", "0"]);
    let mut frozen = Hub::prepare(&fleet.site.netns).unwrap();
    copy(&place(&fleet.site.hub), &place(&frozen));
    frozen.restart().unwrap();
    let node = fleet.boot_from(&format!("{},{}", frozen.url(), fleet.site.hub.url()), "node_id: n1\n");
    fleet.site.await_version(&node, "1.0.0").unwrap();
    fleet.direct("assign", "2.0.0", &["--node", "n1"]);
    fleet.site.await_version(&node, "2.0.0").unwrap();
    until(&node, "the node knows which hub lags", |_| standing(&node, "director", &frozen) == "behind");
    assert_ne!(standing(&node, "releases", &frozen), "behind");
    drop(node);

    // What is newest is now partly here, partly there; a node that knows nothing yet finds both.
    let (old, here) = (place(&frozen).with_file_name("old"), place(&fleet.site.hub));
    copy(&here.join("trust"), &old);
    fleet.publish("3.0.0");
    fleet.direct("assign", "3.0.0", &["--node", "n1"]);
    let kept_back = place(&frozen).with_file_name("kept-back");
    copy(&place(&frozen).join("director"), &kept_back);
    copy(&here, &place(&frozen));
    copy(&kept_back, &place(&frozen).join("director"));
    copy(&old, &here.join("trust"));
    for (first, second) in [(&fleet.site.hub, &frozen), (&frozen, &fleet.site.hub)] {
        let node = fleet.boot_from(&format!("{},{}", first.url(), second.url()), "node_id: n1\n");
        fleet.site.await_version(&node, "3.0.0").unwrap();
        // And goes on so.
        until(&node, "the node has looked again", |status| {
            status["stage"] == "Idle" && status["counters"]["checks"].as_u64() > Some(2)
        });
        assert_eq!(standing(&node, "releases", &fleet.site.hub), "behind");
        assert_eq!(standing(&node, "director", &frozen), "behind");
    }
}

/// Where a base image has the root of its director.
const ROOT: &str = "/etc/molt/director.json";

/// Waits until the node refuses everything because of its director's root, and says so wherever it is asked.
fn refuses(node: &Node, said: &str) {
    let known = || {
        let doctor = node.exec(&["identityd", "doctor"]).unwrap();
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        [doctor, node.run(&["identityd", "why"]).unwrap(), node.run(&["identityd", "status"]).unwrap()]
    };
    until(node, "the gate is closed", |status| {
        status["gate"] == "Trust" && status["reason"].as_str().unwrap().contains(said)
    });
    for told in known() {
        assert!(told.contains(said), "{told}");
    }
    let checks = |status: &Value| status["counters"]["checks"].as_u64().unwrap();
    let before = checks(&node.status().unwrap());
    until(node, "the node has looked twice more", |status| checks(status) >= before + 2);
    let status = node.status().unwrap();
    assert_eq!((&status["installed"]["version"], &status["gate"]), (&"1.0.0".into(), &"Trust".into()));
}

/// Ends the daemon, and waits for the next one.
fn restart_identityd(node: &Node) {
    let before = node.service("identityd").unwrap().pid.unwrap();
    node.run(&["kill", "-KILL", &before.to_string()]).unwrap();
    until(node, "another identityd", |status| {
        status["identityd"]["pid"] != before && status["identityd"]["polled"] == true
    });
}

/// The node with these files of a directory at this place.
fn with(node: NodeBuilder, from: &Path, at: &Path) -> NodeBuilder {
    let entries = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
    entries.fold(node, |node, path| {
        let at = at.join(path.file_name().unwrap());
        match path.is_dir() {
            true => with(node, &path, &at),
            false => node.file(BaseFile { path: at, mode: 0o600, content: Content::Copy(path) }),
        }
    })
}

/// Somebody takes the director's root away, or a base image has lost it, so that what was called off would be installed.
#[test]
fn a_directors_root_that_is_gone_is_missed() {
    let fleet = Fleet::with(&["1.0.0"]);
    fleet.direct("wave", "1.0.0", &["--percent", "100", "--hours", "0"]);
    let node = fleet.boot("group: canary\n");
    fleet.site.await_version(&node, "1.0.0").unwrap();
    let status = node.status().unwrap();
    let named = (&status["node"]["group"], &status["node"]["group_from"], &status["node"]["directed"]);
    assert_eq!(named, (&"canary".into(), &"config".into(), &true.into()), "{status}");
    let disk = scratch("state").unwrap();
    copy(&node.path("/var/lib/molt"), disk.path());
    fleet.publish("2.0.0");
    fleet.direct("assign", "2.0.0", &["--node", "another"]);
    fleet.direct("abort", "2.0.0", &[]);

    let root = node.read(ROOT).unwrap();
    fs::remove_file(node.path(ROOT)).unwrap();
    let gone = "local: the director's root /etc/molt/director.json is gone";
    refuses(&node, gone);
    let status = node.run(&["identityd", "status"]).unwrap();
    assert!(status.contains("director    MISSED: local: the director's root"), "{status}");
    restart_identityd(&node);
    refuses(&node, gone);
    fs::write(node.path(ROOT), "{}").unwrap();
    refuses(&node, "local: the director's root /etc/molt/director.json is damaged");
    fs::write(node.path(ROOT), root).unwrap();
    until(&node, "all is well again", |status| status["stage"] == "Idle" && status["gate"].is_null());
    assert!(gate(&node)["why"].as_str().unwrap().contains("called it off"), "{}", gate(&node));

    // Whoever wants to do without it says so.
    fs::remove_file(node.path(ROOT)).unwrap();
    let config = node.read("/etc/molt/config.yaml").unwrap();
    fs::write(node.path("/etc/molt/config.yaml"), format!("{config}trust: {{director: none}}\n")).unwrap();
    restart_identityd(&node);
    fleet.site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(node.status().unwrap()["node"]["directed"], false);
    drop(node);

    // A boot without it, with the state of the node and its blocks, takes what is recorded.
    let again = with(fleet.undirected(&fleet.site.hub.url(), ""), disk.path(), "/var/lib/molt".as_ref());
    let again = with(again, &fleet.site.hub.block_directory(), "/var/cache/molt".as_ref()).boot().unwrap();
    until(&again, "the recorded release runs", |status| status["installed"]["version"] == "1.0.0");
    again.wait_for_services(&["web", "idle", "bootstrap"], UPGRADE_LIMIT).unwrap();
    let printed = again.printed();
    let told = "waiting for a release that can be trusted";
    assert!(printed.contains(gone) && printed.contains(told), "{}", again.console().tail(30));
    refuses(&again, gone);
}

/// The hub's signatures are in order; only the node has each root in the place of the other one.
#[test]
fn roots_that_are_exchanged_are_told_as_that() {
    const RELEASES: &str = "/etc/molt/root.json";
    let fleet = Fleet::with(&["1.0.0"]);
    fleet.direct("wave", "1.0.0", &["--percent", "100", "--hours", "0"]);
    let at = |path: &str, file: BaseFile| BaseFile { path: path.into(), ..file };
    let url = fleet.site.hub.url();
    let node = fleet.site.node().command_line(format!("console=ttyS0 runmode=dev hub={url}"));
    let node = node.file(at(RELEASES, fleet.director.root().unwrap()));
    let node = node.file(at(ROOT, fleet.signing.root().unwrap())).boot().unwrap();
    let told = "local: /etc/molt/root.json and /etc/molt/director.json are exchanged";
    node.wait_for("the console says so", UPGRADE_LIMIT, || match node.console().contains(told) {
        true => Ok(()),
        false => Err(node.console().tail(20)),
    })
    .unwrap();
    // What it says helps.
    let (releases, director) = (node.read(ROOT).unwrap(), node.read(RELEASES).unwrap());
    fs::write(node.path(RELEASES), releases).unwrap();
    fs::write(node.path(ROOT), director).unwrap();
    fleet.site.await_version(&node, "1.0.0").unwrap();
}

/// Whoever has stolen the director's keys chooses an older release and reboots the node.
#[test]
fn a_director_has_no_node_go_back_over_a_reboot_that_knows_what_it_ran() {
    let fleet = Fleet::with(&["1.0.0", "2.0.0"]);
    fleet.direct("assign", "2.0.0", &["--group", "canary"]);
    let node = fleet.boot("group: canary\n");
    fleet.site.await_version(&node, "2.0.0").unwrap();
    let disk = scratch("state").unwrap();
    copy(&node.path("/var/lib/molt"), disk.path());
    drop(node);
    fleet.direct("assign", "1.0.0", &["--group", "canary"]);
    fleet.direct("abort", "2.0.0", &[]);

    // The root lies in RAM and is new; the state is on a disk.
    let again = fleet.undirected(&fleet.site.hub.url(), "group: canary\n");
    let again = with(again.file(fleet.director.root().unwrap()), disk.path(), "/var/lib/molt".as_ref());
    let again = with(again, &fleet.site.hub.block_directory(), "/var/cache/molt".as_ref()).boot().unwrap();
    fleet.site.await_version(&again, "2.0.0").unwrap();
    until(&again, "it has looked again", |status| status["counters"]["checks"].as_u64() > Some(1));
    assert_eq!(again.status().unwrap()["installed"]["version"], "2.0.0");
    drop(again);

    // A node with its state in RAM as well does not know that it goes back.
    let forgetful = fleet.boot("group: canary\n");
    fleet.site.await_version(&forgetful, "1.0.0").unwrap();
    drop(forgetful);
    // Unless those who have signed the release have taken it back.
    let withdrawn =
        ["withdraw", "--hub", &fleet.site.hub.url(), "--run-mode", "dev", "--channel", CHANNEL, "1.0.0"];
    fleet.signing.run(&fleet.site.hub, &withdrawn).unwrap();
    let forgetful = fleet.boot("group: canary\n");
    let waits = || {
        let printed = forgetful.printed();
        let told =
            printed.contains("waiting for another release") || printed.contains("waiting for a release");
        if told { Ok(()) } else { Err(printed) }
    };
    forgetful.wait_for("it waits", UPGRADE_LIMIT, waits).unwrap();
    assert!(!forgetful.path("/usr/bin/demo-web").exists(), "{}", forgetful.printed());
}
