//! Plain blocks for readers of a mount.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::block::BLOCK_SIZE;
use crate::store::{Batch, FetchError, KeyLocks, Plain, Store};
use crate::tree::{Block, Content};

/// Plain bytes kept in memory. The kernel asks for at most one block's length at a time and reads ahead,
/// so a few blocks for each of its parallel requests are enough; its own page cache keeps the rest.
const KEPT_BYTES: usize = 16 << 20;

/// Most buffers that wait to be used again.
const SPARE: usize = 4;

/// Most blocks kept, however short.
const KEPT: usize = 256;

/// Fetches blocks, once for concurrent readers of the same block, and keeps the last few.
pub(super) struct Blocks {
    store: Arc<dyn Store>,
    kept: Mutex<Kept>,
    locks: KeyLocks,
    /// Buffers of reads that are over.
    batches: Mutex<Vec<Batch>>,
}

#[derive(Default)]
struct Kept {
    /// Plain bytes, and when they were last used. By id and key: with another key the same stored bytes are another
    /// block, or none.
    blocks: BTreeMap<Block, (Arc<Vec<u8>>, u64)>,
    /// The memory that they take.
    bytes: usize,
    clock: u64,
    /// Blocks that are kept no longer, whose memory is used again.
    spare: Vec<Vec<u8>>,
}

