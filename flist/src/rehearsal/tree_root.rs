//! A tree whose content is in a store, as a root file system.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::root::{FutureRoot, Node, RootError};
use crate::block::BLOCK_SIZE;
use crate::path::FlistPath;
use crate::store::{Store, fetch_plain};
use crate::tree::{Content, Kind, Tree};

/// Plain blocks that are kept; programs are read from their beginning, their end, and one of the next files.
const MAX_KEPT: usize = 8;

/// A tree, and a store with its blocks. Of a file only the blocks that are asked for are fetched.
pub struct TreeRoot<'a> {
    tree: &'a Tree,
    store: &'a dyn Store,
    children: BTreeMap<FlistPath, Vec<Vec<u8>>>,
    kept: Mutex<VecDeque<Kept>>,
}

/// One plain block of a file.
struct Kept {
    path: FlistPath,
    index: usize,
    plain: Arc<Vec<u8>>,
}

impl<'a> TreeRoot<'a> {
    /// A root file system that consists of `tree`.
    pub fn new(tree: &'a Tree, store: &'a dyn Store) -> Self {
        let mut children: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (path, _) in tree.iter() {
            if let Some(parent) = path.parent() {
                children.entry(parent).or_default().push(path.name().to_vec());
            }
        }
        children.values_mut().for_each(|names| names.sort_unstable());
        Self { tree, store, children, kept: Mutex::default() }
    }

    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Arc<Vec<u8>>, RootError> {
        let mut kept = self.kept.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(block) = kept.iter().find(|block| block.index == index && block.path == *path) {
            return Ok(block.plain.clone());
        }
        let failed = |error| RootError { action: "read", path: path.clone(), source: Box::new(error) };
        let plain = Arc::new(fetch_plain(self.store, content, index).map_err(failed)?);
        if kept.len() == MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back(Kept { path: path.clone(), index, plain: plain.clone() });
        Ok(plain)
    }
}

impl FutureRoot for TreeRoot<'_> {
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError> {
        if path.is_root() {
            return Ok(Some(Node::Directory));
        }
        Ok(self.tree.get(path).map(|entry| match &entry.kind {
            Kind::Directory => Node::Directory,
            Kind::File(content) => Node::File { size: content.size, mode: entry.meta.mode },
            Kind::Symlink(target) => Node::Symlink(target.clone()),
            Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo | Kind::Socket => Node::Other,
        }))
    }

    fn read(&self, path: &FlistPath, offset: u64, length: usize) -> Result<Vec<u8>, RootError> {
        let Some(Kind::File(content)) = self.tree.get(path).map(|entry| &entry.kind) else {
            return Err(RootError { action: "read", path: path.clone(), source: "it is no file".into() });
        };
        let end = content.size.min(offset.saturating_add(length as u64));
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let plain = self.block(path, content, (at / BLOCK_SIZE as u64) as usize)?;
            let start = (at % BLOCK_SIZE as u64) as usize;
            let take = (plain.len() - start).min((end - at) as usize);
            bytes.extend_from_slice(&plain[start..start + take]);
            at += take as u64;
        }
        Ok(bytes)
    }

    fn list(&self, path: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
        Ok(self.children.get(path).cloned().unwrap_or_default())
    }
}
