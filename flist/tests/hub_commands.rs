//! The commands that publish, as a person uses them, against `flist serve` with tokens.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod serving;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serving::{FLIST, Serving};

const SECRET: &str = "a-token-0123456789abcdef";

struct Rig {
    hub: Serving,
    directory: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        fs::write(&token, format!("{SECRET} zos bins # for the test\n")).unwrap();
        fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
        let root = directory.path().join("hub");
        let hub = Serving::start(&root, &["--token-file", token.to_str().unwrap()]);
        let tree = directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        Self { hub, directory }
    }

    fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let (subcommand, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(FLIST);
        command.env_remove("FLIST_TOKEN").env_remove("FLIST_HUB").env("RUST_LOG", "warn");
        command.arg(subcommand).args(["--hub", &self.hub.url]).args(rest);
        command
    }

    /// What a command with the token says.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).env("FLIST_TOKEN", SECRET).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Why a command with the token is refused.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).env("FLIST_TOKEN", SECRET).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} was not refused");
        errors(&output)
    }

    fn publish(&self, repo: &str, name: &str, version: &str, more: &[&str]) -> Vec<String> {
        let tree = self.tree();
        let fixed = ["publish", "--repo", repo, "--name", name, "--version", version];
        fixed.iter().chain(more).map(|text| (*text).to_owned()).chain([tree.display().to_string()]).collect()
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_release_goes_from_one_run_mode_to_the_next() {
    let rig = Rig::start();
    let publish = rig.publish("zos", "zos", "1.0.0", &["--run-mode", "dev"]);
    let refused = rig.command(&words(&publish)).output().unwrap();
    assert!(!refused.status.success());
    let text = errors(&refused);
    assert!(text.contains("401") && text.contains("--token-file or FLIST_TOKEN"), "{text}");
    let said = rig.says(&words(&publish));
    assert!(said.contains("zos/zos:development:latest.flist now points to it"), "{said}");

    let said = rig.says(&["promote", "--repo", "zos", "--name", "zos", "dev", "test"]);
    assert_eq!(said, "zos/zos:testing:latest.flist now points to zos/zos:v1.0.0.flist\n");
    let text = rig.refused(&["promote", "--repo", "zos", "--name", "zos", "qa", "prod"]);
    assert!(text.contains("zos/zos:qa:latest.flist does not exist"), "{text}");
    let listed = rig.says(&["list", "zos"]);
    assert!(listed.contains("zos:testing:latest.flist -> zos:v1.0.0.flist\n"), "{listed}");
    assert!(
        listed.lines().any(|line| line.starts_with("flist ") && line.ends_with("  zos:v1.0.0.flist")),
        "{listed}"
    );
    let text = rig.refused(&["rm", "zos/zos:v1.0.0.flist"]);
    assert!(
        text.contains("still needed by zos/zos:development:latest.flist, zos/zos:testing:latest.flist"),
        "{text}"
    );
    assert!(text.contains("use --force") && !text.contains("force=1"), "{text}");
    rig.says(&[
        "rm",
        "zos/zos:development:latest.flist",
        "zos/zos:testing:latest.flist",
        "zos/zos:v1.0.0.flist",
    ]);
    assert_eq!(rig.says(&["list", "zos"]), "");
    let text = rig.refused(&["list", "nobody"]);
    assert!(text.contains("repo nobody does not exist"), "{text}");
    assert!(rig.hub.stop(), "the hub did not stop properly");
}

#[test]
fn a_version_is_replaced_on_purpose_only() {
    let rig = Rig::start();
    rig.says(&words(&rig.publish("zos", "zos", "1.0.0", &[])));
    fs::write(rig.tree().join("file"), "other").unwrap();
    let text = rig.refused(&words(&rig.publish("zos", "zos", "1.0.0", &[])));
    assert!(text.contains("use --replace") && !text.contains("replace=1"), "{text}");
    rig.says(&words(&rig.publish("zos", "zos", "1.0.0", &["--replace"])));
    let link = ["link", "zos/zos:v2.flist", "zos/zos:v1.0.0.flist"];
    let said = rig.says(&[&link[..1], &["--json"], &link[1..]].concat());
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["target"], "zos/zos:v1.0.0.flist");
}

