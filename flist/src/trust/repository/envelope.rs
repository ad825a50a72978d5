//! Metadata files: what is signed, and by whom.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sigstore_tuf::Key;
use sigstore_tuf::canonical_json::to_canonical_bytes;

use super::RepositoryError;

/// The version of the specification that is written.
const SPEC_VERSION: &str = "1.0.31";

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signature {
    pub(super) keyid: String,
    pub(super) sig: String,
}

/// A metadata file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) signatures: Vec<Signature>,
    pub(super) signed: Value,
}

/// Who has to sign a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signatories {
    /// Id and key.
    pub(super) keys: BTreeMap<String, Value>,
    pub(super) threshold: usize,
}

impl Envelope {
    /// An unsigned one of this kind.
    pub(super) fn new(kind: &str, fields: Value) -> Self {
        let mut signed = json!({"_type": kind, "spec_version": SPEC_VERSION, "version": 0, "expires": ""});
        if let (Some(signed), Value::Object(fields)) = (signed.as_object_mut(), fields) {
            signed.extend(fields);
        }
        Self { signatures: Vec::new(), signed }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    pub(super) fn version(&self) -> u64 {
        self.signed["version"].as_u64().unwrap_or(0)
    }

    /// When it expires, if it says so.
    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.signed["expires"].as_str()?.parse().ok()
    }

    /// Makes it the next version, with a life from now on, and takes the signatures off.
    pub(super) fn renew(&mut self, now: Timestamp, days: i64) {
        self.signed["version"] = (self.version() + 1).into();
        self.signed["expires"] = after(now, days).into();
        self.signatures.clear();
    }

    /// The bytes that signatures cover.
    pub(super) fn canonical(&self) -> Result<Vec<u8>, RepositoryError> {
        to_canonical_bytes(&self.signed).map_err(RepositoryError::Canonical)
    }

    /// The bytes of the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Puts a signature on, in place of one of the same key.
    pub(super) fn put(&mut self, keyid: &str, signature: &[u8]) {
        self.signatures.retain(|signature| signature.keyid != keyid);
        self.signatures.push(Signature { keyid: keyid.to_owned(), sig: hex::encode(signature) });
        self.signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
    }

    /// Which of these keys have signed what it says now.
    pub(super) fn signers(&self, by: &Signatories) -> Result<BTreeSet<String>, RepositoryError> {
        let bytes = self.canonical()?;
        let good = |signature: &&Signature| {
            let key = by.keys.get(&signature.keyid).and_then(|key| Key::deserialize(key).ok());
            let (Some(key), Ok(raw)) = (key, hex::decode(&signature.sig)) else { return false };
            verifies(&key, &bytes, &raw)
        };
        Ok(self.signatures.iter().filter(good).map(|signature| signature.keyid.clone()).collect())
    }

    /// As the file that lists it does: version, length, digest.
    pub(super) fn listed(&self) -> Value {
        let bytes = self.to_bytes();
        let digest = digest::digest(&digest::SHA256, &bytes);
        json!({
            "version": self.version(),
            "length": bytes.len(),
            "hashes": {"sha256": hex::encode(digest.as_ref())},
        })
    }
}

fn verifies(key: &Key, bytes: &[u8], signature: &[u8]) -> bool {
    // Nodes take more schemes; keys of these two are made or taken here, and a signature counts as it does there.
    matches!(key.scheme.as_str(), "ed25519" | "ecdsa-sha2-nistp256")
        && key.verify(bytes, &signature.into()).is_ok()
}

/// A time as metadata has it, to the second.
pub(super) fn instant(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn after(now: Timestamp, days: i64) -> String {
    let seconds = now.as_second().saturating_add(days.saturating_mul(86400));
    instant(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

impl Signatories {
    /// Those that a root names for one of its four roles.
    pub(super) fn of_root(root: &Value, role: &str) -> Self {
        Self::new(&root["roles"][role], &root["keys"])
    }

    /// Those that targets name for a role that they delegate to; `None` when they do not.
    pub(super) fn of_delegation(targets: &Value, role: &str) -> Option<Self> {
        let delegations = &targets["delegations"];
        let found = delegations["roles"].as_array()?.iter().find(|delegated| delegated["name"] == role)?;
        Some(Self::new(found, &delegations["keys"]))
    }

    fn new(role: &Value, keys: &Value) -> Self {
        let ids = role["keyids"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let keys = ids.filter_map(|id| Some((id.to_owned(), keys.get(id)?.clone()))).collect();
        let threshold = role["threshold"].as_u64().and_then(|threshold| threshold.try_into().ok());
        Self { keys, threshold: threshold.unwrap_or(usize::MAX) }
    }
}
