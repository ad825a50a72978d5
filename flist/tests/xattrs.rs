//! Extended attributes through pack, fl, unpack and mount. Needs root.

#![cfg(feature = "publish")]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use flist::format::fl;
use flist::mount::{Purpose, mount};
use flist::pack::pack;
use flist::store::DirStore;
use flist::tree::{Limits, Tree};
use flist::unpack::unpack;
use flist::xattr;

const CAPABILITY: &[u8] = b"security.capability";

/// cap_net_raw+ep, version 2 (capability.h).
fn net_raw() -> Vec<u8> {
    let mut value = vec![1, 0, 0, 2, 0, 0x20];
    value.resize(20, 0);
    value
}

/// A tree on disk with a capability, packed and read again.
fn packed(dir: &Path) -> (Tree, Arc<DirStore>) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let source = dir.join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("ping"), "x").unwrap();
    std::fs::write(source.join("plain"), "y").unwrap();
    let xattrs = BTreeMap::from([(CAPABILITY.to_vec(), net_raw())]);
    xattr::write(&source.join("ping"), &xattrs).unwrap();
    let store = Arc::new(DirStore::new(dir.join("store")));
    let (tree, _) = pack(&source, store.as_ref()).unwrap();
    let bytes = fl::to_bytes(&tree).unwrap();
    assert_eq!(bytes, fl::to_bytes(&tree).unwrap());
    let read = fl::parse(&bytes, &Limits::default()).unwrap();
    assert_eq!(read.xattrs(&"ping".parse().unwrap()), Some(&xattrs));
    assert_eq!(read, tree);
    (read, store)
}

#[test]
fn unpack_gives_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, store) = packed(dir.path());
    unpack(&tree, store.as_ref(), &dir.path().join("out")).unwrap();
    let read = xattr::read(&dir.path().join("out/ping")).unwrap();
    assert_eq!(read.get(CAPABILITY), Some(&net_raw()));
    assert!(xattr::read(&dir.path().join("out/plain")).unwrap().is_empty());
}

#[test]
fn a_mount_shows_them() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, store) = packed(dir.path());
    let at = dir.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let mounted = mount(&tree, store, &at, Purpose::General).unwrap();
    let read = xattr::read(&at.join("ping")).unwrap();
    let none = xattr::read(&at.join("plain")).unwrap();
    mounted.unmount().unwrap();
    assert_eq!((read.get(CAPABILITY), none.len()), (Some(&net_raw()), 0));
}

#[test]
fn a_mount_of_a_flist_without_any_says_that_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, store) = packed(dir.path());
    let mut without = flist::tree::Tree::new(*tree.root());
    for (path, entry) in tree.iter() {
        without.insert(path.clone(), entry.clone()).unwrap();
    }
    let at = dir.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let mounted = mount(&without, store, &at, Purpose::General).unwrap();
    for _ in 0..2 {
        assert!(xattr::read(&at.join("ping")).unwrap().is_empty());
    }
    let copied = std::process::Command::new("cp").arg("-a").args([&at, &dir.path().join("copy")]).status();
    mounted.unmount().unwrap();
    assert!(copied.unwrap().success());
}

#[test]
fn those_that_a_flist_must_not_have_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, _) = packed(dir.path());
    let path = dir.path().join("x.fl");
    for (sql, said) in [
        ("UPDATE xattr SET name = 'security.selinux'", "security.selinux"),
        ("UPDATE xattr SET ino = 99", "inode 99"),
        ("UPDATE xattr SET value = 5", "column value"),
        ("INSERT INTO xattr SELECT * FROM xattr", "twice"),
        ("UPDATE xattr SET value = zeroblob(70000)", "70000 bytes"),
    ] {
        std::fs::write(&path, fl::to_bytes(&tree).unwrap()).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let error = flist::report(&fl::parse(&bytes, &Limits::default()).unwrap_err());
        assert!(error.contains(said), "{sql}: {error}");
    }
}
