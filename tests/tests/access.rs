//! Hubs that want to know who asks: by a client certificate and by a token, both secrets that nobody ever sees.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::path::{Path, PathBuf};

use molt_tests::{BaseFile, Content, Node, Signing, Site, TlsProxy, UPGRADE_LIMIT, certificate};

const TOKEN: &str = "4f6e6c79-the-hub-may-see-this-token";

/// Where OpenSSL, and everybody after it, looks for the CA certificates of a machine.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

fn secret(path: &str, mode: u32, text: &str) -> BaseFile {
    BaseFile { path: path.into(), mode, content: Content::Text(text.to_owned()) }
}

fn proxy(site: &Site) -> TlsProxy {
    let hub = site.hub.url().trim_start_matches("http://").parse().unwrap();
    site.netns.run(|| TlsProxy::start(hub, TOKEN)).unwrap().unwrap()
}

/// A node that finds its hub behind the proxy only.
fn node(site: &Site, proxy: &TlsProxy, signing: &Signing) -> molt_tests::NodeBuilder {
    site.node()
        .command_line(format!("console=ttyS0 runmode=dev hub={}", proxy.url()))
        .file(signing.root().unwrap())
        .file(BaseFile::text(AUTHORITIES, certificate("ca").unwrap()))
}

fn says(node: &Node, text: &str) {
    node.wait_for(&format!("the console says '{text}'"), UPGRADE_LIMIT, || {
        match node.console().contains(text) {
            true => Ok(()),
            false => Err(node.console().tail(10)),
        }
    })
    .unwrap();
}

#[test]
fn a_hub_that_knows_its_nodes_is_used_and_its_secrets_are_seen_nowhere() {
    let site = Site::new().unwrap();
    let proxy = proxy(&site);
    let signing = Signing::new(&site.hub).unwrap();
    let publish = |version: &str| {
        let store = format!("{}/store", proxy.url());
        let payload = site.payload(version).unwrap();
        signing.publish_with(&site.hub, version, payload.directory(), ("dev", &["--route", &store])).unwrap();
    };
    publish("1.0.0");
    let pem = certificate("client").unwrap();
    let node = node(&site, &proxy, &signing)
        .file(secret("/etc/molt/hub.token", 0o600, TOKEN))
        .file(secret("/etc/molt/hub.pem", 0o600, &pem))
        .boot()
        .unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    publish("2.0.0");
    site.await_version(&node, "2.0.0").unwrap();
    assert_eq!(proxy.turned_away(), 0, "{}", node.console().tail(20));
    let asked = proxy.let_in();
    for path in ["/trust/timestamp.json", "/tf-zos/zos:v2.0.0.flist", "/store/"] {
        assert!(asked.iter().any(|asked| asked.starts_with(path)), "{path}: {asked:?}");
    }

    let line = pem[pem.find("BEGIN PRIVATE").unwrap()..].lines().nth(1).unwrap().to_owned();
    let seen = sightings(&node, &[TOKEN, &line]);
    assert!(seen.is_empty(), "{seen:?}");
}

/// Where one of these texts can be seen: in what the node prints, shows, logs and keeps, and in /proc.
fn sightings(node: &Node, secrets: &[&str]) -> Vec<String> {
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    places.push(("the console".into(), node.console().text().into_bytes()));
    places.push(("the log of services".into(), node.service_log().unwrap().into_bytes()));
    for command in [&["status"][..], &["status", "--json"], &["why", "--json"], &["history", "--json"]] {
        let command = [&["identityd"], command].concat();
        places.push((command.join(" "), node.run(&command).unwrap().into_bytes()));
    }
    for directory in ["/var/lib/molt", "/run/molt", "/var/cache/molt", "/tmp", "/.molt"] {
        files(&node.path(directory), &mut places);
    }
    let processes = node.processes().unwrap();
    let mut ours = 0;
    for process in &processes {
        for file in ["cmdline", "environ", "comm", "status", "maps"] {
            let path = format!("/proc/{}/{file}", process.pid);
            // A process that ends meanwhile has nothing to show.
            if let Ok(bytes) = fs::read(&path) {
                places.push((path, bytes));
            }
        }
        ours += usize::from(process.name == "identityd");
    }
    assert!(ours > 0 && places.len() > 30, "{} places, {processes:?}", places.len());
    let shows = |bytes: &[u8], secret: &str| {
        let secret = secret.as_bytes();
        bytes.windows(secret.len()).any(|window| window == secret)
    };
    let found = places.into_iter().filter(|(_, bytes)| secrets.iter().any(|secret| shows(bytes, secret)));
    found.map(|(place, _)| place).collect()
}

fn files(directory: &Path, places: &mut Vec<(String, Vec<u8>)>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).collect::<Vec<PathBuf>>() {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => files(&path, places),
            Ok(metadata) if metadata.is_file() => {
                places.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
            }
            _ => {}
        }
    }
}

#[test]
fn without_the_right_secret_in_a_private_file_nothing_is_fetched() {
    let site = Site::new().unwrap();
    let proxy = proxy(&site);
    let signing = Signing::new(&site.hub).unwrap();
    signing.publish(&site.hub, "1.0.0", site.payload("1.0.0").unwrap().directory()).unwrap();
    let (good, other) = (certificate("client").unwrap(), certificate("stranger").unwrap());
    // A file that others can read is no secret, and is refused by name.
    let refused = node(&site, &proxy, &signing)
        .file(secret("/etc/molt/hub.token", 0o644, TOKEN))
        .file(secret("/etc/molt/hub.pem", 0o600, &good))
        .boot()
        .unwrap();
    says(&refused, "chmod 600");
    assert!(refused.console().contains("/etc/molt/hub.token") && !refused.console().contains(TOKEN));
    assert_eq!((proxy.turned_away(), proxy.let_in()), (0, Vec::new()));
    drop(refused);
    // The certificate of somebody else, and the right one with a token of somebody else.
    let wrong = TOKEN.replace("this", "that");
    for (token, pem, said) in [(TOKEN, &other, "request to"), (wrong.as_str(), &good, "401")] {
        let before = proxy.turned_away();
        let stranger = node(&site, &proxy, &signing)
            .file(secret("/etc/molt/hub.token", 0o600, token))
            .file(secret("/etc/molt/hub.pem", 0o600, pem))
            .boot()
            .unwrap();
        says(&stranger, "waiting for the hub");
        assert!(stranger.console().contains(said), "{}", stranger.console().tail(10));
        assert!(proxy.turned_away() > before && proxy.let_in().is_empty());
        assert!(!stranger.path("/usr/bin/demo-web").exists());
    }
}
