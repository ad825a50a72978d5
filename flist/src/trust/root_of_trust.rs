//! Whose a root of trust is, as far as its keys tell.

use std::collections::BTreeSet;

use sigstore_tuf::{Root, TrustedMetadataSet};

use super::error::TrustError;
use super::keys;

/// A `root.json`: who signs for what in one repository.
#[derive(Debug)]
pub struct RootOfTrust(Root);

impl RootOfTrust {
    /// Reads a `root.json` that is signed as it says itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        let trusted = TrustedMetadataSet::from_root(bytes).map_err(TrustError::BadRoot)?;
        keys::check_root(trusted.root())?;
        Ok(Self(trusted.root().clone()))
    }

    /// Whether both are of one repository, at whatever versions: a key signs the targets of both, or keys sign the roots
    /// and the snapshots or timestamps of both. That the same people hold the roots of two repositories, by the same
    /// keys, does not make them one. Pure.
    pub fn is_of_the_repository_of(&self, other: &Self) -> bool {
        let shares = |role: &str| !self.keys_of(role).is_disjoint(&other.keys_of(role));
        shares("targets") || (shares("root") && (shares("snapshot") || shares("timestamp")))
    }

    fn keys_of(&self, role: &str) -> BTreeSet<Vec<u8>> {
        let ids = self.0.roles.get(role).map(|role| role.keyids.as_slice()).unwrap_or_default();
        ids.iter().filter_map(|id| self.0.keys.get(id)).map(keys::bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The keys of root, targets, snapshot and timestamp, a letter each.
    fn root(keys: [&str; 4]) -> RootOfTrust {
        let letters: BTreeSet<char> = keys.iter().flat_map(|keys| keys.chars()).collect();
        let public = |letter: char| format!("{:064x}", u32::from(letter));
        let key = |letter: char| json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public(letter)}});
        // Declared under another id by each, which must not matter.
        let id = |letter: char| format!("{letter}{}", keys.concat());
        let declared: serde_json::Map<_, _> =
            letters.into_iter().map(|letter| (id(letter), key(letter))).collect();
        let role = |of: &str| json!({"keyids": of.chars().map(id).collect::<Vec<_>>(), "threshold": 1});
        let [top, targets, snapshot, timestamp] = keys.map(role);
        let value = json!({
            "_type": "root", "spec_version": "1.0.31", "version": 1, "consistent_snapshot": true,
            "expires": "2100-01-01T00:00:00Z", "keys": declared,
            "roles": {"root": top, "targets": targets, "snapshot": snapshot, "timestamp": timestamp},
        });
        RootOfTrust(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn two_roots_are_of_one_repository_by_their_keys() {
        let releases = ["abc", "d", "e", "f"];
        for (other, same) in [
            (releases, true),
            // The same after a root key, or all but one of them, or every key but those of the roots were replaced.
            (["abg", "d", "e", "f"], true),
            (["agh", "i", "j", "f"], true),
            (["abc", "i", "j", "k"], false),
            // Who chooses could sign releases too.
            (["ghi", "dj", "k", "l"], true),
            // Other repositories: of nobody that is known; with roots of the same people; with the same online keys.
            (["ghi", "j", "k", "l"], false),
            (["abc", "j", "k", "l"], false),
            (["ghi", "j", "e", "f"], false),
        ] {
            assert_eq!(root(releases).is_of_the_repository_of(&root(other)), same, "{other:?}");
            assert_eq!(root(other).is_of_the_repository_of(&root(releases)), same, "{other:?}");
        }
    }
}
