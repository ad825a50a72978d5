//! One at a time for each block: concurrent readers of the same block fetch it once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::block::BlockId;

/// Locks by block id.
#[derive(Default)]
pub(crate) struct KeyLocks {
    /// Those that are held, and how many wait for each.
    taken: Mutex<HashMap<BlockId, usize>>,
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
        while let Some(waiting) = taken.get_mut(&id) {
            *waiting += 1;
            taken = self.freed.wait(taken).unwrap_or_else(|poison| poison.into_inner());
        }
        taken.insert(id, 0);
        KeyGuard { locks: self, id }
    }

    /// Takes the lock of this block unless somebody holds it.
    pub(crate) fn try_lock(&self, id: BlockId) -> Option<KeyGuard<'_>> {
        match self.taken().entry(id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(0);
                Some(KeyGuard { locks: self, id })
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<BlockId, usize>> {
        self.taken.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl KeyGuard<'_> {
    /// Whether anybody has begun to wait for this lock since it was taken.
    pub(crate) fn is_awaited(&self) -> bool {
        self.locks.taken().get(&self.id).is_some_and(|waiting| *waiting > 0)
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        if self.locks.taken().remove(&self.id).is_some_and(|waiting| waiting > 0) {
            self.locks.freed.notify_all();
        }
    }
}
