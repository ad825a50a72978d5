//! Hubs that want to know who asks: by a client certificate and by a token, both secrets that nobody ever sees.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use molt_tests::{BaseFile, Content, Node, Payload, Signing, Site, TlsProxy, UPGRADE_LIMIT, certificate};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

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

/// Somebody who publishes signed releases on the hub behind the proxy, which knows whom it lets in.
struct Publisher<'p> {
    site: &'p Site,
    proxy: &'p TlsProxy,
    signing: &'p Signing,
    files: tempfile::TempDir,
}

impl<'p> Publisher<'p> {
    fn new(site: &'p Site, proxy: &'p TlsProxy, signing: &'p Signing) -> Self {
        Self { site, proxy, signing, files: tempfile::tempdir().unwrap() }
    }

    /// A file that its owner alone can read.
    fn private(&self, name: &str, text: &str) -> String {
        let path = self.files.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs `flist` with what the hub is shown; returns all that it says.
    fn flist(&self, words: &[&str]) -> String {
        let ca = self.private("ca", &certificate("ca").unwrap());
        let pem = self.private("pem", &certificate("client").unwrap());
        let token = self.private("token", TOKEN);
        let mut flist = Command::new(self.site.hub.program());
        flist.args(words).args(["--client-certificate", &pem, "--read-token-file", &token]);
        flist.env("FLIST_HUB", self.proxy.url()).env("SSL_CERT_FILE", ca);
        let output = self.site.netns.run(|| molt_tests::output(&mut flist, UPGRADE_LIMIT)).unwrap().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{words:?}: {said}");
        assert!(!said.contains(TOKEN), "{said}");
        said
    }

    /// Publishes and signs a release for `dev`, with these packages beside the usual one.
    fn publish(&self, version: &str, packages: &[(&str, &Payload)]) -> String {
        let zos = self.site.payload(version).unwrap();
        let options = self.signing.options();
        let what = ["publish", "--repo", "tf-zos", "--version", version, "--run-mode", "dev", "--sign"];
        let operands: Vec<String> = match packages {
            [] => ["--name".into(), "zos".into(), zos.directory().display().to_string()].into(),
            others => [("zos", &zos)]
                .iter()
                .chain(others)
                .map(|(name, payload)| format!("{name}={}", payload.directory().display()))
                .collect(),
        };
        let words = what.into_iter().chain(options.iter().map(String::as_str));
        self.flist(&words.chain(operands.iter().map(String::as_str)).collect::<Vec<_>>())
    }
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
    let publisher = Publisher::new(&site, &proxy, &signing);
    let publish = |version: &str| {
        publisher.publish(version, &[]);
    };
    publish("1.0.0");
    let pem = certificate("client").unwrap();
    // It also says all that it can say.
    let node = node(&site, &proxy, &signing)
        .command_line(format!("console=ttyS0 runmode=dev hub={} molt.debug", proxy.url()))
        .file(secret("/etc/molt/hub.token", 0o600, TOKEN))
        .file(secret("/etc/molt/hub.pem", 0o600, &pem))
        .boot()
        .unwrap();
    site.await_version(&node, "1.0.0").unwrap();
    publish("2.0.0");
    site.await_version(&node, "2.0.0").unwrap();
    let said = format!("{}{}", node.console().text(), node.service_log().unwrap());
    assert!(said.contains("DEBUG"), "{said}");
    // A tag of several packages, and the rest of what can be done on a hub.
    let other = Payload::new().unwrap();
    other.file("/usr/share/other", 0o644, "other\n").unwrap();
    let said = publisher.publish("3.0.0", &[("other", &other)]);
    assert!(said.contains("tf-zos/development now points to tf-zos/tags/3.0.0"), "{said}");
    let listed = publisher.flist(&["list", "tf-zos"]);
    assert!(listed.contains("zos:v3.0.0") && listed.contains("other:v3.0.0"), "{listed}");
    assert_eq!(proxy.turned_away(), 0, "{}", node.console().tail(20));
    let asked = proxy.let_in();
    for path in ["/trust/timestamp.json", "/tf-zos/zos:v2.0.0.flist", "/store/", "/api/molt/flist/tf-zos/"] {
        assert!(asked.iter().any(|asked| asked.starts_with(path)), "{path}: {asked:?}");
    }

    let line = pem[pem.find("BEGIN PRIVATE").unwrap()..].lines().nth(1).unwrap().to_owned();
    let seen = sightings(&node, &[TOKEN, &line]);
    assert!(seen.is_empty(), "{seen:?}");
}

/// What a command prints, whether it succeeds or not.
fn printed(node: &Node, command: &[&str]) -> String {
    let output = node.exec(command).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) {
    node.wait_for(what, UPGRADE_LIMIT, || {
        let status = node.status().map_err(|error| format!("{error:?}"))?;
        if reached(&status) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
}

/// Whoever breaks a secret takes the hub from the node, and nothing else: it answers, says what is wrong, and goes back.
#[test]
fn a_secret_that_goes_bad_is_told_of_and_read_again_while_the_node_answers() {
    let site = Site::new().unwrap();
    let proxy = proxy(&site);
    let signing = Signing::new(&site.hub).unwrap();
    let publisher = Publisher::new(&site, &proxy, &signing);
    let publish = |version: &str| {
        publisher.publish(version, &[]);
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

    let mode = |file: &str, mode: u32| {
        fs::set_permissions(node.path(file), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("/etc/molt/hub.token", 0o644);
    is_told(&node, "hub.token", "chmod 600");
    mode("/etc/molt/hub.token", 0o600);
    is_well(&node);
    fs::write(node.path("/etc/molt/hub.pem"), "not a certificate\n").unwrap();
    is_told(&node, "hub.pem", "expected the certificate");

    // A new process finds it so, and does not end; nor is the hub needed to go back.
    let restarted = restart(&node);
    is_told(&node, "hub.pem", "expected the certificate");
    node.run(&["identityd", "rollback"]).unwrap();
    until(&node, "the node has gone back", |status| status["installed"]["version"] == "1.0.0");
    assert_eq!(site.web_version().unwrap(), "1.0.0");
    is_told(&node, "hub.pem", "expected the certificate");

    // Put right, it is found by itself.
    fs::write(node.path("/etc/molt/hub.pem"), &pem).unwrap();
    is_well(&node);
    publish("3.0.0");
    site.await_version(&node, "3.0.0").unwrap();
    assert_eq!(node.pid_of("identityd").unwrap(), restarted, "{}", node.console().tail(20));
    assert_eq!(proxy.turned_away(), 0, "{}", node.console().tail(20));
}

/// The node says everywhere what is wrong with a secret, and shows it nowhere.
fn is_told(node: &Node, word: &str, remedy: &str) {
    // By itself the node would wait a little longer each time.
    node.exec(&["identityd", "check"]).unwrap();
    let shown = node.wait_for("the status says what is wrong", UPGRADE_LIMIT, || {
        let shown = printed(node, &["identityd", "status"]);
        let words = ["BackOff", word, remedy];
        if words.iter().all(|word| shown.contains(word)) { Ok(shown) } else { Err(shown) }
    });
    let shown = shown.unwrap();
    let why = printed(node, &["identityd", "why"]);
    assert!(why.contains("CLOSED BackOff") && why.contains(word), "{why}");
    let findings: Value = serde_json::from_str(&printed(node, &["identityd", "doctor", "--json"])).unwrap();
    let secret = |finding: &&Value| finding["code"] == "secret";
    let finding = findings.as_array().unwrap().iter().find(secret).unwrap();
    assert!(finding["what"].as_str().unwrap().contains(word), "{finding}");
    assert!(!format!("{why}{shown}{findings}").contains(TOKEN));
}

/// Nothing is wrong with the secrets, and the hub is asked.
fn is_well(node: &Node) {
    node.exec(&["identityd", "check"]).unwrap();
    // What the node has gone back from is held, when the hub offers it.
    until(node, "the hub is asked again", |status| status["stage"] == "Idle" || status["gate"] == "Hold");
    let findings = printed(node, &["identityd", "doctor", "--json"]);
    assert!(!findings.contains("\"secret\""), "{findings}");
}

/// Ends identityd; the pid of the one that zinit starts then.
fn restart(node: &Node) -> u32 {
    let before = node.pid_of("identityd").unwrap();
    kill(Pid::from_raw(before.try_into().unwrap()), Signal::SIGTERM).unwrap();
    let new = node.wait_for("a new identityd", UPGRADE_LIMIT, || match node.pid_of("identityd") {
        Ok(pid) if pid != before => Ok(pid),
        other => Err(format!("{other:?}")),
    });
    new.unwrap()
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
    // Who signs and publishes is asked as well.
    let files = tempfile::tempdir().unwrap();
    let private = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (token, pem) = (private("token", TOKEN), private("pem", &good));
    let ask = |shown: &[&str]| {
        let (hub, root) = (proxy.url(), signing.root_path().display().to_string());
        let words = [&["trust", "check", "--hub", &hub, "--root", &root], shown].concat();
        let mut flist = Command::new(site.hub.program());
        flist.args(words).env("SSL_CERT_FILE", private("ca", &certificate("ca").unwrap()));
        site.netns.run(|| molt_tests::run(&mut flist, UPGRADE_LIMIT)).unwrap()
    };
    let (token, pem) = (token.to_str().unwrap(), pem.to_str().unwrap());
    assert!(ask(&[]).is_err() && ask(&["--client-certificate", pem]).is_err() && proxy.let_in().is_empty());
    let said = ask(&["--client-certificate", pem, "--read-token-file", token]).unwrap();
    assert!(said.contains("1.0.0") && !proxy.let_in().is_empty(), "{said}");
    let (turned_away, let_in) = (proxy.turned_away(), proxy.let_in());
    // A file that others can read is no secret, and is refused by name.
    let refused = node(&site, &proxy, &signing)
        .file(secret("/etc/molt/hub.token", 0o644, TOKEN))
        .file(secret("/etc/molt/hub.pem", 0o600, &good))
        .boot()
        .unwrap();
    says(&refused, "chmod 600");
    assert!(refused.console().contains("/etc/molt/hub.token") && !refused.console().contains(TOKEN));
    assert_eq!((proxy.turned_away(), proxy.let_in()), (turned_away, let_in.clone()));
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
        assert!(proxy.turned_away() > before && proxy.let_in() == let_in);
        assert!(!stranger.path("/usr/bin/demo-web").exists());
    }
}
