//! A node boots from what the hub offers for its run mode.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use molt_tests::{Fault, FaultProxy, Node, Payload, Site, UPGRADE_LIMIT, require_installed};
use serde_json::Value;

const CHANNEL: &str = "tf-zos/zos:development:latest.flist";
const SERVICES: [&str; 4] = ["bootstrap", "identityd", "web", "idle"];

fn fuse_mounts(node: &Node) -> Vec<String> {
    node.census().unwrap().mounts.into_iter().filter(|mount| mount.starts_with("fuse")).collect()
}

#[test]
fn runmode_dev_boots_and_a_second_run_changes_nothing() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let node = site.boot("1.0.0").unwrap();

    node.wait_for_services(&SERVICES, UPGRADE_LIMIT).unwrap();
    require_installed(&node, &payload).unwrap();
    assert_eq!(node.read("/tmp/flist.name").unwrap().trim_end(), CHANNEL);
    let info: Value = serde_json::from_str(&node.read("/tmp/flist.info").unwrap()).unwrap();
    assert_eq!(info["version"], "1.0.0", "{info}");
    assert_eq!(info["name"], "zos:development:latest.flist", "{info}");
    assert_eq!(info["release"].as_str().map(str::len), Some(64), "{info}");
    assert_eq!(fuse_mounts(&node), Vec::<String>::new());

    let (census, processes) = (node.census().unwrap(), node.processes().unwrap());
    let os_release = std::fs::metadata(node.path("/etc/os-release")).unwrap().modified().unwrap();
    node.run(&["bootstrap"]).unwrap();
    assert_eq!(node.census().unwrap(), census);
    assert_eq!(node.processes().unwrap(), processes);
    assert_eq!(std::fs::metadata(node.path("/etc/os-release")).unwrap().modified().unwrap(), os_release);
}

#[test]
fn without_fuse_the_result_is_the_same() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &payload).unwrap();
    let node = site.node().without_fuse().boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.wait_for_services(&SERVICES, UPGRADE_LIMIT).unwrap();
    require_installed(&node, &payload).unwrap();
    assert_eq!(node.read("/tmp/flist.name").unwrap().trim_end(), CHANNEL);
}

#[test]
fn an_unknown_run_mode_is_refused() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    for command_line in ["runmode=fast", "runmode", "runmode="] {
        let node =
            Node::builder(&site.netns).command_line(format!("{command_line} hub={}", site.hub.url())).boot();
        let node = node.unwrap();
        let ended = node.exec(&["bootstrap"]).unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{command_line}: {said}");
        for allowed in ["runmode", "dev", "test", "prod", "qa"] {
            assert!(said.contains(allowed), "{command_line}: {said}");
        }
        assert!(!node.path("/tmp/flist.name").exists() && !node.path("/usr/bin/demo-web").exists());
    }
}

#[test]
fn a_hub_that_comes_up_late_is_waited_for() {
    let mut site = Site::without_hub().unwrap();
    let node = site.node().boot().unwrap();
    node.wait_for("the console says what is waited for", Duration::from_secs(60), || {
        let url = site.hub.url();
        if node.printed().contains(&url) { Ok(()) } else { Err(format!("{url} is not on the console")) }
    })
    .unwrap();
    site.hub.restart().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    site.await_version(&node, "1.0.0").unwrap();
}

#[test]
fn the_console_tells_how_far_a_slow_installation_is_without_flooding() {
    let site = Site::new().unwrap();
    let payload = Payload::new().unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    // 640 KiB that cannot be compressed take the line ten seconds.
    for number in 0..10 {
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(64 << 10).collect();
        payload.file(&format!("/usr/share/slow/{number}"), 0o644, content).unwrap();
    }
    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    let mut proxy = site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap();
    proxy.set(Fault::Throttle(64 << 10)).unwrap();
    let store = format!("http://{}/store", proxy.address());
    site.hub.publish_with("1.0.0", payload.directory(), Some("dev"), &["--route", &store]).unwrap();
    let node = site.node().boot().unwrap();
    node.wait_for("everything is staged", UPGRADE_LIMIT, || {
        match node.printed().contains("staged 10 files: ") {
            true => Ok(()),
            false => Err(node.console().tail(20)),
        }
    })
    .unwrap();
    let printed = node.printed();
    let on_the_way: Vec<_> = printed.lines().filter(|line| line.contains("staging: ")).collect();
    // At most one for each tenth, however slow this machine is.
    assert!((1..10).contains(&on_the_way.len()), "{printed}");
    for line in on_the_way {
        assert!(line.contains("of 0.6 MiB") && line.contains("/s, about "), "{line}");
    }
}

#[test]
fn of_two_that_wait_for_the_hub_one_installs() {
    let mut site = Site::without_hub().unwrap();
    let node = site.node().boot().unwrap();
    let bootstraps = |wanted: usize| {
        node.wait_for("every bootstrap runs", Duration::from_secs(60), || {
            let running = node.running("bootstrap").map_err(|error| error.to_string())?.len();
            if running >= wanted { Ok(()) } else { Err(format!("{running} of {wanted}")) }
        })
    };
    // The unit's.
    bootstraps(1).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| node.exec(&["bootstrap"]).unwrap());
        bootstraps(2).unwrap();
        site.hub.restart().unwrap();
        site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
        let other = other.join().unwrap();
        assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
    });
    site.await_version(&node, "1.0.0").unwrap();
    let records = std::fs::read_dir(node.path("/var/lib/molt/generations")).unwrap();
    let names = records.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.ends_with(".json")).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}
