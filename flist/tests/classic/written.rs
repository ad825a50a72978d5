//! What we write is what others have written, and survives every conversion.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use flist::block::Codec;
use flist::convert::convert;
use flist::format::classic::{self, directory_key};
use flist::format::{self, Format, fl};
use flist::pack::pack_observed;
use flist::path::FlistPath;
use flist::store::DirStore;
use flist::tree::{Kind, Limits, Route, Tree};
use flist::unpack::unpack;
use rusqlite::Connection;

use crate::forge::database_of;
use crate::golden::{golden_store, golden_tree};
use crate::observe::{self, assert_is_golden, flist, golden};

/// Keys of table `entries`.
fn keys_of(flist: &[u8]) -> BTreeSet<String> {
    let bytes = database_of(flist);
    let mut database = Connection::open_in_memory().unwrap();
    database.deserialize_read_exact("main", bytes.as_slice(), bytes.len(), true).unwrap();
    let mut statement = database.prepare("SELECT key FROM entries").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn ids(tree: &Tree) -> BTreeMap<FlistPath, Vec<(String, String)>> {
    let blocks = |content: &flist::tree::Content| {
        content.blocks.iter().map(|block| (block.id.to_string(), block.key.to_string())).collect()
    };
    tree.files().map(|(path, _, content)| (path.clone(), blocks(content))).collect()
}

#[test]
fn packed_again_it_has_the_golden_keys_and_blocks() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    unpack(&golden_tree(), &golden_store(), &source).unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("out"));
    let [m, s, f, kind] = ["-m", "-s", "--format", "classic"].map(Path::new);
    flist(&["pack".as_ref(), f, kind, m, &out, s, &store, &source]);

    let bytes = fs::read(&out).unwrap();
    let tree = format::parse(&bytes, &Limits::default()).unwrap();
    assert_eq!(ids(&tree), ids(&golden_tree()));
    let ours = keys_of(&bytes);
    assert_eq!(ours, keys_of(&fs::read(golden("classic/golden.flist")).unwrap()));
    let json = fs::read_to_string(golden("classic/golden.json")).unwrap();
    let decoded: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let keys = |kind: &str, key: &str| -> BTreeSet<String> {
        let found = decoded.iter().filter(|entry| entry["type"] == kind);
        found.map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
    };
    assert!(keys("dir", "key").is_subset(&ours) && keys("dir", "aclkey").is_subset(&ours));
    assert!(keys("file", "aclkey").is_subset(&ours) && keys("link", "aclkey").is_subset(&ours));
    let stored = |root: &Path| -> BTreeSet<String> {
        let digest = |line: String| line.split_once("  ").unwrap().0.to_owned();
        observe::digests(root).into_iter().map(digest).collect()
    };
    assert_eq!(stored(&store), stored(&golden("classic/blocks")));

    let mut wanted = golden_tree();
    // A directory says neither what zflist is told besides nor when the root was changed for it.
    wanted.tags.clear();
    wanted.routes = vec![Route::everything(format!("dir://{}", store.display()))];
    for (path, entry) in wanted.iter() {
        assert_eq!(tree.get(path), Some(entry), "{path}");
    }
    assert_eq!((tree.len(), &tree.routes), (wanted.len(), &wanted.routes));
    flist(&["pack".as_ref(), f, kind, m, &dir.path().join("again"), s, &store, &source]);
    assert!(fs::read(dir.path().join("again")).unwrap() == bytes, "packing twice gives different bytes");
}

#[test]
fn the_command_converts_both_ways() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let [s, to, convert, unpack] = ["-s", "--to", "convert", "unpack"].map(Path::new);
    let blocks = golden("classic/blocks");
    flist(&[convert, s, &blocks, to, &at("fl-store"), &golden("classic/golden.flist"), &at("a")]);
    flist(&[unpack, &at("a"), &at("tree")]);
    assert_is_golden(&at("tree"));
    let (tree, format) = format::read_with_format(&at("a"), &Limits::default()).unwrap();
    assert_eq!(format, Format::Fl);
    let rfs = format::read(&golden("rfs/golden.fl"), &Limits::default()).unwrap();
    assert_eq!(ids(&tree), ids(&rfs));
    assert_eq!(tree.tags["hello"], "world");
    assert!(!tree.tags.contains_key("backend"), "its blocks are elsewhere now");

    // Blocks of both codecs can be in one store.
    flist(&[convert, &at("a"), &at("b")]);
    flist(&[unpack, &at("b"), &at("tree-again")]);
    assert_is_golden(&at("tree-again"));
    let (tree, format) = format::read_with_format(&at("b"), &Limits::default()).unwrap();
    assert_eq!((format, ids(&tree)), (Format::Classic, ids(&golden_tree())));
    flist(&["diff".as_ref(), &at("a"), &at("b")]);
    flist(&["diff".as_ref(), &at("b"), &at("a")]);

    // Not over itself: the flist that is read would be gone.
    let before = fs::read(at("a")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_flist")).args([convert, &at("a"), &at("a")]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(fs::read(at("a")).unwrap() == before);
}

