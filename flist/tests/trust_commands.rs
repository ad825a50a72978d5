//! `flist trust` and `flist director` as a person uses them, against `flist serve`; and what they must never show.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "trust_commands/directed.rs"]
mod directed;
#[path = "trust_commands/hints.rs"]
mod hints;
#[path = "trust_commands/kept.rs"]
mod kept;
mod serving;
#[path = "trust_commands/signing.rs"]
mod signing;
#[path = "trust_commands/terminal.rs"]
mod terminal;
#[path = "trust_commands/token.rs"]
mod token;
#[path = "trust_commands/unsigned.rs"]
mod unsigned;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use serving::{FLIST, Serving};

const PASSPHRASE: &str = "correct horse battery staple";
const TOKEN: &str = "a-token-0123456789abcdef";

struct Rig {
    hub: Serving,
    directory: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let private = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, format!("{text}\n")).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            path
        };
        private("secret", PASSPHRASE);
        private("token", TOKEN);
        // Of two others, one may publish and not bring signatures, and one the other way round.
        let [flists, metadata] = ["flists", "metadata"].map(|name| {
            let token = format!("another-token-for-{name}");
            private(name, &token);
            token
        });
        let grants = private("grants", &format!("{TOKEN}\n{flists} tf-zos\n{metadata} trust"));
        let hub = Serving::start(&directory.path().join("hub"), &["--token-file", grants.to_str().unwrap()]);
        fs::create_dir(directory.path().join("tree")).unwrap();
        fs::write(directory.path().join("tree/file"), "content").unwrap();
        Self { hub, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(FLIST);
        command.env_remove("FLIST_TOKEN").env("FLIST_HUB", &self.hub.url).env("RUST_LOG", "debug");
        command.env("FLIST_PASSPHRASE_FILE", self.path("secret")).env("FLIST_TRUST_DIR", self.path("trust"));
        command.current_dir(self.directory.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        for said in [&output.stdout, &output.stderr] {
            let said = String::from_utf8_lossy(said);
            assert!(
                !said.contains(PASSPHRASE) && !said.contains(TOKEN),
                "{arguments:?} shows a secret: {said}"
            );
        }
        output
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} was not refused");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A copy of the repository without its keys, as it is brought to other holders.
    fn copy(&self) {
        fs::create_dir(self.path("copy")).unwrap();
        let copied = Command::new("cp")
            .arg("-r")
            .args(["metadata", "staged", "settings.json"].map(|name| self.path("trust").join(name)))
            .arg(self.path("copy"))
            .status();
        assert!(copied.unwrap().success());
    }

    /// Runs a command that something printed, with the token.
    fn follows(&self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(words[0], "flist", "{command}");
        self.says(&[&words[1..], &["--token-file", "token"]].concat())
    }

    fn publish(&self, version: &str) -> Vec<String> {
        let words =
            ["publish", "--repo", "tf-zos", "--name", "zos", "--version", version, "--run-mode", "prod"];
        let more = ["--no-lint", "--token-file", "token", "--sign", "tree"];
        words.into_iter().chain(more).map(str::to_owned).collect()
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn from_keys_to_a_release_that_nodes_would_accept() {
    let rig = Rig::start();
    let said = rig.says(&["trust", "init", "--role", "prod=1/2"]);
    assert!(said.contains("root version 1") && said.contains("/etc/molt/root.json"), "{said}");
    assert!(rig.refused(&["trust", "init"]).contains("already"));
    // Nothing was sent yet.
    let said = rig.refused(&["trust", "check"]);
    assert!(said.contains("does not exist") && said.contains("trust refresh --dir "), "{said}");

    let said = rig.says(&strs(&rig.publish("1.0.0")));
    assert!(
        said.contains("zos:production:latest.flist now points to it") && said.contains("signed"),
        "{said}"
    );
    let check: Value = serde_json::from_str(&rig.says(&["trust", "check", "--json"])).unwrap();
    assert_eq!(check["releases"][0]["version"], "1.0.0", "{check}");
    assert_eq!(check["accepted"], true);

    // The token is asked for, and what is sent is not sent again.
    assert!(rig.refused(&["trust", "refresh"]).contains("token"));
    let said = rig.says(&["trust", "refresh", "--token-file", "token"]);
    assert!(said.contains("timestamp version 4") || said.contains("timestamp version 3"), "{said}");
    rig.says(&["trust", "key", "rotate", "timestamp", "--token-file", "token"]);
    // What cannot be sent is signed all the same, and that is said.
    let nobody = "http://127.0.0.1:1";
    let unsent = rig.refused(&["trust", "refresh", "--hub", nobody, "--token-file", "token"]);
    let remedy = format!("--hub {nobody}` sends what is missing");
    assert!(unsent.contains("signed, in") && unsent.contains(&remedy), "{unsent}");
    rig.says(&["trust", "check"]);
    let said = rig.says(&[
        "trust",
        "withdraw",
        "--run-mode",
        "prod",
        "--channel",
        "tf-zos/zos:production:latest.flist",
        "--token-file",
        "token",
        "1.0.0",
    ]);
    assert!(said.contains("prod version"), "{said}");
    assert!(rig.says(&["trust", "check"]).contains("no release yet"));
}

#[test]
fn what_cannot_be_signed_is_refused_before_anything_is_sent() {
    let rig = Rig::start();
    rig.says(&["trust", "init", "--role", "prod=2/2"]);
    let secret = rig.path("secret");
    fs::write(&secret, "another one\n").unwrap();
    assert!(rig.refused(&strs(&rig.publish("1.0.0"))).contains("does not open"));
    assert!(!rig.path("hub/store").exists() || fs::read_dir(rig.path("hub/store")).unwrap().next().is_none());
    fs::write(&secret, format!("{PASSPHRASE}\n")).unwrap();
    // Keys in what is published would be everybody's.
    fs::create_dir(rig.path("tree/trust")).unwrap();
    let key = fs::read_dir(rig.path("trust/keys")).unwrap().next().unwrap().unwrap().path();
    fs::copy(&key, rig.path("tree/trust/a.txt")).unwrap();
    let mut linted = rig.publish("1.0.0");
    linted.retain(|word| word != "--no-lint");
    let said = rig.refused(&strs(&linted));
    assert!(said.contains("signing-key") && said.contains("/trust/a.txt"), "{said}");
    fs::remove_dir_all(rig.path("tree/trust")).unwrap();
    // Nor are keys made where something else lies.
    let said = rig.refused(&["trust", "init", "--dir", "tree"]);
    assert!(said.contains("tree is not empty"), "{said}");

    // While a signature is missing, no link moves, and that is what is said.
    let files: Vec<PathBuf> =
        fs::read_dir(rig.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let file = files.iter().find(|path| path.to_string_lossy().contains("prod-")).unwrap();
    fs::create_dir(rig.path("usb")).unwrap();
    fs::rename(file, rig.path("usb/prod.key")).unwrap();
    let said = rig.says(&strs(&rig.publish("1.0.0")));
    assert!(said.contains("no link was moved") && said.contains("prod: 1 of 2 have signed"), "{said}");
    let later = "flist link tf-zos/zos:production:latest.flist tf-zos/zos:v1.0.0.flist";
    assert!(said.contains(later), "{said}");
    // The other holder gets a copy without keys, and gives back what was signed.
    rig.copy();
    let said = rig.says(&["trust", "sign", "--dir", "copy", "--keys", "usb", "--yes"]);
    assert!(said.contains("snapshot: 0 of 1"), "{said}");
    fs::copy(rig.path("copy/staged/2.prod.json"), rig.path("trust/staged/2.prod.json")).unwrap();
    // Meanwhile it was refreshed, as every day.
    rig.says(&["trust", "refresh", "--token-file", "token"]);
    rig.says(&["trust", "sign", "--token-file", "token", "--yes"]);
    assert!(rig.says(&["trust", "check"]).contains("1.0.0"));

    // One flist is in one release; another one does not take it away.
    let channel = "tf-zos/zos:production:latest.flist";
    let release = ["trust", "release", "--run-mode", "prod", "--channel", channel, "--version"];
    let said = rig.refused(&[&release[..], &["1.1.0", "tf-zos/zos:v1.0.0.flist"]].concat());
    assert!(said.contains("part of version 1.0.0") && said.contains("withdraw"), "{said}");
}

#[test]
fn a_release_is_promoted_with_its_signature() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&strs(&rig.publish("1.0.0")));
    let promote = ["promote", "--repo", "tf-zos", "--name", "zos", "--token-file", "token", "prod", "qa"];
    // Nodes with a root of trust would not see a link that moves.
    let refused = rig.refused(&promote);
    assert!(refused.contains("nothing was changed") && refused.contains("--sign"), "{refused}");
    let link = rig.path("hub/public/users/tf-zos/zos:qa:latest.flist");
    assert!(rig.path("hub/public/users/tf-zos").exists() && link.symlink_metadata().is_err());
    let said = rig.says(&[&promote[..], &["--sign"]].concat());
    assert!(said.contains("zos:qa:latest.flist now points to tf-zos/zos:v1.0.0.flist"), "{said}");
    assert!(said.contains("qa version 2"), "{said}");
    let role = fs::read_to_string(rig.path("hub/trust/2.qa.json")).unwrap();
    let role: Value = serde_json::from_str(&role).unwrap();
    let custom = &role["signed"]["targets"]["qa/tf-zos/zos:v1.0.0.flist"]["custom"];
    assert_eq!(custom["channel"], "tf-zos/zos:qa:latest.flist", "{role}");
    assert_eq!(custom["run_mode"], "qa");
    // For nodes without one, the link alone.
    rig.says(&[&promote[..], &["--unsigned"]].concat());
}

/// Whatever keeps it from being sent, or the link from being moved: it is signed, and what to do now is said.
#[test]
fn what_is_signed_and_not_sent_is_said_by_those_that_publish_too() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    let with = |words: &[&str], token: &str| -> Vec<String> {
        let word = |word: &&str| if *word == "token" { token.to_owned() } else { (*word).to_owned() };
        words.iter().map(word).collect()
    };
    let unsent = |words: &[String]| {
        let said = rig.refused(&strs(words));
        let remedy = format!("trust refresh --dir {} --hub {}", rig.path("trust").display(), rig.hub.url);
        assert!(said.contains("signed, in") && said.contains(&remedy), "{said}");
        assert!(said.contains("not for repo trust"), "{said}");
    };
    let publish = rig.publish("1.0.0");
    unsent(&with(&strs(&publish), "flists"));
    let mut tag = rig.publish("1.1.0");
    tag.retain(|word| !["--name", "zos"].contains(&word.as_str()));
    tag.last_mut().unwrap().insert_str(0, "zos=");
    unsent(&with(&strs(&tag), "flists"));
    // What that says is what helps.
    rig.says(&["trust", "refresh", "--token-file", "token"]);
    assert!(rig.says(&["trust", "check"]).contains("1.0.0"));
    rig.says(&strs(&publish));

    let promote =
        ["promote", "--repo", "tf-zos", "--name", "zos", "--sign", "--token-file", "token", "prod", "qa"];
    unsent(&with(&promote, "flists"));
    let link = "flist link tf-zos/zos:qa:latest.flist tf-zos/zos:v1.0.0.flist";
    let said = rig.refused(&strs(&with(&promote, "metadata")));
    assert!(said.contains("signed, and sent") && said.contains(link), "{said}");
    let link: Vec<&str> = link.split(' ').skip(1).chain(["--token-file", "token"]).collect();
    rig.says(&link);
    // A secret that cannot be read is as good a reason.
    fs::set_permissions(rig.path("metadata"), PermissionsExt::from_mode(0o644)).unwrap();
    let said = rig.refused(&["trust", "refresh", "--token-file", "metadata"]);
    assert!(said.contains("signed, in") && said.contains("chmod 600"), "{said}");
}

