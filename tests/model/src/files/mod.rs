//! One file system: inodes, names, and what of them is on the medium.

mod layers;
mod medium;
mod operations;

use std::collections::{BTreeMap, BTreeSet};

use flist::package::{SCHEMA_MARK, parse_mark};
use flist::path::FlistPath;
use flist::xattr::Xattrs;
use nix::errno::Errno;

pub use medium::Kept;

type Answer<T> = Result<T, Errno>;

/// Most symlinks in one look-up (path_resolution(7)).
const MAX_LINKS: usize = 40;

const ROOT: u64 = 1;

/// A file system.
#[derive(Debug, Clone)]
pub struct Files {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    clock: i64,
    device: u64,
    /// Whether it lies in RAM.
    pub in_ram: bool,
    /// Whether it can exchange two names.
    pub can_exchange: bool,
    /// Bytes that it says can be written to it; nothing enforces them.
    pub available: Option<u64>,
    /// Inodes of a layer below, which nothing is written to; `None` where there is no such layer.
    lower: Option<BTreeSet<u64>>,
    /// What a rename had to copy up, because nobody had before.
    pub copied_late: usize,
    /// What is on the medium; every name on it leads to something on it.
    medium: BTreeMap<u64, Inode>,
    /// Changes of names that are not, oldest first.
    unsynced: Vec<medium::Change>,
}

#[derive(Debug, Clone)]
struct Inode {
    node: Node,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    changed: i64,
    xattrs: Xattrs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory(BTreeMap<Vec<u8>, u64>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice(u64),
    BlockDevice(u64),
    Fifo,
    Socket,
}

/// A name in a directory.
struct Place {
    directory: u64,
    name: Vec<u8>,
}

impl Files {
    /// An empty file system.
    pub fn new(device: u64) -> Self {
        let root = Inode::new(Node::Directory(BTreeMap::new()), 0o755, 0);
        let inodes = BTreeMap::from([(ROOT, root)]);
        Self {
            medium: inodes.clone(),
            unsynced: Vec::new(),
            inodes,
            next: ROOT + 1,
            clock: 1,
            device,
            in_ram: false,
            can_exchange: true,
            available: Some(1 << 40),
            lower: None,
            copied_late: 0,
        }
    }

    /// Everything, in words, by path: what a comparison byte for byte needs.
    pub fn listing(&self) -> BTreeMap<FlistPath, String> {
        let mut all = BTreeMap::new();
        self.list_into(ROOT, &FlistPath::root(), &mut all);
        all
    }

    fn list_into(&self, directory: u64, at: &FlistPath, all: &mut BTreeMap<FlistPath, String>) {
        let Some(Node::Directory(names)) = self.inodes.get(&directory).map(|inode| &inode.node) else {
            return;
        };
        for (name, number) in names {
            let (Ok(path), Some(inode)) = (at.join(name), self.inodes.get(number)) else { continue };
            let Inode { node, mode, uid, gid, xattrs, .. } = inode;
            let what = match node {
                Node::Directory(_) => "directory".to_owned(),
                Node::File(content) => format!("{:?}", String::from_utf8_lossy(content)),
                other => format!("{other:?}"),
            };
            // The mark of state has an inode number, which differs; what it says must not.
            let mut xattrs = xattrs.clone();
            let mark = xattrs.remove(SCHEMA_MARK.as_bytes()).map(|mark| parse_mark(&mark, *number));
            all.insert(path.clone(), format!("{mode:o} {uid}:{gid} {xattrs:?} {mark:?} {what}"));
            self.list_into(*number, &path, all);
        }
    }

    /// The content of a file, links followed.
    pub fn content(&self, path: &FlistPath) -> Option<&[u8]> {
        match &self.inodes[&self.walk(path, true).ok()?.1].node {
            Node::File(content) => Some(content),
            _ => None,
        }
    }

