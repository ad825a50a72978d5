//! Defects of the ancestor's upgrader, one test for each, against the real programs: ours does not have them.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod damage;

use std::fs;
use std::path::Path;
use std::time::Duration;

use molt_tests::{
    Fault, FaultProxy, Node, PathWatch, Payload, Site, UPGRADE_LIMIT, digest_of, require_installed,
};
use serde_json::Value;
use zinit_client::State;

/// Longer than a poll and an upgrade take together: a daemon that needs longer is stuck.
const CYCLE: Duration = Duration::from_secs(30);

const SERVICES: [&str; 3] = ["identityd", "web", "idle"];

fn booted_with(payload: &Payload, site: &Site) -> Node {
    site.publish("1.0.0", payload).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&SERVICES, UPGRADE_LIMIT).unwrap();
    node
}

/// Waits until the status is like that; returns it.
fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    node.wait_for_status(what, UPGRADE_LIMIT, reached).unwrap()
}

fn says(status: &Value, part: &str) -> bool {
    status["last_error"]["message"].as_str().is_some_and(|message| message.contains(part))
}

/// A proxy in front of the hub.
fn proxy(site: &Site) -> FaultProxy {
    let address = site.hub.url().trim_start_matches("http://").parse().unwrap();
    site.netns.run(|| FaultProxy::start(address)).unwrap().unwrap()
}

fn pids<const N: usize>(node: &Node, services: [&str; N]) -> [u32; N] {
    services.map(|name| node.pid_of(name).unwrap())
}