#[test]
fn a_flist_that_does_not_say_where_its_blocks_are_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = golden_tree();
    (tree.routes, tree.tags) = (Vec::new(), BTreeMap::new());
    let silent = dir.path().join("silent.flist");
    format::write_as(&tree, &silent, Format::Classic).unwrap();
    for arguments in [&["verify"][..], &["convert"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flist"));
        command.args(arguments).arg(&silent).current_dir(dir.path());
        if arguments == ["convert"] {
            command.arg("out");
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("does not say where its blocks are; name their store with -s"), "{said}");
    }
}

#[test]
fn blocks_of_another_format_are_not_written_into_a_flist() {
    let fl = format::read(&golden("rfs/golden.fl"), &Limits::default()).unwrap();
    let error = classic::to_bytes(&fl).unwrap_err().to_string();
    assert!(error.contains("not of the classic format"), "{error}");
    let error = fl::to_bytes(&golden_tree()).unwrap_err().to_string();
    assert!(error.contains("not of the fl format"), "{error}");
}

#[test]
fn arbitrary_trees_survive_every_conversion() {
    for seed in 0..40 {
        let place = tempfile::tempdir().unwrap();
        let store = DirStore::new(place.path());
        let (tree, lossy) = crate::random::tree(seed, &store);
        let bytes = classic::to_bytes(&tree).unwrap();
        let read = format::parse(&bytes, &Limits::default()).unwrap();
        assert!(read == lossy, "seed {seed}: the classic format has lost or changed something");

        let (as_fl, _) = convert(&read, Codec::Fl, &store, &store, &()).unwrap();
        let as_fl = format::parse(&fl::to_bytes(&as_fl).unwrap(), &Limits::default()).unwrap();
        let (back, summary) = convert(&as_fl, Codec::Classic, &store, &store, &()).unwrap();
        assert!(back == read, "seed {seed}: by way of fl it is another tree");
        assert_eq!(summary.new_blocks, 0, "seed {seed}");
        assert!(
            classic::to_bytes(&back).unwrap() == classic::to_bytes(&read).unwrap(),
            "seed {seed}: the same tree in other bytes"
        );

        // What is in fl alone is not lost on the way to fl.
        let (as_fl, _) = convert(&tree, Codec::Fl, &store, &store, &()).unwrap();
        let parsed = format::parse(&fl::to_bytes(&as_fl).unwrap(), &Limits::default()).unwrap();
        assert!(parsed == as_fl, "seed {seed}");
        for (path, entry) in tree.iter().filter(|(_, entry)| !matches!(entry.kind, Kind::File(_))) {
            assert_eq!(parsed.get(path), Some(entry), "seed {seed}");
        }
    }
}

#[test]
fn what_a_router_can_say_is_in_the_router() {
    let mut tree = golden_tree();
    let zdb = |first, last, host: &str| Route { first, last, url: format!("zdb://{host}:9900/ns") };
    let for_all = [zdb(0, 0x7f, "a"), zdb(0x80, 0xff, "b"), zdb(0, 0xff, "c")];
    for routes in [&for_all[..], &[Route::everything("http://hub/store"), zdb(0, 9, "a")], &[]] {
        tree.routes = routes.to_vec();
        tree.tags.remove("backend");
        let read = format::parse(&classic::to_bytes(&tree).unwrap(), &Limits::default()).unwrap();
        assert_eq!(read, tree);
    }
}

#[test]
fn what_is_packed_has_the_directory_keys_of_its_paths() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("source/ü/deep")).unwrap();
    let store = DirStore::new(dir.path().join("store"));
    let (tree, _) = pack_observed(&dir.path().join("source"), &store, Codec::Classic, &()).unwrap();
    let keys = keys_of(&classic::to_bytes(&tree).unwrap());
    for path in ["", "ü", "ü/deep"] {
        assert!(keys.contains(&directory_key(&path.parse().unwrap())), "{path}");
    }
}
