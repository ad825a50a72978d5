//! Releases of several flists are one transaction, in both layouts of the public hub.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;

use molt_tests::{Node, Payload, Site, UPGRADE_LIMIT, require_installed};
use serde_json::Value;

const TAGLINK: &str = "tf-zos/development";

/// A package with a service `net`.
fn net(version: &str) -> Payload {
    let payload = Payload::new().unwrap();
    payload.unit("net", &format!("exec: sleep 70000{}\n", version.replace('.', ""))).unwrap();
    payload.file("/usr/share/net/version", 0o644, format!("{version}\n")).unwrap();
    payload
}

/// Publishes two packages as one tag for the run mode `dev`.
fn publish(site: &Site, version: &str, zos: &Payload, net: &Payload) -> String {
    let operand = |name: &str, payload: &Payload| format!("{name}={}", payload.directory().display());
    let (zos, net) = (operand("zos", zos), operand("net", net));
    let release = ["publish", "--repo", "tf-zos", "--version", version, "--run-mode", "dev"];
    site.hub.command(&[&release[..], &[&zos, &net]].concat()).unwrap()
}

fn info(node: &Node) -> Value {
    serde_json::from_str(&node.read("/tmp/flist.info").unwrap()).unwrap()
}

#[test]
fn a_tag_of_two_packages_boots_and_upgrades_as_one() {
    let site = Site::new().unwrap();
    let zos = site.payload("1.0.0").unwrap();
    let said = publish(&site, "1.0.0", &zos, &net("1.0.0"));
    assert!(said.contains("tf-zos/development now points to tf-zos/tags/1.0.0"), "{said}");
    let node = site.boot("1.0.0").unwrap();
    node.wait_for_services(&["identityd", "web", "idle", "net"], UPGRADE_LIMIT).unwrap();
    require_installed(&node, &zos).unwrap();
    require_installed(&node, &net("1.0.0")).unwrap();
    assert_eq!(node.read("/tmp/flist.name").unwrap().trim_end(), TAGLINK);
    let described = info(&node);
    assert_eq!((&described["version"], &described["name"]), (&"1.0.0".into(), &"zos:v1.0.0.flist".into()));
    let kept = ["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap());

    // Only one package changes: the rest of the release goes on.
    let changed = net("1.1.0");
    publish(&site, "1.1.0", &zos, &changed);
    site.await_version_of(&node, "1.1.0").unwrap();
    require_installed(&node, &changed).unwrap();
    assert_eq!(["identityd", "web", "idle"].map(|name| node.pid_of(name).unwrap()), kept);

    // Packages that do not fit together change nothing, and both are named.
    let clashing = net("1.2.0");
    clashing.file("/etc/os-release", 0o644, "another\n").unwrap();
    let operands = [("zos", &zos), ("net", &clashing)]
        .map(|(name, payload)| format!("{name}={}", payload.directory().display()));
    let release = ["publish", "--repo", "tf-zos", "--version", "1.2.0", "--run-mode", "dev"];
    let refused = site.hub.command(&[&release[..], &[&operands[0], &operands[1]]].concat()).unwrap_err();
    let text = format!("{refused:?}");
    assert!(text.contains("packages net and zos both have /etc/os-release"), "{text}");
    let tag =
        ["tag", "--no-check", "tf-zos/tags/1.2.0", "tf-zos/zos:v1.1.0.flist", "tf-zos/net:v1.2.0.flist"];
    site.hub.publish_package("net", "1.2.0", clashing.directory()).unwrap();
    site.hub.command(&[&tag[..], &["--run-mode", "dev"]].concat()).unwrap();
    node.wait_for("identityd names both packages", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?.to_string();
        if status.contains("packages net and zos both have /etc/os-release") { Ok(()) } else { Err(status) }
    })
    .unwrap();
    require_installed(&node, &zos).unwrap();

    // Back to the first release, from what is recorded of both packages, without a hub.
    fs::remove_dir_all(site.hub.users()).unwrap();
    node.run(&["identityd", "rollback"]).unwrap();
    node.wait_for("1.0.0 is installed", UPGRADE_LIMIT, || {
        require_installed(&node, &net("1.0.0")).map_err(|error| format!("{error:?}"))
    })
    .unwrap();
    require_installed(&node, &zos).unwrap();
    assert_eq!(info(&node)["version"], "1.0.0");
}

#[test]
fn a_link_with_a_repo_of_packages_boots_and_upgrades_as_one() {
    let site = Site::new().unwrap();
    let zos = site.payload("1.0.0").unwrap();
    site.publish("1.0.0", &zos).unwrap();
    let package = |version: &str| {
        let directory = net(version);
        let path = directory.directory().to_str().unwrap();
        let to = ["publish", "--repo", "tf-zos-bins.dev", "--name", "net", "--version", version];
        site.hub.command(&[&to[..], &["--run-mode", "dev", path]].concat()).unwrap();
        directory
    };
    let first = package("7.0.0");
    let config = "poll_interval: 1\nhealth_window: 1\nchannel: {layout: link, packages: tf-zos-bins}\n";
    let node = site.node().config(config).boot().unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    require_installed(&node, &zos).unwrap();
    require_installed(&node, &first).unwrap();
    assert_eq!(info(&node)["name"], "zos:development:latest.flist");
    let idle = node.pid_of("idle").unwrap();

    let second = package("7.1.0");
    node.wait_for("the package is new", UPGRADE_LIMIT, || {
        require_installed(&node, &second).map_err(|error| format!("{error:?}"))
    })
    .unwrap();
    node.wait_for_services(&["net"], UPGRADE_LIMIT).unwrap();
    assert_eq!(node.pid_of("idle").unwrap(), idle);

    // A hub that lost the repo takes nothing away from a node.
    fs::remove_dir_all(site.hub.users().join("tf-zos-bins.dev")).unwrap();
    node.wait_for("identityd misses the repo", UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?.to_string();
        if status.contains("repo tf-zos-bins.dev does not exist") { Ok(()) } else { Err(status) }
    })
    .unwrap();
    require_installed(&node, &second).unwrap();
}
