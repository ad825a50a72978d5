//! What the other carriers of the same metadata say: one that lags behind, or that tells another story.
//!
//! Whoever owns a mirror can keep news from a node until the timestamp expires; with a second mirror the node sees
//! that at once. And whoever has stolen the online keys can sign worlds of his own: without news, for as long as the
//! roles hold that he cannot sign, or one for each node. What the owners have signed elsewhere cannot be true together with
//! that: the two files are evidence, and are kept.

use std::path::PathBuf;

use sigstore_tuf::metadata::Metadata;
use sigstore_tuf::{Root, Snapshot, Timestamp, TrustedMetadataSet, Updater};

use super::client::TrustClient;
use super::error::TrustError;
use super::source::Transport;
use crate::hub::Sha256;

/// Longest timestamp that is read, in bytes; that of the checks themselves.
const MAX_TIMESTAMP: u64 = 16_384;

/// Longest snapshot that is read, in bytes; that of the checks themselves.
const MAX_SNAPSHOT: u64 = 2_000_000;

/// Longest root that is read, in bytes; that of the checks themselves.
const MAX_ROOT: u64 = 512_000;

/// Most files of evidence that are kept.
const MAX_EVIDENCE: usize = 32;

const EVIDENCE: &str = "evidence";

/// How a mirror stands to what a node has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It says the same.
    Same,
    /// Its timestamp is so many versions older.
    Behind(u64),
    /// It is so many versions newer.
    Ahead(u64),
    /// It has a newer root, which those have signed whom the node trusts: keys were replaced, and whoever has lost one
    /// may go on with the old ones elsewhere.
    Rotated,
    /// It tells another story than what was accepted, signed by the same keys.
    Fork {
        /// What contradicts what.
        why: String,
        /// Where both files are kept.
        evidence: Vec<PathBuf>,
    },
}

/// What one timestamp says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    version: u64,
    /// The digest of all that was signed.
    signed: Sha256,
    /// The version of the snapshot, and its digest where that was signed.
    snapshot: Option<(u64, Option<String>)>,
}

impl Said {
    /// Reads a timestamp that the keys of this root have signed; whether it has expired does not matter here.
    fn read(bytes: &[u8], root: &Root) -> sigstore_tuf::Result<Self> {
        let timestamp = Metadata::<Timestamp>::from_slice(bytes)?;
        let keys =
            root.role("timestamp").ok_or_else(|| sigstore_tuf::Error::UnknownRole("timestamp".into()))?;
        timestamp.verify_threshold(&root.keys, keys, "timestamp")?;
        let snapshot = timestamp.signed().snapshot_meta();
        let digest = |meta: &sigstore_tuf::metadata::MetaFile| meta.hashes.as_ref()?.get("sha256").cloned();
        Ok(Self {
            version: timestamp.signed().version,
            signed: Sha256::of(timestamp.signed_canonical()),
            snapshot: snapshot.map(|meta| (meta.version, digest(meta))),
        })
    }

    /// What in `other` cannot be true if this is.
    fn contradiction(&self, other: &Self) -> Option<String> {
        if self.version == other.version {
            let different = self.signed != other.signed;
            return different.then(|| format!("two different timestamps have version {}", self.version));
        }
        let ((mine, my_digest), (theirs, their_digest)) =
            self.snapshot.as_ref().zip(other.snapshot.as_ref())?;
        if mine == theirs {
            let both = my_digest.as_ref().zip(their_digest.as_ref());
            let different = both.is_some_and(|(mine, theirs)| !mine.eq_ignore_ascii_case(theirs));
            return different.then(|| format!("two different snapshots have version {mine}"));
        }
        let falls = (self.version < other.version) != (mine < theirs);
        falls.then(|| {
            format!(
                "timestamp {} lists snapshot {mine}, and timestamp {} lists snapshot {theirs}",
                self.version, other.version
            )
        })
    }
}

impl TrustClient {
    /// Asks this client's source for its timestamp, and compares that with what was accepted last, from wherever. Says
    /// nothing about releases, and accepts nothing.
    ///
    /// # Errors
    /// [`TrustError`]: it cannot be fetched, or is not signed by the keys that the node trusts now.
    pub async fn compare(&self) -> Result<Option<Standing>, TrustError> {
        let url = self.source.url().to_owned();
        let refused = |source| TrustError::Refused { url: url.clone(), source };
        let fetch = |source| TrustError::Fetch { url: url.clone(), source };
        let Some(kept) = self.state.read("timestamp.json").map_err(TrustError::State)? else {
            return Ok(None);
        };
        let body = self.source.open("timestamp.json", MAX_TIMESTAMP).await.map_err(fetch)?;
        let Some(body) = body else {
            return Err(refused(sigstore_tuf::Error::transport("no timestamp.json")));
        };
        let theirs = body.all().await.map_err(fetch)?;
        let trusted = self.trusted()?;
        let root = trusted.root();
        // What is kept may be damaged, or signed by keys from before: then there is nothing to compare with.
        let Ok(mine) = Said::read(&kept, root) else { return Ok(None) };
        let other = match Said::read(&theirs, root) {
            Ok(other) => other,
            Err(_) if self.has_newer_root(trusted.clone()).await? => return Ok(Some(Standing::Rotated)),
            Err(error) => return Err(refused(error)),
        };
        let fork = |why, files: [&[u8]; 2]| {
            let evidence = files.map(|bytes| self.keep_evidence(bytes));
            Standing::Fork { why, evidence: evidence.into_iter().flatten().collect() }
        };
        if other.version < mine.version
            && let Some((why, files)) = self.older_with_newer(root, &other).await?
        {
            return Ok(Some(fork(why, [&files[0], &files[1]])));
        }
        let standing = match mine.contradiction(&other) {
            Some(why) => fork(why, [&kept, &theirs]),
            None if other.version < mine.version => Standing::Behind(mine.version - other.version),
            None if other.version > mine.version => Standing::Ahead(other.version - mine.version),
            None => Standing::Same,
        };
        Ok(Some(standing))
    }

