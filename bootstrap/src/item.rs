//! What is at a path: the common language of a release, a generation and the root file system.

use std::collections::BTreeMap;

use flist::block::Codec;
use flist::path::FlistPath;
use flist::tree::{Entry, Fingerprint, Kind, Tree};
use flist::xattr::{Xattrs, changes_rights};
use serde::{Deserialize, Serialize};

/// Everything at its path.
pub type Items = BTreeMap<FlistPath, Item>;

/// What is, was or shall be at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification, in seconds since 1970.
    pub mtime: i64,
    /// Extended attributes that give rights: capabilities and access control lists.
    #[serde(default, with = "flist::xattr::as_text", skip_serializing_if = "Xattrs::is_empty")]
    pub xattrs: Xattrs,
    /// Its kind and content.
    #[serde(flatten)]
    pub what: What,
}

/// Kind and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Identifies the content.
        fingerprint: Fingerprint,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to, in bytes.
        #[serde(with = "hex::serde")]
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// `st_rdev`.
        rdev: u64,
    },
    /// A block device.
    BlockDevice {
        /// `st_rdev`.
        rdev: u64,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Item {
    /// Whether nothing would change if this were installed over `other`. Times do not count, nor do the
    /// permission bits of a symlink.
    pub fn same_as(&self, other: &Self) -> bool {
        let same_mode = self.mode == other.mode || matches!(self.what, What::Symlink { .. });
        let same_owner = (self.uid, self.gid) == (other.uid, other.gid);
        self.what == other.what && same_mode && same_owner && self.xattrs == other.xattrs
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.what == What::Directory
    }

    /// Length of a file in bytes; 0 for everything else.
    pub fn size(&self) -> u64 {
        match self.what {
            What::File { size, .. } => size,
            _ => 0,
        }
    }

    /// By whose keys a file's content is identified; `None` for everything else.
    pub fn codec(&self) -> Option<Codec> {
        match self.what {
            What::File { fingerprint, .. } => Some(fingerprint.codec()),
            _ => None,
        }
    }

    /// A word for messages.
    pub fn word(&self) -> &'static str {
        match self.what {
            What::Directory => "directory",
            What::File { .. } => "file",
            What::Symlink { .. } => "symlink",
            What::CharDevice { .. } | What::BlockDevice { .. } => "device",
            What::Fifo => "fifo",
            What::Socket => "socket",
        }
    }
}

impl Item {
    fn new(entry: &Entry, xattrs: Xattrs) -> Self {
        let what = match &entry.kind {
            Kind::Directory => What::Directory,
            Kind::File(content) => What::File { size: content.size, fingerprint: content.fingerprint() },
            Kind::Symlink(target) => What::Symlink { target: target.clone() },
            Kind::CharDevice(rdev) => What::CharDevice { rdev: *rdev },
            Kind::BlockDevice(rdev) => What::BlockDevice { rdev: *rdev },
            Kind::Fifo => What::Fifo,
            Kind::Socket => What::Socket,
        };
        let meta = &entry.meta;
        Self { mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime, xattrs, what }
    }
}

/// Everything in a tree, at the paths of the tree.
pub fn items_of(tree: &Tree) -> Items {
    let item = |path, entry| {
        let xattrs = tree.xattrs(path).into_iter().flatten().filter(|(name, _)| changes_rights(name));
        Item::new(entry, xattrs.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    tree.iter().map(|(path, entry)| (path.clone(), item(path, entry))).collect()
}
