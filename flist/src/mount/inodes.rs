//! The inode table: a tree numbered for the kernel. Pure.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::path::FlistPath;
use crate::tree::{Entry, Kind, Tree};

/// Number of the root directory in FUSE.
pub(super) const ROOT: u64 = 1;

/// One inode.
pub(super) struct Inode {
    pub(super) path: FlistPath,
    pub(super) entry: Entry,
    /// The directory that holds it; the root holds itself.
    pub(super) parent: u64,
    /// For a directory, what it holds.
    children: BTreeMap<Vec<u8>, u64>,
}

impl Inode {
    /// Links to it: one, and for a directory its own `.` and the `..` of each directory in it.
    pub(super) fn links(&self, table: &InodeTable) -> u32 {
        let is_directory =
            |ino: &u64| table.get(*ino).is_some_and(|i| matches!(i.entry.kind, Kind::Directory));
        match self.entry.kind {
            Kind::Directory => 2 + self.children.values().filter(|ino| is_directory(ino)).count() as u32,
            _ => 1,
        }
    }
}

/// All inodes, by number; numbers never change while it is mounted.
pub(super) struct InodeTable {
    inodes: Vec<Arc<Inode>>,
    /// Plain bytes of all files.
    pub(super) total_bytes: u64,
}

impl InodeTable {
    pub(super) fn new(tree: &Tree) -> Self {
        let root = Entry { meta: *tree.root(), kind: Kind::Directory };
        let inode = |path: &FlistPath, entry: &Entry, parent| Inode {
            path: path.clone(),
            entry: entry.clone(),
            parent,
            children: BTreeMap::new(),
        };
        let mut inodes = vec![inode(&FlistPath::root(), &root, ROOT)];
        let mut numbers = BTreeMap::from([(FlistPath::root(), ROOT)]);
        for (path, entry) in tree.iter() {
            // A tree lists directories before what they hold, and holds no entry without one.
            let parent = path.parent().and_then(|parent| numbers.get(&parent).copied()).unwrap_or(ROOT);
            inodes.push(inode(path, entry, parent));
            let ino = inodes.len() as u64;
            inodes[parent as usize - 1].children.insert(path.name().to_vec(), ino);
            if matches!(entry.kind, Kind::Directory) {
                numbers.insert(path.clone(), ino);
            }
        }
        Self { inodes: inodes.into_iter().map(Arc::new).collect(), total_bytes: tree.total_bytes() }
    }

    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    pub(super) fn get(&self, ino: u64) -> Option<&Arc<Inode>> {
        self.inodes.get(usize::try_from(ino.checked_sub(1)?).ok()?)
    }

    pub(super) fn child(&self, directory: u64, name: &OsStr) -> Option<(u64, &Arc<Inode>)> {
        let ino = *self.get(directory)?.children.get(name.as_bytes())?;
        Some((ino, self.get(ino)?))
    }

    /// `.`, `..` and what a directory holds, from the `offset`-th on.
    pub(super) fn list(&self, directory: u64, offset: u64) -> Option<Vec<(u64, &Inode, &OsStr)>> {
        let inode = self.get(directory)?;
        let dots = [(directory, OsStr::new(".")), (inode.parent, OsStr::new(".."))];
        let children = inode.children.iter().map(|(name, ino)| (*ino, OsStr::from_bytes(name)));
        let listed = dots.into_iter().chain(children).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        Some(listed.filter_map(|(ino, name)| Some((ino, self.get(ino)?.as_ref(), name))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Meta;

    #[test]
    fn numbers_lead_back_to_paths() {
        let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
        let mut tree = Tree::new(meta);
        for path in ["a", "a/b", "a/b/c", "d"] {
            tree.insert(path.parse().unwrap(), Entry { meta, kind: Kind::Directory }).unwrap();
        }
        let table = InodeTable::new(&tree);
        let (a, inode) = table.child(ROOT, OsStr::new("a")).unwrap();
        assert_eq!((inode.links(&table), inode.parent), (3, ROOT));
        let (b, _) = table.child(a, OsStr::new("b")).unwrap();
        assert_eq!(table.get(b).unwrap().path.to_string(), "a/b");
        assert!(table.child(ROOT, OsStr::new("b")).is_none());
        let names: Vec<_> = table.list(ROOT, 1).unwrap().into_iter().map(|(_, _, name)| name).collect();
        assert_eq!(names, ["..", "a", "d"]);
        assert!(table.get(0).is_none() && table.get(99).is_none());
    }
}
