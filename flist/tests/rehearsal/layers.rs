//! A release over what a node has.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

use flist::block::{BLOCK_SIZE, BlockId, seal};
use flist::rehearsal::{Conflict, Facts, FutureRoot, Layered, Node, Nothing, TreeRoot, machine, rehearse};
use flist::store::{Store, StoreError, one_by_one};
use flist::tree::{Block, Content, Entry, Kind, Meta, Tree};

use crate::forge::{fixed, library, program};
use crate::memory::{Memory, path};

fn layered(below: &Memory, above: &Memory, removed: &[&str]) -> Layered<'static> {
    let removed = removed.iter().map(|text| path(text)).collect();
    Layered::new(Box::new(below.clone()), Box::new(above.clone()), removed).unwrap()
}

fn codes(root: &Layered<'_>, services: &Memory) -> Vec<String> {
    let facts = Facts { services: &services.services, changed: &[], machine: machine::X86_64 };
    rehearse(root, &facts).unwrap().iter().map(|finding| finding.code.to_string()).collect()
}

/// A node on which `bin` is a symlink to `usr/bin`.
fn merged() -> Memory {
    let mut node = Memory::node();
    node.remove("bin/sh").remove("bin").link("bin", "usr/bin").elf("usr/bin/sh", &fixed());
    node
}

#[test]
fn a_release_brings_what_the_node_lacks() {
    let mut node = Memory::node();
    node.elf("usr/bin/app", &program(&["libx.so.1"])).service("/usr/bin/app");
    let mut release = Memory::default();
    release.elf("usr/lib/libx.so.1", &library("libx.so.1", &[]));
    assert_eq!(codes(&layered(&node, &Memory::default(), &[]), &node), ["missing-library"]);
    assert_eq!(codes(&layered(&node, &release, &[]), &node), [""; 0]);
}

#[test]
fn what_is_removed_is_missed() {
    let mut node = Memory::node();
    node.elf("usr/lib/x/libx.so.1", &library("libx.so.1", &[]));
    node.elf("usr/bin/app", &program(&["/usr/lib/x/libx.so.1"])).service("/usr/bin/app");
    assert_eq!(
        codes(&layered(&node, &Memory::default(), &["usr/lib/x/libx.so.1"]), &node),
        ["missing-library"]
    );
    assert_eq!(codes(&layered(&node, &Memory::default(), &["usr/lib/x"]), &node), ["missing-library"]);
    assert_eq!(layered(&node, &Memory::default(), &["usr/lib/x"]).list(&path("usr/lib")).unwrap().len(), 1);
    let mut again = Memory::default();
    again.elf("usr/lib/x/libx.so.1", &library("libx.so.1", &[]));
    assert_eq!(codes(&layered(&node, &again, &["usr/lib/x/libx.so.1"]), &node), [""; 0]);
}

#[test]
fn directories_that_are_symlinks_below_are_followed_and_stay() {
    let mut release = Memory::default();
    release.elf("bin/app", &fixed()).service("/usr/bin/app");
    let root = layered(&merged(), &release, &[]);
    assert_eq!(codes(&root, &release), [""; 0]);
    assert_eq!(root.look(&path("bin")).unwrap(), Some(Node::Symlink(b"usr/bin".to_vec())));
    let placed: Vec<_> = root.placed().map(|(path, _)| path.to_string()).collect();
    assert_eq!(placed, ["usr/bin/app"]);
    assert_eq!(root.conflicts().count(), 0);
    let names = root.list(&path("usr/bin")).unwrap();
    assert_eq!(names, [b"app".to_vec(), b"env".to_vec(), b"sh".to_vec()]);
}

#[test]
fn what_does_not_fit_is_told() {
    let mut release = Memory::default();
    release.elf("bin/app", &fixed()).elf("usr/bin/app", &fixed());
    release.file("usr/bin/env/inner", 0o644, "").file("usr/lib", 0o644, "");
    let root = layered(&merged(), &release, &[]);
    let conflicts: Vec<_> = root.conflicts().cloned().collect();
    let [
        Conflict::TwoNames { path: at, .. },
        Conflict::BeneathNonDirectory { entry },
        Conflict::InTheWay { entry: way },
    ] = &conflicts[..]
    else {
        panic!("{conflicts:?}")
    };
    assert_eq!(
        (at.to_string(), entry.to_string(), way.to_string()),
        ("usr/bin/app".into(), "usr/bin/env".into(), "usr/lib".into())
    );
}

/// Blocks in memory, and how often they were asked for.
#[derive(Default)]
struct Blocks {
    blocks: HashMap<BlockId, Vec<u8>>,
    asked: AtomicUsize,
}

impl Blocks {
    fn content(&mut self, plain: &[u8]) -> Kind {
        let mut content = Content { size: plain.len() as u64, blocks: Vec::new() };
        for piece in plain.chunks(BLOCK_SIZE) {
            let sealed = seal(piece).unwrap();
            content.blocks.push(Block { id: sealed.id, key: sealed.key });
            self.blocks.insert(sealed.id, sealed.stored);
        }
        Kind::File(content)
    }
}

impl Store for Blocks {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(self.blocks.get(id).cloned())
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        one_by_one(self, ids, buffers)
    }

    fn at_once(&self, _: &[BlockId]) -> usize {
        1
    }
    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        Ok(self.blocks.contains_key(id))
    }
    fn put(&self, _: &BlockId, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
    fn url(&self) -> String {
        "memory".to_owned()
    }
}

#[test]
fn of_a_flist_only_the_blocks_with_headers_are_fetched() {
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
    let mut store = Blocks::default();
    let mut tree = Tree::new(meta);
    let mut large = program(&["libx.so.1"]).bytes();
    large.extend((0..5 * BLOCK_SIZE).map(|n| (n / 11) as u8));
    let mut put = |at: &str, kind| tree.insert(path(at), Entry { meta, kind }).unwrap();
    put("usr", Kind::Directory);
    put("usr/bin", Kind::Directory);
    put("usr/bin/app", store.content(&large));
    put("usr/bin/alias", Kind::Symlink(b"app".to_vec()));
    let root = || Box::new(TreeRoot::new(&tree, &store));

    let mut node = Memory::node();
    node.service("/usr/bin/alias");
    let over = |below: Box<dyn FutureRoot>| Layered::new(below, root(), BTreeSet::new()).unwrap();
    assert_eq!(codes(&over(Box::new(node.clone())), &node), ["missing-library"]);
    assert_eq!(store.asked.load(Ordering::Relaxed), 1, "one of {} blocks", store.blocks.len());
    assert_eq!(codes(&over(Box::new(Nothing)), &node), ["missing-interpreter"]);

    let end = TreeRoot::new(&tree, &store).read(&path("usr/bin/app"), BLOCK_SIZE as u64 - 3, 6).unwrap();
    assert_eq!(end, large[BLOCK_SIZE - 3..BLOCK_SIZE + 3]);
    let lost = Blocks::default();
    let facts = Facts { services: &node.services, changed: &[], machine: machine::X86_64 };
    let error = rehearse(&TreeRoot::new(&tree, &lost), &facts).unwrap_err();
    assert!(flist::report(&error).contains("missing in memory"), "{}", flist::report(&error));
}
