//! Plain blocks for readers of a mount.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::block::{BLOCK_SIZE, BlockId};
use crate::store::{FetchError, KeyLocks, Store, fetch_plain};
use crate::tree::Content;

/// Plain blocks kept in memory. The kernel asks for at most one block's length at a time and reads ahead,
/// so a few blocks for each of its parallel requests are enough; its own page cache keeps the rest.
const KEPT: usize = 32;

/// Fetches blocks, once for concurrent readers of the same block, and keeps the last few.
pub(super) struct Blocks {
    store: Arc<dyn Store>,
    kept: Mutex<Kept>,
    locks: KeyLocks,
}

#[derive(Default)]
struct Kept {
    /// Plain bytes, and when they were last used.
    blocks: HashMap<BlockId, (Arc<Vec<u8>>, u64)>,
    clock: u64,
}

impl Blocks {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, kept: Mutex::default(), locks: KeyLocks::default() }
    }

    /// Up to `size` bytes of a file from `offset`; fewer at its end.
    ///
    /// # Errors
    /// A block could not be had: no byte is returned then.
    pub(super) fn read(&self, content: &Content, offset: u64, size: u32) -> Result<Pieces, FetchError> {
        let end = content.size.min(offset.saturating_add(u64::from(size)));
        let mut pieces = Pieces(Vec::with_capacity(2));
        let mut at = offset;
        while at < end {
            let index = (at / BLOCK_SIZE as u64) as usize;
            let plain = self.block(content, index)?;
            let start = (at % BLOCK_SIZE as u64) as usize;
            let take = (plain.len() - start).min((end - at) as usize);
            pieces.0.push((plain, start..start + take));
            at += take as u64;
        }
        Ok(pieces)
    }

    fn block(&self, content: &Content, index: usize) -> Result<Arc<Vec<u8>>, FetchError> {
        let (id, length) = (content.blocks[index].id, content.block_len(index));
        if let Some(plain) = self.kept().get(&id, length) {
            return Ok(plain);
        }
        let _one_at_a_time = self.locks.lock(id);
        // Whoever held the lock before may have fetched it.
        if let Some(plain) = self.kept().get(&id, length) {
            return Ok(plain);
        }
        let plain = Arc::new(fetch_plain(self.store.as_ref(), content, index)?);
        self.kept().insert(id, plain.clone());
        Ok(plain)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// What a read gives: parts of blocks, in order.
pub(super) struct Pieces(Vec<(Arc<Vec<u8>>, Range<usize>)>);

impl Pieces {
    /// The bytes; they are copied only when they come from more than one block.
    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        match self.0.as_slice() {
            [(plain, range)] => Cow::Borrowed(&plain[range.clone()]),
            pieces => {
                let slices: Vec<_> = pieces.iter().map(|(plain, range)| &plain[range.clone()]).collect();
                Cow::Owned(slices.concat())
            }
        }
    }
}

impl Kept {
    /// A block that two files hold at different lengths would be a lie of the flist, so the length counts.
    fn get(&mut self, id: &BlockId, length: usize) -> Option<Arc<Vec<u8>>> {
        self.clock += 1;
        let (plain, used) = self.blocks.get_mut(id).filter(|(plain, _)| plain.len() == length)?;
        *used = self.clock;
        Some(plain.clone())
    }

    fn insert(&mut self, id: BlockId, plain: Arc<Vec<u8>>) {
        self.blocks.insert(id, (plain, self.clock));
        if self.blocks.len() > KEPT
            && let Some(oldest) = self.blocks.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)
        {
            self.blocks.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::block::{BlockKey, seal};
    use crate::store::StoreError;
    use crate::tree::Block;

    /// Counts what is asked of it.
    struct Counting {
        blocks: HashMap<BlockId, Vec<u8>>,
        asked: AtomicUsize,
    }

    impl Store for Counting {
        fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(self.blocks.get(id).cloned())
        }
        fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
            Ok(self.blocks.contains_key(id))
        }
        fn put(&self, _: &BlockId, _: &[u8]) -> Result<(), StoreError> {
            Ok(())
        }
        fn url(&self) -> String {
            "counting".to_owned()
        }
    }

    #[test]
    fn reads_cross_blocks_and_fetch_each_once() {
        let plain: Vec<u8> = (0..BLOCK_SIZE * 2 + 100).map(|i| (i / 7) as u8).collect();
        let sealed: Vec<_> = plain.chunks(BLOCK_SIZE).map(|piece| seal(piece).unwrap()).collect();
        let content = Content {
            size: plain.len() as u64,
            blocks: sealed.iter().map(|s| Block { id: s.id, key: s.key }).collect(),
        };
        let store = Arc::new(Counting {
            blocks: sealed.into_iter().map(|s| (s.id, s.stored)).collect(),
            asked: AtomicUsize::new(0),
        });
        let blocks = Blocks::new(store.clone());
        for (offset, size) in [(0, 10), (BLOCK_SIZE - 5, 10), (BLOCK_SIZE * 2, 4096), (plain.len(), 10)] {
            let end = plain.len().min(offset + size);
            let pieces = blocks.read(&content, offset as u64, size as u32).unwrap();
            assert_eq!(*pieces.bytes(), plain[offset..end]);
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(*blocks.read(&content, 0, 2_000_000).unwrap().bytes(), *plain));
            }
        });
        assert_eq!(store.asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_missing_block_is_an_error_and_not_remembered() {
        let missing = Block { id: BlockId::of(b"x"), key: BlockKey::of(b"x") };
        let content = Content { size: 1, blocks: vec![missing] };
        let blocks = Blocks::new(Arc::new(Counting { blocks: HashMap::new(), asked: AtomicUsize::new(0) }));
        assert!(matches!(blocks.read(&content, 0, 1), Err(FetchError::Missing { .. })));
        assert!(blocks.kept().blocks.is_empty());
    }
}
