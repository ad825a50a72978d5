//! The newest bootstrap installs the release; one that is bad keeps no node from booting.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use molt_tests::{Binaries, Node, NodeBuilder, Payload, Site, UPGRADE_LIMIT, digest_of, require_installed};

const CHANNEL: &str = "tf-autobuilder/bootstrap:development.flist";
const INSTALLED: &str = "/var/lib/molt/bootstrap";

/// Publishes a program as the newest bootstrap for `dev`.
fn offer(site: &Site, version: &str, payload: &Payload) {
    let directory = payload.directory().to_str().unwrap();
    let what =
        ["publish", "--no-lint", "--repo", "tf-autobuilder", "--name", "bootstrap", "--version", version];
    site.hub.command(&[&what[..], &[directory]].concat()).unwrap();
    site.hub.command(&["link", CHANNEL, &format!("tf-autobuilder/bootstrap:v{version}.flist")]).unwrap();
}

fn script(text: &str) -> Payload {
    let payload = Payload::new().unwrap();
    payload.file("/sbin/bootstrap", 0o755, text).unwrap();
    payload
}

/// The program of the base image, and yet another one.
fn real() -> Payload {
    let payload = Payload::new().unwrap();
    payload.program("/sbin/bootstrap", &Binaries::ensure().unwrap().bootstrap()).unwrap();
    payload.marked("/sbin/bootstrap", "newer").unwrap();
    payload
}

fn node(site: &Site, limits: &str) -> NodeBuilder {
    site.node().config(&format!("poll_interval: 1\nhealth_window: 1\nbootstrap: {{{limits}}}\n"))
}

fn boot(site: &Site) -> Node {
    node(site, "start_timeout: 3").boot().unwrap()
}

/// How often the console says something.
fn times(node: &Node, words: &str) -> usize {
    node.console().text().matches(words).count()
}

#[test]
fn the_newest_bootstrap_installs_the_release_and_looks_for_no_other() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let newer = real();
    offer(&site, "9.0.0", &newer);
    let node = boot(&site);
    site.await_version(&node, "1.0.0").unwrap();
    require_installed(&node, &payload).unwrap();
    assert_eq!(times(&node, "going on as the newest bootstrap"), 1, "{}", node.console().text());
    assert_eq!(times(&node, "this is a newer bootstrap"), 1, "{}", node.console().text());
    let installed: Vec<_> =
        fs::read_dir(node.path(INSTALLED)).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [program] = &installed[..] else { panic!("{installed:?}") };
    assert_eq!(digest_of(program).unwrap(), digest_of(newer.directory().join("sbin/bootstrap")).unwrap());
    assert_eq!(fs::metadata(program).unwrap().permissions().mode() & 0o7777, 0o700);
    // The one of the base image is what it was.
    let base = Binaries::ensure().unwrap().bootstrap();
    assert_eq!(digest_of(node.path("/sbin/bootstrap")).unwrap(), digest_of(base).unwrap());
}

#[test]
fn a_bad_bootstrap_is_tried_three_times_and_the_node_boots_all_the_same() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let bad = [
        ("9.0.1", script("#!/bin/sh\nkill -SEGV $$\n")),
        ("9.0.2", script("#!/bin/sh\nexit 0\n")),
        ("9.0.3", script("#!/bin/sh\nexit 2\n")),
        ("9.0.4", script("#!/bin/sh\nexec sleep 4000000\n")),
    ];
    for (version, bad) in bad {
        offer(&site, version, &bad);
        let node = boot(&site);
        site.await_version(&node, "1.0.0").unwrap();
        require_installed(&node, &payload).unwrap();
        let console = node.console().text();
        assert_eq!(times(&node, "going on as the newest bootstrap"), 3, "{version}: {console}");
        assert!(console.contains("it failed 3 times"), "{version}: {console}");
        assert!(node.running("sleep").unwrap().len() < 2, "{version} still runs");
    }
}

