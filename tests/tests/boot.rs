//! A node boots from what the hub offers for its run mode.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use molt_tests::{Fault, FaultProxy, Node, Payload, Process, Site, UPGRADE_LIMIT, require_installed};
use serde_json::Value;

const CHANNEL: &str = "tf-zos/zos:development:latest.flist";
const SOON: Duration = Duration::from_secs(60);
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
    let os_release = fs::metadata(node.path("/etc/os-release")).unwrap().modified().unwrap();
    node.run(&["bootstrap"]).unwrap();
    assert_eq!(node.census().unwrap(), census);
    assert_eq!(node.processes().unwrap(), processes);
    assert_eq!(fs::metadata(node.path("/etc/os-release")).unwrap().modified().unwrap(), os_release);
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
    node.wait_for("the console says what is waited for", SOON, || {
        let url = site.hub.url();
        if node.printed().contains(&url) { Ok(()) } else { Err(format!("{url} is not on the console")) }
    })
    .unwrap();
    site.hub.restart().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    site.await_version(&node, "1.0.0").unwrap();
}

/// Publishes the payload with 640 KiB that cannot be compressed, over a line that takes ten seconds for them.
fn publish_slowly(site: &Site, payload: &Payload) -> FaultProxy {
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..10 {
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(64 << 10).collect();
        payload.file(&format!("/usr/share/slow/{number}"), 0o644, content).unwrap();
    }
    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    let mut proxy = site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap();
    proxy.set(Fault::Throttle(64 << 10)).unwrap();
    let store = format!("http://{}/store", proxy.address());
    site.hub.publish_with("1.0.0", payload.directory(), Some("dev"), &["--route", &store]).unwrap();
    proxy
}

/// A process of a node that has a file beneath this directory of it open.
fn reader(node: &Node, directory: &str) -> Option<Process> {
    node.processes().unwrap().into_iter().find(|process| {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        let mut files = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        files.any(|file| file.starts_with(directory) && file != Path::new(directory))
    })
}

