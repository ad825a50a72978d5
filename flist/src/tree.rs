//! The tree of a flist, independent of the format it came from.

mod fingerprint;

use std::collections::BTreeMap;

pub use fingerprint::Fingerprint;

use crate::block::{BLOCK_SIZE, BlockId, BlockKey, Codec};
use crate::path::FlistPath;
use crate::xattr::Xattrs;

/// Bounds on what a flist may claim. Everything in a flist comes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Size of the flist itself in bytes.
    pub flist_bytes: u64,
    /// Entries in the tree.
    pub entries: usize,
    /// Size of one file in bytes.
    pub file_bytes: u64,
    /// Blocks of all files together.
    pub blocks: usize,
    /// Components of one path.
    pub depth: usize,
    /// Length of all paths together in bytes: deep trees are small in a flist and large in memory.
    pub path_bytes: usize,
    /// Length of a symlink's target in bytes.
    pub target_bytes: usize,
    /// Extended attributes of all entries together, names and values, in bytes.
    pub xattr_bytes: usize,
    /// Routes and tags, each.
    pub routes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flist_bytes: 256 << 20,
            entries: 2_000_000,
            file_bytes: 1 << 38,
            blocks: 4_000_000,
            depth: 128,
            path_bytes: 512 << 20,
            target_bytes: 4095,
            xattr_bytes: 64 << 20,
            routes: 64,
        }
    }
}

/// Why entries do not form a tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// Two entries have the same path.
    #[error("'{0}' is there twice")]
    Duplicate(FlistPath),
    /// The directory of an entry is not in the tree.
    #[error("'{0}' has no parent directory")]
    NoParent(FlistPath),
    /// Something is said about an entry that is not there.
    #[error("there is no '{0}'")]
    NoEntry(FlistPath),
    /// An entry lies beneath something that is no directory.
    #[error("'{entry}' lies beneath '{ancestor}', which is a {kind}, not a directory")]
    BeneathNonDirectory {
        /// The entry.
        entry: FlistPath,
        /// What it lies beneath.
        ancestor: FlistPath,
        /// What that is.
        kind: &'static str,
    },
    /// A file has not as many blocks as its size needs.
    #[error("'{path}' claims {size} bytes but has {blocks} blocks of {BLOCK_SIZE}")]
    BlockCount {
        /// The file.
        path: FlistPath,
        /// The size it claims in bytes.
        size: u64,
        /// How many blocks it has.
        blocks: usize,
    },
    /// Something exceeds a limit.
    #[error("{what} {found} exceeds the limit of {limit}")]
    Limit {
        /// What is counted, and where.
        what: String,
        /// How much there is.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
}

/// Owner, permissions and time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with set-uid, set-gid and sticky (`st_mode & 0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification, in seconds since 1970.
    pub mtime: i64,
}

/// One stored piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// Names the stored bytes.
    pub id: BlockId,
    /// Opens them, and identifies the plain bytes.
    pub key: BlockKey,
}

/// The content of a regular file: `blocks` of [`BLOCK_SIZE`] plain bytes each, the last one shorter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Length of the file in bytes.
    pub size: u64,
    /// Its pieces in order.
    pub blocks: Vec<Block>,
}

impl Content {
    /// How many plain bytes the block at `index` has.
    pub fn block_len(&self, index: usize) -> usize {
        let start = index as u64 * BLOCK_SIZE as u64;
        usize::try_from(self.size.saturating_sub(start)).unwrap_or(usize::MAX).min(BLOCK_SIZE)
    }

    /// Identifies the plain content.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.size, self.blocks.iter().map(|block| block.key))
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device and its number (`st_rdev`).
    CharDevice(u64),
    /// A block device and its number (`st_rdev`).
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket; only its name survives.
    Socket,
}

impl Kind {
    /// A word for messages.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File(_) => "file",
            Self::Symlink(_) => "symlink",
            Self::CharDevice(_) => "character device",
            Self::BlockDevice(_) => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Owner, permissions, time.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}

/// Which store holds the blocks whose id starts with a byte in `first..=last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Lowest first byte.
    pub first: u8,
    /// Highest first byte.
    pub last: u8,
    /// Address of the store.
    pub url: String,
}

impl Route {
    /// All blocks are in one store.
    pub fn everything(url: impl Into<String>) -> Self {
        Self { first: 0, last: u8::MAX, url: url.into() }
    }
}

/// The whole tree. Every entry's parent is a directory of the tree; the root is there from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    root: Meta,
    entries: BTreeMap<FlistPath, Entry>,
    /// Only of those entries that have any.
    xattrs: BTreeMap<FlistPath, Xattrs>,
    /// Where the blocks are.
    pub routes: Vec<Route>,
    /// Free notes of the packer.
    pub tags: BTreeMap<String, String>,
}