#[test]
fn blocks_are_packed_into_the_store_of_a_hub_with_its_token() {
    let rig = Rig::start();
    let (tree, flist) = (rig.tree(), rig.directory.path().join("app.fl"));
    let pack = |arguments: &[&str]| {
        let mut command = Command::new(FLIST);
        command.env_remove("FLIST_TOKEN").env("RUST_LOG", "warn").args(["pack", "-m"]).arg(&flist);
        command.args(["-s", &format!("{}/store", rig.hub.url)]).args(arguments).arg(&tree).output().unwrap()
    };
    let refused = pack(&[]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(errors(&refused).contains("--token-file or FLIST_TOKEN"), "{refused:?}");
    assert!(!flist.exists());
    let token = rig.directory.path().join("token");
    let packed = pack(&["--token-file", token.to_str().unwrap()]);
    assert!(packed.status.success(), "{packed:?}");
    assert!(String::from_utf8(packed.stdout).unwrap().contains("new to the store: 1"));
}

#[test]
fn tags_and_taglinks() {
    let rig = Rig::start();
    rig.says(&words(&rig.publish("bins", "zos", "1.0.0", &[])));
    rig.says(&words(&rig.publish("bins", "net", "7.0.0", &[])));
    let said = rig.says(&["tag", "zos/tags/1.0.0", "bins/zos:v1.0.0.flist", "network=bins/net:v7.0.0.flist"]);
    assert_eq!(said, "zos/tags/1.0.0 has 2 flists\n");
    let said = rig.says(&["link", "zos/qa", "zos/tags/1.0.0"]);
    assert_eq!(said, "zos/qa now points to zos/tags/1.0.0\n");
    let said = rig.says(&["promote", "--repo", "zos", "qa", "prod"]);
    assert_eq!(said, "zos/production now points to zos/tags/1.0.0\n");
    let said = rig.says(&["link", "zos/zos:qa:latest.flist", "bins/zos:v1.0.0.flist"]);
    assert_eq!(said, "zos/zos:qa:latest.flist now points to bins/zos:v1.0.0.flist\n");

    let json: serde_json::Value =
        serde_json::from_str(&rig.says(&["list", "--json", "zos/tags/1.0.0"])).unwrap();
    assert_eq!(json[0]["name"], "network.flist");
    assert_eq!(json[0]["target"], "bins/net:v7.0.0.flist");
    assert_eq!(json[1]["name"], "zos.flist");
    assert_eq!(rig.says(&["list"]), "bins\nzos\n");
    let listed = rig.says(&["list", "zos"]);
    assert!(listed.contains("production -> zos/tags/1.0.0\n"), "{listed}");

    let text = rig.refused(&["tag", "zos/tags/1.0.0", "bins/zos:v1.0.0.flist"]);
    assert!(text.contains("409") && text.contains("exists with other entries"), "{text}");
    assert!(text.contains("use --replace") && !text.contains("replace=1"), "{text}");
    rig.says(&["tag", "--replace", "zos/tags/1.0.0", "bins/zos:v1.0.0.flist"]);
    let text = rig.refused(&["rm", "zos/tags/1.0.0"]);
    assert!(text.contains("needed by zos/production, zos/qa"), "{text}");
    let said = rig.says(&["rm", "zos/qa", "zos/production", "zos/tags/1.0.0"]);
    assert_eq!(said, "removed taglink zos/qa\nremoved taglink zos/production\nremoved tag zos/tags/1.0.0\n");
    let text = rig.refused(&["tag", "other/tags/1.0.0", "bins/zos:v1.0.0.flist"]);
    assert!(text.contains("403") && text.contains("not for repo other"), "{text}");
}

#[test]
fn secrets_are_neither_taken_from_open_files_nor_shown() {
    let rig = Rig::start();
    let open = rig.directory.path().join("open");
    fs::write(&open, SECRET).unwrap();
    fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
    let with_file = |path: &str| {
        rig.command(&["rm", "--token-file", path, "zos/qa"]).env("RUST_LOG", "trace").output().unwrap()
    };
    let text = errors(&with_file(open.to_str().unwrap()));
    assert!(text.contains("chmod 600"), "{text}");
    fs::set_permissions(&open, PermissionsExt::from_mode(0o600)).unwrap();
    let output = with_file(open.to_str().unwrap());
    let text = errors(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("taglink zos/qa does not exist") && !text.contains(SECRET), "{text}");
    let help = Command::new(FLIST).args(["rm", "--help"]).env("FLIST_TOKEN", SECRET).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Examples:") && !help.contains(SECRET), "{help}");
}

const PASSWORD: &str = "topsecret-0123456789";

/// Addresses of hubs have no passwords, but people write them there.
#[test]
fn passwords_in_addresses_of_hubs_are_refused_and_shown_by_no_command() {
    let directory = tempfile::tempdir().unwrap();
    let init = |what: &str| {
        let secret = directory.path().join("secret");
        fs::write(&secret, "a passphrase of the tests\n").unwrap();
        fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let dir = directory.path().join(what);
        let output = Command::new(FLIST)
            .args([what, "init", "--dir"])
            .arg(&dir)
            .arg("--passphrase-file")
            .arg(&secret)
            .output();
        assert!(output.as_ref().unwrap().status.success(), "{output:?}");
        [dir, secret].map(|path| path.display().to_string())
    };
    let ([trust, secret], [director, _]) = (init("trust"), init("director"));
    let signs = ["--passphrase-file", &secret];
    let of = ["--run-mode", "dev", "--channel", "a/dev"];
    let root = format!("{trust}/root.json");
    let commands: [&[&[&str]]; 11] = [
        &[&["list"]],
        &[&["rm", "a/b.flist"]],
        &[&["link", "a/b.flist", "a/c.flist"]],
        &[&["tag", "a/tags/1.0.0", "a/b.flist"]],
        &[&["promote", "--repo", "a", "dev", "test"]],
        &[&["publish", "--repo", "a", "--name", "b", "--version", "1.0.0", "/proc/self/fd"]],
        &[&["trust", "release", "--dir", &trust, "--version", "1.0.0", "a/b.flist"], &of, &signs],
        &[&["trust", "refresh", "--dir", &trust], &signs],
        &[&["trust", "refresh", "--dir", &director], &signs],
        &[&["trust", "check", "--root", &root]],
        &[
            &["director", "assign", "--dir", &director, "--root", &root, "--version", "1.0.0", "--node", "n"],
            &of,
            &signs,
        ],
    ];
    let addresses = [
        format!("https://u:{PASSWORD}@hub.example"),
        format!("ftp://{PASSWORD}@hub.example"),
        format!("https://hub.example/?token={PASSWORD}"),
        format!("u:{PASSWORD}@hub.example"),
        format!("http://u:{PASSWORD}@hub.example:none"),
    ];
    for words in commands {
        let words = words.concat();
        for address in &addresses {
            for more in [&[][..], &["--json"], &["--help"]] {
                let mut command = Command::new(FLIST);
                command.env("RUST_LOG", "trace").env("FLIST_HUB", address).args(&words).args(more);
                let output = command.output().unwrap();
                let said = errors(&output) + &String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() == (more == ["--help"]), "{words:?} {address}: {said}");
                assert!(!said.contains(PASSWORD), "{words:?}: {said}");
                assert!(said.contains("hub.example") || more == ["--help"], "{words:?}: {said}");
            }
        }
    }
    // A token that is no text is not shown either.
    use std::os::unix::ffi::OsStrExt;
    let token = [PASSWORD.as_bytes(), b"\xff"].concat();
    let mut command = Command::new(FLIST);
    command.args(["rm", "--hub", "http://127.0.0.1:1", "a/b.flist"]);
    let output = command.env("FLIST_TOKEN", std::ffi::OsStr::from_bytes(&token)).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    assert!(
        errors(&output).contains("FLIST_TOKEN") && !errors(&output).contains(PASSWORD),
        "{}",
        errors(&output)
    );
}

