//! What was computed from served files, kept until they change.

use std::collections::HashMap;
use std::fs::Metadata;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::file_version::FileVersion;

/// Most files of which something is kept; beyond it the cache starts afresh.
const MAX_CACHED: usize = 4096;

/// Values of contents, by the file that has it.
#[derive(Debug)]
pub(super) struct ContentCache<V>(Mutex<HashMap<FileVersion, V>>);

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
        let key = FileVersion::of(metadata);
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

    fn known(&self) -> MutexGuard<'_, HashMap<FileVersion, V>> {
        // A panic elsewhere cannot leave a half-written entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let others = tempfile::tempdir().unwrap();
        for number in 1..MAX_CACHED {
            let other = others.path().join(number.to_string());
            std::fs::write(&other, "").unwrap();
            cache.get_or(&std::fs::metadata(&other).unwrap(), || Ok::<_, ()>(0)).unwrap();
        }
        assert_eq!(cache.known().len(), MAX_CACHED);
        std::fs::write(file.path(), "abcd").unwrap();
        assert_eq!(value(&cache, 3), 3);
        assert_eq!(cache.known().len(), 1);
    }
}
