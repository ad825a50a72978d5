//! Nodes with a root of trust install what is signed, and nothing else.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod clock;
mod files;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use molt_tests::{BaseFile, Content, Hub, Node, Signing, Site, UPGRADE_LIMIT, scratch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const CHANNEL: &str = "tf-zos/zos:development:latest.flist";

fn signed() -> (Site, Signing, Node) {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    signing.publish(&site.hub, "1.0.0", site.payload("1.0.0").unwrap().directory()).unwrap();
    let node = site.node().file(signing.root().unwrap()).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    (site, signing, node)
}

/// Waits until the status is like that.
fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if reached(&status) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
}

/// Waits until the node has looked at least twice more.
fn looks_twice(node: &Node) {
    let checks = |status: &Value| status["counters"]["checks"].as_u64().unwrap();
    let before = checks(&node.status().unwrap());
    until(node, "the node has looked twice more", |status| checks(status) >= before + 2);
}

/// The directory with the metadata that the hub serves.
fn served(site: &Site) -> PathBuf {
    site.hub.block_directory().with_file_name("trust")
}

fn why(node: &Node) -> String {
    node.run(&["identityd", "why"]).unwrap()
}

#[test]
fn only_what_is_signed_is_installed_and_what_is_not_is_named() {
    let (site, signing, node) = signed();
    let status = node.status().unwrap();
    assert_eq!(status["insecure"], false, "{status}");
    assert_eq!(node.read("/tmp/flist.name").unwrap().trim_end(), CHANNEL);

    // Whoever owns the hub publishes a release and moves the link; nodes without trust would take it.
    site.publish("6.6.6", &site.payload("6.6.6").unwrap()).unwrap();
    looks_twice(&node);
    assert_eq!(node.status().unwrap()["installed"]["version"], "1.0.0");

    // A signed one is taken, whatever the link says.
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    site.await_version(&node, "2.0.0").unwrap();

    // He forges the metadata.
    let path = served(&site).join("timestamp.json");
    let good = fs::read_to_string(&path).unwrap();
    let mut forged: Value = serde_json::from_str(&good).unwrap();
    forged["signed"]["version"] = 99.into();
    fs::write(&path, forged.to_string()).unwrap();
    until(&node, "the gate is closed", |status| status["gate"] == "Trust");
    let said = why(&node);
    assert!(said.contains("CLOSED Trust") && said.contains("signature:"), "{said}");
    assert_eq!(node.status().unwrap()["installed"]["version"], "2.0.0");
    // He serves an old one.
    let mut old: Value = serde_json::from_str(&good).unwrap();
    old["signatures"] = serde_json::json!([]);
    fs::write(&path, old.to_string()).unwrap();
    looks_twice(&node);
    assert!(why(&node).contains("CLOSED Trust"));
    // The right one opens it again.
    fs::write(&path, good).unwrap();
    until(&node, "all is well again", |status| status["stage"] == "Idle");
    let check = site.hub.command(&[
        "trust",
        "check",
        "--root",
        &signing.directory().join("root.json").display().to_string(),
    ]);
    let check = check.unwrap();
    assert!(check.contains("accepts what") && check.contains("2.0.0"), "{check}");
}

#[test]
fn a_changed_flist_under_a_signed_name_is_refused() {
    let (site, signing, node) = signed();
    // The evil content under the name of the next release; then that release is signed with other content.
    let evil = site.payload("6.6.6").unwrap();
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    site.publish("6.6.6", &evil).unwrap();
    let flist = |version: &str| site.hub.users().join(format!("tf-zos/zos:v{version}.flist"));
    fs::copy(flist("6.6.6"), flist("2.0.0")).unwrap();
    let fresh = site.node().file(signing.root().unwrap()).boot().unwrap();
    fresh
        .wait_for("the console says what is wrong", UPGRADE_LIMIT, || {
            match fresh.console().contains("mismatch") || fresh.console().contains("bytes allowed") {
                true => Ok(()),
                false => Err(fresh.console().tail(5)),
            }
        })
        .unwrap();
    assert!(!fresh.path("/usr/bin/demo-web").exists());
    drop(node);
}