#[test]
fn who_signs_for_what_is_shown_without_any_key() {
    let rig = Rig::start();
    rig.says(&["trust", "init", "--role", "prod=2/3"]);
    let shown = |dir: &str| -> Value {
        serde_json::from_str(&rig.says(&["trust", "show", "--dir", dir, "--json"])).unwrap()
    };
    let role = |shown: &Value, name: &str| {
        let roles = shown["roles"].as_array().unwrap();
        roles.iter().find(|role| role["role"] == name).unwrap_or_else(|| panic!("{shown}")).clone()
    };
    let before = shown("trust");
    assert_eq!((&before["kind"], before["roles"].as_array().unwrap().len()), (&"releases".into(), 8));
    let prod = role(&before, "prod");
    assert_eq!((&prod["threshold"], prod["keys"].as_array().unwrap().len()), (&2.into(), 3), "{prod}");
    assert_eq!(
        (&prod["version"], &prod["expired"], &prod["waiting"]),
        (&1.into(), &false.into(), &Value::Null)
    );
    let root = role(&before, "root");
    assert_eq!((&root["threshold"], root["keys"].as_array().unwrap().len()), (&2.into(), 3), "{root}");
    rig.says(&["director", "init", "--dir", "director"]);
    assert_eq!(shown("director")["kind"], "director");

    // With two of its three keys elsewhere, a change of prod waits.
    fs::create_dir(rig.path("elsewhere")).unwrap();
    let keys = fs::read_dir(rig.path("trust/keys")).unwrap().map(|entry| entry.unwrap().path());
    let of_prod: Vec<PathBuf> = keys.filter(|path| path.display().to_string().contains("/prod-")).collect();
    for key in &of_prod[1..] {
        fs::rename(key, rig.path("elsewhere").join(key.file_name().unwrap())).unwrap();
    }
    rig.says(&["trust", "refresh", "prod", "--token-file", "token"]);
    assert_eq!(role(&shown("trust"), "prod")["waiting"], 2);
    fs::remove_dir_all(rig.path("trust/keys")).unwrap();
    let said = rig.says(&["trust", "show"]);
    let line = said.lines().find(|line| line.starts_with("prod ")).unwrap();
    assert!(line.contains("2 of 3") && line.contains("version 2 waits for signatures"), "{said}");
    assert!(
        rig.refused(&["trust", "show", "--dir", "none"]).contains("there is no trust repository in none")
    );
}