impl Tree {
    /// A tree with nothing but its root directory.
    pub fn new(root: Meta) -> Self {
        Self {
            root,
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            routes: Vec::new(),
            tags: BTreeMap::new(),
        }
    }

    /// Owner, permissions and time of the root directory.
    pub fn root(&self) -> &Meta {
        &self.root
    }

    /// Adds an entry; its directory must be there already.
    ///
    /// # Errors
    /// [`TreeError`] when the entry has no place in the tree or contradicts itself.
    pub fn insert(&mut self, path: FlistPath, entry: Entry) -> Result<(), TreeError> {
        let Some(parent) = path.parent() else { return Err(TreeError::Duplicate(path)) };
        if !parent.is_root() {
            match self.entries.get(&parent).map(|parent| &parent.kind) {
                Some(Kind::Directory) => {}
                Some(other) => {
                    let kind = other.word();
                    return Err(TreeError::BeneathNonDirectory { entry: path, ancestor: parent, kind });
                }
                None => return Err(TreeError::NoParent(path)),
            }
        }
        if let Kind::File(content) = &entry.kind
            && content.size.div_ceil(BLOCK_SIZE as u64) != content.blocks.len() as u64
        {
            let (size, blocks) = (content.size, content.blocks.len());
            return Err(TreeError::BlockCount { path, size, blocks });
        }
        if self.entries.contains_key(&path) {
            return Err(TreeError::Duplicate(path));
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    /// Sets the extended attributes of an entry that is there, or of the root.
    ///
    /// # Errors
    /// [`TreeError::NoEntry`].
    pub fn set_xattrs(&mut self, path: FlistPath, xattrs: Xattrs) -> Result<(), TreeError> {
        if !path.is_root() && !self.entries.contains_key(&path) {
            return Err(TreeError::NoEntry(path));
        }
        match xattrs.is_empty() {
            true => self.xattrs.remove(&path),
            false => self.xattrs.insert(path, xattrs),
        };
        Ok(())
    }

    /// The extended attributes of an entry, or of the root; `None` when it has none.
    pub fn xattrs(&self, path: &FlistPath) -> Option<&Xattrs> {
        self.xattrs.get(path)
    }

    /// The entry at a path; `None` for the root.
    pub fn get(&self, path: &FlistPath) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// All entries but the root, a directory before what it contains.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&FlistPath, &Entry)> {
        self.entries.iter()
    }

    /// The regular files.
    pub fn files(&self) -> impl Iterator<Item = (&FlistPath, &Entry, &Content)> {
        self.iter().filter_map(|(path, entry)| match &entry.kind {
            Kind::File(content) => Some((path, entry, content)),
            _ => None,
        })
    }

    /// The first file with a block that is not sealed by this codec.
    pub fn other_than(&self, codec: Codec) -> Option<&FlistPath> {
        let other = |block: &Block| (block.id.codec(), block.key.codec()) != (codec, codec);
        self.files().find(|(_, _, content)| content.blocks.iter().any(other)).map(|(path, ..)| path)
    }

    /// How many entries there are, the root not counted.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.files().map(|(_, _, content)| content.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };

    fn entry(kind: Kind) -> Entry {
        Entry { meta: META, kind }
    }

    fn path(text: &str) -> FlistPath {
        text.parse().unwrap()
    }

    #[test]
    fn entries_need_a_directory_above_them() {
        let mut tree = Tree::new(META);
        tree.insert(path("link"), entry(Kind::Symlink(b"/etc".to_vec()))).unwrap();
        assert!(matches!(
            tree.insert(path("link/passwd"), entry(Kind::Fifo)),
            Err(TreeError::BeneathNonDirectory { kind: "symlink", .. })
        ));
        assert!(matches!(tree.insert(path("a/b"), entry(Kind::Fifo)), Err(TreeError::NoParent(_))));
        assert!(matches!(tree.insert(path("link"), entry(Kind::Fifo)), Err(TreeError::Duplicate(_))));
        assert!(tree.insert(FlistPath::root(), entry(Kind::Directory)).is_err());
    }

    #[test]
    fn a_size_without_its_blocks_is_refused() {
        let mut tree = Tree::new(META);
        let huge = Content { size: 1 << 40, blocks: Vec::new() };
        assert!(matches!(
            tree.insert(path("f"), entry(Kind::File(huge))),
            Err(TreeError::BlockCount { blocks: 0, .. })
        ));
    }
}
