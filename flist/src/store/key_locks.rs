//! One at a time for each block: concurrent readers of the same block fetch it once.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::block::BlockId;

/// Locks by block id.
#[derive(Default)]
pub(crate) struct KeyLocks {
    taken: Mutex<HashSet<BlockId>>,
    freed: Condvar,
}

/// A lock that is held.
pub(crate) struct KeyGuard<'l> {
    locks: &'l KeyLocks,
    id: BlockId,
}

impl KeyLocks {
    /// Waits until nobody else holds the lock of this block and takes it.
    pub(crate) fn lock(&self, id: BlockId) -> KeyGuard<'_> {
        let mut taken = self.taken();
        while !taken.insert(id) {
            taken = self.freed.wait(taken).unwrap_or_else(|poison| poison.into_inner());
        }
        KeyGuard { locks: self, id }
    }

    fn taken(&self) -> MutexGuard<'_, HashSet<BlockId>> {
        self.taken.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        self.locks.taken().remove(&self.id);
        self.locks.freed.notify_all();
    }
}