#[test]
fn what_is_installed_is_read_through_the_mount_and_nothing_is_executed_from_there() {
    const TOOL: &str = "usr/bin/tool";
    let site = Site::new().unwrap();
    let payload = Payload::new().unwrap();
    payload.file(&format!("/{TOOL}"), 0o755, "#!/bin/sh\necho it ran\n").unwrap();
    let mut proxy = publish_slowly(&site, &payload);
    // Whoever looks at the mount waits for those that wait for blocks, and it shall be there then.
    proxy.set(Fault::Throttle(16 << 10)).unwrap();
    let node = site.node().boot().unwrap();
    let look = || match fuse_mounts(&node).as_slice() {
        [mount] => {
            let at = mount.rsplit(' ').next().unwrap_or_default().to_owned();
            let reader = reader(&node, &at).ok_or_else(|| format!("nothing of {at} is open"))?;
            Ok((at, reader))
        }
        other => Err(format!("{other:?} are mounted")),
    };
    let (at, reader) = node.wait_for("somebody reads a file of the mount", SOON, look).unwrap();
    assert_eq!(reader.executable, Path::new("/usr/sbin/bootstrap"));

    // Everything is there, and what is a program anywhere else is none.
    let tool = format!("{at}/{TOOL}");
    assert_eq!(node.run(&["stat", "-c", "%a", &tool]).unwrap(), "755\n");
    let ended = node.exec(&[&tool]).unwrap();
    assert!(!ended.status.success(), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("Permission denied"), "{ended:?}");
    let runs_from_there = |process: &Process| process.executable.starts_with(&at);
    assert!(!node.processes().unwrap().iter().any(runs_from_there));

    proxy.set(Fault::Pass).unwrap();
    node.wait_for("it is installed", UPGRADE_LIMIT, || match node.read("/tmp/flist.name") {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .unwrap();
    require_installed(&node, &payload).unwrap();
    assert_eq!(node.run(&[&format!("/{TOOL}")]).unwrap(), "it ran\n");
    node.wait_for("nothing is mounted", UPGRADE_LIMIT, || match fuse_mounts(&node) {
        none if none.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .unwrap();
}

#[test]
fn the_console_tells_how_far_a_slow_installation_is_without_flooding() {
    let site = Site::new().unwrap();
    let _proxy = publish_slowly(&site, &Payload::new().unwrap());
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
        node.wait_for("every bootstrap runs", SOON, || {
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
    let records = fs::read_dir(node.path("/var/lib/molt/generations")).unwrap();
    let names = records.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.ends_with(".json")).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// On a first boot there is nothing better to go back to: what runs is kept, and identityd takes what is better.
#[test]
fn a_first_boot_keeps_what_runs_of_a_release_in_which_a_service_fails() {
    let site = Site::new().unwrap();
    let release = |version: &str, command: &str| {
        let payload = site.payload(version).unwrap();
        payload.unit("fails", &format!("exec: {command}\n")).unwrap();
        payload
    };
    let first = release("1.0.0", "sh -c 'exit 1'");
    site.publish("1.0.0", &first).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&SERVICES, UPGRADE_LIMIT).unwrap();
    require_installed(&node, &first).unwrap();
    let (web, idle) = (node.pid_of("web").unwrap(), node.pid_of("idle").unwrap());
    node.wait_for("zinit tells of it", UPGRADE_LIMIT, || {
        let status = node.service("fails").map_err(|error| format!("{error:?}"))?;
        if status.has_failed() { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .unwrap();
    let status = node.status().unwrap();
    assert_eq!((&status["installed"]["version"], &status["stage"]), (&"1.0.0".into(), &"Idle".into()));
    let generations = node.run(&["identityd", "generations", "--json"]).unwrap();
    let generations: Value = serde_json::from_str(&generations).unwrap();
    assert_eq!(generations.as_array().map(Vec::len), Some(1), "nothing was undone: {generations}");
    assert_eq!((node.pid_of("web").unwrap(), node.pid_of("idle").unwrap()), (web, idle));

    let good = release("2.0.0", "sleep 2000000");
    site.publish("2.0.0", &good).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    require_installed(&node, &good).unwrap();
    node.wait_for_services(&["web", "idle", "fails"], UPGRADE_LIMIT).unwrap();
    assert_eq!(node.pid_of("idle").unwrap(), idle);
}

#[test]
fn a_worker_that_is_killed_leaves_a_mount_that_the_next_one_clears() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    for number in 0..50 {
        payload.file(&format!("/usr/share/many/{number}"), 0o644, format!("file {number}\n")).unwrap();
    }
    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    let mut proxy = site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap();
    proxy.set(Fault::Delay(Duration::from_secs(1))).unwrap();
    let store = format!("http://{}/store", proxy.address());
    site.hub.publish_with("1.0.0", payload.directory(), Some("dev"), &["--route", &store]).unwrap();
    let node = site.node().boot().unwrap();
    node.wait_for("a worker stages from its mount", UPGRADE_LIMIT, || {
        match node.printed().contains("staging ") && !fuse_mounts(&node).is_empty() {
            true => Ok(()),
            false => Err(node.console().tail(20)),
        }
    })
    .unwrap();
    // The unit's process runs it as /proc/self/exe.
    let worker = node.running("exe").unwrap().remove(0).pid_inside;
    node.run(&["kill", "-KILL", &worker.to_string()]).unwrap();
    proxy.set(Fault::Pass).unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    assert!(node.printed().contains("detached a stale mount"), "{}", node.console().tail(50));
    assert_eq!(fuse_mounts(&node), Vec::<String>::new());
    require_installed(&node, &payload).unwrap();
    node.wait_for_services(&SERVICES, UPGRADE_LIMIT).unwrap();
}
