//! The golden flists, which rfs and zflist have made: both are the golden tree, whoever reads them. And that of rfs,
//! made again.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

mod observe;

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::sync::Arc;

use flist::format::{self, fl};
use flist::mount::{Purpose, mount};
use flist::pack::pack;
use flist::path::FlistPath;
use flist::store::DirStore;
use flist::tree::{Block, Kind, Limits, Route, Tree};
use flist::unpack::unpack;
use observe::{assert_is_golden, flist, golden, golden_lines, plain_lines};

/// Each flist, and its blocks.
const GOLDEN: [(&str, &str); 2] =
    [("rfs/golden.fl", "rfs/store"), ("classic/golden.flist", "classic/blocks")];

fn golden_tree() -> Tree {
    read("rfs/golden.fl")
}

fn golden_store() -> DirStore {
    DirStore::new(golden("rfs/store"))
}

fn blocks_of_files(tree: &Tree) -> BTreeMap<FlistPath, Vec<Block>> {
    tree.files().map(|(path, _, content)| (path.clone(), content.blocks.clone())).collect()
}

fn read(name: &str) -> Tree {
    format::read(&golden(name), &Limits::default()).unwrap()
}

#[test]
fn unpacked_it_is_the_golden_tree() {
    observe::require_root();
    for (flist, store) in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        unpack(&read(flist), &DirStore::new(golden(store)), dir.path()).unwrap();
        assert_is_golden(dir.path());
    }
}

#[test]
fn mounted_it_is_the_golden_tree() {
    observe::require_root();
    for (flist, store) in GOLDEN {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(DirStore::new(golden(store)));
        let mounted = mount(&read(flist), store, dir.path(), Purpose::Install).unwrap();
        assert_is_golden(dir.path());
        mounted.unmount().unwrap();
    }
}

#[test]
fn the_command_shows_and_unpacks_the_golden_tree() {
    observe::require_root();
    let says = ["# format fl\n", "# format classic\n"];
    let routes = ["# route 00-ff dir:///srv/golden/store\n", "# route 00-ff zdb://127.0.0.1:9900/classic\n"];
    for ((name, store), (format, route)) in GOLDEN.into_iter().zip(says.into_iter().zip(routes)) {
        let dir = tempfile::tempdir().unwrap();
        let (meta, store) = (golden(name), golden(store));
        let shown = String::from_utf8(flist(&["inspect".as_ref(), &meta]).stdout).unwrap();
        assert!(shown.contains(route) && shown.starts_with(format), "{shown}");
        assert_eq!(plain_lines(&shown), golden_lines("tree.manifest"));

        let (at, again, cache) =
            (dir.path().join("tree"), dir.path().join("again"), dir.path().join("cache"));
        let [unpack, m, s, c] = ["unpack", "-m", "-s", "-c"].map(Path::new);
        flist(&[unpack, m, &meta, s, &store, c, &cache, &at]);
        assert_is_golden(&at);
        let in_cache = |block: &Block| DirStore::new(&cache).path_of(&block.id).is_file();
        assert!(blocks_of_files(&read(name)).values().flatten().all(in_cache));
        // Everything is in the cache now, so the store is not needed any more.
        flist(&[unpack, m, &meta, s, "/nowhere".as_ref(), c, &cache, &again]);
        assert_is_golden(&again);
    }
}

#[test]
fn the_command_shows_json_with_blocks() {
    let output = flist(&["inspect".as_ref(), "--json".as_ref(), &golden("rfs/golden.fl")]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(entries.len(), golden_lines("tree.manifest").len());
    let suid = entries.iter().find(|entry| entry["path"] == "bin/suid").unwrap();
    assert_eq!((&suid["kind"], &suid["mode"], &suid["size"]), (&"file".into(), &"4755".into(), &13.into()));
    let blocks: usize = entries.iter().filter_map(|entry| entry["blocks"].as_array()).map(Vec::len).sum();
    assert_eq!(blocks, blocks_of_files(&golden_tree()).values().flatten().count());
    let link = entries.iter().find(|entry| entry["path"] == "links/rel").unwrap();
    assert_eq!(link["target"], "../data/text.txt");
}

#[test]
fn packed_again_it_has_the_golden_blocks() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    unpack(&golden_tree(), &golden_store(), &source).unwrap();
    let store = DirStore::new(dir.path().join("store"));
    let (tree, summary) = pack(&source, &store).unwrap();

    assert_eq!(blocks_of_files(&tree), blocks_of_files(&golden_tree()));
    let mut wanted = golden_tree();
    wanted.routes.clear();
    assert_eq!(tree, wanted);
    let stored = |root: &Path| observe::digests(root).len() as u64;
    assert_eq!(summary.new_blocks, stored(&dir.path().join("store")), "blocks that files share count once");
    assert_eq!(stored(&dir.path().join("store")), stored(&golden("rfs/store")));
    assert_eq!(observe::digests(&dir.path().join("store")), observe::digests(&golden("rfs/store")));

    // What rfs has written, and what we write about the same tree, reads as the same tree.
    tree_survives(&golden_tree());
}

fn tree_survives(tree: &Tree) {
    let bytes = fl::to_bytes(tree).unwrap();
    assert_eq!(format::parse(&bytes, &Limits::default()).unwrap(), *tree);
}

#[test]
fn packing_twice_gives_the_same_bytes() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    let (source, store) = (dir.path().join("source"), dir.path().join("store"));
    unpack(&golden_tree(), &golden_store(), &source).unwrap();
    let pack_to = |name: &str| {
        let out = dir.path().join(name);
        let [pack, m, s] = ["pack", "-m", "-s"].map(Path::new);
        flist(&[pack, m, &out, s, &store, &source]);
        fs::read(out).unwrap()
    };
    let first = pack_to("first.fl");
    let tree = format::parse(&first, &Limits::default()).unwrap();
    assert_eq!(tree.routes, [Route::everything(format!("dir://{}", store.display()))]);
    assert!(pack_to("second.fl") == first, "packing the same directory twice gives different bytes");

    reverse_entries(&source, &tree);
    assert_is_golden(&source);
    assert!(pack_to("third.fl") == first, "the order of the entries in their directory shows");
}

/// Takes every entry out of its directory and puts it back, so that directories list them in another order
/// (in tmpfs they list the newest first).
fn reverse_entries(root: &Path, tree: &Tree) {
    for (path, _) in tree.iter() {
        let (path, aside) = (root.join(path.as_path()), root.join("aside"));
        fs::rename(&path, &aside).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    let time = |seconds: i64| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.cast_unsigned());
    let directories = tree.iter().filter(|(_, entry)| matches!(entry.kind, Kind::Directory));
    let directories = directories.map(|(path, entry)| (path.as_path(), entry.meta.mtime));
    for (path, mtime) in directories.chain([(Path::new("."), tree.root().mtime)]) {
        let times = FileTimes::new().set_modified(time(mtime));
        File::open(root.join(path)).unwrap().set_times(times).unwrap();
    }
}
