//! Where the content of a release comes from: the mounted flist at boot, the block store otherwise.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flist::block::{BLOCK_SIZE, BlockId, Codec};
use flist::path::FlistPath;
use flist::store::{FetchError, Store, StoreError, fetch_plain};
use flist::tree::{Content, Fingerprint};

use crate::disk::Reader;
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
        if !content.blocks[index].key.is_of(&plain) {
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
        if block.key.is_of(&plain) {
            Ok(plain)
        } else {
            Err(SourceError::Fetch(FetchError::Key { id: block.id }))
        }
    }
}

#[derive(Default)]
struct Translated {
    /// What was read already, and by which keys.
    read: HashSet<(Fingerprint, Codec)>,
    slots: HashMap<Fingerprint, FlistPath>,
}

/// Reads the files that earlier upgrades replaced, and asks another source for what is not among them.
pub struct KeptSource {
    /// The root file system.
    root: Arc<Root>,
    /// Where the content lies that is kept.
    slots: HashMap<Fingerprint, FlistPath>,
    /// Content that is kept from flists of one format, identified as those of another do. It is read for that when
    /// somebody asks for content of the same size.
    translated: Mutex<Translated>,
    /// Who has the rest.
    next: Option<Arc<dyn ContentSource>>,
    /// The file that was asked for last, its length in bytes, and where it is kept. A fingerprint is made of
    /// all blocks of a file, and the next question is mostly about the same one.
    last: Mutex<Option<(FlistPath, u64, Option<FlistPath>)>>,
}

impl KeptSource {
    /// Uses the content that is kept at `slots` of a root, and `next` for the rest.
    pub fn new(
        root: Arc<Root>,
        slots: HashMap<Fingerprint, FlistPath>,
        next: Option<Arc<dyn ContentSource>>,
    ) -> Self {
        Self { root, slots, translated: Mutex::default(), next, last: Mutex::default() }
    }

    fn slot_of(&self, content: &Content) -> Option<FlistPath> {
        let wanted = content.fingerprint();
        let others = || self.slots.iter().filter(|(kept, _)| kept.codec() != wanted.codec());
        if let Some(slot) = self.slots.get(&wanted) {
            return Some(slot.clone());
        }
        let mut translated = self.translated.lock().unwrap_or_else(PoisonError::into_inner);
        for (kept, slot) in others() {
            let Ok(Some(stat)) = self.root.stat(slot) else { continue };
            if stat.size == content.size && translated.read.insert((*kept, wanted.codec())) {
                let file = self.root.disk().open(slot, false).map(Reader::new);
                let fingerprint = file.and_then(|file| Fingerprint::of_reader(file, wanted.codec()));
                translated.slots.extend(fingerprint.ok().map(|fingerprint| (fingerprint, slot.clone())));
            }
        }
        translated.slots.get(&wanted).cloned()
    }

    fn slot(&self, path: &FlistPath, content: &Content) -> Option<FlistPath> {
        if self.slots.is_empty() {
            return None;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Another file of the same path and length is no danger: each block is compared with its key.
        if let Some((_, _, slot)) = last.as_ref().filter(|(of, size, _)| of == path && *size == content.size)
        {
            return slot.clone();
        }
        let slot = self.slot_of(content);
        *last = Some((path.clone(), content.size, slot.clone()));
        slot
    }

    /// A block of a kept file, if it is still what it was.
    fn kept(&self, path: &FlistPath, content: &Content, index: usize) -> Option<Vec<u8>> {
        let file = self.root.disk().open(&self.slot(path, content)?, false).ok()?;
        let mut plain = vec![0; content.block_len(index)];
        let read = file.read_at(&mut plain, index as u64 * BLOCK_SIZE as u64).ok()?;
        (read == plain.len() && content.blocks[index].key.is_of(&plain)).then_some(plain)
    }
}

impl ContentSource for KeptSource {
    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        match (self.kept(path, content, index), &self.next) {
            (Some(plain), _) => Ok(plain),
            (None, Some(next)) => next.block(path, content, index),
            (None, None) => Err(SourceError::NotKept { path: path.clone(), index }),
        }
    }
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

#[cfg(test)]
mod tests {
    use flist::tree::Block;

    use super::*;

    #[test]
    fn what_is_kept_is_found_and_nothing_else_is_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("slot"), "kept").unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let content = |plain: &[u8], codec: Codec| Content {
            size: plain.len() as u64,
            blocks: vec![Block { id: codec.id_of(plain), key: codec.key_of(plain) }],
        };
        let (path, slot): (FlistPath, FlistPath) = ("bin/app".parse().unwrap(), "slot".parse().unwrap());
        let codecs = [Codec::Fl, Codec::Classic];
        for recorded in codecs {
            let slots = HashMap::from([(content(b"kept", recorded).fingerprint(), slot.clone())]);
            let source = KeptSource::new(root.clone(), slots, None);
            // Whatever format the flist has that is gone back to.
            for codec in codecs {
                for _ in 0..2 {
                    assert_eq!(source.block(&path, &content(b"kept", codec), 0).unwrap(), b"kept");
                }
                // Of the same path and length.
                let gone = source.block(&path, &content(b"gone", codec), 0);
                assert!(matches!(gone, Err(SourceError::NotKept { .. })));
                assert_eq!(source.block(&path, &content(b"kept", codec), 0).unwrap(), b"kept");
            }
        }
        let nothing = KeptSource::new(root, HashMap::new(), None);
        assert!(matches!(
            nothing.block(&path, &content(b"kept", Codec::Fl), 0),
            Err(SourceError::NotKept { .. })
        ));
    }
}
