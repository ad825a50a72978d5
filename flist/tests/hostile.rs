//! Flists that mean harm: each is refused with an error that names what is wrong, by the library and by
//! the command, and nothing is written anywhere.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

mod forge;
mod observe;

use std::fs;
use std::path::Path;
use std::process::Command;

use flist::format;
use flist::tree::Limits;
use forge::{DIRECTORY, FILE, SYMLINK, block, forge, forge_without_tables, inode, inode_with_size};
use observe::golden;

/// A flist, and what the error about it must say.
struct Case {
    flist: Vec<u8>,
    says: &'static [&'static str],
}

/// Every flist that is wrong in its rows, with small limits where the limits are what it exceeds.
fn case(sql: String, says: &'static [&'static str]) -> Case {
    Case { flist: forge(&sql), says }
}

fn error_of(flist: &[u8], limits: &Limits) -> String {
    match format::parse(flist, limits) {
        Err(error) => flist::report(&error),
        Ok(tree) => panic!("accepted with {} entries", tree.len()),
    }
}

/// Asks the library, `flist inspect`, `flist unpack` and `flist mount`.
fn assert_refused(case: &Case) {
    let assert_says = |text: &str| {
        for wanted in case.says {
            assert!(text.contains(wanted), "{wanted:?} is not in: {text}");
        }
    };
    assert_says(&error_of(&case.flist, &Limits::default()));

    let sandbox = tempfile::tempdir().unwrap();
    let flist = sandbox.path().join("hostile.fl");
    fs::write(&flist, &case.flist).unwrap();
    for directory in ["there", "outside", "store"] {
        fs::create_dir(sandbox.path().join(directory)).unwrap();
    }
    let before = observe::manifest(sandbox.path());
    for (subcommand, at) in
        [("inspect", None), ("unpack", Some("there")), ("unpack", Some("new")), ("mount", Some("there"))]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flist"));
        command.arg(subcommand).current_dir(sandbox.path());
        match at {
            Some(at) => command.args(["-s", "store", "-m"]).arg(&flist).arg(at),
            None => command.arg(&flist),
        };
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{subcommand}: {output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_says(&stderr);
        assert!(stderr.contains("hostile.fl"), "which flist? {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(observe::manifest(sandbox.path()), before, "{subcommand} has written something");
        assert!(observe::mounts_at(&sandbox.path().join("there")).is_empty());
    }
}

#[test]
fn what_is_no_flist() {
    assert_refused(&Case { flist: Vec::new(), says: &["it is empty"] });
    assert_refused(&Case { flist: b"<html>no such page</html>".to_vec(), says: &["neither an SQLite file"] });
    assert_refused(&Case {
        flist: vec![0x1f, 0x8b, 8, 0],
        says: &["classic flist", "cannot unpack its archive"],
    });
    assert_refused(&Case { flist: b"SQLite format 3\0".to_vec(), says: &["truncated: 16 of 100 bytes"] });
    let garbage = [&b"SQLite format 3\0"[..], &[7; 5000]].concat();
    assert_refused(&Case { flist: garbage, says: &["truncated"] });
}

#[test]
fn a_flist_truncated_anywhere() {
    let whole = fs::read(golden("rfs/golden.fl")).unwrap();
    format::parse(&whole, &Limits::default()).unwrap();
    let near_the_end = whole.len() - 5000..whole.len();
    for length in (0..whole.len()).step_by(97).chain(near_the_end.step_by(7)).chain([whole.len() - 1]) {
        let error = error_of(&whole[..length], &Limits::default());
        assert!(error.contains("truncated") || length < 16, "{length}: {error}");
    }
    let says: &[&str] = &["truncated: 45055 of 45056 bytes"];
    assert_refused(&Case { flist: whole[..whole.len() - 1].to_vec(), says });
}

#[test]
fn a_damaged_flist_is_an_error_or_a_tree_but_never_a_crash() {
    let whole = fs::read(golden("rfs/golden.fl")).unwrap();
    let limits = Limits { entries: 10_000, blocks: 10_000, ..Limits::default() };
    let mut refused = 0;
    for (place, round) in (16..whole.len()).step_by(41).zip(0_u8..=255) {
        for value in [0, 255, round, whole[place] ^ 0x80] {
            let mut damaged = whole.clone();
            damaged[place] = value;
            refused += usize::from(format::parse(&damaged, &limits).is_err());
        }
    }
    assert!(refused > 0);
}

#[test]
fn wrong_schemas() {
    let says: &[&str] = &["cannot read table inode", "no such table: inode"];
    assert_refused(&Case { flist: forge_without_tables("CREATE TABLE other (x)"), says });
    assert_refused(&case("DROP TABLE block".into(), &["table block", "no such table: block"]));
    assert_refused(&case(
        "ALTER TABLE inode DROP COLUMN mode".into(),
        &["table inode", "no such column: mode"],
    ));
    assert_refused(&case("DELETE FROM inode".into(), &["no root directory"]));
    assert_refused(&case(format!("UPDATE inode SET mode = {FILE}"), &["no root directory"]));
    assert_refused(&case("UPDATE inode SET parent = 1".into(), &["no root directory"]));
}

#[test]
fn a_schema_that_would_run_something() {
    let as_view = "ALTER TABLE inode RENAME TO hidden; CREATE VIEW inode AS SELECT * FROM hidden;";
    assert_refused(&case(as_view.into(), &["'inode' is not an ordinary table"]));
    let endless = "DROP TABLE block; CREATE VIEW block AS WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n)
                   SELECT i AS ino, zeroblob(32) AS id, zeroblob(32) AS key, i AS rowid FROM n;";
    assert_refused(&case(endless.into(), &["'block' is not an ordinary table"]));
    let computed =
        "DROP TABLE extra; CREATE TABLE extra (ino INTEGER PRIMARY KEY, data AS (zeroblob(999999999)));
                    INSERT INTO extra (ino) VALUES (2);";
    assert_refused(&case(computed.into(), &["'extra' is not an ordinary table"]));
    let twice =
        "DROP TABLE tag; CREATE TABLE tag (key, value); INSERT INTO tag VALUES ('k', 'a'), ('k', 'b');";
    assert_refused(&case(twice.into(), &["table tag", "key is there twice"]));
    let vfs = "DROP TABLE tag; CREATE VIRTUAL TABLE tag USING fts5(key, value);";
    assert_refused(&case(vfs.into(), &["'tag' is not an ordinary table"]));
}

#[test]
fn triggers_are_ignored() {
    let trigger = "CREATE TRIGGER t AFTER INSERT ON inode BEGIN DELETE FROM inode; END;";
    let tree = format::parse(&forge(trigger), &Limits::default()).unwrap();
    assert!(tree.is_empty());
}

#[test]
fn wrong_types() {
    let file = inode(2, 1, "'f'", FILE);
    for (change, says) in [
        (
            "UPDATE inode SET size = 'big' WHERE ino = 2",
            &["inode 2: column size holds a value of type Text"][..],
        ),
        ("UPDATE inode SET size = -1 WHERE ino = 2", &["inode 2: column size is out of range: -1"]),
        ("UPDATE inode SET size = 1.5 WHERE ino = 2", &["inode 2: column size holds a value of type Real"]),
        ("UPDATE inode SET name = NULL WHERE ino = 2", &["inode 2: column name holds a value of type Null"]),
        ("UPDATE inode SET parent = 'x' WHERE ino = 2", &["inode 2: column parent holds"]),
        ("UPDATE inode SET mode = -5 WHERE ino = 2", &["inode 2: column mode is out of range: -5"]),
        ("UPDATE inode SET uid = 4294967296 WHERE ino = 2", &["inode 2: column uid is out of range"]),
        ("UPDATE inode SET gid = 4294967295 WHERE ino = 2", &["inode 2: column gid is out of range"]),
        (
            "UPDATE inode SET mtime = x'00' WHERE ino = 2",
            &["inode 2: column mtime holds a value of type Blob"],
        ),
        (
            "INSERT INTO route VALUES (0, 256, 'dir:///x')",
            &["table route", "column end is out of range: 256"],
        ),
        ("INSERT INTO route VALUES (0, 255, 'dir:///x' || char(10))", &["table route", "control characters"]),
        ("INSERT INTO tag VALUES ('k', x'ff')", &["table tag", "column value is not UTF-8"]),
        (
            "INSERT INTO tag VALUES ('k', printf('%.300000c', 'x'))",
            &["column value has 300000 bytes, the limit is 262144"],
        ),
    ] {
        assert_refused(&case(format!("{file}{change}"), says));
    }
}

#[test]
fn names_that_lead_elsewhere() {
    for (name, says) in [
        ("'..'", &["inode 2 in directory ''", "'..' cannot be the name of an entry"][..]),
        ("'.'", &["inode 2", "'.' cannot be"]),
        ("'/etc'", &["inode 2", "'/etc' cannot be"]),
        ("'../outside/x'", &["inode 2", "'../outside/x' cannot be"]),
        ("'a/b'", &["inode 2", "'a/b' cannot be"]),
        ("''", &["inode 2", "'' cannot be"]),
        ("x'610062'", &["inode 2", r"'a\x00b' cannot be"]),
        ("CAST(x'610062' AS TEXT)", &["inode 2", r"'a\x00b' cannot be"]),
        ("printf('%.300c', 'x')", &["inode 2: column name has 300 bytes, the limit is 255"]),
    ] {
        for mode in [FILE, DIRECTORY] {
            assert_refused(&case(inode(2, 1, name, mode), says));
        }
    }
    let beneath = inode(2, 1, "'d'", DIRECTORY) + &inode(3, 2, "'..'", DIRECTORY) + &inode(4, 3, "'x'", FILE);
    assert_refused(&case(beneath, &["inode 3 in directory 'd'", "'..'"]));
}

#[test]
fn entries_that_form_no_tree() {
    let entries = |rows: &[String]| rows.concat();
    let twice = entries(&[inode(2, 1, "'f'", FILE), inode(3, 1, "'f'", FILE)]);
    assert_refused(&case(twice, &["'f' is there twice"]));
    let disguised = entries(&[inode(2, 1, "'f'", FILE), inode(3, 1, "x'66'", DIRECTORY)]);
    assert_refused(&case(disguised, &["'f' is there twice"]));
    let cycle = entries(&[inode(2, 3, "'a'", DIRECTORY), inode(3, 2, "'b'", DIRECTORY)]);
    assert_refused(&case(cycle, &["inode 2 ('a')", "cycle", "2 such entries"]));
    assert_refused(&case(inode(2, 2, "'own'", DIRECTORY), &["inode 2 ('own')", "cycle"]));
    assert_refused(&case(inode(2, 99, "'orphan'", FILE), &["inode 2 ('orphan')", "parents is missing"]));
    assert_refused(&case(inode(2, 0, "'second root'", DIRECTORY), &["inode 2 ('second root')"]));
    let beneath_link = entries(&[
        inode(2, 1, "'link'", SYMLINK),
        "INSERT INTO extra VALUES (2, '../outside');".into(),
        inode(3, 2, "'x'", FILE),
    ]);
    assert_refused(&case(beneath_link, &["'link/x' lies beneath 'link', which is a symlink"]));
    let beneath_file = entries(&[inode(2, 1, "'file'", FILE), inode(3, 2, "'x'", FILE)]);
    assert_refused(&case(beneath_file, &["'file/x' lies beneath 'file', which is a file"]));
    assert_refused(&case(inode(2, 1, "'odd'", 0o150_644), &["'odd'", "unknown file type 0o150000"]));
    assert_refused(&case(inode(2, 1, "'none'", 0o644), &["'none'", "unknown file type 0o0"]));
}

#[test]
fn inodes_that_are_there_twice() {
    let unkeyed =
        "CREATE TABLE copy AS SELECT * FROM inode; DROP TABLE inode; ALTER TABLE copy RENAME TO inode;";
    let twice = inode(2, 1, "'seen'", FILE) + &inode(2, 1, "'unseen'", FILE);
    assert_refused(&case(format!("{unkeyed}{twice}"), &["table inode has inode 2 twice"]));
    let link = inode(2, 1, "'l'", SYMLINK);
    let targets =
        "DROP TABLE extra; CREATE TABLE extra (ino, data); INSERT INTO extra VALUES (2, 'a'), (2, 'b');";
    assert_refused(&case(format!("{link}{targets}"), &["table extra has inode 2 twice"]));
}

#[test]
fn symlinks_without_a_sound_target() {
    let link = inode(2, 1, "'l'", SYMLINK);
    for (target, says) in [
        ("", &["symlink 'l' is missing"][..]),
        ("INSERT INTO extra VALUES (2, '')", &["symlink 'l' is empty"]),
        ("INSERT INTO extra VALUES (2, x'6100')", &["symlink 'l' holds a NUL byte"]),
        ("INSERT INTO extra VALUES (2, printf('%.5000c', 'x'))", &["inode 2: column data has 5000 bytes"]),
        ("INSERT INTO extra VALUES (2, NULL)", &["inode 2: column data holds a value of type Null"]),
    ] {
        assert_refused(&case(format!("{link}{target}"), says));
    }
}

#[test]
fn blocks_and_sizes_that_do_not_fit() {
    let sized = |size: &str| inode_with_size(2, 1, "'f'", FILE, size);
    let blocks = |count: usize| block(2, 32, 32).repeat(count);
    assert_refused(&case(block(2, 32, 32), &["blocks for inode 2, which is not a regular file"]));
    let of_directory = inode(2, 1, "'d'", DIRECTORY) + &block(2, 32, 32);
    assert_refused(&case(of_directory, &["blocks for inode 2"]));
    assert_refused(&case(sized("1") + &block(2, 31, 32), &["inode 2: column id has 31 bytes, expected 32"]));
    assert_refused(&case(sized("1") + &block(2, 32, 31), &["inode 2: column key has 31 bytes, expected 32"]));
    assert_refused(&case(sized("-7"), &["inode 2: column size is out of range: -7"]));
    assert_refused(&case(sized("1 << 40"), &["the size of 'f' 1099511627776 exceeds the limit"]));
    assert_refused(&case(sized("1"), &["'f' claims 1 bytes but has 0 blocks"]));
    assert_refused(&case(sized("0") + &blocks(1), &["'f' claims 0 bytes but has 1 blocks"]));
    assert_refused(&case(sized("524288") + &blocks(2), &["'f' claims 524288 bytes but has 2 blocks"]));
    assert_refused(&case(sized("524289") + &blocks(1), &["'f' claims 524289 bytes but has 1 blocks"]));
}

#[test]
fn more_than_the_limits_allow() {
    let million =
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1000001) INSERT INTO ";
    let small = Limits { entries: 1000, blocks: 1000, routes: 10, ..Limits::default() };
    let entries = format!("{million} inode SELECT i, 1, 'f' || i, 0, 0, 0, {FILE}, 0, 0, 0 FROM n");
    assert!(error_of(&forge(&entries), &small).contains("more than 1000 entries"));
    let blocks = format!("{million} block SELECT 2, zeroblob(32), zeroblob(32) FROM n");
    assert!(error_of(&forge(&blocks), &small).contains("more than 1000 blocks"));
    let targets = format!("{million} extra SELECT i, 'x' FROM n");
    assert!(error_of(&forge(&targets), &small).contains("more than 1000 link targets"));
    let routes = format!("{million} route SELECT 0, 255, 'dir:///x' FROM n");
    assert!(error_of(&forge(&routes), &small).contains("more than 10 routes"));
    let tags = format!("{million} tag SELECT i, 'x' FROM n");
    assert!(error_of(&forge(&tags), &small).contains("more than 10 tags"));
}

