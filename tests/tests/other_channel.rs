//! A node whose root keeps what is installed is told to follow another channel: that is an upgrade.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::thread;
use std::time::Duration;

use molt_tests::{Fault, FaultProxy, Site, UPGRADE_LIMIT};

#[test]
fn another_channel_is_an_upgrade_that_is_watched_and_undone() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    let bad = site.payload("2.0.0").unwrap();
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    site.hub.publish("2.0.0", bad.directory(), Some("test")).unwrap();
    let idle = node.pid_of("idle").unwrap();
    let said = node.exec(&["bootstrap", "--run-mode", "test"]).unwrap();
    let said = (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned());
    assert!(said.0 && said.1.contains("what is installed counts"), "{}", said.1);
    site.await_version(&node, "1.0.0").unwrap();
    assert!(!node.path("/etc/zinit/broken.yaml").exists());
    assert_eq!(node.pid_of("idle").unwrap(), idle);
    assert!(node.read("/tmp/flist.name").unwrap().contains("development"));
    // It is known to be bad now, and costs no more downtime.
    let web = node.pid_of("web").unwrap();
    node.run(&["bootstrap", "--run-mode", "test"]).unwrap();
    assert_eq!(node.pid_of("web").unwrap(), web);

    let good = site.payload("3.0.0").unwrap();
    site.hub.publish("3.0.0", good.directory(), Some("test")).unwrap();
    node.run(&["bootstrap", "--run-mode", "test"]).unwrap();
    site.await_version(&node, "3.0.0").unwrap();
    assert!(node.read("/tmp/flist.name").unwrap().contains("testing"));
    assert_eq!(node.pid_of("idle").unwrap(), idle);
    let generations = node.run(&["identityd", "generations"]).unwrap();
    assert!(generations.contains("target"), "{generations}");
}

/// Nobody hands over to an identityd that bootstrap installs, so it is watched as a service is.
#[test]
fn another_channel_whose_identityd_does_not_run_is_gone_back_from() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let node = site.boot("1.0.0").unwrap();
    let idle = node.pid_of("idle").unwrap();
    let bad = site.payload("2.0.0").unwrap();
    bad.file("/sbin/identityd", 0o755, "#!/bin/sh\nexit 1\n").unwrap();
    site.hub.publish("2.0.0", bad.directory(), Some("test")).unwrap();
    let said = node.exec(&["bootstrap", "--run-mode", "test"]).unwrap();
    let said = (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned());
    assert!(said.0 && said.1.contains("going back"), "{}", said.1);
    site.await_version(&node, "1.0.0").unwrap();
    assert_eq!(node.pid_of("idle").unwrap(), idle);
    assert!(node.read("/tmp/flist.name").unwrap().contains("development"));
    // It is known to be bad now, and is not installed again.
    let web = node.pid_of("web").unwrap();
    node.run(&["bootstrap", "--run-mode", "test"]).unwrap();
    assert_eq!(node.pid_of("web").unwrap(), web);
}

/// It can take as long as the lock of the engine is waited for, which bootstrap has meanwhile.
#[test]
fn an_identityd_that_does_not_end_is_not_the_fault_of_the_release_of_another_channel() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let config = "poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\nstart_timeout: 5\n";
    let node = site.node().config(config).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    site.hub.publish("2.0.0", site.payload("2.0.0").unwrap().directory(), Some("test")).unwrap();
    let old = node.pid_of("identityd").unwrap();
    // So it does not hear that it shall end.
    node.run(&["kill", "-STOP", &node.service("identityd").unwrap().pid.unwrap().to_string()]).unwrap();
    let said = node.exec(&["bootstrap", "--run-mode", "test"]).unwrap();
    let said = (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned());
    assert!(said.0 && !said.1.contains("going back"), "{}", said.1);
    site.await_version(&node, "2.0.0").unwrap();
    assert_ne!(node.pid_of("identityd").unwrap(), old);
    assert!(node.read("/tmp/flist.name").unwrap().contains("testing"));
}

/// By an upgrade that is kept, and by one that is undone.
#[test]
fn what_the_administrator_has_stopped_stays_stopped_when_another_channel_is_followed() {
    for is_good in [true, false] {
        let site = Site::new().unwrap();
        let release = |version: &str| {
            let payload = site.payload(version).unwrap();
            payload.unit("aside", &format!("exec: sleep 4000000\n# {version}\n")).unwrap();
            payload
        };
        site.publish("1.0.0", &release("1.0.0")).unwrap();
        let node = site.boot("1.0.0").unwrap();
        node.wait_for_services(&["web", "idle", "aside"], UPGRADE_LIMIT).unwrap();
        node.stop_service("aside").unwrap();
        let other = release("2.0.0");
        if !is_good {
            other.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
        }
        site.hub.publish("2.0.0", other.directory(), Some("test")).unwrap();
        node.run(&["bootstrap", "--run-mode", "test"]).unwrap();
        let installed = if is_good { "2.0.0" } else { "1.0.0" };
        site.await_version(&node, installed).unwrap();
        assert!(node.read("/etc/zinit/aside.yaml").unwrap().contains(installed));
        assert_eq!(node.running("sleep").unwrap().len(), 1, "idle sleeps, aside does not");
    }
}

/// While files are staged, so that the upgrade itself finds out.
#[test]
fn what_is_stopped_while_another_channel_is_installed_stays_stopped() {
    let site = Site::new().unwrap();
    let release = |version: &str| {
        let payload = site.payload(version).unwrap();
        payload.unit("aside", &format!("exec: sleep 4000000\n# {version}\n")).unwrap();
        payload
    };
    site.publish("1.0.0", &release("1.0.0")).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["web", "idle", "aside"], UPGRADE_LIMIT).unwrap();
    let other = release("2.0.0");
    for number in 0..100 {
        other.file(&format!("/usr/share/many/{number}"), 0o644, format!("file {number}\n")).unwrap();
    }
    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    let mut proxy = site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap();
    proxy.set(Fault::Delay(Duration::from_secs(1))).unwrap();
    let store = format!("http://{}/store", proxy.address());
    site.hub.publish_with("2.0.0", other.directory(), Some("test"), &["--route", &store]).unwrap();
    thread::scope(|scope| {
        let bootstrap = scope.spawn(|| node.run(&["bootstrap", "--run-mode", "test"]));
        // They are made when the plan is there.
        node.wait_for("files are staged", UPGRADE_LIMIT, || {
            if node.path("/.molt").join("2").exists() { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .unwrap();
        node.stop_service("aside").unwrap();
        proxy.set(Fault::Pass).unwrap();
        bootstrap.join().unwrap().unwrap();
    });
    site.await_version(&node, "2.0.0").unwrap();
    assert!(node.read("/etc/zinit/aside.yaml").unwrap().contains("2.0.0"));
    assert_eq!(node.running("sleep").unwrap().len(), 1, "idle sleeps, aside does not");
}
