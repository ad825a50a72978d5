//! A release, as the engine takes it.

use std::sync::Arc;

use flist::format;
use flist::hub::{FlistName, Release, ReleaseId, ReleaseVersion};
use flist::tree::{Limits, Tree};

use super::EngineError;
use crate::generation::{Generation, StateDir};

/// A release and the tree of its flist.
#[derive(Debug, Clone)]
pub struct ReleaseTree {
    /// The channel that offers it.
    pub channel: FlistName,
    /// Its identity.
    pub id: ReleaseId,
    /// Its version.
    pub version: ReleaseVersion,
    /// What goes into flist.info.
    pub info: String,
    /// What it consists of.
    pub tree: Arc<Tree>,
    /// The flist that the tree was read from, to be recorded; empty where that is not wanted.
    pub flist: Arc<Vec<u8>>,
}

impl ReleaseTree {
    /// Reads the flist of a release.
    ///
    /// # Errors
    /// [`EngineError::Flist`], [`EngineError::SeveralFlists`].
    pub fn read(release: &Release) -> Result<Self, EngineError> {
        let [flist] = release.flists.as_slice() else {
            return Err(EngineError::SeveralFlists(release.flists.len()));
        };
        let tree = format::parse(&flist.bytes, &Limits::default())
            .map_err(|source| EngineError::Flist { name: flist.location.clone(), source })?;
        Ok(Self {
            channel: release.channel.clone(),
            id: release.id,
            version: release.version.clone(),
            info: serde_json::Value::Object(release.info.clone()).to_string(),
            tree: Arc::new(tree),
            flist: Arc::new(flist.bytes.clone()),
        })
    }

    /// Bytes of the records of an upgrade to it at most, as long as it is not much smaller than what is installed.
    pub fn records(&self) -> u64 {
        // What it installs, and what it takes away.
        let changes = self.tree.len() as u64;
        changes.saturating_mul(2 * super::space::RECORD).saturating_add(self.flist.len() as u64)
    }

    /// The release that a recorded generation was installed from.
    ///
    /// # Errors
    /// [`EngineError::NoGeneration`] when nothing is recorded of it.
    pub fn recorded(state: &StateDir, number: u64) -> Result<Self, EngineError> {
        let missing = || EngineError::NoGeneration(number);
        let generation = state.recorded(number).map_err(EngineError::Generation)?.ok_or_else(missing)?;
        let bytes = state.flist(number).map_err(EngineError::Generation)?.ok_or_else(missing)?;
        let Generation { channel, release: id, version, info, .. } = generation;
        let tree = format::parse(&bytes, &Limits::default())
            .map_err(|source| EngineError::Flist { name: channel.clone(), source })?;
        Ok(Self { channel, id, version, info, tree: Arc::new(tree), flist: Arc::new(bytes) })
    }
}
