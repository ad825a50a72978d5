//! A verified local copy of a store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::{DirStore, KeyLocks, Store, StoreError};
use crate::block::BlockId;

/// A hit is noted in the copy's time of modification, but not more often than this.
const NOTE_HITS_AFTER: Duration = Duration::from_secs(60);

/// Files take whole pages, and a directory for each of the first blocks.
const PAGE: u64 = 4096;

/// Bytes that a cache may still add: shared with whoever knows what else the file system has to take.
#[derive(Debug, Clone)]
pub struct CacheRoom(Arc<AtomicU64>);

impl Default for CacheRoom {
    /// Without a bound.
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl CacheRoom {
    /// From here on, so many bytes may be added.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that may still be added.
    pub fn left(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes room for one file of so many bytes; `false` where there is none.
    fn take(&self, bytes: u64) -> bool {
        let bytes = bytes.div_ceil(PAGE).saturating_add(1).saturating_mul(PAGE);
        let less = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(bytes) };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// Keeps what it fetches in a directory. A copy counts only if it still has its id; a damaged one is
/// dropped and fetched again. Concurrent readers of one block fetch it once. A cache that cannot be read
/// or written never fails a read.
pub struct CachedStore {
    inner: Arc<dyn Store>,
    cache: DirStore,
    /// Most bytes that are kept.
    limit: Option<u64>,
    room: CacheRoom,
    /// Bytes in the cache; `None` until they have been counted.
    used: Mutex<Option<u64>>,
    locks: KeyLocks,
    complained: AtomicBool,
}

impl CachedStore {
    /// Puts the cache in front of `inner`; it grows without limit.
    pub fn new(inner: Arc<dyn Store>, cache: DirStore) -> Self {
        let (limit, room, used, locks, complained) = Default::default();
        Self { inner, cache, limit, room, used, locks, complained }
    }

    /// Keeps at most so many bytes: what has not been read for longest goes first.
    pub fn with_limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// Adds no more than there is room for: what does not fit is fetched, and not kept.
    pub fn with_room(mut self, room: CacheRoom) -> Self {
        self.room = room;
        self
    }

    fn cached(&self, id: &BlockId) -> Option<Vec<u8>> {
        match self.cache.get(id) {
            Ok(Some(stored)) => {
                self.note_hit(id);
                return Some(stored);
            }
            Ok(None) => {}
            Err(StoreError::Corrupt { .. }) => {
                tracing::warn!(block = %id, "a cached block is damaged, fetching it again");
                if let Err(error) = self.cache.remove(id) {
                    self.complain_once(&error);
                }
            }
            Err(error) => self.complain_once(&error),
        }
        None
    }

    fn keep(&self, id: &BlockId, stored: &[u8]) {
        if !self.room.take(stored.len() as u64) {
            return;
        }
        if let Err(error) =
            self.cache.put(id, stored).and_then(|()| self.stay_within_limit(stored.len() as u64))
        {
            self.complain_once(&error);
        }
    }

    fn note_hit(&self, id: &BlockId) {
        if self.limit.is_none() {
            return;
        }
        let (path, now) = (self.cache.path_of(id), SystemTime::now());
        let noted = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
        if noted.is_ok_and(|noted| now.duration_since(noted).is_ok_and(|age| age > NOTE_HITS_AFTER)) {
            // A cache on a read-only disk just forgets what was used last.
            let _ = std::fs::File::open(path).and_then(|file| file.set_modified(now));
        }
    }

    fn stay_within_limit(&self, added: u64) -> Result<(), StoreError> {
        let Some(limit) = self.limit else { return Ok(()) };
        let mut used = self.used.lock().unwrap_or_else(|poison| poison.into_inner());
        let now = match *used {
            Some(before) => before + added,
            None => self.cache.list()?.iter().map(|block| block.bytes).sum(),
        };
        *used = Some(if now > limit { self.evict(limit)? } else { now });
        Ok(())
    }

    /// Removes the blocks that were not used for longest until a tenth of the limit is free; returns the
    /// bytes that are left.
    fn evict(&self, limit: u64) -> Result<u64, StoreError> {
        let mut blocks = self.cache.list()?;
        blocks.sort_by_key(|block| block.modified);
        let mut left: u64 = blocks.iter().map(|block| block.bytes).sum();
        for StoredBlock { path, bytes, .. } in blocks {
            if left <= limit - limit / 10 {
                break;
            }
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::File { action: "remove", path, source });
                }
                _ => left -= bytes,
            }
        }
        Ok(left)
    }

    fn complain_once(&self, error: &StoreError) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(cache = self.cache.url(), error = %crate::report(error), "the block cache is not usable, going on without it");
        }
    }
}

/// A file of a cache.
#[derive(Debug)]
pub(super) struct StoredBlock {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Bytes that its file system has again when it is removed: none where it has another name.
    pub(super) taken: u64,
    /// The number of its file system.
    pub(super) device: u64,
    pub(super) modified: SystemTime,
}

impl Store for CachedStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let _one_at_a_time = self.locks.lock(*id);
        if let Some(stored) = self.cached(id) {
            return Ok(Some(stored));
        }
        let fetched = self.inner.get(id)?;
        if let Some(stored) = &fetched {
            self.keep(id, stored);
        }
        Ok(fetched)
    }

    /// What is in the cache is read without locks, because a copy is there completely or not at all.
    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        let copies = self.cache.get_each(ids, buffers);
        let or_fetched = |((id, buffer), copy): ((&BlockId, &mut Vec<u8>), _)| match copy {
            Ok(true) => {
                self.note_hit(id);
                Ok(true)
            }
            _ => Ok(self.get(id)?.map(|stored| *buffer = stored).is_some()),
        };
        ids.iter().zip(buffers).zip(copies).map(or_fetched).collect()
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        // What is not in the cache comes one after the other.
        ids.iter().take_while(|id| self.cache.path_of(id).exists()).count().max(1)
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        Ok(self.cache.has(id).unwrap_or(false) || self.inner.has(id)?)
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        self.inner.put(id, stored)
    }

    fn url(&self) -> String {
        self.inner.url()
    }
}