/// Another channel, with a release that is signed for the same run mode: no signature keeps a node from it.
fn sign_evil(site: &Site, signing: &Signing) {
    let evil = site.payload("6.6.6").unwrap();
    let (directory, options) = (evil.directory().display().to_string(), signing.options());
    let what = ["publish", "--repo", "tf-zos", "--name", "evil", "--version", "6.6.6", "--run-mode", "dev"];
    let options = options.iter().map(String::as_str);
    let command: Vec<&str> = what.into_iter().chain(["--sign"]).chain(options).chain([&*directory]).collect();
    site.hub.command(&command).unwrap();
}

/// The channel of [`sign_evil`], and its flist.
const EVIL: [&str; 2] = ["tf-zos/evil:development:latest.flist", "tf-zos/evil:v6.6.6.flist"];

/// Ends the daemon, which looks for what it follows when it starts, and waits for the next one.
fn restart_identityd(node: &Node) {
    let before = node.service("identityd").unwrap().pid.unwrap();
    node.run(&["kill", &before.to_string()]).unwrap();
    until(node, "another identityd", |status| {
        status["stage"] == "Idle" && status["identityd"]["pid"] != before
    });
}

/// What a node follows is recorded where nobody else writes. Signatures would let it have the other release: that it
/// does not take it is by this alone.
#[test]
fn a_planted_flist_name_is_not_followed() {
    let (site, signing, node) = signed();
    sign_evil(&site, &signing);
    for planted in [EVIL[0], EVIL[1], "../../etc/passwd", "evil"] {
        // A file of root that nobody else can write, in place of the one that was there.
        fs::write(node.path("/tmp/flist.name"), planted).unwrap();
        restart_identityd(&node);
        looks_twice(&node);
        assert_eq!(node.status().unwrap()["installed"]["version"], "1.0.0", "{planted}");
        assert_eq!(site.web_version().unwrap(), "1.0.0", "{planted}");
        assert_eq!(node.read("/tmp/flist.name").unwrap().trim_end(), CHANNEL, "{planted} was put right");
    }
    drop(node);
    // Whoever is told to follow it, by the kernel's command line, gets it.
    let told = |flist: &str| format!("console=ttyS0 runmode=dev hub={} flist={flist}", site.hub.url());
    let follows = site.node().file(signing.root().unwrap()).command_line(told(EVIL[1])).boot().unwrap();
    site.await_version(&follows, "6.6.6").unwrap();
    drop(follows);
    // But not what nobody has signed.
    let unsigned = site.payload("7.7.7").unwrap();
    site.hub.publish_package("evil", "7.7.7", unsigned.directory()).unwrap();
    let line = told("tf-zos/evil:v7.7.7.flist");
    let fresh = site.node().file(signing.root().unwrap()).command_line(line).boot().unwrap();
    fresh
        .wait_for("the console says why it waits", UPGRADE_LIMIT, || {
            match fresh.console().contains("nobody has signed") {
                true => Ok(()),
                false => Err(fresh.console().tail(5)),
            }
        })
        .unwrap();
    assert!(!fresh.path("/usr/bin/demo-web").exists());
}

/// A node of which nothing is recorded goes by flist.name, but only where that names what its settings let it follow.
#[test]
fn a_planted_flist_name_is_not_followed_by_a_node_without_records_either() {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    signing.publish(&site.hub, "1.0.0", site.payload("1.0.0").unwrap().directory()).unwrap();
    sign_evil(&site, &signing);
    let payload = site.payload("0.9.0").unwrap();
    let identityd = BaseFile::program("/usr/sbin/identityd", payload.directory().join("sbin/identityd"));
    for planted in EVIL {
        let node = Node::builder(&site.netns)
            .command_line(format!("console=ttyS0 runmode=dev hub={}", site.hub.url()))
            .config("poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\n")
            .file(signing.root().unwrap())
            .file(identityd.clone())
            .unit("internet", include_str!("../../../assets/units/internet.yaml"))
            .unit("identityd", include_str!("../../../assets/units/identityd.yaml"))
            .file(BaseFile::text("/tmp/flist.name", format!("{planted}\n")))
            .boot()
            .unwrap();
        until(&node, "the node says that it does not agree", |status| {
            let error = status["last_error"]["message"].as_str().unwrap_or_default();
            error.contains(&format!("flist.name says {planted}")) && error.contains(CHANNEL)
        });
        assert!(!node.path("/usr/bin/demo-web").exists());
        // With the right name it is upgraded: the name was all that was wrong.
        fs::write(node.path("/tmp/flist.name"), CHANNEL).unwrap();
        site.await_version(&node, "1.0.0").unwrap();
    }
}