    /// The inode number of what is at a path, links followed.
    pub fn inode_of(&self, path: &FlistPath) -> Option<(u64, u64)> {
        Some((self.device, self.walk(path, true).ok()?.1))
    }

    /// Real names and inode of a path.
    fn walk(&self, path: &FlistPath, follow_last: bool) -> Answer<(Vec<Vec<u8>>, u64)> {
        let mut todo: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        todo.reverse();
        let mut at: Vec<(Vec<u8>, u64)> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            let here = at.last().map_or(ROOT, |(_, number)| *number);
            let Node::Directory(names) = &self.inodes[&here].node else { return Err(Errno::ENOTDIR) };
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let number = *names.get(&name).ok_or(Errno::ENOENT)?;
            match &self.inodes[&number].node {
                Node::Symlink(target) if follow_last || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP);
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                _ => at.push((name, number)),
            }
        }
        let number = at.last().map_or(ROOT, |(_, number)| *number);
        Ok((at.into_iter().map(|(name, _)| name).collect(), number))
    }

    fn directory(&self, path: &FlistPath) -> Answer<u64> {
        let number = self.walk(path, true)?.1;
        match self.inodes[&number].node {
            Node::Directory(_) => Ok(number),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn place(&self, path: &FlistPath) -> Answer<Place> {
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        Ok(Place { directory, name: path.name().to_vec() })
    }

    fn names(&self, directory: u64) -> Answer<&BTreeMap<Vec<u8>, u64>> {
        match &self.inodes[&directory].node {
            Node::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, directory: u64) -> Answer<&mut BTreeMap<Vec<u8>, u64>> {
        match self.inodes.get_mut(&directory).map(|inode| &mut inode.node) {
            Some(Node::Directory(names)) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn at(&self, place: &Place) -> Answer<Option<u64>> {
        Ok(self.names(place.directory)?.get(&place.name).copied())
    }

    fn inode(&self, path: &FlistPath) -> Answer<u64> {
        if path.is_root() {
            return Ok(ROOT);
        }
        self.at(&self.place(path)?)?.ok_or(Errno::ENOENT)
    }

    fn inode_mut(&mut self, path: &FlistPath) -> Answer<&mut Inode> {
        let number = self.inode(path)?;
        self.clock += 1;
        let inode = self.inodes.get_mut(&number).ok_or(Errno::ENOENT)?;
        inode.changed = self.clock;
        Ok(inode)
    }

    fn add(&mut self, path: &FlistPath, node: Node, mode: u32) -> Answer<()> {
        let place = self.place(path)?;
        if self.at(&place)?.is_some() || place.name.is_empty() {
            return Err(Errno::EEXIST);
        }
        self.raise_directories(&path.parent().unwrap_or_default())?;
        let number = self.next;
        self.next += 1;
        self.clock += 1;
        let mut inode = Inode::new(node, mode, self.clock);
        // A set-gid directory gives its group to what is made in it (inode(7)).
        if let Some(above) = self.inodes.get(&place.directory).filter(|above| above.mode & 0o2000 != 0) {
            inode.gid = above.gid;
            inode.mode |= if matches!(inode.node, Node::Directory(_)) { 0o2000 } else { 0 };
        }
        self.inodes.insert(number, inode);
        self.enter([(place, Some(number))])
    }

    /// Inodes without a name are gone, unless the medium can still get them. Nobody keeps one open across operations
    /// here.
    fn collect(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        for inode in self.inodes.values() {
            if let Node::Directory(names) = &inode.node {
                named.extend(names.values());
            }
        }
        named.extend(self.unsynced.iter().flat_map(medium::Change::named));
        self.inodes.retain(|number, _| named.contains(number));
        if let Some(lower) = &mut self.lower {
            lower.retain(|number| named.contains(number));
        }
    }
}

impl Inode {
    fn new(node: Node, mode: u32, clock: i64) -> Self {
        Self { node, mode, uid: 0, gid: 0, mtime: clock, changed: clock, xattrs: Xattrs::new() }
    }
}
