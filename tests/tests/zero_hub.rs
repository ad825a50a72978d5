//! A node boots from a real 0-hub, with its blocks in a real 0-db, and upgrades, in both layouts and both formats.
//!
//! Both programs are given by path: `MOLT_ZDB` is `zdb`, `MOLT_ZERO_HUB` a program that serves a hub directory when it
//! is called with `<port> <hub directory> <port of zdb>`. Without them nothing is tested, and that is said. CI has
//! the recorded answers instead: `flist/tests/zero_hub.rs`.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use molt_tests::{
    Binaries, Node, Payload, Site, UPGRADE_LIMIT, get, require_installed, run, scratch, wait_for,
};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// A 0-hub and its 0-db, in the namespace of a site whose own hub does not run.
struct ZeroHub {
    site: Site,
    directory: TempDir,
    processes: Vec<Child>,
    hub: u16,
    zdb: u16,
    format: &'static str,
}

impl ZeroHub {
    /// `None` where the programs are not given.
    fn start(format: &'static str) -> Option<Self> {
        let (Ok(zdb), Ok(hub)) = (std::env::var("MOLT_ZDB"), std::env::var("MOLT_ZERO_HUB")) else {
            eprintln!("SKIPPED: MOLT_ZDB and MOLT_ZERO_HUB name no programs");
            return None;
        };
        let site = Site::without_hub().unwrap();
        let directory = scratch("zero-hub").unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = (site.netns.run(free).unwrap(), site.netns.run(free).unwrap());
        let mut all = Self { site, directory, processes: Vec::new(), hub: ports.0, zdb: ports.1, format };
        fs::create_dir_all(all.users()).unwrap();
        for directory in ["workdir", "data", "index"] {
            fs::create_dir(all.path(directory)).unwrap();
        }
        let mut command = Command::new(zdb);
        command.args(["--mode", "user", "--listen", "127.0.0.1", "--port", &all.zdb.to_string()]);
        command.arg("--data").arg(all.path("data")).arg("--index").arg(all.path("index"));
        all.spawn(command);
        let mut command = Command::new(hub);
        command.arg(all.hub.to_string()).arg(all.directory.path()).arg(all.zdb.to_string());
        all.spawn(command);
        let address = format!("127.0.0.1:{}", all.hub).parse().unwrap();
        let answers = || match get(address, "/api/repositories", Duration::from_secs(5)) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        };
        all.site.netns.run(|| wait_for("the 0-hub answers", LIMIT, answers)).unwrap().unwrap();
        Some(all)
    }

    fn spawn(&mut self, mut command: Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.processes.push(self.site.netns.spawn(command).unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn users(&self) -> PathBuf {
        self.path("public/users")
    }

    /// Packs a payload into the 0-db, and puts its flist on the hub.
    fn put(&self, name: &str, payload: &Payload) {
        let path = self.users().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut pack = Command::new(Binaries::ensure().unwrap().flist());
        pack.args(["pack", "--format", self.format, "-s", &format!("zdb://127.0.0.1:{}", self.zdb), "-m"])
            .arg(&path);
        pack.arg(payload.directory());
        self.site.netns.run(|| run(&mut pack, LIMIT)).unwrap().unwrap();
    }

    /// Points a link to something else, in one step.
    fn link(&self, name: &str, target: &str) {
        let link = self.users().join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let new = self.directory.path().join("new");
        symlink(target, &new).unwrap();
        fs::rename(&new, link).unwrap();
    }

    fn boot(&self, config: &str) -> Node {
        Node::builder(&self.site.netns)
            .command_line(format!("console=ttyS0 runmode=dev hub=http://127.0.0.1:{}", self.hub))
            .boot_units()
            .config(&format!("poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\n{config}"))
            .boot()
            .unwrap()
    }
}

impl Drop for ZeroHub {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // They may have ended by themselves.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn net(version: &str) -> Payload {
    let payload = Payload::new().unwrap();
    payload.unit("net", "exec: sleep 7000000\n").unwrap();
    payload.file("/usr/share/net/version", 0o644, format!("{version}\n")).unwrap();
    payload
}

fn installed(node: &Node, payload: &Payload) {
    node.wait_for("it is installed", UPGRADE_LIMIT, || {
        require_installed(node, payload).map_err(|error| format!("{error:?}"))
    })
    .unwrap();
}

#[test]
fn a_taglink_leads_to_its_packages_and_to_the_next_ones() {
    for format in ["fl", "classic"] {
        follow_a_taglink(format);
    }
}

fn follow_a_taglink(format: &'static str) {
    let Some(hub) = ZeroHub::start(format) else { return };
    let release = |version: &str| {
        let (zos, net) = (hub.site.payload(version).unwrap(), net(version));
        for (package, payload) in [("zos", &zos), ("net", &net)] {
            let file = format!("{package}-{version}.flist");
            hub.put(&format!("tf-autobuilder/{file}"), payload);
            let entry = format!("tf-zos/.tag-{version}/{package}.flist");
            hub.link(&entry, &format!("../../tf-autobuilder/{file}"));
        }
        hub.link("tf-zos/development", &format!("../tf-zos/.tag-{version}"));
        (zos, net)
    };
    let (zos, net) = release("1.0.0");
    let node = hub.boot("");
    hub.site.await_version(&node, "1.0.0").unwrap();
    installed(&node, &zos);
    installed(&node, &net);
    assert_eq!(node.read("/tmp/flist.name").unwrap().trim_end(), "tf-zos/development");
    let info: serde_json::Value = serde_json::from_str(&node.read("/tmp/flist.info").unwrap()).unwrap();
    assert_eq!((&info["name"], &info["version"]), (&"zos-1.0.0.flist".into(), &"1.0.0".into()));
    let idle = node.pid_of("idle").unwrap();
    let (zos, net) = release("2.0.0");
    hub.site.await_version(&node, "2.0.0").unwrap();
    installed(&node, &zos);
    installed(&node, &net);
    assert_eq!(node.pid_of("idle").unwrap(), idle);
}

#[test]
fn a_link_and_a_repo_of_packages_lead_to_theirs() {
    for format in ["fl", "classic"] {
        follow_a_link(format);
    }
}

fn follow_a_link(format: &'static str) {
    let Some(hub) = ZeroHub::start(format) else { return };
    let release = |version: &str| {
        let (zos, net) = (hub.site.payload(version).unwrap(), net(version));
        hub.put(&format!("tf-zos/zos:v{version}.flist"), &zos);
        hub.put(&format!("tf-autobuilder/net-{version}.flist"), &net);
        hub.link("tf-zos-bins.dev/net.flist", &format!("../tf-autobuilder/net-{version}.flist"));
        hub.link("tf-zos/zos:development:latest.flist", &format!("zos:v{version}.flist"));
        (zos, net)
    };
    let (zos, net) = release("1.0.0");
    let node = hub.boot("channel: {layout: link, packages: tf-zos-bins}\n");
    hub.site.await_version(&node, "1.0.0").unwrap();
    installed(&node, &zos);
    installed(&node, &net);
    let (zos, net) = release("2.0.0");
    hub.site.await_version(&node, "2.0.0").unwrap();
    installed(&node, &zos);
    installed(&node, &net);
}
