//! Unpacking where something is in the way: links are not followed, nothing is overwritten.
#![allow(clippy::unwrap_used)]

mod observe;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use flist::store::DirStore;
use flist::tree::{Entry, Kind, Meta, Tree};
use flist::unpack::unpack;
use tempfile::TempDir;

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 1_600_000_000 };

/// A destination, and beside it a directory that must stay as it is.
struct Sandbox {
    dir: TempDir,
    outside: Vec<String>,
}

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("outside/sub")).unwrap();
        fs::create_dir(dir.path().join("destination")).unwrap();
        fs::write(dir.path().join("outside/victim"), "unchanged").unwrap();
        let outside = observe::manifest(&dir.path().join("outside"));
        Self { dir, outside }
    }

    fn destination(&self) -> PathBuf {
        self.dir.path().join("destination")
    }

    fn outside(&self, path: &str) -> PathBuf {
        self.dir.path().join("outside").join(path)
    }

    /// Unpacks entries that are no files with content, and reports the error if there is one.
    fn unpack(&self, entries: &[(&str, Kind)]) -> Result<(), String> {
        let mut tree = Tree::new(META);
        for (path, kind) in entries {
            tree.insert(path.parse().unwrap(), Entry { meta: META, kind: kind.clone() }).unwrap();
        }
        let store = DirStore::new(self.dir.path().join("store"));
        let unpacked = unpack(&tree, &store, &self.destination()).map_err(|error| flist::report(&error));
        assert_eq!(observe::manifest(&self.dir.path().join("outside")), self.outside);
        assert_eq!(fs::read_to_string(self.outside("victim")).unwrap(), "unchanged");
        unpacked
    }
}

fn empty_file() -> Kind {
    Kind::File(Default::default())
}

#[test]
fn a_link_in_place_of_a_directory_is_not_followed() {
    let sandbox = Sandbox::new();
    symlink(sandbox.outside("sub"), sandbox.destination().join("d")).unwrap();
    for entries in [&[("d", Kind::Directory)][..], &[("d", Kind::Directory), ("d/file", empty_file())]] {
        let error = sandbox.unpack(entries).unwrap_err();
        assert!(error.contains("cannot open directory 'd'"), "{error}");
    }
}

#[test]
fn a_link_in_place_of_an_entry_is_neither_followed_nor_replaced() {
    for kind in [empty_file(), Kind::Fifo, Kind::Socket, Kind::Symlink(b"elsewhere".to_vec())] {
        let sandbox = Sandbox::new();
        let link = sandbox.destination().join("entry");
        symlink(sandbox.outside("victim"), &link).unwrap();
        let error = sandbox.unpack(&[("entry", kind)]).unwrap_err();
        assert!(error.contains("'entry' is already there; remove it, or unpack elsewhere"), "{error}");
        assert_eq!(fs::read_link(&link).unwrap(), sandbox.outside("victim"));
    }
}

#[test]
fn a_file_in_the_way_is_not_overwritten() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.destination().join("entry"), "mine").unwrap();
    let error = sandbox.unpack(&[("entry", empty_file())]).unwrap_err();
    assert!(error.contains("'entry' is already there"), "{error}");
    let error = sandbox.unpack(&[("entry", Kind::Directory)]).unwrap_err();
    assert!(error.contains("cannot open directory 'entry': "), "{error}");
    assert_eq!(fs::read_to_string(sandbox.destination().join("entry")).unwrap(), "mine");
}

#[test]
fn directories_that_are_there_are_used() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.destination().join("d")).unwrap();
    fs::write(sandbox.destination().join("d/mine"), "mine").unwrap();
    fs::set_permissions(sandbox.destination().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    sandbox.unpack(&[("d", Kind::Directory), ("d/new", empty_file())]).unwrap();
    assert_eq!(fs::read_to_string(sandbox.destination().join("d/mine")).unwrap(), "mine");
    let metadata = fs::metadata(sandbox.destination().join("d")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
}

#[test]
fn links_of_the_flist_lead_where_they_say_and_nothing_is_changed_there() {
    let sandbox = Sandbox::new();
    let target = sandbox.outside("victim").into_os_string().into_encoded_bytes();
    sandbox.unpack(&[("link", Kind::Symlink(target))]).unwrap();
    assert_eq!(fs::read_to_string(sandbox.destination().join("link")).unwrap(), "unchanged");
}

#[test]
fn a_destination_that_is_a_file_is_named() {
    let sandbox = Sandbox::new();
    fs::remove_dir(sandbox.destination()).unwrap();
    fs::write(sandbox.destination(), "a file").unwrap();
    let error = sandbox.unpack(&[("entry", empty_file())]).unwrap_err();
    assert!(error.contains("destination as the destination"), "{error}");
}