impl Blocks {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, kept: Mutex::default(), locks: KeyLocks::default(), batches: Mutex::default() }
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
        let (block, length) = (content.blocks[index], content.block_len(index));
        let id = block.id;
        if let Some(plain) = self.kept().get(&block, length) {
            return Ok(plain);
        }
        let _one_at_a_time = self.locks.lock(id);
        // Whoever held the lock before may have fetched it.
        if let Some(plain) = self.kept().get(&block, length) {
            return Ok(plain);
        }
        let mut batch = self.batches().pop().unwrap_or_default();
        let mut opened = None;
        let fetched = batch.fetch(self.store.as_ref(), &[(content, index)], |_, plain| {
            opened = Some(self.kept().insert(block, plain?));
            Ok(())
        });
        self.batches().push(batch);
        fetched?;
        opened.ok_or_else(|| FetchError::Missing { id, store: self.store.url() })
    }

    /// Opens blocks, each given as a file and an index, before somebody asks for them. All are kept for the next
    /// read; those that nobody waits for and that `keep` does not want kept are handed to `push` and forgotten.
    /// What somebody is at, and what cannot be had, is left out.
    ///
    /// `push` may wait for the answer to a read: no lock is held then, so that no answer waits for it.
    pub(super) fn open_ahead(
        &self,
        blocks: &[(&Content, usize)],
        batch: &mut Batch,
        keep: impl Fn(usize) -> bool,
        mut push: impl FnMut(usize, &[u8]),
    ) {
        let id = |(content, index): &(&Content, usize)| content.blocks.get(*index).map(|block| block.id);
        let ids: Option<Vec<_>> = blocks.iter().map(id).collect();
        let Some(ids) = ids else { return };
        let mut first = 0;
        while first < blocks.len() {
            let count = self.store.at_once(&ids[first..]).clamp(1, blocks.len() - first);
            let group = &blocks[first..first + count];
            for (number, block, plain) in self.opened_ahead(group, batch, |number| keep(first + number)) {
                push(first + number, &plain);
                drop(plain);
                if let Some(block) = block {
                    self.kept().forget(&block);
                }
            }
            first += count;
        }
    }

    /// What is to be pushed: its number, the block if it is not to be kept afterwards, and its plain bytes.
    fn opened_ahead(
        &self,
        blocks: &[(&Content, usize)],
        batch: &mut Batch,
        keep: impl Fn(usize) -> bool,
    ) -> Vec<(usize, Option<Block>, Arc<Vec<u8>>)> {
        let mut pushed = Vec::new();
        let mut free = Vec::new();
        for (number, (content, index)) in blocks.iter().enumerate() {
            let Some(block) = content.blocks.get(*index) else { continue };
            // Never waits: who holds one lock and waits for another could wait for ever.
            let Some(guard) = self.locks.try_lock(block.id) else { continue };
            match self.kept().get(block, content.block_len(*index)) {
                Some(plain) if !keep(number) => pushed.push((number, None, plain)),
                Some(_) => {}
                None => free.push((number, *block, Some(guard))),
            }
        }
        let wanted: Vec<_> = free.iter().map(|(number, ..)| blocks[*number]).collect();
        let _ = batch.fetch(self.store.as_ref(), &wanted, |place, plain| {
            let (number, block, guard) = &mut free[place];
            let guard = guard.take();
            // Whoever asks for it hears of a failure.
            let Ok(plain) = plain else { return Ok::<_, Infallible>(()) };
            let plain = self.kept().insert(*block, plain);
            if !keep(*number) && !guard.is_some_and(|guard| guard.is_awaited()) {
                pushed.push((*number, Some(*block), plain));
            }
            Ok(())
        });
        pushed
    }

    fn batches(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.batches.lock().unwrap_or_else(|poison| poison.into_inner())
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
    fn get(&mut self, block: &Block, length: usize) -> Option<Arc<Vec<u8>>> {
        self.clock += 1;
        let (plain, used) = self.blocks.get_mut(block).filter(|(plain, _)| plain.len() == length)?;
        *used = self.clock;
        Some(plain.clone())
    }

    fn insert(&mut self, block: Block, plain: Plain<'_>) -> Arc<Vec<u8>> {
        self.clock += 1;
        // A short block in the memory of a long one would keep all of it.
        let plain = match plain.bytes() {
            short if short.len() < plain.capacity() / 2 => short.to_vec(),
            _ => plain.take(self.spare.pop().unwrap_or_default()),
        };
        let plain = Arc::new(plain);
        self.bytes += plain.capacity();
        if let Some((before, _)) = self.blocks.insert(block, (plain.clone(), self.clock)) {
            self.bytes -= before.capacity();
        }
        while (self.bytes > KEPT_BYTES || self.blocks.len() > KEPT)
            && let Some(oldest) =
                self.blocks.iter().min_by_key(|(_, (_, used))| *used).map(|(block, _)| *block)
        {
            self.forget(&oldest);
        }
        plain
    }

    fn forget(&mut self, block: &Block) {
        let Some((old, _)) = self.blocks.remove(block) else { return };
        self.bytes -= old.capacity();
        if self.spare.len() < SPARE {
            // Somebody may still read it; then its memory is not ours.
            self.spare.extend(Arc::into_inner(old));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::block::{BlockId, BlockKey, seal};
    use crate::store::{StoreError, one_by_one};

    /// After so long without an answer there will be none.
    const PATIENCE: Duration = Duration::from_secs(30);

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

        fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
            one_by_one(self, ids, buffers)
        }

        fn at_once(&self, ids: &[BlockId]) -> usize {
            ids.len()
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
    fn what_is_pushed_keeps_no_reader_waiting() {
        let plains: Vec<Vec<u8>> = (0..Batch::SIZE).map(|seed| vec![seed as u8; 1000 + seed]).collect();
        let sealed: Vec<_> = plains.iter().map(|plain| seal(plain).unwrap()).collect();
        let content = |(plain, sealed): (&Vec<u8>, &crate::block::Sealed)| Content {
            size: plain.len() as u64,
            blocks: vec![Block { id: sealed.id, key: sealed.key }],
        };
        let contents: Vec<_> = plains.iter().zip(&sealed).map(content).collect();
        let blocks = Arc::new(Blocks::new(Arc::new(Counting {
            blocks: sealed.into_iter().map(|s| (s.id, s.stored)).collect(),
            asked: AtomicUsize::new(0),
        })));
        let wanted: Vec<_> = contents.iter().map(|content| (content, 0)).collect();
        let mut pushed = Vec::new();
        blocks.open_ahead(
            &wanted,
            &mut Batch::default(),
            |_| false,
            |number, plain| {
                assert_eq!(plain, plains[number]);
                pushed.push(number);
                // As the kernel does: it takes nothing before the reads of other files are answered.
                let (answer, answers) = channel();
                for content in contents.clone() {
                    let (blocks, answer) = (blocks.clone(), answer.clone());
                    thread::spawn(move || answer.send(blocks.read(&content, 0, 10).unwrap().bytes().len()));
                }
                for _ in &contents {
                    assert_eq!(answers.recv_timeout(PATIENCE).expect("a reader is kept waiting"), 10);
                }
            },
        );
        assert_eq!(pushed, (0..Batch::SIZE).collect::<Vec<_>>());

        let blocks = Blocks::new(blocks.store.clone());
        blocks.open_ahead(&wanted, &mut Batch::default(), |number| number == 1, |_, _| {});
        let kept: Vec<_> = blocks.kept().blocks.keys().copied().collect();
        assert_eq!(kept, [contents[1].blocks[0]], "the kernel has the others");
    }

    #[test]
    fn what_is_kept_takes_no_more_memory_than_it_may() {
        let long = (0..40_u8).map(|seed| vec![seed; BLOCK_SIZE]);
        let short = (0..300_u32).map(|seed| seed.to_le_bytes().repeat(25));
        let mut store = Counting { blocks: HashMap::new(), asked: AtomicUsize::new(0) };
        let mut contents = Vec::new();
        for plain in long.chain(short) {
            let sealed = seal(&plain).unwrap();
            let blocks = vec![Block { id: sealed.id, key: sealed.key }];
            contents.push(Content { size: plain.len() as u64, blocks });
            store.blocks.insert(sealed.id, sealed.stored);
        }
        let blocks = Blocks::new(Arc::new(store));
        for content in &contents {
            blocks.read(content, 0, 1).unwrap();
            let kept = blocks.kept();
            let taken: usize = kept.blocks.values().map(|(plain, _)| plain.capacity()).sum();
            assert!(taken == kept.bytes && taken <= KEPT_BYTES && kept.blocks.len() <= KEPT, "{taken}");
        }
    }

    #[test]
    fn a_missing_block_is_an_error_and_not_remembered() {
        let missing = Block { id: BlockId::of(b"x"), key: BlockKey::of(b"x") };
        let content = Content { size: 1, blocks: vec![missing] };
        let blocks = Blocks::new(Arc::new(Counting { blocks: HashMap::new(), asked: AtomicUsize::new(0) }));
        assert!(matches!(blocks.read(&content, 0, 1), Err(FetchError::Missing { .. })));
        assert!(blocks.kept().blocks.is_empty());
    }

    #[test]
    fn what_was_opened_with_one_key_is_not_given_to_another() {
        let sealed = seal(b"plain").unwrap();
        let content = |key| Content { size: 5, blocks: vec![Block { id: sealed.id, key }] };
        let store = HashMap::from([(sealed.id, sealed.stored.clone())]);
        let blocks = Blocks::new(Arc::new(Counting { blocks: store, asked: AtomicUsize::new(0) }));
        assert_eq!(*blocks.read(&content(sealed.key), 0, 5).unwrap().bytes(), *b"plain");
        assert!(blocks.read(&content(BlockKey::of(b"other")), 0, 5).is_err());
    }
}
