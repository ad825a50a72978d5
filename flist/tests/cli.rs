//! The command line by itself: what it refuses, what it says, and its exit codes.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod serving;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serving::{FLIST, Serving};
use tempfile::TempDir;

/// An address at which nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

/// A tree, and a place for everything else.
struct Place {
    at: TempDir,
}

impl Place {
    fn new() -> Self {
        let at = tempfile::tempdir().unwrap();
        fs::create_dir(at.path().join("tree")).unwrap();
        fs::write(at.path().join("tree/file"), "content").unwrap();
        Self { at }
    }

    /// A place with `app.fl` of the tree, and its blocks in `blocks`.
    fn packed() -> Self {
        let place = Self::new();
        place.succeeds(&["pack", "-m", "app.fl", "-s", "blocks", "tree"]);
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.at.path().join(name)
    }

    /// Runs a command; one that should be refused and is not would stay, so it is ended in the end.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["60", FLIST]);
        command.env_remove("FLIST_TOKEN").env_remove("FLIST_HUB").env("RUST_LOG", "warn");
        command.current_dir(self.at.path()).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that ends with this code says on standard error.
    fn ends_with(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    /// Takes away the only block of `app.fl`.
    fn lose_the_block(&self) {
        fs::rename(self.path("blocks"), self.path("lost")).unwrap();
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn an_error_is_json_too_where_that_is_wanted() {
    let place = Place::packed();
    place.lose_the_block();
    for (code, arguments) in [
        (1, &["inspect", "--json", "tree/file"][..]),
        (2, &["list", "--json"]),
        (2, &["inspect", "--json"]),
        (3, &["list", "--json", "--hub", NOBODY]),
        (4, &["unpack", "--json", "app.fl", "new"]),
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["exit_code"], code, "{json}");
        assert!(json["error"].is_string() && json["causes"].is_array(), "{json}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn what_differs_or_is_missing_is_exit_code_6() {
    let place = Place::packed();
    fs::write(place.path("tree/more"), "more").unwrap();
    place.succeeds(&["pack", "-m", "more.fl", "-s", "blocks", "tree"]);
    assert!(place.run(&["diff", "app.fl", "app.fl"]).stdout.is_empty());
    let output = place.run(&["diff", "app.fl", "more.fl"]);
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8(output.stdout).unwrap().contains("+ /more (4 bytes)\n"));
    place.succeeds(&["verify", "app.fl"]);
    place.succeeds(&["verify", "-m", "app.fl"]);
    place.lose_the_block();
    let output = place.run(&["verify", "--json", "app.fl"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["bad"].as_array().unwrap().len(), 1, "{json}");
}

#[test]
fn a_store_that_cannot_be_reached_is_no_bad_block() {
    let place = Place::packed();
    // A port that nobody listens on any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = place.ends_with(3, &["verify", "app.fl", "-s", &format!("http://{gone}/store")]);
    assert!(text.contains("1 of 1 block missing or wrong"), "{text}");
}

#[test]
fn quiet_leaves_only_errors_and_what_was_asked_for() {
    let place = Place::packed();
    for arguments in [
        &["pack", "-q", "-m", "b.fl", "-s", "blocks", "tree"][..],
        &["--quiet", "verify", "app.fl"],
        &["unpack", "--quiet", "app.fl", "out"],
    ] {
        let output = place.run(arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0), "{output:?}");
    }
    assert!(place.succeeds(&["inspect", "-q", "app.fl"]).ends_with(" file\n"));
    assert!(place.ends_with(2, &["inspect", "-q", "nosuch.fl"]).contains("nosuch.fl"));
}

#[test]
fn an_unpack_that_fails_can_be_tried_again() {
    let place = Place::packed();
    fs::create_dir(place.path("empty")).unwrap();
    place.lose_the_block();
    for destination in ["new", "empty"] {
        let text = place.ends_with(4, &["unpack", "app.fl", destination]);
        assert!(text.contains(&format!("{destination} is as it was before")), "{text}");
    }
    assert!(!place.path("new").exists() && is_empty(&place.path("empty")));
    fs::rename(place.path("lost"), place.path("blocks")).unwrap();
    place.succeeds(&["unpack", "app.fl", "new"]);
    place.succeeds(&["unpack", "-m", "app.fl", "empty"]);
    assert_eq!(fs::read_to_string(place.path("new/file")).unwrap(), "content");
}

#[test]
fn an_unpack_where_something_is_in_the_way() {
    let place = Place::packed();
    fs::create_dir(place.path("mine")).unwrap();
    fs::write(place.path("mine/other"), "mine").unwrap();
    let text = place.ends_with(2, &["unpack", "app.fl", "mine"]);
    assert!(text.contains("mine is not empty") && text.contains("--merge"), "{text}");
    let text = place.ends_with(2, &["unpack", "app.fl", "app.fl"]);
    assert!(text.contains("app.fl is not a directory"), "{text}");
    let text = place.ends_with(2, &["unpack", "-m", "app.fl", "app.fl", "new"]);
    assert!(text.contains("given twice"), "{text}");
    place.succeeds(&["unpack", "--merge", "app.fl", "mine"]);
    let text = place.ends_with(5, &["unpack", "--merge", "app.fl", "mine"]);
    assert!(text.contains("'file' is already in mine; nothing was unpacked"), "{text}");
    assert_eq!(fs::read_to_string(place.path("mine/other")).unwrap(), "mine");
}

#[test]
fn a_mount_over_something_has_to_be_wanted() {
    let place = Place::packed();
    let text = place.ends_with(2, &["mount", "app.fl", "tree"]);
    assert!(text.contains("tree is not empty") && text.contains("--nonempty"), "{text}");
}

#[test]
fn a_pack_that_cannot_end_well_does_not_begin() {
    let place = Place::new();
    let text = place.ends_with(2, &["pack", "-m", "nowhere/x.fl", "-s", "blocks", "tree"]);
    assert!(text.contains("there is no directory nowhere"), "{text}");
    let text = place.ends_with(2, &["pack", "-m", "tree", "-s", "blocks", "tree"]);
    assert!(text.contains("it is a directory"), "{text}");
    for store in ["tree", "tree/blocks", "dir://./tree/a/b", "../../../proc/self/cwd/tree/x"] {
        let text = place.ends_with(2, &["pack", "-m", "x.fl", "-s", store, "tree"]);
        assert!(text.contains("its blocks would be packed too") || store.contains("proc"), "{text}");
    }
    assert!(!place.path("blocks").exists(), "something was packed");
}

#[test]
fn a_hub_that_is_none_is_found_before_anything_is_packed() {
    let place = Place::new();
    let publish = |hub: &str, version: &str, code: i32| {
        let fixed = ["publish", "--hub", hub, "--repo", "zos", "--name", "zos", "--version", version];
        place.ends_with(code, &[&fixed[..], &["no-such-directory"]].concat())
    };
    let text = publish(NOBODY, "1.0.0", 3);
    assert!(text.contains("cannot publish on hub http://127.0.0.1:9") && !text.contains("pack"), "{text}");
    assert!(publish("nonsense", "1.0.0", 2).contains("must start with http:// or https://"));
    assert!(publish(NOBODY, "1", 2).contains("a version has three numbers, such as 1.0.0"));
    let hub = Serving::start(&place.path("hub"), &[]);
    let text = publish(&format!("{}/elsewhere", hub.url), "1.0.0", 1);
    assert!(text.contains("this is not a hub"), "{text}");
    assert!(publish(&hub.url, "1.0.0", 2).contains("no-such-directory: there is no such directory"));
    let text = place.ends_with(2, &["link", "--hub", &hub.url, "bad", "zos/tags/1.0.0"]);
    assert!(text.contains("it names no repo; expected <repo>/<name>.flist"), "{text}");
    let output = place.run(&["list", "--hub", &hub.url]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("has no repos yet"));
    assert_eq!(place.succeeds(&["list", "--json", "--hub", &hub.url]), "[]\n");
}

#[test]
fn one_hub_for_one_directory_and_nothing_is_said_before_it_is_true() {
    let place = Place::new();
    let hub = Serving::start(&place.path("hub"), &[]);
    let listens_elsewhere = ["serve", "--listen", "127.0.0.1:0", "--root"];
    let text = place.ends_with(3, &[&listens_elsewhere[..], &["hub"]].concat());
    assert!(text.contains("uses hub already") && text.contains("process "), "{text}");
    let address = hub.address.to_string();
    for (code, arguments) in [
        (1, &["serve", "--root", "second", "--listen", &address][..]),
        (2, &["serve", "--root", "second", "--listen", "127.0.0.1:0", "--token-file", "none"]),
        (1, &["serve", "--root", "tree/file", "--listen", "127.0.0.1:0"]),
    ] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    assert!(hub.stop());
    assert!(Serving::start(&place.path("hub"), &[]).stop(), "the directory was not let go");
}

#[test]
fn the_documented_exit_codes_are_those_of_the_help() {
    let documented = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).unwrap();
    for line in flist::exit::EXIT_CODES.lines().skip(1) {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        assert!(documented.contains(&format!("| {code} | {meaning} |")), "{line}");
    }
    let help = Place::new().succeeds(&["--help"]);
    assert!(help.contains(flist::exit::EXIT_CODES), "{help}");
}