#[test]
fn secrets_are_in_no_output_no_file_and_no_process() {
    let rig = Rig::start();
    rig.says(&["trust", "init"]);
    rig.says(&strs(&rig.publish("1.0.0")));
    // Wrong passphrases are not repeated either.
    fs::write(rig.path("secret"), "another secret\n").unwrap();
    let refused = rig.refused(&["trust", "refresh", "--token-file", "token"]);
    assert!(refused.contains("passphrase does not open") && !refused.contains("another secret"), "{refused}");
    fs::set_permissions(rig.path("secret"), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(rig.refused(&["trust", "refresh"]).contains("chmod 600"));
    // The hub serves while it holds the token, and is seen by everybody.
    let pid = rig.hub.pid();
    for place in ["cmdline", "environ"] {
        let seen = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{place}")).unwrap()).into_owned();
        assert!(!seen.contains(TOKEN) && !seen.contains(PASSPHRASE), "{seen}");
    }
    scan(rig.directory.path(), &[rig.path("secret"), rig.path("token"), rig.path("grants")]);
}

/// No file but those that hold a secret has one in it.
fn scan(directory: &Path, but: &[PathBuf]) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() || but.contains(&path) {
            continue;
        }
        if path.is_dir() {
            scan(&path, but);
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(PASSPHRASE) && !text.contains(TOKEN), "{}", path.display());
        }
    }
}