#[test]
fn without_a_root_of_trust_every_start_says_so() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    assert_eq!(node.status().unwrap()["insecure"], true);
    assert!(node.console().contains("INSECURE"), "{}", node.console().tail(50));
    // A root that was named has to be there.
    let line = format!("console=ttyS0 runmode=dev hub={}", site.hub.url());
    let strict = Node::builder(&site.netns).command_line(line).boot_units();
    let strict = strict.config("trust: { root: /etc/molt/none.json }\n").boot().unwrap();
    strict
        .wait_for("the console says what is missing", UPGRADE_LIMIT, || {
            match strict.console().contains("none.json") {
                true => Ok(()),
                false => Err(strict.console().tail(5)),
            }
        })
        .unwrap();
    assert!(!strict.path("/usr/bin/demo-web").exists());
}

/// Somebody takes the root of trust away, or a base image has lost it, so that any hub would be believed.
#[test]
fn a_root_of_trust_that_is_gone_is_missed() {
    const ROOT: &str = "/etc/molt/root.json";
    let (site, signing, node) = signed();
    let root = node.read(ROOT).unwrap();
    fs::remove_file(node.path(ROOT)).unwrap();
    // Whoever owns the hub has another release, which nobody has signed.
    site.publish("6.6.6", &site.payload("6.6.6").unwrap()).unwrap();
    let before = node.status().unwrap()["identityd"]["pid"].clone();
    let pid = node.pid_of("identityd").unwrap();
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    until(&node, "the gate is closed", |status| {
        status["gate"] == "Trust" && status["identityd"]["pid"] != before
    });
    looks_twice(&node);
    let status = node.status().unwrap();
    assert_eq!((&status["insecure"], &status["installed"]["version"]), (&false.into(), &"1.0.0".into()));
    for said in [why(&node), node.run(&["identityd", "status"]).unwrap()] {
        assert!(said.contains("local: the root of trust /etc/molt/root.json is gone"), "{said}");
    }
    let doctor = node.exec(&["identityd", "doctor"]).unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("trust-damaged") && said.contains("has trusted one before"), "{said}");
    // It is put back, which a root in RAM will not remember; what is signed is installed then.
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    fs::create_dir_all(node.path("/tmp/fleet")).unwrap();
    fs::write(node.path("/tmp/fleet/root.json"), root).unwrap();
    let put = node.exec(&["identityd", "provision", "/tmp/fleet"]).unwrap();
    let said = String::from_utf8_lossy(&put.stderr).into_owned();
    assert!(put.status.success() && said.contains("/etc/molt lies in RAM"), "{said}");
    site.await_version(&node, "2.0.0").unwrap();

    // A boot without it, with the state of the node: only what is recorded as signed is taken.
    let disk = scratch("state").unwrap();
    molt_tests::run(
        Command::new("cp").arg("-a").arg(node.path("/var/lib/molt").join(".")).arg(disk.path()),
        UPGRADE_LIMIT,
    )
    .unwrap();
    drop(node);
    let kept = || BaseFile {
        path: "/var/lib/molt/trust/root.json".into(),
        mode: 0o600,
        content: Content::Copy(disk.path().join("trust/root.json")),
    };
    let fresh = site.node().file(kept()).boot().unwrap();
    fresh
        .wait_for("the console says what is gone", UPGRADE_LIMIT, || {
            let said = "waiting for a release that can be trusted";
            match fresh.console().contains("is gone") && fresh.console().contains(said) {
                true => Ok(()),
                false => Err(fresh.console().tail(5)),
            }
        })
        .unwrap();
    assert!(!fresh.path("/usr/bin/demo-web").exists());
    drop(fresh);
    // Unless the kernel command line says that any hub is believed.
    let line = format!("console=ttyS0 runmode=dev hub={} molt.insecure=1", site.hub.url());
    let insecure = site.node().command_line(line).file(kept()).boot().unwrap();
    site.await_version(&insecure, "2.0.0").unwrap();
    assert_eq!(insecure.status().unwrap()["insecure"], true);
}

