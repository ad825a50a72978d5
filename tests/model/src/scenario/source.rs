//! Where the content of releases comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use bootstrap::engine::ReleaseTree;
use bootstrap::source::{ContentSource, SourceError};
use flist::block::BLOCK_SIZE;
use flist::path::FlistPath;
use flist::tree::Content;

use crate::machine::{Deed, Machine};

/// A release and its content.
#[derive(Debug, Clone)]
pub(super) struct Release {
    pub(super) tree: ReleaseTree,
    pub(super) content: Arc<BTreeMap<FlistPath, Vec<u8>>>,
}

impl ContentSource for Release {
    fn block(&self, path: &FlistPath, _: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        let missing = || SourceError::NotKept { path: path.clone(), index };
        let content = self.content.get(path).ok_or_else(missing)?;
        content.chunks(BLOCK_SIZE).nth(index).map(<[u8]>::to_vec).ok_or_else(missing)
    }
}

/// The content of a release, and a note of each time that somebody asks for some.
pub(super) struct Fetching {
    pub(super) release: Release,
    pub(super) machine: Arc<Machine>,
}

impl ContentSource for Fetching {
    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        self.machine.note(Deed::Fetch(path.clone()));
        self.release.block(path, content, index)
    }
}