#[test]
fn what_cannot_be_executed_or_is_no_bootstrap_is_passed_over() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let mut foreign = fs::read(Binaries::ensure().unwrap().bootstrap()).unwrap();
    // e_machine of an ELF file; this one is of no processor.
    foreign[18..20].copy_from_slice(&0xfeed_u16.to_le_bytes());
    let wrong = Payload::new().unwrap();
    wrong.file("/sbin/bootstrap", 0o755, &foreign).unwrap();
    let none = Payload::new().unwrap();
    none.file("/usr/share/doc/bootstrap.txt", 0o644, "no program\n").unwrap();
    for (version, payload, says) in [
        ("9.1.0", wrong, "cannot execute"),
        ("9.2.0", none, "has 0 programs named bootstrap"),
        ("0.0.1", script(""), "passed over"),
    ] {
        offer(&site, version, &payload);
        let node = boot(&site);
        site.await_version(&node, "1.0.0").unwrap();
        node.wait_for("the console says why", UPGRADE_LIMIT, || {
            let console = node.console().text();
            if console.contains(says) { Ok(()) } else { Err(console) }
        })
        .unwrap();
    }
}

/// As images mount the disk with the state.
#[test]
fn it_runs_also_where_nothing_on_the_state_disk_may_be_executed() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let mount = "mkdir -p /var/lib/molt && \
                 mount -t tmpfs -o nosuid,nodev,noexec,mode=0700 state /var/lib/molt && ip link set lo up";
    let internet = format!("exec: sh -c '{mount}'\noneshot: true\nlog: stdout\n");
    // A script is opened once more, by its interpreter.
    let wrapper = script("#!/bin/sh\nexec /sbin/bootstrap \"$@\"\n");
    for (version, newer) in [("9.0.0", real()), ("9.0.1", wrapper)] {
        offer(&site, version, &newer);
        let node = node(&site, "start_timeout: 3").unit("internet", &internet).boot().unwrap();
        site.await_version(&node, "1.0.0").unwrap();
        require_installed(&node, &payload).unwrap();
        let console = node.console().text();
        assert_eq!(times(&node, "this is a newer bootstrap"), 1, "{version}: {console}");
        let kept: Vec<_> =
            fs::read_dir(node.path(INSTALLED)).unwrap().map(|entry| entry.unwrap().path()).collect();
        let [program] = &kept[..] else { panic!("{version}: {kept:?}") };
        let refused = node.exec(&["sh", "-c", &format!("{INSTALLED}/*")]).unwrap();
        assert_eq!(refused.status.code(), Some(126), "{version}: {} may be executed", program.display());
    }
}

#[test]
fn one_that_says_for_ever_that_it_works_makes_way_for_that_of_the_base_image() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let report = r#"{"working":{"done":0}}"#;
    let text = format!("#!/bin/sh\nwhile :; do echo '{report}' >$MOLT_BOOT_REPORT; sleep 0.2; done\n");
    offer(&site, "9.0.0", &script(&text));
    let node = node(&site, "start_timeout: 3, progress_timeout: 2").boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    require_installed(&node, &payload).unwrap();
    let console = node.console().text();
    assert_eq!(times(&node, "got no further for 2s and was killed"), 1, "{console}");
    assert_eq!(times(&node, "going on as the newest bootstrap"), 1, "{console}");
    let attempts = node.read(&format!("{INSTALLED}/attempts.json")).unwrap();
    assert!(attempts.contains(r#""attempts":1"#), "{attempts}");
}

/// Nothing is offered for days, or nobody answers: that is no fault of a bootstrap.
#[test]
fn one_that_waits_as_that_of_the_base_image_would_is_tried_again_and_again() {
    let site = Site::new().unwrap();
    offer(&site, "9.0.0", &real());
    let node = node(&site, "progress_timeout: 1").boot().unwrap();
    node.wait_for("it is tried more often than a bad one", UPGRADE_LIMIT, || {
        match times(&node, "going on as the newest bootstrap") {
            0..4 => Err(node.console().tail(20)),
            _ => Ok(()),
        }
    })
    .unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    assert_eq!(times(&node, "passed over"), 0, "{}", node.console().text());
}
