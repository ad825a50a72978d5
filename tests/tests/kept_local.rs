//! What an operator adds to a node, changes on it and takes away from it outlasts releases.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use molt_tests::{Node, Payload, Site, UPGRADE_LIMIT};

const UNIT: &str = "/etc/zinit/mine.yaml";

/// A small release with configuration that each version ships otherwise, and some that no version changes.
fn release(site: &Site, version: &str) -> Payload {
    let payload = site.payload(version).unwrap();
    for name in ["edited", "removed"] {
        payload.file(&format!("/etc/site/{name}.conf"), 0o644, format!("as shipped by {version}\n")).unwrap();
    }
    payload.file("/etc/site/plain.conf", 0o644, format!("as shipped by {version}\n")).unwrap();
    payload.file("/etc/site/private.conf", 0o644, "as shipped\n").unwrap();
    payload.file("/usr/share/site/data", 0o644, version).unwrap();
    payload
}

/// An operator makes the node his own: a program and a service of his, a snippet, a link, an edited file, one that is
/// gone, one that only root shall read.
fn make_own(node: &Node) {
    let write = |path: &str, mode, content: &str| {
        let at = node.path(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, content).unwrap();
        fs::set_permissions(&at, PermissionsExt::from_mode(mode)).unwrap();
    };
    write("/usr/local/bin/mine", 0o755, "#!/bin/sh\nexec sleep 4000000\n");
    write(UNIT, 0o644, "exec: /usr/local/bin/mine\n");
    write("/etc/site/conf.d/mine.conf", 0o600, "mine\n");
    write("/usr/share/site/mine", 0o644, "beside what is shipped\n");
    write("/etc/site/edited.conf", 0o644, "edited\n");
    fs::set_permissions(node.path("/etc/site/private.conf"), PermissionsExt::from_mode(0o600)).unwrap();
    fs::remove_file(node.path("/etc/site/removed.conf")).unwrap();
    symlink("edited.conf", node.path("/etc/site/link.conf")).unwrap();
    node.monitor_service("mine").unwrap();
    node.wait_for_services(&["mine"], UPGRADE_LIMIT).unwrap();
}

fn require_own(node: &Node, version: &str) {
    let read = |path: &str| node.read(path).unwrap_or_else(|error| panic!("{version}: {path}: {error:?}"));
    let mode = |path: &str| node.path(path).symlink_metadata().unwrap().permissions().mode() & 0o7777;
    assert!(read("/usr/local/bin/mine").contains("4000000") && mode("/usr/local/bin/mine") == 0o755);
    assert_eq!(read(UNIT), "exec: /usr/local/bin/mine\n", "{version}");
    assert_eq!(
        (read("/etc/site/conf.d/mine.conf").as_str(), mode("/etc/site/conf.d/mine.conf")),
        ("mine\n", 0o600)
    );
    assert_eq!(read("/usr/share/site/mine"), "beside what is shipped\n", "{version}");
    assert_eq!(read("/etc/site/edited.conf"), "edited\n", "{version}");
    assert_eq!(mode("/etc/site/private.conf"), 0o600, "{version}");
    assert!(!node.path("/etc/site/removed.conf").exists(), "{version}: it was taken away");
    assert_eq!(fs::read_link(node.path("/etc/site/link.conf")).unwrap().to_str(), Some("edited.conf"));
    // What nobody has touched is the release's.
    assert_eq!(read("/etc/site/plain.conf"), format!("as shipped by {version}\n"));
    assert_eq!(read("/usr/share/site/data"), version);
}

#[test]
fn what_an_operator_has_made_his_own_outlasts_three_upgrades_and_a_rollback() {
    let site = Site::new().unwrap();
    site.publish("1.0.0", &release(&site, "1.0.0")).unwrap();
    let node = site.boot("1.0.0").unwrap();
    make_own(&node);
    let process = node.pid_of("mine").unwrap();
    for version in ["2.0.0", "3.0.0", "4.0.0"] {
        site.publish(version, &release(&site, version)).unwrap();
        site.await_version(&node, version).unwrap();
        require_own(&node, version);
        // The release's version of what was edited is there to be compared.
        let new = node.read("/etc/site/edited.conf.new").unwrap();
        assert_eq!(new, format!("as shipped by {version}\n"));
    }
    node.run(&["identityd", "rollback"]).unwrap();
    assert_eq!(site.web_version().unwrap(), "3.0.0");
    require_own(&node, "3.0.0");
    assert_eq!(node.pid_of("mine").unwrap(), process, "his service was left alone");
}
