//! How many bytes the block store may have.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the blocks that are stored, counted once at start and kept up since.
#[derive(Debug)]
pub(super) struct Quota {
    limit: Option<u64>,
    used: AtomicU64,
}

/// Bytes that are spoken for; given back when dropped, unless they were used.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    quota: &'a Quota,
    bytes: u64,
}

impl Quota {
    /// Counts what is in the store, if there is a limit.
    pub(super) fn open(store: &Path, limit: Option<u64>) -> io::Result<Self> {
        let used = if limit.is_some() { stored_bytes(store)? } else { 0 };
        Ok(Self { limit, used: AtomicU64::new(used) })
    }

    /// Speaks for bytes before they are written; otherwise says how many are used and allowed.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation<'_>, String> {
        let fits =
            |used: u64| used.checked_add(bytes).filter(|sum| self.limit.is_none_or(|limit| *sum <= limit));
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Reservation { quota: self, bytes }),
            Err(used) => Err(format!(
                "the hub's block store is full: {used} of {} bytes are used, and {bytes} more do not fit",
                self.limit.unwrap_or(u64::MAX)
            )),
        }
    }
}

impl Reservation<'_> {
    /// The bytes are in the store now.
    pub(super) fn used(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.quota.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Blocks in both layouts, and what writing them left behind.
fn stored_bytes(store: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(store)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if !metadata.is_dir() {
            bytes += metadata.len();
            continue;
        }
        for block in std::fs::read_dir(entry.path())? {
            bytes += match block?.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                metadata => metadata?.len(),
            };
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_once() {
        let store = tempfile::tempdir().unwrap();
        std::fs::create_dir(store.path().join("00")).unwrap();
        std::fs::write(store.path().join("00/block"), [0; 60]).unwrap();
        let quota = Quota::open(store.path(), Some(100)).unwrap();
        let first = quota.reserve(30).unwrap();
        let full = quota.reserve(11).unwrap_err();
        assert!(full.contains("90 of 100 bytes"), "{full}");
        drop(first);
        quota.reserve(40).unwrap().used();
        assert!(quota.reserve(1).is_err() && quota.reserve(0).is_ok());
        assert!(Quota::open(store.path(), None).unwrap().reserve(u64::MAX).is_ok());
    }
}