#[test]
fn passwords_of_stores_are_neither_published_nor_shown() {
    let rig = Rig::start();
    let with_password = format!("zdb://:{PASSWORD}@127.0.0.1:9/ns");
    let published = rig.publish("zos", "zos", "1.0.0", &["--route", &with_password]);
    rig.says(&words(&published));
    let flist = rig.directory.path().join("hub/public/users/zos/zos:v1.0.0.flist");
    let has = |what: &str| {
        let bytes = fs::read(&flist).unwrap();
        bytes.windows(what.len()).any(|part| part == what.as_bytes())
    };
    assert!(has("zdb://127.0.0.1:9/ns") || has("zdb://@127.0.0.1:9/ns"));
    assert!(!has(PASSWORD), "everybody who reads the flist knows it");
    let on_purpose = rig.publish("zos", "zos", "1.0.0", &["--route", &with_password, "--keep-passwords"]);
    let on_purpose: Vec<&str> = words(&on_purpose).into_iter().chain(["--replace"]).collect();
    rig.says(&on_purpose);
    assert!(has(PASSWORD));

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = format!("http://me:{PASSWORD}@{nobody}/store");
    let mut verify = Command::new(FLIST);
    verify.env("RUST_LOG", "trace").args(["verify", "-s", &store, "-m"]).arg(&flist);
    let output = verify.output().unwrap();
    assert!(!output.status.success());
    let said = errors(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("{nobody}/store")) && !said.contains(PASSWORD), "{said}");
}

/// A proxy is found as by other programs, and passed by for the hosts that are named.
#[test]
fn a_proxy_is_used_where_the_environment_names_one() {
    let rig = Rig::start();
    rig.says(&words(&rig.publish("zos", "app", "1.0.0", &[])));
    let list = |hub: &str, environment: &[(&str, &str)]| {
        let mut command = Command::new(FLIST);
        for name in
            ["FLIST_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"]
        {
            command.env_remove(name);
        }
        command.args(["list", "--hub", hub, "zos"]).envs(environment.iter().copied());
        let output = command.output().unwrap();
        (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), errors(&output)))
    };
    // The hub answers whichever host it is asked for, so it can stand for a proxy.
    let elsewhere = "http://hub.invalid";
    let (code, said) = list(elsewhere, &[("HTTP_PROXY", &rig.hub.url)]);
    assert!(code == Some(0) && said.contains("app:v1.0.0"), "{said}");
    let (code, said) = list(elsewhere, &[("HTTP_PROXY", &rig.hub.url), ("NO_PROXY", "hub.invalid")]);
    assert_eq!(code, Some(3), "{said}");
    // A proxy that is not there is in nobody's way who is not to use it.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{gone}");
    let (code, said) = list(&rig.hub.url, &[("HTTP_PROXY", &gone)]);
    assert_eq!(code, Some(3), "{said}");
    let (code, said) = list(&rig.hub.url, &[("HTTP_PROXY", &gone), ("NO_PROXY", "127.0.0.1")]);
    assert!(code == Some(0) && said.contains("app:v1.0.0"), "{said}");
}
