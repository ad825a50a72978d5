//! The classic format of 0-fs and 0-flist: a gzip'd tar archive of one SQLite file and, perhaps, a `router.yaml`.
//!
//! Tables: `entries(key, value)` with a Cap'n Proto message for each directory, by the BLAKE2b-128 of its path, and
//! for each kind of access, by the BLAKE2b-64 of its text; `metadata(key, value)` with notes. The schema of the
//! messages is `flist/schema/classic.capnp`.

mod access;
mod archive;
#[allow(clippy::all, clippy::unwrap_used, missing_docs, unreachable_pub, unused, reason = "it is generated")]
#[rustfmt::skip]
mod classic_capnp;
mod encode;
#[cfg(test)]
mod generated;
mod keys;
mod message;
mod notes;
mod read;
mod router;
mod write;

use std::io;

pub use keys::{access_key, directory_key};
pub use read::parse;
pub use write::to_bytes;

use super::rows::RowsError;
use crate::path::{FlistPath, PathError};
use crate::tree::TreeError;

/// First bytes of every gzip archive.
pub const MAGIC: &[u8] = b"\x1f\x8b";

/// What is wrong with a classic flist.
#[derive(Debug, thiserror::Error)]
pub enum ClassicError {
    /// The archive cannot be unpacked, or made.
    #[error("cannot {action} its archive")]
    Archive {
        /// What was tried.
        action: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The archive unpacks to more than a flist may have.
    #[error("its archive unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The archive lacks the SQLite file, or has something twice or of another kind.
    #[error("its archive {problem}")]
    Members {
        /// What is wrong.
        problem: String,
    },
    /// A table cannot be read or written.
    #[error(transparent)]
    Rows(RowsError),
    /// A key is in the table twice.
    #[error("table entries has the key '{0}' twice")]
    DuplicateKey(String),
    /// There is no row for a directory.
    #[error("there is no directory '{path}': table entries lacks its key {key}")]
    NoDirectory {
        /// The directory.
        path: FlistPath,
        /// Its key.
        key: String,
    },
    /// Two entries are the same directory, perhaps one in the other.
    #[error("'{path}' is the same directory as another entry: both have the key {key}")]
    SharedDirectory {
        /// The second of them.
        path: FlistPath,
        /// The key.
        key: String,
    },
    /// A message is not Cap'n Proto, or not as the schema says, or larger when read than it is.
    #[error("the {what} is not readable")]
    Message {
        /// What it describes.
        what: String,
        /// Cap'n Proto's reason.
        #[source]
        source: capnp::Error,
    },
    /// The name of an entry is not allowed.
    #[error("an entry in directory '{parent}' has a name that is not allowed")]
    Name {
        /// Its directory.
        parent: FlistPath,
        /// What is wrong with the name.
        #[source]
        source: PathError,
    },
    /// An entry says what cannot be.
    #[error("'{path}' {problem}")]
    Entry {
        /// The entry.
        path: FlistPath,
        /// What is wrong with it.
        problem: String,
    },
    /// The router.yaml cannot be read.
    #[error("its router.yaml is not usable: {problem}")]
    Router {
        /// What is wrong with it.
        problem: String,
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
    /// The blocks of a file are of another format.
    #[error("the blocks of '{0}' are not of the classic format; convert the flist")]
    Codec(FlistPath),
}

impl From<RowsError> for ClassicError {
    fn from(error: RowsError) -> Self {
        Self::Rows(error)
    }
}
