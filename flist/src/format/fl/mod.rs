//! The fl format of rfs: one SQLite file.
//!
//! Tables: `inode(ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime)` with the root as inode 1
//! of parent 0; `extra(ino, data)` with the targets of symlinks; `block(ino, id, key)` in the order of the
//! file; `tag(key, value)`; `route(start, end, url)`. Our own
//! extension, which rfs does not look at, is `xattr(ino, name, value)`; it is there only if it has rows.

mod read;
mod write;

pub use read::parse;
pub use write::to_bytes;

use super::rows::RowsError;
use crate::path::{FlistPath, PathError};
use crate::tree::TreeError;

/// First bytes of every SQLite file.
pub const MAGIC: &[u8] = b"SQLite format 3\0";

/// The inode number of the root directory.
const ROOT_INO: i64 = 1;

/// What is wrong with an fl flist.
#[derive(Debug, thiserror::Error)]
pub enum FlError {
    /// A table cannot be read or written.
    #[error(transparent)]
    Rows(RowsError),
    /// The blocks of a file are of another format.
    #[error("the blocks of '{0}' are not of the fl format; convert the flist")]
    Codec(FlistPath),
    /// A table has two rows for one inode.
    #[error("table {table} has inode {ino} twice")]
    DuplicateInode {
        /// The table.
        table: &'static str,
        /// The inode.
        ino: i64,
    },
    /// There is no usable root directory.
    #[error("there is no root directory: inode 1 must be a directory with parent 0")]
    NoRoot,
    /// The name of an entry is not allowed.
    #[error("inode {ino} in directory '{parent}' has a name that is not allowed")]
    Name {
        /// The entry.
        ino: i64,
        /// Its directory.
        parent: FlistPath,
        /// What is wrong with the name.
        #[source]
        source: PathError,
    },
    /// Entries whose chain of parents does not lead to the root.
    #[error(
        "inode {ino} ('{name}') is not connected to the root: one of its parents is missing, is no directory, or they form a cycle ({count} such entries)"
    )]
    Unconnected {
        /// The first of them.
        ino: i64,
        /// Its name.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// Blocks that belong to no regular file.
    #[error("there are blocks for inode {ino}, which is not a regular file")]
    StrayBlock {
        /// The inode.
        ino: i64,
    },
    /// Extended attributes of something that is not in the tree.
    #[error("there are extended attributes for inode {ino}, which is not in the tree")]
    StrayXattr {
        /// The inode.
        ino: i64,
    },
    /// A symlink without a target, or with one that is not allowed.
    #[error("the target of symlink '{path}' {problem}")]
    Target {
        /// The symlink.
        path: FlistPath,
        /// What is wrong with the target.
        problem: &'static str,
    },
    /// The entries do not form a tree.
    #[error("its entries do not form a tree")]
    Tree(#[source] TreeError),
    /// There is more of something than the limits allow.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl From<RowsError> for FlError {
    fn from(error: RowsError) -> Self {
        Self::Rows(error)
    }
}
