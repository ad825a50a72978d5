//! A flist of one format → the same tree in another, with blocks that are sealed anew where the codec differs.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::block::{BlockError, Codec};
use crate::path::FlistPath;
use crate::progress::Observer;
use crate::store::{FetchError, Store, StoreError, fetch_plain};
use crate::tree::{Block, Content, Entry, Kind, Tree, TreeError};

/// Why a flist could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A block could not be had.
    #[error("cannot get a block of '{path}'")]
    Fetch {
        /// A file that needs it.
        path: FlistPath,
        /// The reason.
        #[source]
        source: FetchError,
    },
    /// A block could not be sealed anew.
    #[error("cannot seal a block of '{path}'")]
    Seal {
        /// A file that needs it.
        path: FlistPath,
        /// The reason.
        #[source]
        source: BlockError,
    },
    /// The store did not take a block.
    #[error("cannot store a block of '{path}'")]
    Store {
        /// A file that needs it.
        path: FlistPath,
        /// The store's reason.
        #[source]
        source: StoreError,
    },
    /// The entries do not form a tree.
    #[error("the result is no tree")]
    Tree(#[source] TreeError),
}

/// What converting did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConvertSummary {
    /// Different blocks of the flist.
    pub blocks: usize,
    /// Blocks that the store did not have before.
    pub new_blocks: usize,
    /// Stored bytes of those.
    pub new_bytes: u64,
}

/// The same tree with blocks of another codec, each fetched from one store, verified, sealed anew and put into
/// another; blocks that have the codec already are put there as they are. Attributes, tags and routes stay: the caller
/// knows where readers will find the store.
///
/// # Errors
/// [`ConvertError`]. Blocks stored before the error stay in the store.
pub fn convert(
    tree: &Tree,
    codec: Codec,
    from: &dyn Store,
    to: &dyn Store,
    observer: &dyn Observer,
) -> Result<(Tree, ConvertSummary), ConvertError> {
    let mut pieces: BTreeMap<(Block, usize), Piece<'_>> = BTreeMap::new();
    for (path, _, content) in tree.files() {
        for (index, block) in content.blocks.iter().enumerate() {
            pieces.entry((*block, content.block_len(index))).or_insert(Piece { path, content, index });
        }
    }
    observer.total(pieces.keys().map(|(_, length)| *length as u64).sum());
    let work = Work {
        pieces: pieces.values().collect(),
        codec,
        from,
        to,
        observer,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        done: Mutex::default(),
        failure: Mutex::default(),
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).max(MIN_THREADS).min(pieces.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work.run());
        }
    });
    let done = work.finish()?;
    let summary = ConvertSummary {
        blocks: pieces.len(),
        new_blocks: done.iter().filter(|(_, _, new_bytes)| *new_bytes > 0).count(),
        new_bytes: done.iter().map(|(_, _, new_bytes)| *new_bytes).sum(),
    };
    let keys: Vec<_> = pieces.keys().collect();
    let converted = done.into_iter().map(|(number, block, _)| (*keys[number], block)).collect();
    Ok((rebuilt(tree, &converted)?, summary))
}

/// Threads that fetch and store: more than cores, because both stores may be far away.
const MIN_THREADS: usize = 8;

/// A block, by a file that needs it.
struct Piece<'t> {
    path: &'t FlistPath,
    content: &'t Content,
    index: usize,
}

/// The number of a piece, its new block, and how many bytes the store got for it.
type Done = (usize, Block, u64);

/// All pieces as one list that the threads work off.
struct Work<'w> {
    pieces: Vec<&'w Piece<'w>>,
    codec: Codec,
    from: &'w dyn Store,
    to: &'w dyn Store,
    observer: &'w dyn Observer,
    next: AtomicUsize,
    stopped: AtomicBool,
    done: Mutex<Vec<Done>>,
    failure: Mutex<Option<ConvertError>>,
}

impl Work<'_> {
    fn run(&self) {
        let mut done = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = self.pieces.get(number) else { break };
            match self.piece(piece) {
                Ok((block, new_bytes)) => done.push((number, block, new_bytes)),
                Err(error) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    self.failure.lock().unwrap_or_else(|poison| poison.into_inner()).get_or_insert(error);
                }
            }
        }
        self.done.lock().unwrap_or_else(|poison| poison.into_inner()).append(&mut done);
    }

    fn piece(&self, Piece { path, content, index }: &Piece<'_>) -> Result<(Block, u64), ConvertError> {
        let path = || (*path).clone();
        let old = content.blocks[*index];
        let plain = fetch_plain(self.from, content, *index)
            .map_err(|source| ConvertError::Fetch { path: path(), source })?;
        if !old.key.is_of(&plain) {
            return Err(ConvertError::Fetch { path: path(), source: FetchError::Key { id: old.id } });
        }
        // Another implementation of Snappy makes other bytes of the same content: what is right already stays.
        let sealed = match old.id.codec() == self.codec {
            true => self.from.get(&old.id).transpose().map(|stored| stored.map(|stored| (old, stored))),
            false => Some(Ok(self.sealed(&plain, &path)?)),
        };
        let missing = || FetchError::Missing { id: old.id, store: self.from.url() };
        let failed = |source| ConvertError::Store { path: path(), source };
        let (block, stored) =
            sealed.ok_or_else(|| ConvertError::Fetch { path: path(), source: missing() })?.map_err(failed)?;
        self.observer.advance(plain.len() as u64);
        if self.to.has(&block.id).map_err(failed)? {
            return Ok((block, 0));
        }
        self.to.put(&block.id, &stored).map_err(failed)?;
        Ok((block, stored.len() as u64))
    }

    fn sealed(&self, plain: &[u8], path: &impl Fn() -> FlistPath) -> Result<(Block, Vec<u8>), ConvertError> {
        let sealed = self.codec.seal(plain).map_err(|source| ConvertError::Seal { path: path(), source })?;
        Ok((Block { id: sealed.id, key: sealed.key }, sealed.stored))
    }

    /// In the order of the pieces.
    fn finish(self) -> Result<Vec<Done>, ConvertError> {
        if let Some(error) = self.failure.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
            return Err(error);
        }
        let mut done = self.done.into_inner().unwrap_or_else(|poison| poison.into_inner());
        done.sort_by_key(|(number, ..)| *number);
        Ok(done)
    }
}

fn rebuilt(tree: &Tree, blocks: &BTreeMap<(Block, usize), Block>) -> Result<Tree, ConvertError> {
    let mut new = Tree::new(*tree.root());
    for (path, entry) in tree.iter() {
        let kind = match &entry.kind {
            Kind::File(content) => {
                let old = content.blocks.iter().enumerate();
                let block = |(index, block): (usize, &Block)| blocks.get(&(*block, content.block_len(index)));
                Kind::File(Content { size: content.size, blocks: old.filter_map(block).copied().collect() })
            }
            other => other.clone(),
        };
        new.insert(path.clone(), Entry { meta: entry.meta, kind }).map_err(ConvertError::Tree)?;
    }
    let root = FlistPath::root();
    for path in std::iter::once(&root).chain(tree.iter().map(|(path, _)| path)) {
        if let Some(xattrs) = tree.xattrs(path) {
            new.set_xattrs(path.clone(), xattrs.clone()).map_err(ConvertError::Tree)?;
        }
    }
    (new.routes, new.tags) = (tree.routes.clone(), tree.tags.clone());
    Ok(new)
}
