//! What a hub has can be served by any web server that gives out files.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use molt_tests::{Signing, Site, UPGRADE_LIMIT, scratch};
use tempfile::TempDir;

/// Python's server of files, which knows nothing of hubs.
struct Files {
    child: Child,
    _directory: TempDir,
}

impl Files {
    /// Serves a copy of what the hub has, at its address; the hub is stopped.
    fn instead_of_the_hub(site: &mut Site) -> Self {
        site.hub.kill().unwrap();
        let directory = scratch("files").unwrap();
        copy(&site.hub.users(), directory.path());
        for name in ["store", "trust"] {
            copy(&site.hub.block_directory().with_file_name(name), &directory.path().join(name));
        }
        let url = site.hub.url();
        let (address, port) = url.trim_start_matches("http://").split_once(':').unwrap();
        let mut server = Command::new("python3");
        server.args(["-m", "http.server", "--bind", address, "--directory"]);
        server.arg(directory.path()).arg(port).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: site.netns.spawn(server).unwrap(), _directory: directory }
    }

    fn stop(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut command = Command::new("cp");
    command.arg("-a").arg(from.join(".")).arg(to);
    molt_tests::run(&mut command, UPGRADE_LIMIT).unwrap();
}

#[test]
fn a_node_boots_and_upgrades_from_any_server_of_files() {
    let mut site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    let publish = |site: &Site, version: &str| {
        signing.publish(&site.hub, version, site.payload(version).unwrap().directory()).unwrap();
    };
    publish(&site, "1.0.0");
    let files = Files::instead_of_the_hub(&mut site);
    let node = site.node().file(signing.root().unwrap()).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();

    files.stop();
    site.hub.restart().unwrap();
    node.run(&["identityd", "pause"]).unwrap();
    publish(&site, "2.0.0");
    let files = Files::instead_of_the_hub(&mut site);
    node.run(&["identityd", "resume"]).unwrap();
    site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(node.status().unwrap()["insecure"], false);
    files.stop();
}
