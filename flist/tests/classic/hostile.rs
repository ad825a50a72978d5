//! Classic flists that mean harm are refused with an error that names what is wrong, and nothing is written anywhere.

use std::fs;
use std::process::Command;

use flist::format::classic::{self, directory_key};
use flist::format::{self, Format};
use flist::tree::{Content, Entry, Kind, Limits, Meta, Tree};

use crate::forge::{archive, changed, database_of, with_database, zeros};
use crate::observe::{self, golden};

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };

fn golden_flist() -> Vec<u8> {
    fs::read(golden("classic/golden.flist")).unwrap()
}

fn error_of(flist: &[u8], limits: &Limits) -> String {
    match format::parse(flist, limits) {
        Err(error) => flist::report(&error),
        Ok(tree) => panic!("accepted with {} entries", tree.len()),
    }
}

/// Asks the library and the commands.
fn assert_refused(flist: &[u8], says: &[&str]) {
    let assert_says = |text: &str| {
        for wanted in says {
            assert!(text.contains(wanted), "{wanted:?} is not in: {text}");
        }
    };
    assert_says(&error_of(flist, &Limits::default()));
    let sandbox = tempfile::tempdir().unwrap();
    fs::write(sandbox.path().join("hostile.flist"), flist).unwrap();
    for directory in ["there", "outside", "store"] {
        fs::create_dir(sandbox.path().join(directory)).unwrap();
    }
    let before = observe::manifest(sandbox.path());
    for arguments in [
        &["inspect", "hostile.flist"][..],
        &["unpack", "-s", "store", "-m", "hostile.flist", "there"],
        &["mount", "-s", "store", "-m", "hostile.flist", "there"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flist"));
        let output = command.args(arguments).current_dir(sandbox.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_says(&stderr);
        assert!(stderr.contains("hostile.flist"), "which flist? {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(observe::manifest(sandbox.path()), before, "{arguments:?} has written something");
    }
}

/// A sound flist with these entries, all empty.
fn flist_of(entries: &[(&str, Kind)]) -> Vec<u8> {
    let mut tree = Tree::new(META);
    for (path, kind) in entries {
        tree.insert(path.parse().unwrap(), Entry { meta: META, kind: kind.clone() }).unwrap();
    }
    classic::to_bytes(&tree).unwrap()
}

fn file() -> Kind {
    Kind::File(Content::default())
}

/// The same flist with other bytes of the same length in its messages.
fn patched(flist: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut database = database_of(flist);
    let places: Vec<_> =
        (0..=database.len() - from.len()).filter(|at| database[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "{} is not in it", from.escape_ascii());
    for at in places {
        database[at..at + to.len()].copy_from_slice(to);
    }
    with_database(&database)
}

#[test]
fn archives_that_are_none() {
    assert_refused(&[0x1f, 0x8b], &["cannot unpack its archive"]);
    assert_refused(&archive(&[]), &["holds no flistdb.sqlite3"]);
    assert_refused(&archive(&[("flistdb.sqlite3/x", b"")]), &["holds no flistdb.sqlite3"]);
    let database = database_of(&golden_flist());
    let twice = archive(&[("flistdb.sqlite3", &database), ("./flistdb.sqlite3", &database)]);
    assert_refused(&twice, &["holds flistdb.sqlite3 twice"]);
    assert_refused(&with_database(b"SQLite format 3\0"), &["truncated: 16 of 100 bytes"]);
    assert_refused(&with_database(&database[..database.len() - 1]), &["truncated"]);
    let router = archive(&[("flistdb.sqlite3", &database), ("router.yaml", &[b'x'; 70_000])]);
    assert_refused(&router, &["router.yaml of more than 65536 bytes"]);
    let router = archive(&[("flistdb.sqlite3", &database), ("router.yaml", b"lookup: [nowhere]")]);
    assert_refused(&router, &["router.yaml", "no pool 'nowhere'"]);
    // Others do no harm, wherever they would go.
    let others = archive(&[("../../../etc/passwd", b"x"), ("/flistdb.sqlite3", &database), ("a", b"")]);
    assert_eq!(format::parse(&others, &Limits::default()).unwrap().len(), crate::golden::golden_tree().len());
}

#[test]
fn what_is_after_the_archive_counts() {
    let mut longer = golden_flist();
    longer.extend_from_slice(b"garbage");
    assert_refused(&longer, &["cannot unpack its archive"]);
    let mut damaged = golden_flist();
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    assert_refused(&damaged, &["cannot unpack its archive"]);
}

#[test]
fn bombs() {
    let limits = Limits { flist_bytes: 8 << 20, ..Limits::default() };
    assert!(error_of(&zeros(64 << 20), &limits).contains("more than 8388608 bytes"));
    let database = database_of(&golden_flist());
    let many = [database, vec![0; 64 << 20]].concat();
    assert!(error_of(&with_database(&many), &limits).contains("more than 8388608 bytes"));
    // A header that says so is not believed.
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..15].copy_from_slice(b"flistdb.sqlite3");
    header.set_size(1 << 60);
    header.set_cksum();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, header.as_bytes()).unwrap();
    assert!(error_of(&gzip.finish().unwrap(), &limits).contains("archive"));
}

#[test]
fn tables_that_are_none() {
    let sql = |sql: &str| changed(&golden_flist(), sql);
    assert_refused(&sql("DROP TABLE entries"), &["table entries"]);
    assert_refused(&sql("DELETE FROM entries"), &["there is no directory ''"]);
    assert_refused(
        &sql("ALTER TABLE entries RENAME TO e; CREATE VIEW entries AS SELECT rowid, * FROM e"),
        &["'entries' is not an ordinary table"],
    );
    assert_refused(
        &sql("ALTER TABLE entries RENAME TO e; CREATE TABLE entries (key TEXT, value BLOB);
              INSERT INTO entries SELECT * FROM e; INSERT INTO entries SELECT * FROM e"),
        &["twice"],
    );
    assert_refused(&sql("UPDATE entries SET value = 7"), &["column value", "Integer"]);
    assert_refused(&sql("UPDATE entries SET value = x'00'"), &["directory ''", "is not readable"]);
    assert_refused(&sql("UPDATE metadata SET value = x'ff'"), &["metadata", "not UTF-8"]);
    // Without the table there are no tags.
    let twice = sql("DROP TABLE metadata; CREATE TABLE metadata (key, value);
        INSERT INTO metadata VALUES ('k', 'a'), ('k', 'b');");
    assert_refused(&twice, &["metadata", "is there twice"]);
    let without = sql("DROP TABLE metadata");
    let tree = format::parse(&without, &Limits::default()).unwrap();
    assert!(tree.tags.is_empty() && tree.routes.is_empty());
    let limits = Limits { routes: 2, ..Limits::default() };
    let many = sql("INSERT INTO metadata VALUES ('a', ''), ('b', ''), ('c', '')");
    assert!(error_of(&many, &limits).contains("more than 2 tags"));
}

#[test]
fn names_that_escape() {
    for name in ["../../etc/passwd", "/etc/passwd", "..", "a/b", "a\0b", "/bin/", "\0\0"] {
        let placeholder = "~".repeat(name.len());
        let flist = flist_of(&[(&placeholder, file())]);
        let flist = patched(&flist, placeholder.as_bytes(), name.as_bytes());
        assert_refused(&flist, &["directory ''", "a name that is not allowed"]);
    }
    let twice = flist_of(&[("one", file()), ("two", file())]);
    assert_refused(&patched(&twice, b"two", b"one"), &["'one' is there twice"]);
}

#[test]
fn directories_that_are_no_tree() {
    let dirs = flist_of(&[("aaa", Kind::Directory), ("bbb", Kind::Directory), ("bbb/ccc", Kind::Directory)]);
    let key = |path: &str| directory_key(&path.parse().unwrap()).into_bytes();
    let missing = patched(&dirs, &key("aaa"), &key("zzz"));
    // The key of the row changes with the one in the message: nothing is wrong then.
    assert_eq!(format::parse(&missing, &Limits::default()).unwrap().len(), 3);
    let sql = |sql: String| changed(&dirs, &sql);
    let (root, aaa, bbb) = (
        directory_key(&"".parse().unwrap()),
        directory_key(&"aaa".parse().unwrap()),
        directory_key(&"bbb".parse().unwrap()),
    );
    assert_refused(
        &sql(format!("DELETE FROM entries WHERE key = '{aaa}'")),
        &["there is no directory 'aaa'", &aaa],
    );
    // One in itself: its row says what its parent's says.
    let value = |key: &str| format!("(SELECT value FROM entries WHERE key = '{key}')");
    assert_refused(
        &sql(format!("UPDATE entries SET value = {} WHERE key = '{bbb}'", value(&root))),
        &["is the same directory as another entry"],
    );
}

/// A page of a table that has only pages beneath it: `count` times the one, and the other at the end.
fn inner_page(count: u8, child: u32, last: u32, at: usize, page: &mut [u8]) {
    page[at..at + 12].copy_from_slice(&[5, 0, 0, 0, count, 0, 0, 0, 0, 0, 0, 0]);
    page[at + 8..at + 12].copy_from_slice(&last.to_be_bytes());
    let mut content = page.len();
    for number in 0..count {
        content -= 5;
        page[content..content + 4].copy_from_slice(&child.to_be_bytes());
        page[content + 4] = number.min(127);
        let pointer = at + 12 + 2 * usize::from(number);
        page[pointer..pointer + 2].copy_from_slice(&(content as u16).to_be_bytes());
    }
    page[at + 5..at + 7].copy_from_slice(&(content as u16).to_be_bytes());
}

/// SQLite reads its own table of tables first. Here a row of it that may be there any number of times, since it says
/// nothing new, is there more often than anybody could count, on pages that lead to each other.
#[test]
fn pages_that_lead_to_each_other_are_given_up() {
    const PAGE: usize = 4096;
    const LEVELS: u32 = 6;
    let sound = database_of(&golden_flist());
    let (pages, cells) = ((sound.len() / PAGE) as u32, u16::from_be_bytes([sound[103], sound[104]]));
    // Behind the others: page one as it was, the same with nothing but the row of an index, and the levels.
    let mut database = sound.clone();
    let mut as_it_was = sound[..PAGE].to_vec();
    as_it_was.copy_within(100..108 + 2 * usize::from(cells), 0);
    let pointer = |number: u16| {
        let at = 108 + 2 * usize::from(number);
        usize::from(u16::from_be_bytes([sound[at], sound[at + 1]]))
    };
    let is_index = |at: usize| sound[at..at + 40].windows(17).any(|text| text == b"sqlite_autoindex_");
    let index = (0..cells).map(pointer).find(|at| is_index(*at)).unwrap();
    let mut of_index = as_it_was.clone();
    of_index[3..5].copy_from_slice(&1_u16.to_be_bytes());
    of_index[8..10].copy_from_slice(&(index as u16).to_be_bytes());
    database.extend_from_slice(&as_it_was);
    database.extend_from_slice(&of_index);
    for level in 0..LEVELS {
        let beneath = if level == 0 { pages + 2 } else { pages + 2 + level };
        let mut page = vec![0; PAGE];
        inner_page(100, beneath, beneath, 0, &mut page);
        database.extend_from_slice(&page);
    }
    inner_page(1, pages + 1, pages + 2 + LEVELS, 100, &mut database[..PAGE]);
    database[28..32].copy_from_slice(&(pages + 2 + LEVELS).to_be_bytes());
    assert_refused(&with_database(&database), &["more than", "steps, which no file of its length needs"]);
}

#[test]
fn more_than_the_limits_allow() {
    let limits = Limits::default();
    let deep = flist_of(&[("a", Kind::Directory), ("a/b", Kind::Directory), ("a/b/c", file())]);
    let golden = golden_flist();
    for (flist, limits, says) in [
        (&deep, Limits { depth: 2, ..limits }, "the depth of 'a/b/c' 3 exceeds the limit of 2"),
        (&deep, Limits { entries: 2, ..limits }, "more than 2 entries"),
        (&deep, Limits { path_bytes: 8, ..limits }, "the length of all paths"),
        (&golden, Limits { blocks: 3, ..limits }, "more than 3 blocks"),
        (&golden, Limits { file_bytes: 1_000_000, ..limits }, "the size of"),
        (&golden, Limits { target_bytes: 5, ..limits }, "target of"),
        (&golden, Limits { flist_bytes: 4096, ..limits }, "unpacks to more than 4096 bytes"),
    ] {
        let error = error_of(flist, &limits);
        assert!(error.contains(says), "{says:?} is not in: {error}");
    }
    let exact = Limits { depth: 3, entries: 3, ..limits };
    assert_eq!(format::parse(&deep, &exact).unwrap().len(), 3);
}

#[test]
fn what_is_missing_or_odd_is_read_as_others_do() {
    let golden = golden_flist();
    // Kinds of access are gone: everything is read, as 0-fs would, with 0400 and 1000.
    let tree =
        format::parse(&changed(&golden, "DELETE FROM entries WHERE length(key) = 16"), &Limits::default())
            .unwrap();
    assert_eq!(tree.len(), crate::golden::golden_tree().len());
    assert!(
        tree.iter()
            .all(|(_, entry)| (entry.meta.mode, entry.meta.uid, entry.meta.gid) == (0o400, 1000, 1000))
    );
    // Specials are passed over.
    let specials = flist_of(&[("null", Kind::CharDevice(0x103)), ("fifo", Kind::Fifo), ("file", file())]);
    let tree = format::parse(&specials, &Limits::default()).unwrap();
    assert_eq!(tree.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(), ["file"]);
    assert_eq!(Format::of(&specials), Some(Format::Classic));
}
