//! Small flists with a million rows: every command refuses them, and needs little memory for that.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "the other tests of hostile flists use the rest")]
mod forge;
mod observe;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use forge::{FILE, forge, inode};

/// How much address space a command may have, in KiB.
const ADDRESS_SPACE: u32 = 1_000_000;

/// Inserts what is selected for each `i` of a million.
const MILLION: &str =
    "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1000001) INSERT INTO ";

/// Runs `flist` in a directory, with little memory.
fn flist(directory: &Path, arguments: &[impl AsRef<OsStr>]) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_flist")).args(arguments).current_dir(directory).output().unwrap()
}

/// A directory with `hostile.fl`, a sound flist, and an empty directory.
fn place(hostile: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("hostile.fl"), forge(hostile)).unwrap();
    fs::write(place.path().join("sound.fl"), forge("")).unwrap();
    for directory in ["there", "store"] {
        fs::create_dir(place.path().join(directory)).unwrap();
    }
    place
}

fn assert_refused_by_every_command(hostile: &str, says: &str) {
    let place = place(hostile);
    let before = observe::manifest(place.path());
    for arguments in [
        &["inspect", "hostile.fl"][..],
        &["verify", "-s", "store", "-m", "hostile.fl"],
        &["diff", "sound.fl", "hostile.fl"],
        &["diff", "hostile.fl", "sound.fl"],
        &["unpack", "-s", "store", "-m", "hostile.fl", "there"],
        &["mount", "-s", "store", "-m", "hostile.fl", "there"],
    ] {
        let output = flist(place.path(), arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(stderr.contains("hostile.fl") && stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(observe::manifest(place.path()) == before, "{arguments:?} has written something");
        assert!(observe::mounts_at(&place.path().join("there")).is_empty());
    }
}

#[test]
fn a_million_blocks_of_an_empty_file() {
    let blocks = format!("{MILLION} block SELECT 2, zeroblob(32), zeroblob(32) FROM n");
    assert_refused_by_every_command(
        &(inode(2, 1, "'f'", FILE) + &blocks),
        "'f' claims 0 bytes but has 1000000 blocks",
    );
}

#[test]
fn a_million_tags_or_routes() {
    assert_refused_by_every_command(&format!("{MILLION} tag SELECT i, 'x' FROM n"), "more than 64 tags");
    let routes = format!("{MILLION} route SELECT 0, 255, 'dir:///x' FROM n");
    assert_refused_by_every_command(&routes, "more than 64 routes");
}

#[test]
fn a_million_entries_that_lead_nowhere() {
    let orphans = format!("{MILLION} inode SELECT i, 0, 'f', 0, 0, 0, {FILE}, 0, 0, 0 FROM n");
    let place = place(&orphans);
    let output = flist(place.path(), &["inspect", "hostile.fl"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("is not connected to the root") && stderr.contains("1000000 such"), "{stderr}");
}