#[cfg(test)]
mod tests {
    use super::super::one_by_one;
    use super::*;
    use crate::block::seal;

    #[test]
    fn a_damaged_copy_is_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let origin = Arc::new(DirStore::new(dir.path().join("origin")));
        let cache = DirStore::new(dir.path().join("cache"));
        let store = CachedStore::new(origin.clone(), cache.clone());
        let sealed = seal(b"content").unwrap();
        origin.put(&sealed.id, &sealed.stored).unwrap();

        store.get(&sealed.id).unwrap().unwrap();
        for damage in [&b""[..], &sealed.stored[..5]] {
            std::fs::write(cache.path_of(&sealed.id), damage).unwrap();
            assert_eq!(store.get(&sealed.id).unwrap().unwrap(), sealed.stored);
            assert_eq!(std::fs::read(cache.path_of(&sealed.id)).unwrap(), sealed.stored);
        }
        origin.remove(&sealed.id).unwrap();
        assert!(store.get(&sealed.id).unwrap().is_some());
    }

    #[test]
    fn what_there_is_no_room_for_is_fetched_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let origin = Arc::new(DirStore::new(dir.path().join("origin")));
        let cache = DirStore::new(dir.path().join("cache"));
        let room = CacheRoom::default();
        let store = CachedStore::new(origin.clone(), cache.clone()).with_room(room.clone());
        let blocks = [&b"one"[..], b"two", b"three"].map(|plain| seal(plain).unwrap());
        for block in &blocks {
            origin.put(&block.id, &block.stored).unwrap();
        }
        let kept = |at: usize| {
            assert_eq!(store.get(&blocks[at].id).unwrap().unwrap(), blocks[at].stored);
            cache.has(&blocks[at].id).unwrap()
        };
        assert!(kept(0));
        assert_eq!(room.left(), u64::MAX);
        room.set(3 * PAGE);
        assert!(kept(1) && !kept(2));
        assert_eq!(room.left(), PAGE);
    }

    #[test]
    fn a_cache_that_cannot_be_written_does_not_fail_reads() {
        let dir = tempfile::tempdir().unwrap();
        let origin = Arc::new(DirStore::new(dir.path().join("origin")));
        let sealed = seal(b"content").unwrap();
        origin.put(&sealed.id, &sealed.stored).unwrap();
        std::fs::write(dir.path().join("cache"), "a file where the cache should be").unwrap();
        let store = CachedStore::new(origin, DirStore::new(dir.path().join("cache")));
        assert!(store.get(&sealed.id).unwrap().is_some());
    }

    #[test]
    fn the_oldest_blocks_go_when_there_is_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let origin = Arc::new(DirStore::new(dir.path().join("origin")));
        let cache = DirStore::new(dir.path().join("cache"));
        let sealed: Vec<_> = (0..10_u8)
            .map(|seed| {
                (0..1000_u32).map(|i| (i * 7 + i / 3) as u8 ^ seed.wrapping_mul(31)).collect::<Vec<_>>()
            })
            .map(|plain| seal(&plain).unwrap())
            .collect();
        for block in &sealed {
            origin.put(&block.id, &block.stored).unwrap();
        }
        let room = sealed.iter().take(4).map(|block| block.stored.len() as u64).sum::<u64>();
        let store = CachedStore::new(origin, cache.clone()).with_limit(room);
        let old = SystemTime::now() - Duration::from_secs(3600);
        for (age, block) in (0..).zip(&sealed) {
            store.get(&block.id).unwrap().unwrap();
            if let Ok(file) = std::fs::File::open(cache.path_of(&block.id)) {
                file.set_modified(old + Duration::from_secs(age)).unwrap();
            }
            // Read again and again, so that it is never the one that was not used for longest.
            store.get(&sealed[0].id).unwrap().unwrap();
            assert!(cache.list().unwrap().iter().map(|block| block.bytes).sum::<u64>() <= room);
        }
        assert!(cache.has(&sealed[0].id).unwrap() && cache.has(&sealed[9].id).unwrap());
        assert!(!cache.has(&sealed[1].id).unwrap());
    }

    #[test]
    fn concurrent_readers_of_one_block_fetch_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = seal(b"content").unwrap();
        let inner = Arc::new(Counting { stored: sealed.stored.clone(), asked: Default::default() });
        let store = CachedStore::new(inner.clone(), DirStore::new(dir.path()));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(store.get(&sealed.id).unwrap().unwrap(), sealed.stored));
            }
        });
        assert_eq!(inner.asked.load(Ordering::Relaxed), 1);
    }

    /// Counts how often it is asked for its one block.
    struct Counting {
        stored: Vec<u8>,
        asked: std::sync::atomic::AtomicU32,
    }

    impl Store for Counting {
        fn get(&self, _: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            std::thread::yield_now();
            Ok(Some(self.stored.clone()))
        }

        fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
            one_by_one(self, ids, buffers)
        }

        fn at_once(&self, _: &[BlockId]) -> usize {
            1
        }
        fn has(&self, _: &BlockId) -> Result<bool, StoreError> {
            Ok(true)
        }
        fn put(&self, _: &BlockId, _: &[u8]) -> Result<(), StoreError> {
            Ok(())
        }
        fn url(&self) -> String {
            "counting".to_owned()
        }
    }
}
