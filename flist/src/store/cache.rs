//! A verified local copy of a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{DirStore, Store, StoreError};
use crate::block::BlockId;

/// Keeps what it fetches in a directory. A copy counts only if it still has its id; a damaged one is
/// dropped and fetched again. A cache that cannot be written never fails a read.
pub struct CachedStore {
    inner: Arc<dyn Store>,
    cache: DirStore,
    complained: AtomicBool,
}

impl CachedStore {
    /// Puts the cache in front of `inner`.
    pub fn new(inner: Arc<dyn Store>, cache: DirStore) -> Self {
        Self { inner, cache, complained: AtomicBool::new(false) }
    }

    fn complain_once(&self, error: &StoreError) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(cache = self.cache.url(), error = %crate::report(error), "the block cache is not usable, going on without it");
        }
    }
}

impl Store for CachedStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        match self.cache.get(id) {
            Ok(Some(stored)) => return Ok(Some(stored)),
            Ok(None) => {}
            Err(StoreError::Corrupt { .. }) => {
                tracing::warn!(block = %id, "a cached block is damaged, fetching it again");
                if let Err(error) = self.cache.remove(id) {
                    self.complain_once(&error);
                }
            }
            Err(error) => self.complain_once(&error),
        }
        let fetched = self.inner.get(id)?;
        if let Some(stored) = &fetched
            && let Err(error) = self.cache.put(id, stored)
        {
            self.complain_once(&error);
        }
        Ok(fetched)
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
    fn a_cache_that_cannot_be_written_does_not_fail_reads() {
        let dir = tempfile::tempdir().unwrap();
        let origin = Arc::new(DirStore::new(dir.path().join("origin")));
        let sealed = seal(b"content").unwrap();
        origin.put(&sealed.id, &sealed.stored).unwrap();
        std::fs::write(dir.path().join("cache"), "a file where the cache should be").unwrap();
        let store = CachedStore::new(origin, DirStore::new(dir.path().join("cache")));
        assert!(store.get(&sealed.id).unwrap().is_some());
    }
}
