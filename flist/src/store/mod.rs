//! Stores return blocks by id.
//!
//! The interface is one blocking call, because its callers are worker threads (of an unpack, of a mount)
//! that do nothing else meanwhile; wrappers such as the cache stack on top of it. "Missing" is an answer
//! (`Ok(None)`), not a failure.

mod cache;
mod dir;
mod fetch;
mod http;
mod key_locks;
mod open;
mod origins;
mod redis;
mod retry;
mod router;

use std::path::PathBuf;

pub use cache::{CacheRoom, CachedStore};
pub use dir::DirStore;
#[cfg(feature = "server")]
pub(crate) use dir::touch;
pub use fetch::{Batch, FetchError, Plain, fetch_plain};
pub use http::HttpStore;
#[cfg(feature = "publish")]
pub(crate) use http::WHOLE_REQUEST;
pub(crate) use key_locks::KeyLocks;
pub use open::{StoreUrl, open, open_for_reading, open_for_writing, open_routes, open_with_access};
pub use origins::Origins;
pub use redis::RedisStore;
pub use retry::{RetryPolicy, RetryStore};
pub use router::Router;

use crate::block::{BlockError, BlockId, MAX_STORED};

/// Where blocks are kept.
pub trait Store: Send + Sync {
    /// The stored bytes of a block, checked against its id; `None` when the store does not have it.
    ///
    /// # Errors
    /// The store could not be asked, or what it holds is corrupt.
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Gets several blocks, each into the buffer of the same index, whose old content is replaced. Returns for
    /// each what [`Store::get`] would, `false` for a missing block; the buffers of others than `Ok(true)` hold
    /// nothing of use. Stores that gain by it verify the blocks together; others use [`one_by_one`].
    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>>;

    /// How many of these blocks, from the first on, come together in hardly more time than one of them: at
    /// least 1, and 1 where each is a request of its own. Whoever waits for one of them asks for no more at once.
    fn at_once(&self, ids: &[BlockId]) -> usize;

    /// Whether the store has a block (its content is not checked).
    ///
    /// # Errors
    /// The store could not be asked.
    fn has(&self, id: &BlockId) -> Result<bool, StoreError>;

    /// Keeps a sealed block; a block that is already there is left alone.
    ///
    /// # Errors
    /// The store could not be written, or is read-only.
    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError>;

    /// The store's address as a user writes it, without secrets.
    fn url(&self) -> String;
}

/// [`Store::get_each`] of a store that gains nothing by it.
pub fn one_by_one(
    store: &dyn Store,
    ids: &[BlockId],
    buffers: &mut [Vec<u8>],
) -> Vec<Result<bool, StoreError>> {
    let one = |(id, buffer): (&BlockId, &mut Vec<u8>)| {
        let stored = store.get(id)?;
        Ok(stored.map(|stored| *buffer = stored).is_some())
    };
    ids.iter().zip(buffers).map(one).collect()
}

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address is not one of a store.
    #[error("'{url}' is not a store: {reason}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the store could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A request failed on the way.
    #[error("request to store {url} failed")]
    Request {
        /// The block's address.
        url: String,
        /// The transport's answer.
        #[source]
        source: reqwest::Error,
    },
    /// An answer broke off or took too long.
    #[error("the answer of store {url} is not complete")]
    Answer {
        /// The block's address.
        url: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// A server answered with something else than the block or "not found".
    #[error("store answered {status} for {url}")]
    Status {
        /// The block's address.
        url: String,
        /// The HTTP status code.
        status: u16,
    },
    /// A server did not take a block.
    #[error("store refused {url} with status {status}{}{message}", if .message.is_empty() { "" } else { ": " })]
    Refused {
        /// The block's address.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// The server's own words; may be empty.
        message: String,
    },
    /// A block longer than the format allows.
    #[error("store sent more than {MAX_STORED} bytes for {url}")]
    TooLong {
        /// The block's address.
        url: String,
    },
    /// The bytes are not the block's.
    #[error("store {url} returned wrong bytes")]
    Corrupt {
        /// The store's address.
        url: String,
        /// What differs.
        #[source]
        source: BlockError,
    },
    /// The store cannot be written.
    #[error("store {url} is read-only; {remedy}")]
    ReadOnly {
        /// The store's address.
        url: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A server that speaks the Redis protocol did not do what it was asked.
    #[error("store {url} failed")]
    Redis {
        /// The store's address.
        url: String,
        /// The client's or the server's reason.
        #[source]
        source: ::redis::RedisError,
    },
    /// No route leads to a store for this block.
    #[error("no route covers block {id}; the routes must cover all of 00 to ff")]
    NoRoute {
        /// The block.
        id: BlockId,
    },
    /// The HTTP client could not be built.
    #[error("cannot set up the HTTP client for store {url}")]
    Client {
        /// The store's address.
        url: String,
        /// The client's reason.
        #[source]
        source: reqwest::Error,
    },
}

impl StoreError {
    /// Whether the same request may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Request { .. } | Self::Answer { .. } => true,
            Self::Redis { source, .. } => source.is_io_error() || source.is_timeout(),
            Self::Status { status, .. } => *status == 429 || *status >= 500,
            // 507: it is full, and stays so.
            Self::Refused { status, .. } => *status == 429 || (*status >= 500 && *status != 507),
            _ => false,
        }
    }
}
