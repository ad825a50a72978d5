//! A node goes back to the release before, without a reboot, and stays there.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;

use molt_tests::{Binaries, Node, Payload, Site, UPGRADE_LIMIT, digest_of, require_installed};
use serde_json::{Value, json};

/// What a command of identityd prints as JSON, whether it succeeds or not.
fn said(node: &Node, arguments: &[&str]) -> Value {
    let command = [&["identityd"], arguments, &["--json"]].concat();
    let output = node.exec(&command).unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

/// What a command of identityd says when it refuses.
fn refused(node: &Node, arguments: &[&str]) -> String {
    let output = node.exec(&[&["identityd"], arguments].concat()).unwrap();
    assert_eq!(output.status.code(), Some(4), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    node.wait_for_status(what, UPGRADE_LIMIT, reached).unwrap()
}

/// The generations as (number, cause, version, is current, can be gone back to).
fn generations(node: &Node) -> Vec<(u64, String, String, bool, bool)> {
    let all = said(node, &["generations"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |of: &Value| {
        let (current, target) = (of["current"].as_bool().unwrap(), of["target"].as_bool().unwrap());
        (of["number"].as_u64().unwrap(), text(&of["cause"]), text(&of["version"]), current, target)
    };
    all.as_array().unwrap().iter().map(one).collect()
}

/// 1.0.0 with a file and a service that 2.0.0 does not have.
fn first(site: &Site) -> Payload {
    let payload = site.payload("1.0.0").unwrap();
    payload.unit("dropped", "exec: sleep 2000000\n").unwrap();
    payload.file("/usr/share/site/dropped", 0o640, "only in 1.0.0\n").unwrap();
    payload.file("/etc/site.conf", 0o644, "as shipped by 1.0.0\n").unwrap();
    payload.file("/etc/mine.conf", 0o644, "as shipped\n").unwrap();
    payload
}

/// 2.0.0 with another identityd.
fn second(site: &Site) -> Payload {
    let payload = site.payload("2.0.0").unwrap();
    payload.marked("/sbin/identityd", "2.0.0").unwrap();
    payload.unit("added", "exec: sleep 3000000\n").unwrap();
    payload.file("/etc/site.conf", 0o644, "as shipped by 2.0.0\n").unwrap();
    payload.file("/etc/mine.conf", 0o644, "as shipped\n").unwrap();
    payload
}

/// A node that was upgraded from 1.0.0 to 2.0.0.
fn upgraded() -> (Site, Node, Payload) {
    let site = Site::new().unwrap();
    let old = first(&site);
    site.publish("1.0.0", &old).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle", "dropped"], UPGRADE_LIMIT).unwrap();
    site.publish("2.0.0", &second(&site)).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle", "added"], UPGRADE_LIMIT).unwrap();
    (site, node, old)
}

fn running_identityd(node: &Node) -> String {
    digest_of(format!("/proc/{}/exe", node.pid_of("identityd").unwrap())).unwrap()
}

/// Everything is as 1.0.0 has it, and what 2.0.0 brought is gone.
fn runs_the_first(site: &Site, node: &Node, old: &Payload) {
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    node.wait_for_services(&["identityd", "web", "idle", "dropped"], UPGRADE_LIMIT).unwrap();
    assert_eq!(node.read("/usr/share/site/dropped").unwrap(), "only in 1.0.0\n");
    assert!(!node.path("/etc/zinit/added.yaml").exists());
    assert!(!node.services().unwrap().contains_key("added"));
    assert_eq!(node.running("sleep").unwrap().len(), 2, "idle and dropped sleep, added does not");
    let shipped = digest_of(old.directory().join("sbin/identityd")).unwrap();
    assert_eq!(running_identityd(node), shipped, "identityd went back, too");
}

#[test]
fn the_release_before_comes_back_and_the_one_left_behind_stays_away() {
    let (site, node, old) = upgraded();
    let (init, mounts) = (node.init().unwrap(), node.census().unwrap().mounts);
    let pids = ["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap());
    fs::write(node.path("/etc/mine.conf"), "changed by somebody\n").unwrap();

    let output = node.run(&["identityd", "rollback", "--json"]).unwrap();
    let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["ok"]["committed"], &last["ok"]["version"]),
        (&true.into(), &"1.0.0".into()),
        "{output}"
    );
    assert!(output.contains("handover"), "{output}");
    runs_the_first(&site, &node, &old);
    let [identityd, web, idle] = ["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap());
    assert_eq!((identityd, idle), (pids[0], pids[2]), "identityd and idle are the same processes");
    assert_ne!(web, pids[1], "web is another process");
    assert_eq!((node.init().unwrap(), node.census().unwrap().mounts), (init, mounts), "no reboot");
    assert_eq!(node.read("/etc/site.conf").unwrap(), "as shipped by 1.0.0\n");
    assert_eq!(node.read("/etc/mine.conf").unwrap(), "changed by somebody\n");
    fs::write(node.path("/etc/mine.conf"), "as shipped\n").unwrap();
    require_installed(&node, &old).unwrap();
    let info: Value = serde_json::from_str(&node.read("/tmp/flist.info").unwrap()).unwrap();
    assert_eq!(info["version"], "1.0.0");

    // Polls do not bring it back, and everybody is told why.
    let status = until(&node, "it is held", |status| status["gate"] == "Hold");
    assert_eq!(status["candidate"]["version"], "2.0.0");
    let checks = status["counters"]["checks"].as_u64().unwrap();
    until(&node, "polled twice more", |status| status["counters"]["checks"].as_u64() >= Some(checks + 2));
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    let why = node.run(&["identityd", "why"]).unwrap();
    assert!(why.contains("CLOSED Hold") && why.contains("rolled back from 2.0.0 to 1.0.0"), "{why}");
    let listed = generations(&node);
    let newest = listed.last().unwrap();
    assert_eq!((newest.1.as_str(), newest.2.as_str(), newest.3), ("revert", "1.0.0", true), "{listed:?}");
    let all = said(&node, &["generations"]);
    let left = all.as_array().unwrap().iter().find(|of| of["target"] == true).unwrap();
    assert_eq!((&left["version"], &left["held"]["by"]), (&"2.0.0".into(), &0.into()), "{all}");

    let history = said(&node, &["history"]);
    let reverts: Vec<_> =
        history.as_array().unwrap().iter().filter(|of| of["cause"]["kind"] == "rollback").collect();
    let codes: Vec<_> = reverts.iter().map(|of| &of["code"]).collect();
    assert_eq!(codes, ["Handover", "Committed"], "{history}");
    assert_eq!(reverts[1]["cause"], json!({"kind": "rollback", "by": 0, "to": 1}));
    assert_eq!(said(&node, &["doctor"]), json!([]));

    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
}

#[test]
fn without_the_hub_everything_is_on_the_node_until_it_is_forgotten() {
    let (mut site, node, old) = upgraded();
    assert_eq!(
        generations(&node),
        [
            (1, "first-boot".to_owned(), "1.0.0".to_owned(), false, true),
            (2, "self-update".to_owned(), "1.0.0".to_owned(), false, false),
            (3, "release".to_owned(), "2.0.0".to_owned(), true, false),
        ]
    );
    site.hub.kill().unwrap();
    let nowhere = refused(&node, &["rollback", "--to", "7"]);
    assert!(nowhere.contains("no such generation") && nowhere.contains("these are kept: 1"), "{nowhere}");
    assert!(refused(&node, &["rollback", "--to", "3"]).contains("these are kept: 1"));
    let would = said(&node, &["gc", "--keep", "0", "--dry-run"]);
    assert_eq!(would["generations"], json!([1, 2]), "{would}");
    assert!(would["bytes"].as_u64().unwrap() > 0, "{would}");
    assert_eq!(said(&node, &["gc"])["generations"], json!([]), "one is kept in RAM");

    node.run(&["identityd", "rollback", "--to", "1"]).unwrap();
    runs_the_first(&site, &node, &old);
    assert_eq!(node.status().unwrap()["holds"].as_array().unwrap().len(), 1);

    // Without the daemon, too.
    node.stop_service("identityd").unwrap();
    node.wait_for("identityd has ended", UPGRADE_LIMIT, || match node.service("identityd") {
        Ok(status) if status.pid.is_none() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    let kept = generations(&node);
    assert!(kept.iter().any(|of| of.2 == "2.0.0" && of.4), "{kept:?}");
    node.run(&["identityd", "gc", "--keep", "0"]).unwrap();
    let kept = generations(&node);
    assert_eq!((kept.len(), kept[0].3), (1, true), "{kept:?}");
    let files = node.census().unwrap().files;
    let left: Vec<_> = files.iter().filter(|path| path.starts_with(".molt")).collect();
    assert!(left.is_empty(), "{left:?}");
    node.start_service("identityd").unwrap();
    node.wait_for_services(&["identityd"], UPGRADE_LIMIT).unwrap();
    until(&node, "it knows what is installed", |status| status["installed"]["version"] == "1.0.0");
    let nothing = node.wait_for("identityd answers", UPGRADE_LIMIT, || {
        let output = node.exec(&["identityd", "rollback"]).map_err(|error| format!("{error:?}"))?;
        match output.status.code() {
            // It has begun only, and does not know yet what is kept.
            Some(1) if String::from_utf8_lossy(&output.stderr).contains("cannot upgrade now") => {
                Err(format!("{output:?}"))
            }
            Some(4) => Ok(String::from_utf8_lossy(&output.stderr).into_owned()),
            _ => Err(format!("{output:?}")),
        }
    });
    let nothing = nothing.unwrap();
    assert!(nothing.contains("none is kept"), "{nothing}");
}

#[test]
fn what_is_pinned_outlives_upgrades_and_gc_and_can_be_gone_back_to_without_the_hub() {
    let (mut site, node, old) = upgraded();
    assert_eq!(
        said(&node, &["pin", "1"]),
        json!({"generation": 1, "pinned": true, "changed": true}),
        "one that is kept now"
    );
    let unknown = refused(&node, &["pin", "9"]);
    assert!(unknown.contains("no such generation") && unknown.contains("these are kept: 1, 3"), "{unknown}");
    assert!(refused(&node, &["pin", "2"]).contains("these are kept: 1, 3"), "of identityd alone");
    assert!(refused(&node, &["unpin", "3"]).contains("these are: 1"));
    site.publish("3.0.0", &site.payload("3.0.0").unwrap()).unwrap();
    site.await_version(&node, "3.0.0").unwrap();

    // The root is in RAM: without a pin, one would stay.
    let all = said(&node, &["generations"]);
    let pinned: Vec<_> = all.as_array().unwrap().iter().map(|of| of["pinned"].as_bool().unwrap()).collect();
    assert!(pinned.len() > 3 && pinned[0] && pinned.iter().filter(|pinned| **pinned).count() == 1, "{all}");
    let would = said(&node, &["gc", "--keep", "0", "--dry-run"]);
    assert_eq!((&would["generations"], &would["pinned"]), (&json!([]), &json!([1])), "{would}");
    assert!(would["on_the_way"].as_array().unwrap().contains(&3.into()), "{would}");
    let text = node.run(&["identityd", "gc", "--keep", "0"]).unwrap();
    assert!(
        text.contains("nothing to forget") && text.contains("Pinned, and so kept: generation 1."),
        "{text}"
    );

    site.hub.kill().unwrap();
    node.run(&["identityd", "rollback", "--to", "1"]).unwrap();
    runs_the_first(&site, &node, &old);
    assert_eq!(generations(&node)[0].0, 1, "it is pinned still");
    node.run(&["identityd", "unpin", "1"]).unwrap();
    assert!(refused(&node, &["unpin", "1"]).contains("none is"));
    let gone = said(&node, &["gc", "--keep", "0"]);
    assert!(gone["generations"].as_array().unwrap().contains(&1.into()), "{gone}");
    assert_eq!(generations(&node).len(), 1);
}

/// Files and orders can all be put back, and the service be away all the same.
#[test]
fn a_service_that_does_not_come_back_after_a_rollback_is_told_of() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    // Longer than a program takes on a busy machine until it finds its port taken.
    let config = "poll_interval: 1\nhandover_timeout: 5\nhealth_window: 5\nstart_timeout: 10\n";
    let node = site.node().config(config).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    // What it leaves is in no process group that anybody knows of, and has the port.
    let payload = site.payload("2.0.0").unwrap();
    // Where zinit starts it once more before it is undone, only the first one has the port.
    let worker =
        "setsid /usr/bin/demo-web --listen 127.0.0.1:8000 & [ -e /run/worker ] || echo $! > /run/worker";
    payload.unit("web", &format!("exec: sh -c '{worker}; sleep 1; exit 1'\n")).unwrap();
    site.publish("2.0.0", &payload).unwrap();
    until(&node, "what stays is told", |status| {
        status["last_error"].to_string().contains("this stays: web is not well")
    });

    let worker = node.read("/run/worker").unwrap();
    node.run(&["kill", "-KILL", worker.trim()]).unwrap();
    // zinit starts it again and again: it runs for a moment each time.
    node.wait_for("the service before is there again", UPGRADE_LIMIT, || match site.web_version() {
        Ok(shown) if shown == "1.0.0" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}

#[test]
fn a_conflict_of_configuration_is_in_the_status_until_it_is_settled() {
    let site = Site::new().unwrap();
    let release = |version: &str| {
        let payload = site.payload(version).unwrap();
        payload.file("/etc/site.conf", 0o644, format!("as shipped by {version}\n")).unwrap();
        payload.file("/etc/other.conf", 0o644, "the same in each\n").unwrap();
        payload
    };
    site.publish("1.0.0", &release("1.0.0")).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    assert_eq!(
        until(&node, "it has polled", |status| status["last_check"].is_object())["conflicts"],
        json!([])
    );
    for name in ["site", "other"] {
        fs::write(node.path(format!("/etc/{name}.conf")), "changed by somebody\n").unwrap();
    }
    site.publish("2.0.0", &release("2.0.0")).unwrap();
    site.await_version(&node, "2.0.0").unwrap();

    let conflict = json!([{"path": "etc/site.conf", "new": "etc/site.conf.new", "why_not": null}]);
    let status = until(&node, "it is told", |status| status["conflicts"] == conflict);
    assert_eq!(node.read("/etc/site.conf").unwrap(), "changed by somebody\n");
    assert_eq!(node.read("/etc/site.conf.new").unwrap(), "as shipped by 2.0.0\n");
    let line =
        "conflict    /etc/site.conf is as somebody has changed it; the release's is /etc/site.conf.new\n";
    let said = node.run(&["identityd", "status"]).unwrap();
    assert!(said.contains(line), "{said}");

    // Another daemon knows it from the generation.
    let pid = status["identityd"]["pid"].as_u64().unwrap();
    node.run(&["kill", "-KILL", &pid.to_string()]).unwrap();
    until(&node, "the next daemon tells it", |status| {
        status["identityd"]["pid"].as_u64() != Some(pid) && status["conflicts"] == conflict
    });
    fs::write(node.path("/etc/site.conf"), "as shipped by 2.0.0\n").unwrap();
    until(&node, "it is settled by taking the release's", |status| status["conflicts"] == json!([]));
    assert!(node.path("/etc/site.conf.new").exists());
    fs::write(node.path("/etc/site.conf"), "changed again\n").unwrap();
    until(&node, "it is one again", |status| status["conflicts"] == conflict);

    // What 2.0.0 has put there is no user's, although 3.0.0 does not have the file.
    let without = site.payload("3.0.0").unwrap();
    without.file("/etc/other.conf", 0o644, "the same in each\n").unwrap();
    site.publish("3.0.0", &without).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
    assert_eq!(node.read("/etc/site.conf.new").unwrap(), "as shipped by 2.0.0\n");
    site.publish("4.0.0", &release("4.0.0")).unwrap();
    site.await_version(&node, "4.0.0").unwrap();
    assert_eq!(node.read("/etc/site.conf.new").unwrap(), "as shipped by 4.0.0\n");
    assert_eq!(node.read("/etc/site.conf").unwrap(), "changed again\n");
    until(&node, "it is told again", |status| status["conflicts"] == conflict);
    fs::remove_file(node.path("/etc/site.conf.new")).unwrap();
    until(&node, "it is settled", |status| status["conflicts"] == json!([]));
}

#[test]
fn what_the_administrator_has_stopped_stays_stopped() {
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
    node.wait_for_services(&["web", "idle", "tool", "aside"], UPGRADE_LIMIT).unwrap();
    for name in ["tool", "aside"] {
        node.stop_service(name).unwrap();
    }
    let are_down = |installed: &Payload| {
        require_installed(&node, installed).unwrap();
        node.wait_for_services(&["web", "idle"], UPGRADE_LIMIT).unwrap();
        assert!(node.running("tool").unwrap().is_empty(), "nobody runs it");
        assert_eq!(node.running("sleep").unwrap().len(), 1, "idle sleeps, aside does not");
    };
    node.wait_for("both have ended", UPGRADE_LIMIT, || match node.running("tool") {
        Ok(running) if running.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();

    site.publish("2.0.0", &release("2.0.0")).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    are_down(&release("2.0.0"));
    node.run(&["identityd", "rollback"]).unwrap();
    until(&node, "1.0.0 is back", |status| {
        status["installed"]["version"] == "1.0.0" && status["gate"] == "Hold"
    });
    are_down(&release("1.0.0"));

    let bad = release("3.0.0");
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    site.publish("3.0.0", &bad).unwrap();
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    are_down(&release("1.0.0"));
}
