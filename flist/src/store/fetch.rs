//! From a block of a file to its plain bytes.

use super::{Store, StoreError};
use crate::block::{self, BlockError, BlockId};
use crate::tree::Content;

/// Why a block of a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No store has it.
    #[error("block {id} is missing in {store}")]
    Missing {
        /// The block.
        id: BlockId,
        /// The stores that were asked.
        store: String,
    },
    /// The store failed.
    #[error("block {id} could not be fetched")]
    Store {
        /// The block.
        id: BlockId,
        /// The store's reason.
        #[source]
        source: StoreError,
    },
    /// The block does not open.
    #[error("block {id} is not usable")]
    Block {
        /// The block.
        id: BlockId,
        /// What is wrong with it.
        #[source]
        source: BlockError,
    },
    /// The block opens, but its plain bytes have another key.
    #[error("block {id} holds other bytes than its key in the flist says")]
    Key {
        /// The block.
        id: BlockId,
    },
    /// The block has another length than the file's size says.
    #[error("block {id} holds {found} bytes where the flist needs {wanted}")]
    Length {
        /// The block.
        id: BlockId,
        /// Its plain length in bytes.
        found: usize,
        /// The length the flist implies, in bytes.
        wanted: usize,
    },
}

impl FetchError {
    /// Whether the same fetch may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_retryable())
    }
}

/// The plain bytes of the block at `index` of a file: fetched, checked against its id, opened, and of the
/// length the flist implies.
///
/// # Errors
/// [`FetchError`].
///
/// # Panics
/// When the file has no block at `index`.
pub fn fetch_plain(store: &dyn Store, content: &Content, index: usize) -> Result<Vec<u8>, FetchError> {
    let block = &content.blocks[index];
    let id = block.id;
    let stored = store
        .get(&id)
        .map_err(|source| FetchError::Store { id, source })?
        .ok_or_else(|| FetchError::Missing { id, store: store.url() })?;
    let plain = block::open(&id, &block.key, stored).map_err(|source| FetchError::Block { id, source })?;
    let wanted = content.block_len(index);
    if plain.len() == wanted { Ok(plain) } else { Err(FetchError::Length { id, found: plain.len(), wanted }) }
}