#[test]
fn trees_that_are_too_deep_or_too_long() {
    let chain = |levels: i64, name: &str| {
        (2..levels + 2).map(|i| inode(i, i - 1, name, DIRECTORY)).collect::<String>()
    };
    format::parse(&forge(&chain(128, "'d'")), &Limits::default()).unwrap();
    assert_refused(&case(chain(129, "'d'"), &["the depth of 'd/d/", "129 exceeds the limit of 128"]));
    assert_refused(&case(
        chain(17, "printf('%.250c', 'd')"),
        &["inode 18 in directory 'ddd", "has 4266 bytes, the limit is 4095"],
    ));
    let small = Limits { path_bytes: 10, ..Limits::default() };
    let error = error_of(&forge(&chain(4, "'dd'")), &small);
    assert!(error.contains("all paths up to 'dd/dd/dd' 15 exceeds the limit of 10"), "{error}");
}

#[test]
fn a_flist_file_that_is_too_large_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.fl");
    fs::write(&path, forge("")).unwrap();
    let limits = Limits { flist_bytes: 4096, ..Limits::default() };
    let error = flist::report(&format::read(&path, &limits).unwrap_err());
    assert!(error.contains("large.fl has more than 4096 bytes"), "{error}");
    let error = flist::report(&format::read(Path::new("/nowhere.fl"), &limits).unwrap_err());
    assert!(error.contains("/nowhere.fl") && error.contains("No such file"), "{error}");
}
