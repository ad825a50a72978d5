//! `version=` on the kernel command line, on nodes that install what is signed and nothing else.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use molt_tests::{Node, Payload, Signing, Site, UPGRADE_LIMIT};

/// A package with a file that tells its version.
fn net(version: &str) -> Payload {
    let payload = Payload::new().unwrap();
    payload.file("/usr/share/net/version", 0o644, format!("{version}\n")).unwrap();
    payload
}

/// Signs flists that are on the hub for the nodes of the run mode `dev` that follow a channel.
fn sign(site: &Site, signing: &Signing, channel: &str, version: &str, flists: &[&str]) {
    let hub = site.hub.url();
    let what = ["release", "--hub", &hub, "--run-mode", "dev", "--channel", channel, "--version", version];
    signing.run(&site.hub, &[&what[..], flists].concat()).unwrap();
}

fn node(site: &Site, signing: &Signing, layout: &str, version: &str) -> Node {
    let line = format!("console=ttyS0 runmode=dev hub={} version={version}", site.hub.url());
    let config =
        format!("poll_interval: 1\nhandover_timeout: 5\nhealth_window: 1\nchannel: {{ layout: {layout} }}\n");
    site.node().command_line(line).config(&config).file(signing.root().unwrap()).boot().unwrap()
}

/// Waits until the node has looked twice more at what is offered, and runs that version still.
fn stays_at(node: &Node, version: &str) {
    let checks = |node: &Node| node.status().unwrap()["counters"]["checks"].as_u64().unwrap();
    let before = checks(node);
    node.wait_for("the node has looked twice more", UPGRADE_LIMIT, || match checks(node) {
        now if now >= before + 2 => Ok(()),
        now => Err(now.to_string()),
    })
    .unwrap();
    assert_eq!(node.status().unwrap()["installed"]["version"], version);
}

/// The README's example of a tag: neither of its packages has the tag's version in its name.
#[test]
fn a_version_is_found_among_signed_tags() {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    for (version, of_zos) in [("1.2.0", "1.1.0"), ("1.3.0", "1.1.1")] {
        site.hub.publish(of_zos, site.payload(of_zos).unwrap().directory(), None).unwrap();
        site.hub.publish_package("net", version, net(version).directory()).unwrap();
        let (tag, net) = (format!("tf-zos/tags/{version}"), format!("tf-zos/net:v{version}.flist"));
        let zos = format!("tf-zos/zos:v{of_zos}.flist");
        site.hub.command(&["tag", &tag, &zos, &net]).unwrap();
        sign(&site, &signing, "tf-zos/development", version, &[&net, &zos]);
        site.hub.command(&["link", "tf-zos/development", &tag]).unwrap();
    }
    for layout in ["tag", "auto"] {
        let node = node(&site, &signing, layout, "1.2.0");
        site.await_version_of(&node, "1.2.0").unwrap();
        assert_eq!(node.read("/usr/share/net/version").unwrap(), "1.2.0\n");
        assert_eq!(node.read("/tmp/flist.name").unwrap().trim_end(), "tf-zos/tags/1.2.0");
        stays_at(&node, "1.2.0");
    }
}

/// A flist whose name says nothing of its version.
#[test]
fn a_version_is_found_among_signed_flists_of_any_name() {
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    site.hub.publish("1.0.0", site.payload("1.0.0").unwrap().directory(), None).unwrap();
    site.hub.name("1.0.0", "spring").unwrap();
    let channel = "tf-zos/zos:development:latest.flist";
    sign(&site, &signing, channel, "1.0.0", &["tf-zos/zos:spring.flist"]);
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    let node = node(&site, &signing, "link", "1.0.0");
    site.await_version(&node, "1.0.0").unwrap();
    stays_at(&node, "1.0.0");
    drop(node);
    // What nobody has signed is not looked for under any name.
    site.hub.publish("3.0.0", site.payload("3.0.0").unwrap().directory(), None).unwrap();
    let node = self::node(&site, &signing, "link", "3.0.0");
    node.wait_for("the console says why it waits", UPGRADE_LIMIT, || {
        match node.console().contains("nobody has signed version 3.0.0") {
            true => Ok(()),
            false => Err(node.console().tail(5)),
        }
    })
    .unwrap();
    assert!(!node.path("/usr/bin/demo-web").exists());
}
