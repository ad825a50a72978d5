//! `flist gc` on the directory of a real hub.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

mod serving;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serving::{FLIST, Serving};

fn flist(arguments: &[&str]) -> String {
    let output = Command::new(FLIST).args(arguments).env("RUST_LOG", "warn").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn blocks(root: &Path) -> usize {
    let directories = fs::read_dir(root.join("store")).unwrap();
    directories.map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn a_block_that_a_publisher_finds_is_as_good_as_new() {
    let place = tempfile::tempdir().unwrap();
    let (root, source) = (place.path().join("hub"), place.path().join("source"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let hub = Serving::start(&root, &[]);
    let publish = |version: &str| {
        let mut arguments = vec!["publish", "--hub", &hub.url, "--repo", "a", "--name", "app"];
        arguments.extend(["--version", version, "--run-mode", "dev", source.to_str().unwrap()]);
        flist(&arguments)
    };
    publish("1.0.0");
    let directory = fs::read_dir(root.join("store")).unwrap().next().unwrap().unwrap().path();
    let block = fs::read_dir(directory).unwrap().next().unwrap().unwrap().path();
    fs::File::open(&block).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    publish("2.0.0");
    assert!(fs::metadata(&block).unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH);
    assert!(hub.stop());
}

#[test]
fn blocks_of_a_removed_release_go_and_the_others_can_still_be_read() {
    let place = tempfile::tempdir().unwrap();
    let (root, source) = (place.path().join("hub"), place.path().join("source"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("common"), "in both releases").unwrap();
    let hub = Serving::start(&root, &[]);
    for version in ["1.0.0", "2.0.0"] {
        fs::write(source.join("changed"), version).unwrap();
        let source = source.to_str().unwrap();
        flist(&[
            "publish",
            "--hub",
            &hub.url,
            "--repo",
            "a",
            "--name",
            "app",
            "--version",
            version,
            "--run-mode",
            "dev",
            source,
        ]);
    }
    flist(&["rm", "--hub", &hub.url, "a/app:v1.0.0.flist"]);
    assert!(hub.stop());
    assert_eq!(blocks(&root), 3);

    let directory = root.to_str().unwrap();
    let text = flist(&["gc", "--root", directory]);
    assert!(text.contains("removed 0 blocks") && text.contains("1 that are too young"), "{text}");
    let text = flist(&["gc", "--root", directory, "--older-than", "0s", "--dry-run"]);
    assert!(text.contains("would remove 1 block "), "{text}");
    assert_eq!(blocks(&root), 3);
    let json = flist(&["gc", "--root", directory, "--older-than", "0s", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["removed"], &json["needed"], &json["flists"]), (&1.into(), &2.into(), &1.into()));
    assert_eq!(blocks(&root), 2);
    let left = root.join("public/users/a/app:v2.0.0.flist");
    flist(&["verify", "-s", root.join("store").to_str().unwrap(), "-m", left.to_str().unwrap()]);
}
