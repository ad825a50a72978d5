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
        Self {
            inodes: inodes.into_iter().map(Arc::new).collect(),
            total_bytes: tree.total_bytes(),
            has_xattrs,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    pub(super) fn get(&self, ino: u64) -> Option<&Arc<Inode>> {
        self.inodes.get(usize::try_from(ino.checked_sub(1)?).ok()?)
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
}
