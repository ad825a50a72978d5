//! Nodes that install classic flists, and that go from one format to the other.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use flist::format::{self, Format};
use flist::tree::Limits;
use molt_tests::{Binaries, Node, Site, UPGRADE_LIMIT, require_installed, run, scratch, wait_for};

fn processes(node: &Node) -> [u32; 2] {
    ["identityd", "idle"].map(|name| node.pid_of(name).unwrap())
}

fn await_installed(node: &Node, version: &str) {
    node.wait_for(&format!("version {version} is installed"), UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        let reached = status["stage"] == "Idle" && status["installed"]["version"] == version;
        if reached { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
}

#[test]
fn from_one_format_to_the_other_only_what_changed_restarts_and_without_the_hub_it_goes_back() {
    let mut site = Site::new().unwrap();
    let old = site.payload("1.0.0").unwrap();
    old.file("/usr/bin/tool", 0o4755, "a set-uid program\n").unwrap();
    old.file("/etc/mine.conf", 0o644, "as shipped\n").unwrap();
    site.publish("1.0.0", &old).unwrap();
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    let (same, web) = (processes(&node), node.pid_of("web").unwrap());
    fs::write(node.path("/etc/mine.conf"), "changed by somebody\n").unwrap();

    let new = site.payload("2.0.0").unwrap();
    new.file("/usr/bin/tool", 0o4755, "a set-uid program\n").unwrap();
    new.file("/etc/mine.conf", 0o644, "as shipped\n").unwrap();
    let classic = ["--format", "classic"];
    site.hub.publish_with("2.0.0", new.directory(), Some("dev"), &classic).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(processes(&node), same, "what did not change goes on");
    assert_ne!(node.pid_of("web").unwrap(), web, "web is another process");
    assert_eq!(node.read("/etc/mine.conf").unwrap(), "changed by somebody\n");
    for unwanted in ["/etc/os-release.new", "/etc/mine.conf.new"] {
        assert!(!node.path(unwanted).exists(), "{unwanted}: what is shipped is what was shipped");
    }
    fs::write(node.path("/etc/mine.conf"), "as shipped\n").unwrap();
    require_installed(&node, &new).unwrap();

    // What was replaced is kept by the keys of one format and looked for by those of the other.
    site.hub.kill().unwrap();
    node.run(&["identityd", "rollback"]).unwrap();
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    assert_eq!(processes(&node), same);
    require_installed(&node, &old).unwrap();
}

#[test]
fn a_node_boots_from_a_classic_flist_that_does_not_say_where_its_blocks_are() {
    let site = Site::new().unwrap();
    let payload = site.payload("1.0.0").unwrap();
    site.hub.publish_with("1.0.0", payload.directory(), Some("dev"), &["--format", "classic"]).unwrap();
    // As flists of the public hub are: without routes.
    let path = site.hub.flist_path("1.0.0");
    let (mut tree, format) = format::read_with_format(&path, &Limits::default()).unwrap();
    assert_eq!(format, Format::Classic);
    tree.routes.clear();
    format::write_as(&tree, &path, format).unwrap();

    let node = site.node().config(&config(&format!("{}/store", site.hub.url()))).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle"], UPGRADE_LIMIT).unwrap();
    require_installed(&node, &payload).unwrap();

    // The same content again, as an fl flist: no file and no process changes.
    let same = processes(&node);
    site.publish("1.0.1", &payload).unwrap();
    await_installed(&node, "1.0.1");
    assert_eq!(processes(&node), same);
    require_installed(&node, &payload).unwrap();
}

/// Settings of a node that finds blocks in `store` where the flist does not say where they are.
fn config(store: &str) -> String {
    format!("store: {store}\npoll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\n")
}

/// A program that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With `MOLT_ZDB=/path/to/zdb` in the environment: the blocks are in a real 0-db, and nowhere else.
#[test]
fn with_the_blocks_in_a_real_0_db() {
    let Some(zdb) = std::env::var_os("MOLT_ZDB") else {
        println!("SKIPPED: MOLT_ZDB does not name a 0-db");
        return;
    };
    let (site, place) = (Site::new().unwrap(), scratch("zdb").unwrap());
    let mut command = Command::new(zdb);
    command.args(["--mode", "user", "--listen", "127.0.0.1", "--port", "9900", "--data"]);
    command.arg(place.path().join("data")).arg("--index").arg(place.path().join("index"));
    let _zdb = Running(site.netns.spawn(command).unwrap());
    let connect = || match std::net::TcpStream::connect("127.0.0.1:9900") {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let limit = Duration::from_secs(30);
    site.netns.run(|| wait_for("0-db answers", limit, connect)).unwrap().unwrap();

    // The hub has the flists only, without a word about stores, as the public one has them.
    let release = |version: &str| {
        let payload = site.payload(version).unwrap();
        let path = site.hub.flist_path(version);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut pack = Command::new(Binaries::ensure().unwrap().flist());
        pack.args(["pack", "--format", "classic", "-s", "zdb://127.0.0.1", "-m"]).arg(&path);
        pack.arg(payload.directory());
        site.netns.run(|| run(&mut pack, UPGRADE_LIMIT)).unwrap().unwrap();
        let mut tree = format::read(&path, &Limits::default()).unwrap();
        tree.routes.clear();
        format::write_as(&tree, &path, Format::Classic).unwrap();
        site.hub.offer(&format!("v{version}")).unwrap();
        payload
    };
    release("1.0.0");
    let node = site.node().config(&config("zdb://127.0.0.1")).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    let same = processes(&node);
    let new = release("2.0.0");
    site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(processes(&node), same);
    require_installed(&node, &new).unwrap();
}
