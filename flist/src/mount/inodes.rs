//! The inode table: a tree numbered for the kernel. Pure.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::path::FlistPath;
use crate::tree::{Entry, Kind, Tree};
use crate::xattr::Xattrs;

/// Number of the root directory in FUSE.
pub(super) const ROOT: u64 = 1;

/// One inode.
pub(super) struct Inode {
    pub(super) path: FlistPath,
    pub(super) entry: Entry,
    pub(super) xattrs: Xattrs,
    /// The directory that holds it; the root holds itself.
    pub(super) parent: u64,
    /// For a directory, what it holds, ordered by name.
    children: Vec<(Vec<u8>, u64)>,
    /// How many of them are directories.
    directories: u32,
}

impl Inode {
    /// Links to it: one, and for a directory its own `.` and the `..` of each directory in it.
    pub(super) fn links(&self) -> u32 {
        match self.entry.kind {
            Kind::Directory => 2 + self.directories,
            _ => 1,
        }
    }
}

/// All inodes, by number; numbers never change while it is mounted.
pub(super) struct InodeTable {
    inodes: Vec<Arc<Inode>>,
    /// Plain bytes of all files.
    pub(super) total_bytes: u64,
    /// Whether any of them has extended attributes.
    pub(super) has_xattrs: bool,
    /// Numbers of the files with content, in the order in which the tree is walked: a directory's entries by
    /// name, what is in a directory right after it.
    pub(super) reading_order: Vec<u64>,
    /// By inode: its place in the reading order, if it has one.
    places: Vec<Option<u32>>,
}

impl InodeTable {
    pub(super) fn new(tree: &Tree) -> Self {
        let root = Entry { meta: *tree.root(), kind: Kind::Directory };
        let inode = |path: &FlistPath, entry: &Entry, parent| Inode {
            path: path.clone(),
            entry: entry.clone(),
            xattrs: tree.xattrs(path).cloned().unwrap_or_default(),
            parent,
            children: Vec::new(),
            directories: 0,
        };
        let mut inodes = vec![inode(&FlistPath::root(), &root, ROOT)];
        let mut numbers = BTreeMap::from([(FlistPath::root(), ROOT)]);
        for (path, entry) in tree.iter() {
            // A tree lists directories before what they hold, and holds no entry without one.
            let parent = path.parent().and_then(|parent| numbers.get(&parent).copied()).unwrap_or(ROOT);
            inodes.push(inode(path, entry, parent));
            let ino = inodes.len() as u64;
            // Entries of one directory come in the order of their names.
            let directory = &mut inodes[parent as usize - 1];
            directory.children.push((path.name().to_vec(), ino));
            if matches!(entry.kind, Kind::Directory) {
                directory.directories += 1;
                numbers.insert(path.clone(), ino);
            }
        }
        let has_xattrs = inodes.iter().any(|inode| !inode.xattrs.is_empty());
        let reading_order = reading_order(&inodes);
        let mut places = vec![None; inodes.len()];
        for (place, ino) in (0..).zip(&reading_order) {
            places[*ino as usize - 1] = Some(place);
        }
        let inodes = inodes.into_iter().map(Arc::new).collect();
        Self { inodes, total_bytes: tree.total_bytes(), has_xattrs, reading_order, places }
    }

    /// The place of a file in the reading order; `None` for what has no content.
    pub(super) fn place_of(&self, ino: u64) -> Option<usize> {
        let place = self.places.get(usize::try_from(ino.checked_sub(1)?).ok()?)?;
        place.and_then(|place| usize::try_from(place).ok())
    }

    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    pub(super) fn get(&self, ino: u64) -> Option<&Arc<Inode>> {
        self.inodes.get(usize::try_from(ino.checked_sub(1)?).ok()?)
    }

