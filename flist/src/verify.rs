//! Fetching and checking every block of a flist.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::block::BlockId;
use crate::path::FlistPath;
use crate::store::{FetchError, Store, fetch_plain};
use crate::tree::{Content, Tree};

/// Blocks that are fetched at the same time.
const THREADS: usize = 8;

/// A block that is not as it should be.
#[derive(Debug)]
pub struct BadBlock {
    /// The files that need it.
    pub files: Vec<FlistPath>,
    /// What is wrong.
    pub error: FetchError,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Different blocks that were checked.
    pub blocks: usize,
    /// Plain bytes in them.
    pub bytes: u64,
    /// Those that are missing or wrong, by id.
    pub bad: BTreeMap<BlockId, BadBlock>,
}

/// Fetches every block once, checks it against its id, opens it, and checks its length and its key. Reports
/// all that is wrong, not just the first.
pub fn verify(tree: &Tree, store: &dyn Store) -> Verified {
    let mut users: BTreeMap<BlockId, (&Content, usize, Vec<FlistPath>)> = BTreeMap::new();
    for (path, _, content) in tree.files() {
        for (index, block) in content.blocks.iter().enumerate() {
            let (_, _, files) = users.entry(block.id).or_insert((content, index, Vec::new()));
            if files.last() != Some(path) {
                files.push(path.clone());
            }
        }
    }
    let users: Vec<_> = users.into_iter().collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Verified::default()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((id, (content, index, files))) =
                    users.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let fetched = fetch_plain(store, content, *index).and_then(|plain| {
                        let right = content.blocks[*index].key.is_of(&plain);
                        if right { Ok(plain) } else { Err(FetchError::Key { id: *id }) }
                    });
                    let mut found = found.lock().unwrap_or_else(|poison| poison.into_inner());
                    found.blocks += 1;
                    match fetched {
                        Ok(plain) => found.bytes += plain.len() as u64,
                        Err(error) => {
                            found.bad.insert(*id, BadBlock { files: files.clone(), error });
                        }
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(|poison| poison.into_inner())
}
