//! Where the content of a release comes from: the mounted flist at boot, the block store otherwise.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flist::block::{BLOCK_SIZE, BlockId, BlockKey};
use flist::path::FlistPath;
use flist::store::{CachedStore, DirStore, FetchError, Store, StoreError, fetch_plain};
use flist::tree::{Content, Fingerprint};

use crate::root::Root;

/// Why content could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The mounted flist could not be read.
    #[error("cannot read {path} in the mounted flist")]
    Mount {
        /// The file in the mount.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The mounted flist returned something else than the flist says.
    #[error("block {index} of {path} in the mounted flist is not what the flist says")]
    Wrong {
        /// The file in the mount.
        path: PathBuf,
        /// Which of its blocks.
        index: usize,
    },
    /// Whoever reads shall not go on.
    #[error("{0}")]
    Stopped(String),
    /// A block could not be fetched.
    #[error("a block cannot be had")]
    Fetch(#[source] FetchError),
    /// Nothing on this node has it.
    #[error("block {index} of /{path} is not kept on this node, and there is no other source")]
    NotKept {
        /// The path in the flist.
        path: FlistPath,
        /// Which of its blocks.
        index: usize,
    },
}

/// Returns the plain content of a release's files, block by block and verified. Blocks the thread.
pub trait ContentSource: Send + Sync {
    /// The block at `index` of the file at `path` of the flist.
    ///
    /// # Errors
    /// [`SourceError`]; wrong bytes are never returned.
    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError>;
}

/// Reads through a mounted flist.
pub struct MountSource {
    /// The mount point.
    pub mount: PathBuf,
}

impl ContentSource for MountSource {
    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        let path = self.mount.join(path.as_path());
        let failed = |source| SourceError::Mount { path: path.clone(), source };
        let mut plain = vec![0; content.block_len(index)];
        let file = File::open(&path).map_err(failed)?;
        file.read_exact_at(&mut plain, index as u64 * BLOCK_SIZE as u64).map_err(failed)?;
        if BlockKey::of(&plain) != content.blocks[index].key {
            return Err(SourceError::Wrong { path, index });
        }
        Ok(plain)
    }
}

/// Fetches from a store.
pub struct BlockSource {
    /// The store, with a cache in front of it if there is one.
    pub store: Arc<dyn Store>,
}

impl ContentSource for BlockSource {
    fn block(&self, _: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        let plain = fetch_plain(self.store.as_ref(), content, index).map_err(SourceError::Fetch)?;
        // What is installed is compared by these keys later, so they have to be right.
        let block = content.blocks[index];
        if BlockKey::of(&plain) == block.key {
            Ok(plain)
        } else {
            Err(SourceError::Fetch(FetchError::Key { id: block.id }))
        }
    }
}

/// Reads the files that earlier upgrades replaced, and asks another source for what is not among them.
pub struct KeptSource {
    /// The root file system.
    pub root: Arc<Root>,
    /// Where the content lies that is kept.
    pub slots: HashMap<Fingerprint, FlistPath>,
    /// Who has the rest.
    pub next: Option<Arc<dyn ContentSource>>,
}

impl KeptSource {
    /// A block of a kept file, if it is still what it was.
    fn kept(&self, content: &Content, index: usize) -> Option<Vec<u8>> {
        let file = self.root.disk().open(self.slots.get(&content.fingerprint())?, false).ok()?;
        let mut plain = vec![0; content.block_len(index)];
        let read = file.read_at(&mut plain, index as u64 * BLOCK_SIZE as u64).ok()?;
        (read == plain.len() && BlockKey::of(&plain) == content.blocks[index].key).then_some(plain)
    }
}

impl ContentSource for KeptSource {
    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        match (self.kept(content, index), &self.next) {
            (Some(plain), _) => Ok(plain),
            (None, Some(next)) => next.block(path, content, index),
            (None, None) => Err(SourceError::NotKept { path: path.clone(), index }),
        }
    }
}

/// Most bytes of fetched blocks that a node keeps.
const CACHE_LIMIT: u64 = 512 << 20;

/// Puts the node's cache in front of a store.
pub fn cached(store: Arc<dyn Store>, cache_dir: &Path) -> Arc<dyn Store> {
    Arc::new(CachedStore::new(store, DirStore::new(cache_dir)).with_limit(CACHE_LIMIT))
}

/// Counts the stored bytes that come out of a store.
pub struct CountingStore {
    inner: Arc<dyn Store>,
    bytes: Arc<AtomicU64>,
}

impl CountingStore {
    /// Counts into `bytes`.
    pub fn new(inner: Arc<dyn Store>, bytes: Arc<AtomicU64>) -> Self {
        Self { inner, bytes }
    }
}

impl Store for CountingStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let stored = self.inner.get(id)?;
        let length = stored.as_ref().map_or(0, Vec::len) as u64;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(stored)
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        let got = self.inner.get_each(ids, buffers);
        let there = got.iter().zip(buffers).filter(|(got, _)| matches!(got, Ok(true)));
        let length = there.map(|(_, stored)| stored.len() as u64).sum();
        self.bytes.fetch_add(length, Ordering::Relaxed);
        got
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        self.inner.at_once(ids)
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        self.inner.has(id)
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        self.inner.put(id, stored)
    }

    fn url(&self) -> String {
        self.inner.url()
    }
}
