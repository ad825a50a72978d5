//! What an accepted snapshot keeps from falling, also when the next refresh breaks off. Pure.
//!
//! A snapshot is compared with the one before it. The one that is kept counts only as long as the kept timestamp
//! lists it, and a refresh that ends between the two leaves a newer timestamp beside it: whoever has the online
//! keys could break one off on purpose, and then offer files of roles from before. So its versions are read
//! before the refresh begins.

use std::collections::BTreeMap;

use sigstore_tuf::metadata::Metadata;
use sigstore_tuf::{Error as TufError, Root, Snapshot, TrustedMetadataSet};

/// The versions that a snapshot listed which was accepted earlier, and whose keys vouched for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Floors {
    versions: BTreeMap<String, u64>,
    keys: OnlineKeys,
}

/// The ids of the keys of timestamp and snapshot. With new keys versions may begin anew: that is how owners recover
/// from somebody who has stolen the old ones and signed versions that nobody can go beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OnlineKeys([Vec<String>; 2]);

impl OnlineKeys {
    fn of(root: &Root) -> Self {
        Self(["timestamp", "snapshot"].map(|role| key_ids(root, role)))
    }
}

/// The ids of the keys of a role, sorted.
pub(super) fn key_ids(root: &Root, role: &str) -> Vec<String> {
    let mut ids = root.role(role).map(|role| role.keyids.clone()).unwrap_or_default();
    ids.sort_unstable();
    ids.dedup();
    ids
}

impl Floors {
    /// What these files, as they are kept, keep from falling; `None` where they are damaged: that is nobody's attack.
    pub(super) fn of(root: &[u8], snapshot: &[u8]) -> Option<Self> {
        let root = TrustedMetadataSet::from_root(root).ok()?;
        let root = root.root();
        let snapshot = Metadata::<Snapshot>::from_slice(snapshot).ok()?;
        snapshot.verify_threshold(&root.keys, root.role("snapshot")?, "snapshot").ok()?;
        let versions = snapshot.signed().meta.iter().map(|(file, meta)| (file.clone(), meta.version));
        Some(Self { versions: versions.collect(), keys: OnlineKeys::of(root) })
    }

    /// Whether a snapshot that was fetched, whose signatures are checked elsewhere, lists none of the files in an
    /// older version. What is no snapshot is refused elsewhere too.
    ///
    /// # Errors
    /// The rollback.
    pub(super) fn check(&self, root: &[u8], snapshot: &[u8]) -> Result<(), TufError> {
        let current = TrustedMetadataSet::from_root(root)?;
        if OnlineKeys::of(current.root()) != self.keys {
            return Ok(());
        }
        let Ok(snapshot) = Metadata::<Snapshot>::from_slice(snapshot) else { return Ok(()) };
        for (file, trusted) in &self.versions {
            // A file that is not listed any more is as old as can be.
            let new = snapshot.signed().meta.get(file).map_or(0, |meta| meta.version);
            if new < *trusted {
                let role = format!("{file} (via snapshot)");
                return Err(TufError::Rollback { role, trusted: *trusted, new });
            }
        }
        Ok(())
    }
}