    /// What a directory lists before the `offset`-th of its entries, the last first; `.` and `..` are counted but
    /// left out.
    pub(super) fn listed_before(&self, directory: u64, offset: u64) -> impl Iterator<Item = u64> {
        let children = self.get(directory).map(|inode| inode.children.as_slice()).unwrap_or_default();
        let listed = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX).min(children.len());
        children[..listed].iter().rev().map(|(_, ino)| *ino)
    }

    pub(super) fn child(&self, directory: u64, name: &OsStr) -> Option<(u64, &Arc<Inode>)> {
        let children = &self.get(directory)?.children;
        let place = children.binary_search_by(|(known, _)| known.as_slice().cmp(name.as_bytes())).ok()?;
        let ino = children[place].1;
        Some((ino, self.get(ino)?))
    }

    /// `.`, `..` and what a directory holds, from the `offset`-th on.
    pub(super) fn list(
        &self,
        directory: u64,
        offset: u64,
    ) -> Option<impl Iterator<Item = (u64, &Inode, &OsStr)>> {
        let inode = self.get(directory)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let dots = [(directory, OsStr::new(".")), (inode.parent, OsStr::new(".."))];
        // The kernel asks for a large directory piece by piece: nothing is walked through again.
        let rest = inode.children.get(offset.saturating_sub(dots.len())..).unwrap_or_default();
        let rest = rest.iter().map(|(name, ino)| (*ino, OsStr::from_bytes(name)));
        let listed = dots.into_iter().skip(offset).chain(rest);
        Some(listed.filter_map(|(ino, name)| Some((ino, self.get(ino)?.as_ref(), name))))
    }
}

fn reading_order(inodes: &[Inode]) -> Vec<u64> {
    let (mut order, mut to_visit) = (Vec::new(), vec![ROOT]);
    while let Some(ino) = to_visit.pop() {
        let inode = &inodes[ino as usize - 1];
        match &inode.entry.kind {
            Kind::File(content) if content.size > 0 => order.push(ino),
            _ => to_visit.extend(inode.children.iter().rev().map(|(_, child)| *child)),
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockId, BlockKey};
    use crate::tree::{Content, Meta};

    #[test]
    fn numbers_lead_back_to_paths() {
        let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
        let mut tree = Tree::new(meta);
        for path in ["a", "a/b", "a/b/c", "d"] {
            tree.insert(path.parse().unwrap(), Entry { meta, kind: Kind::Directory }).unwrap();
        }
        let table = InodeTable::new(&tree);
        let (a, inode) = table.child(ROOT, OsStr::new("a")).unwrap();
        assert_eq!((inode.links(), inode.parent), (3, ROOT));
        let (b, _) = table.child(a, OsStr::new("b")).unwrap();
        assert_eq!(table.get(b).unwrap().path.to_string(), "a/b");
        assert!(table.child(ROOT, OsStr::new("b")).is_none());
        let names = |offset| table.list(ROOT, offset).unwrap().map(|(_, _, name)| name).collect::<Vec<_>>();
        assert_eq!(names(0), [".", "..", "a", "d"]);
        assert_eq!(names(1), ["..", "a", "d"]);
        assert_eq!(names(3), ["d"]);
        assert!(names(4).is_empty() && names(u64::MAX).is_empty());
        assert!(table.get(0).is_none() && table.get(99).is_none());
    }

    #[test]
    fn files_are_ordered_as_the_tree_is_walked() {
        let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
        let mut tree = Tree::new(meta);
        for path in ["a/", "a-b", "a/z/", "a/z/1", "a/empty", "a/b", "c"] {
            let block = crate::tree::Block { id: BlockId::of(b"x"), key: BlockKey::of(b"x") };
            let kind = match (path.ends_with('/'), path.ends_with("empty")) {
                (true, _) => Kind::Directory,
                (_, true) => Kind::File(Content::default()),
                _ => Kind::File(Content { size: 1, blocks: vec![block] }),
            };
            tree.insert(path.trim_end_matches('/').parse().unwrap(), Entry { meta, kind }).unwrap();
        }
        let table = InodeTable::new(&tree);
        let path = |ino: &u64| table.get(*ino).unwrap().path.to_string();
        let order: Vec<_> = table.reading_order.iter().map(path).collect();
        assert_eq!(order, ["a/b", "a/z/1", "a-b", "c"]);
        for (place, ino) in table.reading_order.iter().enumerate() {
            assert_eq!(table.place_of(*ino), Some(place));
        }
        assert!(table.place_of(ROOT).is_none() && table.place_of(0).is_none());
    }
}