/// The same under an identityd that goes on running: what the doctor reads is what it goes by.
#[test]
fn a_root_of_trust_that_is_damaged_or_gone_is_missed_at_the_next_poll() {
    const ROOT: &str = "/etc/molt/root.json";
    let (site, signing, node) = signed();
    let root = node.read(ROOT).unwrap();
    let pid = node.pid_of("identityd").unwrap();
    site.publish("6.6.6", &site.payload("6.6.6").unwrap()).unwrap();
    fs::remove_file(node.path(ROOT)).unwrap();
    for said in ["is gone, and this node has trusted one before", "is damaged"] {
        let said = format!("local: the root of trust {ROOT} {said}");
        until(&node, "the gate is closed", |status| {
            status["gate"] == "Trust" && status["reason"].as_str().unwrap().contains(&said)
        });
        looks_twice(&node);
        let doctor = node.exec(&["identityd", "doctor"]).unwrap();
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        for told in [doctor, why(&node), node.run(&["identityd", "status"]).unwrap()] {
            assert!(told.contains(&said), "{told}");
        }
        let status = node.status().unwrap();
        assert_eq!((&status["insecure"], &status["installed"]["version"]), (&false.into(), &"1.0.0".into()));
        fs::write(node.path(ROOT), "{}").unwrap();
    }
    fs::write(node.path(ROOT), root).unwrap();
    until(&node, "all is well again", |status| status["stage"] == "Idle");
    assert_eq!(node.pid_of("identityd").unwrap(), pid);
    assert!(node.exec(&["identityd", "doctor"]).unwrap().status.success());
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
}

/// The hub that the node prefers has been frozen by whoever owns it; the other one has news.
#[test]
fn one_hub_that_keeps_news_back_is_seen_by_what_another_one_has() {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    signing.publish(&site.hub, "1.0.0", site.payload("1.0.0").unwrap().directory()).unwrap();
    let mut frozen = Hub::prepare(&site.netns).unwrap();
    let place = |hub: &Hub| hub.block_directory().parent().unwrap().to_owned();
    molt_tests::run(
        Command::new("cp").arg("-a").arg(place(&site.hub).join(".")).arg(place(&frozen)),
        UPGRADE_LIMIT,
    )
    .unwrap();
    frozen.restart().unwrap();
    let line = format!("console=ttyS0 runmode=dev hub={},{}", frozen.url(), site.hub.url());
    let node = site.node().command_line(line).file(signing.root().unwrap()).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    let said = node.run(&["identityd", "why", "--json"]).unwrap();
    assert!(said.contains("behind") && said.contains(&frozen.url()), "{said}");
    // Whoever has stolen the key of the timestamp goes on with it; its owners have another one.
    signing.run(&site.hub, &["key", "rotate", "timestamp"]).unwrap();
    signing.publish(&site.hub, "3.0.0", site.payload("3.0.0").unwrap().directory()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
}

/// What is recorded of a release says whether it was signed, and a boot without a hub goes by that.
#[test]
fn a_record_says_whether_the_release_was_signed() {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let line = format!("console=ttyS0 runmode=dev hub={} molt.insecure=1", site.hub.url());
    let insecure = site.node().command_line(line).file(signing.root().unwrap()).boot().unwrap();
    site.await_version(&insecure, "1.0.0").unwrap();
    let record = insecure.read("/var/lib/molt/generations/1.json").unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["is_signed"], false);
    drop(insecure);
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    let node = site.node().file(signing.root().unwrap()).boot().unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    let number = node.read("/var/lib/molt/current").unwrap();
    let record = node.read(&format!("/var/lib/molt/generations/{}.json", number.trim())).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["is_signed"], true);
}
