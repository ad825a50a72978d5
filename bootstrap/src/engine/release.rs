//! A release, as the engine takes it.

use std::sync::Arc;

use flist::format::{self, fl};
use flist::hub::{Channel, Release, ReleaseFlist, ReleaseId, ReleaseVersion};
use flist::merge::merge;
use flist::store::{Origins, Store, StoreError};
use flist::tree::{Limits, Tree};
use flist::trust::{Assurance, Trusted};

use super::EngineError;
use crate::generation::{Generation, StateDir};
use crate::settings::HubSettings;

/// A release and the one tree that its flists make together: what the engine installs. It is made of what `flist::trust`
/// says may be installed, or of what was installed before, and of nothing else, nor can it be changed.
///
/// ```compile_fail
/// use bootstrap::engine::ReleaseTree;
/// use flist::hub::Release;
///
/// fn install_what_nobody_has_checked(release: Release) {
///     let _ = ReleaseTree::read(release);
/// }
/// ```
///
/// ```compile_fail
/// use bootstrap::engine::ReleaseTree;
///
/// fn say_that_it_is_signed(mut release: ReleaseTree) {
///     release.is_signed = true;
/// }
/// ```
///
/// ```compile_fail
/// let _ = bootstrap::engine::ReleaseTree::of;
/// ```
///
/// ```
/// use bootstrap::engine::{EngineError, ReleaseTree};
/// use flist::hub::Release;
/// use flist::trust::Trusted;
///
/// fn install_what_may_be(release: Trusted<Release>) -> Result<ReleaseTree, EngineError> {
///     ReleaseTree::read(release)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct ReleaseTree {
    channel: Channel,
    id: ReleaseId,
    version: ReleaseVersion,
    info: String,
    is_signed: bool,
    tree: Arc<Tree>,
    flists: Arc<Vec<ReleaseFlist>>,
    origins: Arc<Origins>,
}

impl ReleaseTree {
    /// Reads the flists of a release that may be installed.
    ///
    /// # Errors
    /// [`EngineError::Flist`], [`EngineError::Merge`].
    pub fn read(release: Trusted<Release>) -> Result<Self, EngineError> {
        let is_signed = matches!(release.assurance(), Assurance::Signed { .. });
        let Release { channel, id, version, flists, info } = release.into_inner();
        let info = serde_json::Value::Object(info).to_string();
        Ok(Self { is_signed, ..Self::of((channel, id, version), info, flists)? })
    }

    /// The channel that offers it.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Its identity.
    pub fn id(&self) -> ReleaseId {
        self.id
    }

    /// Its version.
    pub fn version(&self) -> &ReleaseVersion {
        &self.version
    }

    /// What goes into flist.info.
    pub fn info(&self) -> &str {
        &self.info
    }

    /// Whether it was signed by those whom this node trusts, or trusted when it was recorded.
    pub fn is_signed(&self) -> bool {
        self.is_signed
    }

    /// What it consists of.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The flists that the tree was read from, to be recorded.
    pub fn flists(&self) -> &Arc<Vec<ReleaseFlist>> {
        &self.flists
    }

    /// Where the blocks are.
    pub fn origins(&self) -> &Arc<Origins> {
        &self.origins
    }

    /// Bytes of the records of an upgrade to it at most, as long as it is not much smaller than what is installed.
    pub fn records(&self) -> u64 {
        // What it installs, and what it takes away.
        let changes = self.tree.len() as u64;
        changes.saturating_mul(2 * super::space::RECORD).saturating_add(self.recorded_bytes())
    }

    /// The release that a recorded generation was installed from.
    ///
    /// # Errors
    /// [`EngineError::NoGeneration`] when nothing is recorded of it.
    pub fn recorded(state: &StateDir, number: u64) -> Result<Self, EngineError> {
        let missing = || EngineError::NoGeneration(number);
        let generation = state.recorded(number).map_err(EngineError::Generation)?.ok_or_else(missing)?;
        let flists = state.flists(&generation).map_err(EngineError::Generation)?.ok_or_else(missing)?;
        let Generation { channel, release: id, version, info, is_signed, .. } = generation;
        Ok(Self { is_signed, ..Self::of((channel, id, version), info, flists)? })
    }

    /// A release of these flists, which nobody has signed.
    fn of(
        (channel, id, version): (Channel, ReleaseId, ReleaseVersion),
        info: String,
        flists: Vec<ReleaseFlist>,
    ) -> Result<Self, EngineError> {
        let limits = Limits::default();
        let parse = |flist: &ReleaseFlist| {
            format::parse(&flist.bytes, &limits)
                .map_err(|source| EngineError::Flist { name: flist.location.clone(), source })
        };
        let mut trees = flists.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let origins = Arc::new(Origins::of(&trees));
        let tree = match (trees.len(), trees.pop()) {
            (1, Some(only)) => only,
            (_, last) => {
                trees.extend(last);
                let named: Vec<_> = flists.iter().map(|flist| flist.package.as_str()).zip(&trees).collect();
                merge(&named, &limits).map_err(EngineError::Merge)?
            }
        };
        let (tree, flists) = (Arc::new(tree), Arc::new(flists));
        Ok(Self { channel, id, version, info, is_signed: false, tree, flists, origins })
    }

    /// Opens the stores of the blocks, as the node has access to them. Must not be called from within an async
    /// runtime's worker.
    ///
    /// # Errors
    /// As [`flist::store::open_routes`].
    pub fn open_stores(&self, hub: &HubSettings) -> Result<Arc<dyn Store>, StoreError> {
        self.origins.open_with(&hub.store, &hub.access)
    }

    /// All of it as one flist, for versions that know of no more than one; empty where it is one already, or
    /// cannot be.
    pub(super) fn as_one_flist(&self) -> Vec<u8> {
        match self.flists.len() {
            0 | 1 => Vec::new(),
            _ => fl::to_bytes(&self.tree).unwrap_or_default(),
        }
    }

    /// How many bytes the records of its flists take, roughly.
    pub(super) fn recorded_bytes(&self) -> u64 {
        let bytes: usize = self.flists.iter().map(|flist| flist.bytes.len()).sum();
        let copies = if self.flists.len() > 1 { 2 } else { 1 };
        bytes as u64 * copies
    }
}
