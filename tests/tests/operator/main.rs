//! Somebody decides when a node upgrades: hold, pause, cancel, retry; and the node says why it waits.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod cancel;

use std::process::Command;
use std::time::Duration;

use molt_tests::{
    BaseFile, Binaries, CHANNEL_NAME, CHANNEL_REPO, Fault, FaultProxy, Node, Payload, Site, UPGRADE_LIMIT,
    output,
};
use serde_json::Value;
use zinit_client::{State, Target};

/// Files of a release that takes long to stage from a slow store.
const MANY: usize = 200;

/// How much later a slow store answers.
const SLOW: Duration = Duration::from_secs(1);

/// What a command of identityd prints as JSON, whether it succeeds or not.
fn json(node: &Node, arguments: &[&str]) -> Value {
    let command = [&["identityd"], arguments, &["--json"]].concat();
    let output = node.exec(&command).unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

/// What a command of identityd says when it ends with this exit code.
fn refused(node: &Node, code: i32, arguments: &[&str]) -> String {
    let output = node.exec(&[&["identityd"], arguments].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn why(node: &Node) -> String {
    node.run(&["identityd", "why"]).unwrap()
}

/// Waits until the status is like that; returns it.
fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    node.wait_for_status(what, UPGRADE_LIMIT, reached).unwrap()
}

/// The newest attempt in the history.
fn last_attempt(node: &Node) -> Value {
    json(node, &["history", "--limit", "1"])[0].clone()
}

/// The newest attempt at this version.
fn last_attempt_of(node: &Node, version: &str) -> Value {
    let attempts = json(node, &["history"]);
    let of_it = |attempt: &&Value| attempt["to"]["version"] == version && attempt["outcome"] != "refused";
    attempts.as_array().unwrap().iter().rfind(of_it).unwrap().clone()
}

fn booted() -> (Site, Node) {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    (site, node)
}

/// As [`publish_slowly_as`], the ordinary 2.0.0.
fn publish_slowly(site: &Site) -> (Payload, FaultProxy) {
    let payload = site.payload("2.0.0").unwrap();
    let proxy = publish_slowly_as(site, "2.0.0", &payload);
    (payload, proxy)
}

/// Publishes a release with many files besides, whose blocks nodes get through a proxy; it is slow until it is told
/// otherwise.
fn publish_slowly_as(site: &Site, version: &str, payload: &Payload) -> FaultProxy {
    for number in 0..MANY {
        let path = format!("/usr/share/site/many/{number}");
        payload.file(&path, 0o644, format!("file {number} of {version}\n")).unwrap();
    }
    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    let mut proxy = site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap();
    proxy.set(Fault::Delay(SLOW)).unwrap();
    let mut publish = Command::new(Binaries::ensure().unwrap().flist());
    publish.args(["publish", "--hub", &site.hub.url(), "--repo", CHANNEL_REPO, "--name", CHANNEL_NAME]);
    publish.args(["--version", version, "--run-mode", "dev"]);
    publish.args(["--route", &format!("http://{}/store", proxy.address())]).arg(payload.directory());
    let published = site.netns.run(|| output(&mut publish, UPGRADE_LIMIT)).unwrap().unwrap();
    assert!(published.status.success(), "{published:?}");
    proxy
}

/// Nothing is left of what was staged, and what is installed runs as before.
fn runs_as_before(site: &Site, node: &Node, services: &[u32; 2]) {
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert_eq!(&["web", "idle"].map(|name| node.pid_of(name).unwrap()), services);
    assert!(!node.path("/usr/share/site/many").exists());
}

fn services(node: &Node) -> [u32; 2] {
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    ["web", "idle"].map(|name| node.pid_of(name).unwrap())
}

#[test]
fn what_is_held_is_not_installed_until_it_is_let_go() {
    let (mut site, node) = booted();
    node.run(&["identityd", "hold", "--reason", "holiday"]).unwrap();
    let new = site.payload("2.0.0").unwrap();
    new.marked("/sbin/identityd", "2.0.0").unwrap();
    site.publish("2.0.0", &new).unwrap();
    let status = until(&node, "it waits", |status| status["gate"] == "Hold");
    assert_eq!((&status["candidate"]["version"], &status["holds"][0]["by"]), (&"2.0.0".into(), &0.into()));
    let said = why(&node);
    assert!(said.starts_with("CLOSED Hold"), "{said}");
    assert!(said.contains("every release is held since") && said.contains("(holiday)"), "{said}");
    assert_eq!(json(&node, &["why"])[0]["gate"], "Hold");
    assert_eq!(json(&node, &["check"])["waits"]["gate"], "Hold");
    assert!(refused(&node, 5, &["apply", "--now"]).contains("identityd unhold"));
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert!(node.run(&["identityd", "status"]).unwrap().contains("held        every release"));

    node.run(&["identityd", "unhold"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    let attempts = json(&node, &["history"]);
    let codes: Vec<_> = attempts.as_array().unwrap().iter().map(|attempt| &attempt["code"]).collect();
    assert_eq!(codes, ["Handover", "Committed"], "identityd first, then the rest");
    let attempt = last_attempt(&node);
    assert_eq!((&attempt["outcome"], &attempt["cause"]["kind"]), (&"committed".into(), &"poll".into()));
    assert_eq!((&attempt["from"]["version"], &attempt["to"]["version"]), (&"1.0.0".into(), &"2.0.0".into()));
    let web = attempt["services"].as_array().unwrap().iter().find(|service| service["name"] == "web");
    assert!(web.unwrap()["down_ms"].is_u64(), "{attempt}");
    assert!(attempt["bytes_fetched"].as_u64().unwrap() > 0, "{attempt}");
    assert_eq!(json(&node, &["doctor"]), serde_json::json!([]));

    // What a script learns by the exit code: another user, a hub that lacks the channel, a hub that is not there.
    let other = node.exec(&["su", "-s", "/bin/sh", "nobody", "-c", "/sbin/identityd status"]).unwrap();
    assert_eq!(other.status.code(), Some(5), "{other:?}");
    site.hub.withdraw().unwrap();
    assert!(refused(&node, 4, &["check"]).contains("does not exist"));
    site.hub.kill().unwrap();
    refused(&node, 3, &["check"]);
}

#[test]
fn what_is_postponed_goes_on_by_itself_and_no_release_for_longer_than_allowed() {
    let (site, node) = booted();
    let too_long = refused(&node, 2, &["hold", "2.0.0", "--for", "15d"]);
    assert!(too_long.contains("longest_postponement") && too_long.contains("14d"), "{too_long}");
    node.run(&["identityd", "hold", "2.0.0", "--for", "13d", "--reason", "the fair"]).unwrap();
    site.publish("2.0.0", &site.payload("2.0.0").unwrap()).unwrap();
    let status = until(&node, "it waits", |status| status["gate"] == "Hold");
    let end = status["holds"][0]["until"]["at"].as_str().unwrap().to_owned();
    let gate = &json(&node, &["why"])[0];
    assert_eq!((&gate["gate"], &gate["may_change"]["at"]["at"]), (&"Hold".into(), &end.as_str().into()));
    assert!(gate["why"].as_str().unwrap().contains(&format!("postponed until {end}")), "{gate}");
    let shown = node.run(&["identityd", "status"]).unwrap();
    assert!(shown.contains(&format!("postponed   2.0.0, until {end}, since")), "{shown}");
    // By its id it is the same release, and letting go is no new beginning.
    let id = status["candidate"]["release"].as_str().unwrap();
    node.run(&["identityd", "pause"]).unwrap();
    node.run(&["identityd", "unhold"]).unwrap();
    let again = refused(&node, 2, &["hold", &id[..12], "--for", "340h"]);
    assert!(again.contains("it was postponed first at") && again.contains("without --for"), "{again}");
    node.run(&["identityd", "hold", id, "--for", "3s"]).unwrap();
    node.run(&["identityd", "resume"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    until(&node, "the hold is gone", |status| status["holds"] == serde_json::json!([]));
    assert_eq!(last_attempt(&node)["postponed"]["by"], 0);
    assert!(node.run(&["identityd", "history"]).unwrap().contains("  postponed since "));
}

#[test]
fn a_pause_while_files_are_staged_stops_before_the_swap_and_survives_a_restart() {
    let (site, node) = booted();
    let before = services(&node);
    let (payload, mut proxy) = publish_slowly(&site);
    until(&node, "files are staged", |status| status["stage"] == "Staging");
    let said = node.run(&["identityd", "pause"]).unwrap();
    assert!(said.contains("stops before the swap"), "{said}");
    until(&node, "it waits", |status| status["gate"] == "Pause");
    runs_as_before(&site, &node, &before);
    let attempt = last_attempt(&node);
    assert_eq!((&attempt["outcome"], &attempt["code"]), (&"stopped".into(), &"Pause".into()));

    // A killed daemon comes back paused.
    let pid = node.service("identityd").unwrap().pid.unwrap();
    node.run(&["kill", "-KILL", &pid.to_string()]).unwrap();
    until(&node, "another daemon waits", |status| {
        status["gate"] == "Pause" && status["identityd"]["pid"] != pid
    });
    assert!(why(&node).contains("upgrades are paused since"), "{}", why(&node));
    runs_as_before(&site, &node, &before);

    proxy.set(Fault::Pass).unwrap();
    node.run(&["identityd", "resume"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    molt_tests::require_installed(&node, &payload).unwrap();
}

#[test]
fn what_is_stopped_while_files_are_staged_stays_stopped() {
    let site = Site::new().unwrap();
    let web = Binaries::ensure().unwrap().web();
    // Of one the program changes, of the other one the unit.
    let release = |version: &str| {
        let payload = site.payload(version).unwrap();
        payload.program("/usr/bin/tool", &web).unwrap().marked("/usr/bin/tool", version).unwrap();
        payload.unit("tool", "exec: /usr/bin/tool --listen 127.0.0.1:8001\n").unwrap();
        payload.unit("aside", &format!("exec: sleep 4000000\n# {version}\n")).unwrap();
        payload
    };
    site.publish("1.0.0", &release("1.0.0")).unwrap();
    let node = site.boot("1.0.0").unwrap();
    let all = ["identityd", "web", "idle", "tool", "aside"];
    node.wait_for_services(&all, UPGRADE_LIMIT).unwrap();
    let stop_while_staging = |proxy: &mut FaultProxy| {
        until(&node, "files are staged", |status| status["stage"] == "Staging");
        ["tool", "aside"].iter().for_each(|name| node.stop_service(name).unwrap());
        proxy.set(Fault::Pass).unwrap();
    };
    let are_down = || {
        assert!(node.running("tool").unwrap().is_empty(), "nobody runs it");
        assert_eq!(node.running("sleep").unwrap().len(), 1, "idle sleeps, aside does not");
    };

    // One that is undone: zinit knows both as before, and may start them if somebody wants that.
    let bad = release("2.0.0");
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    let mut proxy = publish_slowly_as(&site, "2.0.0", &bad);
    stop_while_staging(&mut proxy);
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    assert_eq!(last_attempt_of(&node, "2.0.0")["outcome"], "rolled-back");
    are_down();
    for name in ["tool", "aside"] {
        assert_eq!(node.service(name).unwrap().target, Target::Down, "{name}");
        node.start_service(name).unwrap();
    }
    node.wait_for_services(&all, UPGRADE_LIMIT).unwrap();

    let good = release("3.0.0");
    let mut proxy = publish_slowly_as(&site, "3.0.0", &good);
    stop_while_staging(&mut proxy);
    site.await_version(&node, "3.0.0").unwrap();
    molt_tests::require_installed(&node, &good).unwrap();
    are_down();
    assert_eq!(node.service("tool").unwrap().target, Target::Down);
    assert!(node.service("aside").is_err(), "zinit does not have its old unit");
}

/// As long as the release may still be undone.
#[test]
fn what_is_stopped_in_the_health_window_stays_stopped_when_the_release_is_undone() {
    let site = Site::new().unwrap();
    let web = Binaries::ensure().unwrap().web();
    // Of one the program changes, of the other one the unit.
    let release = |version: &str| {
        let payload = site.payload(version).unwrap();
        payload.program("/usr/bin/tool", &web).unwrap().marked("/usr/bin/tool", version).unwrap();
        payload.unit("tool", "exec: /usr/bin/tool --listen 127.0.0.1:8001\n").unwrap();
        payload.unit("aside", &format!("exec: sleep 4000000\n# {version}\n")).unwrap();
        payload
    };
    site.publish("1.0.0", &release("1.0.0")).unwrap();
    let node = site.boot("1.0.0").unwrap();
    let all = ["identityd", "web", "idle", "tool", "aside"];
    node.wait_for_services(&all, UPGRADE_LIMIT).unwrap();
    let bad = release("2.0.0");
    let dies = "exec: sh -c 'sleep 5; exit 1'\nmolt:\n  health_window: 60\n";
    bad.unit("dies", dies).unwrap();
    site.publish("2.0.0", &bad).unwrap();
    until(&node, "it is in its window", |status| status["stage"] == "Soaking");
    node.wait_for_services(&all, UPGRADE_LIMIT).unwrap();
    ["tool", "aside"].iter().for_each(|name| node.stop_service(name).unwrap());
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    assert_eq!(last_attempt_of(&node, "2.0.0")["outcome"], "rolled-back");
    molt_tests::require_installed(&node, &release("1.0.0")).unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    assert!(node.running("tool").unwrap().is_empty(), "nobody runs it");
    assert_eq!(node.running("sleep").unwrap().len(), 1, "idle sleeps, aside does not");
    assert_eq!(node.service("tool").unwrap().target, Target::Down);
    assert!(node.service("aside").is_err(), "zinit does not have the unit of 2.0.0");
}

#[test]
fn a_bad_release_is_named_and_tried_again_on_request() {
    let (site, node) = booted();
    let payload = site.payload("2.0.0").unwrap();
    payload.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    site.publish("2.0.0", &payload).unwrap();
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    let said = why(&node);
    assert!(said.contains("CLOSED BadRelease") && said.contains("failed 1 time and"), "{said}");
    assert!(said.contains("release 2.0.0") && said.contains("identityd retry"), "{said}");
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    let attempts = json(&node, &["history"]);
    let ends: Vec<_> = attempts.as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(ends, ["rolled-back", "refused"]);

    assert!(refused(&node, 4, &["retry", "9.9.9"]).contains("does not offer release 9.9.9"));
    assert!(refused(&node, 5, &["retry", "2.0.0"]).contains("rolled back"));
    let attempts = json(&node, &["history"]);
    let retried = attempts.as_array().unwrap().iter().find(|attempt| attempt["cause"]["kind"] == "retry");
    assert_eq!(retried.unwrap()["outcome"], "rolled-back");
    until(&node, "the release is given up again", |status| status["gate"] == "Refused");
    assert_eq!(site.web_version().unwrap(), "1.0.0");
}

#[test]
fn the_doctor_detaches_a_stale_mount_and_has_identityd_monitored_again() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let flist = BaseFile::program("/usr/bin/flist", Binaries::ensure().unwrap().flist());
    let get = format!(
        "exec: wget -O /tmp/zos.fl {}/{CHANNEL_REPO}/{CHANNEL_NAME}:v1.0.0.flist\noneshot: true\n",
        site.hub.url()
    );
    // Mounts, and is killed.
    let mount = "exec: sh -c 'mkdir -p /run/molt/mnt/left; flist mount -m /tmp/zos.fl /run/molt/mnt/left & \
                 until [ -e /run/molt/mnt/left/sbin ]; do sleep 0.1; done; kill -KILL $!; true'\n\
                 oneshot: true\nafter: [get, bootstrap]\n";
    let node = site.node().file(flist).unit("get", &get).unit("left", mount).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    let mounted = |node: &Node| node.read("/proc/1/mounts").unwrap().contains("/run/molt/mnt/left");
    let state =
        |name: &str| node.service(name).map(|service| service.state).map_err(|error| format!("{error:?}"));
    node.wait_for("it is mounted, and its server is dead", UPGRADE_LIMIT, || match state("left")? {
        State::Success => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
    node.stop_service("identityd").unwrap();
    node.wait_for("zinit forgets identityd", UPGRADE_LIMIT, || {
        node.forget_service("identityd").map_err(|error| format!("{error:?}"))
    })
    .unwrap();
    let codes = |findings: &Value| -> Vec<String> {
        findings
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| finding["code"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(codes(&json(&node, &["doctor"])), ["stale-mount", "not-monitored"]);
    assert!(mounted(&node), "a look changes nothing");
    node.run(&["identityd", "doctor", "--fix"]).unwrap();
    assert!(!mounted(&node));
    node.wait_for_services(&["identityd"], UPGRADE_LIMIT).unwrap();
    assert_eq!(json(&node, &["doctor"]), serde_json::json!([]));
}
