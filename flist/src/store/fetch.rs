//! From a block of a file to its plain bytes.

use super::{Store, StoreError};
use crate::block::{self, BlockError, BlockId};
use crate::tree::{Block, Content};

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
    let mut stored = store
        .get(&id)
        .map_err(|source| FetchError::Store { id, source })?
        .ok_or_else(|| FetchError::Missing { id, store: store.url() })?;
    let mut plain = Vec::new();
    let length = open_checked(block, content.block_len(index), &mut stored, &mut plain)?;
    plain.truncate(length);
    Ok(plain)
}

/// Opens into the beginning of `plain`; returns how many bytes that are.
fn open_checked(
    block: &Block,
    wanted: usize,
    stored: &mut [u8],
    plain: &mut Vec<u8>,
) -> Result<usize, FetchError> {
    let id = block.id;
    let opened = block::open_into(&id, &block.key, stored, plain)
        .map_err(|source| FetchError::Block { id, source })?;
    match opened.len() {
        found if found == wanted => Ok(found),
        found => Err(FetchError::Length { id, found, wanted }),
    }
}

/// Buffers for blocks that are fetched and verified a few at a time, and opened one by one.
#[derive(Debug, Default)]
pub struct Batch {
    stored: Vec<Vec<u8>>,
    plain: Vec<u8>,
}

/// The plain bytes of a block, in a buffer of a [`Batch`].
pub struct Plain<'b> {
    buffer: &'b mut Vec<u8>,
    length: usize,
}

impl Plain<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// How many bytes of memory they take.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Takes them out of the batch, which uses `instead` as its buffer from now on.
    pub fn take(self, instead: Vec<u8>) -> Vec<u8> {
        let mut bytes = std::mem::replace(self.buffer, instead);
        bytes.truncate(self.length);
        bytes
    }
}

impl Batch {
    /// How many blocks to fetch at a time: as many as are verified side by side. Memory grows with it.
    pub const SIZE: usize = 4;

    /// Fetches blocks, each given as a file and an index, and hands out what became of each, in order: its
    /// place in `wanted` and its plain bytes, opened and of the length the flist implies.
    ///
    /// # Errors
    /// The first that `each` returns; it is not called again then.
    ///
    /// # Panics
    /// When a file has no block at an index.
    pub fn fetch<E>(
        &mut self,
        store: &dyn Store,
        wanted: &[(&Content, usize)],
        mut each: impl FnMut(usize, Result<Plain<'_>, FetchError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let ids: Vec<_> = wanted.iter().map(|(content, index)| content.blocks[*index].id).collect();
        if self.stored.len() < ids.len() {
            self.stored.resize_with(ids.len(), Vec::new);
        }
        let got = store.get_each(&ids, &mut self.stored[..ids.len()]);
        for (place, (got, stored)) in got.into_iter().zip(&mut self.stored).enumerate() {
            let (id, (content, index)) = (ids[place], wanted[place]);
            let plain = match got {
                Ok(true) => {
                    let (block, length) = (&content.blocks[index], content.block_len(index));
                    open_checked(block, length, stored, &mut self.plain)
                        .map(|length| Plain { buffer: &mut self.plain, length })
                }
                Ok(false) => Err(FetchError::Missing { id, store: store.url() }),
                Err(source) => Err(FetchError::Store { id, source }),
            };
            each(place, plain)?;
        }
        Ok(())
    }
}
