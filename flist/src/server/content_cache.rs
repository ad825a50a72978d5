//! What was computed from served files, by what changes when a file does. Files of a hub are replaced, not
//! rewritten, so a content never changes under its inode.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most files of which something is kept; beyond it the cache starts afresh.
const MAX_CACHED: usize = 4096;

/// Values of contents, by the file that has it.
#[derive(Debug)]
pub(super) struct ContentCache<V>(Mutex<HashMap<FileKey, V>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileKey {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<V> Default for ContentCache<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V: Clone> ContentCache<V> {
    /// The value of a file, computed when it is not known.
    pub(super) fn get_or<E>(
        &self,
        metadata: &Metadata,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let key = FileKey::of(metadata);
        if let Some(value) = self.known().get(&key) {
            return Ok(value.clone());
        }
        let value = compute()?;
        let mut known = self.known();
        if known.len() >= MAX_CACHED {
            known.clear();
        }
        known.insert(key, value.clone());
        Ok(value)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<FileKey, V>> {
        // A panic elsewhere cannot leave a half-written entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileKey {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_does_not_grow_without_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = ContentCache::default();
        let value = |cache: &ContentCache<u8>, value| {
            cache.get_or(&std::fs::metadata(file.path()).unwrap(), || Ok::<_, ()>(value)).unwrap()
        };
        assert_eq!((value(&cache, 1), value(&cache, 2)), (1, 1));
        let key = FileKey::of(&std::fs::metadata(file.path()).unwrap());
        let fill = (0..MAX_CACHED as u64).map(|inode| (FileKey { inode, device: u64::MAX, ..key }, 0));
        cache.known().extend(fill);
        std::fs::write(file.path(), "abcd").unwrap();
        assert_eq!(value(&cache, 3), 3);
        assert_eq!(cache.known().len(), 1);
    }
}
