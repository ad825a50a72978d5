//! What is peculiar to the classic golden flist. That it is the golden tree, whoever reads it, is tested in
//! `tests/golden.rs`, for both formats.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flist::diff::diff;
use flist::format::{self, Format};
use flist::store::{DirStore, Store};
use flist::tree::{Kind, Limits, Route, Tree};
use flist::verify::verify;

use crate::observe::{flist, golden};

pub(crate) fn golden_tree() -> Tree {
    let (tree, format) =
        format::read_with_format(&golden("classic/golden.flist"), &Limits::default()).unwrap();
    assert_eq!(format, Format::Classic);
    tree
}

pub(crate) fn golden_store() -> DirStore {
    DirStore::new(golden("classic/blocks"))
}

#[test]
fn every_block_is_right() {
    let verified = verify(&golden_tree(), &golden_store());
    assert!(verified.bad.is_empty(), "{:?}", verified.bad);
    assert_eq!(verified.blocks, fs::read_dir(golden("classic/blocks")).unwrap().count());

    // One that is not is found, whichever layer shows it.
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::new(dir.path());
    let tree = golden_tree();
    let ids: Vec<_> =
        tree.files().flat_map(|(_, _, content)| &content.blocks).map(|block| block.id).collect();
    for id in &ids {
        store.put(id, &golden_store().get(id).unwrap().unwrap()).unwrap();
    }
    fs::copy(store.path_of(&ids[1]), store.path_of(&ids[0])).unwrap();
    store.remove(&ids[2]).unwrap();
    assert_eq!(verify(&tree, &store).bad.keys().collect::<Vec<_>>().len(), 2);
}

#[test]
fn it_says_what_its_decode_says() {
    let json = fs::read_to_string(golden("classic/golden.json")).unwrap();
    let decoded: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let mut blocks = BTreeMap::new();
    for file in decoded.iter().filter(|entry| entry["type"] == "file") {
        let path = file["path"].as_str().unwrap().trim_start_matches('/').to_owned();
        blocks.insert(path, file["blocks"].clone());
    }
    let ours: BTreeMap<_, _> = golden_tree()
        .files()
        .map(|(path, _, content)| {
            let pairs = content.blocks.iter().map(|block| [block.id.to_string(), block.key.to_string()]);
            (path.to_string(), serde_json::to_value(pairs.collect::<Vec<_>>()).unwrap())
        })
        .collect();
    // Paths with unusual bytes are shown with %XX.
    let plain = |map: &BTreeMap<String, serde_json::Value>| {
        map.iter()
            .filter(|(path, _)| path.is_ascii())
            .map(|(p, v)| (p.clone(), v.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(plain(&ours), plain(&blocks));
    assert_eq!(ours.len(), blocks.len());
}

#[test]
fn the_command_takes_it_whatever_its_name_is() {
    let dir = tempfile::tempdir().unwrap();
    let meta = dir.path().join("mistaken.fl");
    fs::copy(golden("classic/golden.flist"), &meta).unwrap();
    let store = golden("classic/blocks");
    let [m, s, json] = ["-m", "-s", "--json"].map(Path::new);
    let shown = flist(&["inspect".as_ref(), json, m, &meta]).stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["format"], "classic");
    flist(&["verify".as_ref(), m, &meta, s, &store]);
    flist(&["lint".as_ref(), s, &store, &meta]);
    flist(&["diff".as_ref(), &meta, &golden("classic/golden.flist")]);
}

#[test]
fn what_it_says_of_itself_is_kept() {
    let tree = golden_tree();
    assert_eq!(tree.tags["hello"], "world");
    assert_eq!(tree.tags["environ"], r#"{"A": "b", "PATH": "/bin:/usr/bin"}"#);
    assert_eq!(tree.tags.len(), 6);
    assert_eq!(tree.routes, [Route::everything("zdb://127.0.0.1:9900/classic")]);
}

#[test]
fn both_formats_of_the_golden_tree_differ_only_where_one_cannot_know() {
    let fl = format::read(&golden("rfs/golden.fl"), &Limits::default()).unwrap();
    let classic = golden_tree();
    for difference in diff(&classic, &fl) {
        let of_file = classic.get(&difference.path).is_some_and(|entry| matches!(entry.kind, Kind::File(_)));
        // Content of the same size cannot be compared without reading it, and zflist gives the root no time.
        assert!(difference.path.is_root() || of_file, "{difference:?}");
    }
}