/// Bytes that cannot be compressed, others for every seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// The names in a directory of the node.
fn names_in(node: &Node, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(node.path(directory)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn z1_a_failed_copy_never_costs_the_good_copy() {
    let site = Site::new().unwrap();
    let files = |version: &str, bytes: usize| {
        let payload = site.payload(version).unwrap();
        for n in 0..5 {
            payload.file(&format!("/mnt/small/{n}"), 0o644, noise(n + bytes as u64, bytes)).unwrap();
        }
        payload
    };
    site.publish("1.0.0", &files("1.0.0", 1000)).unwrap();
    // With inodes for the five files, for the five new ones beside them, for three directories, and for nothing more.
    let small = "exec: mount -t tmpfs -o size=3500k,nr_inodes=13 small /mnt/small\noneshot: true\n";
    let directory = molt_tests::BaseFile::directory("/mnt/small", 0o755);
    let boot = "exec: /sbin/bootstrap --supervise\noneshot: true\nafter: [internet, small]\nlog: stdout\n";
    let node = site.node().file(directory).unit("small", small).unit("bootstrap", boot).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.wait_for_services(&SERVICES, UPGRADE_LIMIT).unwrap();
    let (before, old, names) = (pids(&node, SERVICES), files("1.0.0", 1000), names_in(&node, "/mnt/small"));
    let is_as_before = || {
        require_installed(&node, &old).unwrap();
        // It is tried again and again; between two attempts nothing is left of the copies.
        node.wait_for("the copies are gone", UPGRADE_LIMIT, || match names_in(&node, "/mnt/small") {
            now if now == names => Ok(()),
            now => Err(format!("{now:?}")),
        })
        .unwrap();
        assert_eq!(pids(&node, SERVICES), before, "nothing was stopped");
        assert_eq!(site.web_version().unwrap(), "1.0.0");
    };

    let new = files("2.0.0", 1 << 20);
    // It comes after the files, and is no file, so nobody takes an inode for it in advance.
    new.link("/mnt/small/link", "0").unwrap();
    site.publish("2.0.0", &new).unwrap();
    until(&node, "the files are too large", |status| says(status, "/mnt/small needs"));
    is_as_before();

    node.run(&["mount", "-o", "remount,size=20m", "/mnt/small"]).unwrap();
    // The five copies are there by then.
    until(&node, "a copy fails", |status| says(status, "stage /mnt/small/") && says(status, "No space left"));
    is_as_before();

    node.run(&["mount", "-o", "remount,nr_inodes=100", "/mnt/small"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    require_installed(&node, &new).unwrap();
}

#[test]
fn z2_no_path_is_away_while_a_slow_hub_is_waited_for() {
    let site = Site::new().unwrap();
    let files = |version: &str| {
        let payload = site.payload(version).unwrap();
        for n in 0..20 {
            payload
                .file(&format!("/usr/bin/tool{n}"), 0o755, format!("#!/bin/sh\n# {version} {n}\n"))
                .unwrap();
        }
        payload
    };
    let (old, new) = (files("1.0.0"), files("2.0.0"));
    let node = booted_with(&old, &site);
    let mut proxy = proxy(&site);
    proxy.set(Fault::Delay(Duration::from_millis(300))).unwrap();
    let store = format!("http://{}/store", proxy.address());
    let watch = PathWatch::start(&node, &old).unwrap();
    site.hub.publish_with("2.0.0", new.directory(), Some("dev"), &["--route", &store]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    let seen = watch.stop().unwrap();
    assert!(seen.wrong.is_empty(), "{seen:?}");
    assert!(proxy.strikes() >= 20 && seen.rounds > 100, "{} strikes, {seen:?}", proxy.strikes());
    require_installed(&node, &new).unwrap();
}

#[test]
fn z4_what_a_release_drops_goes_and_comes_back_with_a_rollback() {
    let site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    old.unit("dropped", "exec: sleep 2000000\n").unwrap();
    old.file("/usr/share/site/dropped", 0o644, "only in 1.0.0\n").unwrap();
    let node = booted_with(&old, &site);
    node.wait_for_services(&["dropped"], UPGRADE_LIMIT).unwrap();

    let bad = site.payload("2.0.0").unwrap();
    bad.unit("broken", "exec: sh -c 'exit 1'\noneshot: true\n").unwrap();
    site.publish("2.0.0", &bad).unwrap();
    until(&node, "the release is given up", |status| status["gate"] == "Refused");
    node.wait_for_services(&["dropped"], UPGRADE_LIMIT).unwrap();
    require_installed(&node, &old).unwrap();

    let good = site.payload("2.0.1").unwrap();
    site.publish("2.0.1", &good).unwrap();
    site.await_version(&node, "2.0.1").unwrap();
    assert!(!node.path("/usr/share/site/dropped").exists());
    assert!(!node.path("/etc/zinit/dropped.yaml").exists());
    assert!(!node.services().unwrap().contains_key("dropped"));
    assert_eq!(node.running("sleep").unwrap().len(), 1, "idle sleeps, dropped does not");
}

#[test]
fn z5_one_changed_service_of_twenty_restarts_and_a_version_given_twice_is_noticed() {
    let site = Site::new().unwrap();
    let names: Vec<_> = (0..20).map(|n| format!("service{n}")).collect();
    let release = |version: &str, seventh: &str| {
        let payload = site.payload(version).unwrap();
        for (n, name) in names.iter().enumerate() {
            let seconds = if n == 7 { seventh.to_owned() } else { format!("20000{n}") };
            payload.unit(name, &format!("exec: sleep {seconds}\n")).unwrap();
        }
        payload
    };
    let node = booted_with(&release("1.0.0", "1111111"), &site);
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    node.wait_for_services(&all, UPGRADE_LIMIT).unwrap();
    let services: Vec<_> = all.iter().chain(&SERVICES).collect();
    let now = || -> Vec<u32> { services.iter().map(|name| node.pid_of(name).unwrap()).collect() };
    let before = now();

    // The same version, with another text of one unit.
    let again = release("1.0.0", "2222222");
    site.hub.publish_with("1.0.0", again.directory(), Some("dev"), &["--replace"]).unwrap();
    node.wait_for("the new content is installed", UPGRADE_LIMIT, || {
        require_installed(&node, &again).map_err(|error| format!("{error:?}"))
    })
    .unwrap();
    until(&node, "the upgrade has ended", |status| status["stage"] == "Idle");
    node.wait_for_services(&all, UPGRADE_LIMIT).unwrap();
    let changed: Vec<_> =
        before.iter().zip(now()).zip(&services).filter(|((old, new), _)| **old != *new).collect();
    assert_eq!(changed.iter().map(|(_, name)| ***name).collect::<Vec<_>>(), ["service7"]);
}

#[test]
fn z6_a_version_that_does_not_start_is_left_again_and_never_counts_as_installed() {
    let site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    let node = booted_with(&old, &site);
    let new = site.payload("2.0.0").unwrap();
    new.file("/usr/bin/demo-web", 0o755, "#!/bin/sh\nexit 1\n").unwrap();
    site.publish("2.0.0", &new).unwrap();
    until(&node, "the release is given up", |status| {
        assert_eq!(status["installed"]["version"], "1.0.0", "{status}");
        status["gate"] == "Refused"
    });
    node.wait_for("the old version serves", UPGRADE_LIMIT, || match site.web_version() {
        Ok(shown) if shown == "1.0.0" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    require_installed(&node, &old).unwrap();
}

#[test]
fn z7_a_service_that_does_not_end_runs_its_new_unit_afterwards() {
    let site = Site::new().unwrap();
    let release = |version: &str, argument: &str| {
        let payload = site.payload(version).unwrap();
        let unit = "exec: sh -c 'trap \"\" TERM; while :; do sleep 1; done'";
        payload.unit("stubborn", &format!("{unit} stubborn {argument}\nshutdown_timeout: 1\n")).unwrap();
        payload
    };
    let node = booted_with(&release("1.0.0", "old-argument"), &site);
    node.wait_for_services(&["stubborn"], UPGRADE_LIMIT).unwrap();
    site.publish("2.0.0", &release("2.0.0", "new-argument")).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    let pid = node.pid_of("stubborn").unwrap();
    let running: Vec<_> = node
        .processes()
        .unwrap()
        .into_iter()
        .filter_map(|process| {
            Some((process.pid, fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).ok()?))
        })
        .filter(|(_, arguments)| arguments.contains("-argument"))
        .collect();
    assert_eq!(running.len(), 1, "{running:?}");
    assert!(running[0].0 == pid && running[0].1.contains("new-argument"), "{running:?}");
}

#[test]
fn z8_damaged_cache_entries_are_fetched_again_and_never_installed() {
    let site = Site::new().unwrap();
    let node = booted_with(&site.payload("1.0.0").unwrap(), &site);
    let new = site.payload("2.0.0").unwrap();
    for n in 0..8 {
        new.file(&format!("/usr/share/site/{n}"), 0o644, noise(n, 10_000)).unwrap();
    }
    site.hub.publish("2.0.0", new.directory(), None).unwrap();
    let cache = node.path("/var/cache/molt");
    let blocks = site.hub.blocks_of("2.0.0").unwrap();
    for (number, id) in blocks.keys().enumerate() {
        let at = Path::new(&id[..2]).join(id);
        let mut bytes = fs::read(site.hub.block_directory().join(&at)).unwrap();
        match number % 3 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.clear(),
            _ => *bytes.last_mut().unwrap() ^= 1,
        }
        fs::create_dir_all(cache.join(&id[..2])).unwrap();
        fs::write(cache.join(at), bytes).unwrap();
    }
    let before = node.status().unwrap()["counters"]["bytes_fetched"].as_u64().unwrap();
    site.hub.offer("v2.0.0").unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    require_installed(&node, &new).unwrap();
    let fetched = node.status().unwrap()["counters"]["bytes_fetched"].as_u64().unwrap() - before;
    assert!(fetched >= 80_000, "{fetched} bytes were fetched");
    assert!(node.console().contains("a cached block is damaged"));
    assert_ne!(
        digest_of(node.path("/usr/share/site/0")).unwrap(),
        digest_of(node.path("/usr/share/site/1")).unwrap()
    );
}

#[test]
fn z10_a_node_that_waited_for_the_hub_boots_soon_after_it_is_back() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &site.payload("1.0.0").unwrap()).unwrap();
    let mut proxy = proxy(&site);
    proxy.set(Fault::Drop).unwrap();
    let hub = format!("console=ttyS0 runmode=dev hub=http://{}", proxy.address());
    let node = site.node().command_line(hub).boot().unwrap();
    // With factors as the ancestor's, the sixth attempt would come after days.
    node.wait_for("the node has asked some times", UPGRADE_LIMIT, || match proxy.strikes() {
        6.. => Ok(()),
        strikes => Err(format!("{strikes} strikes")),
    })
    .unwrap();
    let console = node.console().text();
    let (_, delay) = console.split_once("at the latest every ").expect("the longest delay is printed");
    let seconds: u64 = delay.split_once('s').unwrap().0.parse().unwrap();
    assert!(seconds <= 30, "{seconds} s");
    proxy.set(Fault::Pass).unwrap();
    node.wait_for("the node has booted", Duration::from_secs(60), || match node.service("bootstrap") {
        Ok(service) if service.state == State::Success => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    site.await_version(&node, "1.0.0").unwrap();
}