    /// What the snapshot of an older timestamp lists that is newer than what was accepted, and both snapshots; `None` where
    /// there is nothing such. Versions of roles never fall, so somebody has signed the newer timestamp who wants to have
    /// that forgotten.
    async fn older_with_newer(
        &self,
        root: &Root,
        other: &Said,
    ) -> Result<Option<(String, [Vec<u8>; 2])>, TrustError> {
        let Some((version, _)) = other.snapshot else { return Ok(None) };
        let Some(kept) = self.state.read("snapshot.json").map_err(TrustError::State)? else {
            return Ok(None);
        };
        let read = |bytes: &[u8]| {
            let snapshot = Metadata::<Snapshot>::from_slice(bytes).ok()?;
            snapshot.verify_threshold(&root.keys, root.role("snapshot")?, "snapshot").ok()?;
            Some(snapshot.into_signed())
        };
        let Some(mine) = read(&kept).filter(|mine| mine.version > version) else { return Ok(None) };
        // What it does not have, or nobody has signed, proves nothing.
        let name = format!("{version}.snapshot.json");
        let Ok(Some(body)) = self.source.open(&name, MAX_SNAPSHOT).await else { return Ok(None) };
        let Ok(theirs) = body.all().await else { return Ok(None) };
        let Some(other) = read(&theirs).filter(|other| other.version == version) else { return Ok(None) };
        Ok(newer_in(&mine, &other).map(|why| (why, [kept, theirs])))
    }

    /// Whether the source has the root that follows on the one that is trusted, and it was signed by both.
    async fn has_newer_root(&self, mut trusted: TrustedMetadataSet) -> Result<bool, TrustError> {
        let fetch = |source| TrustError::Fetch { url: self.source.url().to_owned(), source };
        let name = format!("{}.root.json", trusted.root().version.saturating_add(1));
        let Some(body) = self.source.open(&name, MAX_ROOT).await.map_err(fetch)? else {
            return Ok(false);
        };
        Ok(trusted.update_root(&body.all().await.map_err(fetch)?).is_ok())
    }

    /// What the newest root of the chain that is kept trusts.
    fn trusted(&self) -> Result<TrustedMetadataSet, TrustError> {
        let transport = Transport::of_state(self.source.clone(), self.state.clone());
        let updater = Updater::new(transport, &self.root).map_err(TrustError::BadRoot)?;
        Ok(updater.with_store(self.state.clone()).trusted().clone())
    }

    /// Keeps a file that proves something; `None` where it cannot be kept, or too many are.
    fn keep_evidence(&self, bytes: &[u8]) -> Option<PathBuf> {
        let directory = self.state.path().join(EVIDENCE);
        let path = directory.join(format!("{}.json", Sha256::of(bytes)));
        let kept = std::fs::read_dir(&directory).map_or(0, Iterator::count);
        if !path.exists() && kept >= MAX_EVIDENCE {
            return None;
        }
        let written = self.state.write(&format!("{EVIDENCE}/{}.json", Sha256::of(bytes)), bytes);
        written
            .inspect_err(|error| tracing::warn!(error = %crate::report(error), "no evidence is kept"))
            .ok()?;
        Some(path)
    }
}

/// A file that an older snapshot lists in a newer version. Pure.
fn newer_in(mine: &Snapshot, older: &Snapshot) -> Option<String> {
    older.meta.iter().find_map(|(file, listed)| {
        // A file that is not listed any more is as old as can be.
        let is = mine.meta.get(file).map_or(0, |meta| meta.version);
        (is < listed.version).then(|| {
            format!(
                "snapshot {} lists version {} of {file}, and snapshot {}, which is newer, version {is}",
                older.version, listed.version, mine.version
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: u64, content: &str, snapshot: u64, digest: Option<&str>) -> Said {
        let snapshot = Some((snapshot, digest.map(str::to_owned)));
        Said { version, signed: Sha256::of(content.as_bytes()), snapshot }
    }

    #[test]
    fn only_what_cannot_both_be_true_is_a_contradiction() {
        let mine = said(5, "a", 3, Some("aa"));
        for fine in [
            said(5, "a", 3, Some("aa")),
            said(4, "b", 3, Some("AA")),
            said(4, "b", 2, Some("bb")),
            said(7, "c", 9, None),
            said(7, "c", 3, None),
            Said { snapshot: None, ..said(4, "b", 0, None) },
        ] {
            assert_eq!(mine.contradiction(&fine), None, "{fine:?}");
            assert_eq!(fine.contradiction(&mine), None, "{fine:?}");
        }
        for (other, why) in [
            (said(5, "b", 3, Some("aa")), "two different timestamps have version 5"),
            (said(6, "b", 3, Some("bb")), "two different snapshots have version 3"),
            (said(6, "b", 2, Some("bb")), "lists snapshot 2"),
            (said(4, "b", 4, Some("bb")), "lists snapshot 4"),
        ] {
            assert!(mine.contradiction(&other).unwrap().contains(why), "{other:?}");
            assert!(other.contradiction(&mine).is_some(), "{other:?}");
        }
    }
}
