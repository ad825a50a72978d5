//! What a channel offers: a release, its identity and its version.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::channel::Channel;
use super::name::FlistName;

/// A text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a SHA-256 digest: expected 64 hexadecimal digits")]
pub struct DigestError(String);

/// A text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version: expected 1 to 200 printable characters")]
pub struct VersionError(String);

/// A SHA-256 digest; as text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finished(digest::digest(&digest::SHA256, bytes))
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The result of a [`digest::SHA256`] context.
    pub(crate) fn finished(digest: digest::Digest) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| DigestError(text.escape_debug().take(80).collect()))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

/// The identity of a release: SHA-256 over one line `<package>\0<SHA-256 of its flist>\n` for each
/// flist, sorted. Two releases with the same id install the same files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseId(Sha256);

impl ReleaseId {
    /// The id of the release of these packages, in any order.
    pub fn of<'a>(packages: impl IntoIterator<Item = (&'a str, Sha256)>) -> Self {
        let mut lines: Vec<String> =
            packages.into_iter().map(|(package, sha256)| format!("{package}\0{sha256}\n")).collect();
        lines.sort_unstable();
        Self(Sha256::of(lines.concat().as_bytes()))
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReleaseId({self})")
    }
}

impl FromStr for ReleaseId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// The version of a release, for people and for telling newer from older.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReleaseVersion {
    /// A semantic version.
    Semver(Version),
    /// Any other name: it can be shown and compared for equality only.
    Text(String),
}

impl ReleaseVersion {
    /// The version in the name of a flist: what follows the last `:`, or the first `-` after which the
    /// rest is a semantic version. `zos:v1.2.3` and `zos-a-1.2.3` are 1.2.3, `zos:nightly` is `nightly`.
    pub fn in_name(name: &FlistName) -> Self {
        let stem = name.stem();
        let text = stem.rsplit(':').next().filter(|text| !text.is_empty()).unwrap_or(stem);
        let after_dashes = text.match_indices('-').map(|(at, _)| &text[at + 1..]);
        std::iter::once(text)
            .chain(after_dashes)
            .find_map(semantic)
            .map_or_else(|| Self::Text(text.to_owned()), Self::Semver)
    }

    /// The semantic version, if it is one.
    pub fn semver(&self) -> Option<&Version> {
        match self {
            Self::Semver(version) => Some(version),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Semver(version) => version.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl FromStr for ReleaseVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        if text.is_empty() || text.len() > super::MAX_COMPONENT || text.chars().any(char::is_control) {
            return Err(VersionError(text.chars().take(80).collect()));
        }
        Ok(semantic(text).map_or_else(|| Self::Text(text.to_owned()), Self::Semver))
    }
}

impl TryFrom<String> for ReleaseVersion {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<ReleaseVersion> for String {
    fn from(version: ReleaseVersion) -> Self {
        version.to_string()
    }
}

/// One flist of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseFlist {
    /// The package it installs.
    pub package: String,
    /// Where it was found: a flist, never a link.
    pub location: FlistName,
    /// The digest of `bytes`.
    pub sha256: Sha256,
    /// The flist itself.
    pub bytes: Vec<u8>,
}

/// Everything a channel offers at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The channel it was found on.
    pub channel: Channel,
    /// What it is.
    pub id: ReleaseId,
    /// What it is called.
    pub version: ReleaseVersion,
    /// What it consists of; at least one. The package that nodes boot from is the last one.
    pub flists: Vec<ReleaseFlist>,
    /// The text of `flist.info`: the hub's description of the flist that nodes boot from, as it was sent,
    /// with `version` and `release` added.
    pub info: Map<String, Value>,
}

/// A semantic version with or without a leading `v`.
fn semantic(text: &str) -> Option<Version> {
    Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_digest_of_the_sorted_lines() {
        let (a, b) = (Sha256::of(b"a"), Sha256::of(b"b"));
        let id = ReleaseId::of([("zos", b), ("node", a)]);
        let lines = format!("node\0{a}\nzos\0{b}\n");
        assert_eq!(id.to_string(), Sha256::of(lines.as_bytes()).to_string());
        assert_eq!(id, ReleaseId::of([("node", a), ("zos", b)]));
        assert_ne!(id, ReleaseId::of([("node", b), ("zos", a)]));
        assert_eq!(id.to_string().parse::<ReleaseId>().unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    }

    #[test]
    fn sha256_is_the_standard_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256::of(b"").to_string(), empty);
        assert!("e3b0".parse::<Sha256>().is_err());
        assert!(serde_json::from_str::<Sha256>("\"x\"").is_err());
    }

    #[test]
    fn versions_in_names() {
        let version = |file: &str| ReleaseVersion::in_name(&FlistName::new("r", file).unwrap());
        assert_eq!(version("zos:v1.2.3.flist").semver(), Some(&Version::new(1, 2, 3)));
        assert_eq!(version("zos:1.2.3-rc.1.flist").to_string(), "1.2.3-rc.1");
        assert_eq!(version("zos-a-1.0.0.flist").to_string(), "1.0.0");
        assert_eq!(version("app-2024-v1.0.0-rc1.flist").to_string(), "1.0.0-rc1");
        assert_eq!(version("zos:nightly.flist"), ReleaseVersion::Text("nightly".into()));
        assert_eq!(version("zos.flist"), ReleaseVersion::Text("zos".into()));
        assert_eq!(version("zos:.flist"), ReleaseVersion::Text("zos:".into()));
    }

    #[test]
    fn versions_survive_a_round_trip() {
        for text in ["1.2.3", "nightly"] {
            let version: ReleaseVersion = text.parse().unwrap();
            assert_eq!(version.to_string(), text);
            let json = serde_json::to_string(&version).unwrap();
            assert_eq!(serde_json::from_str::<ReleaseVersion>(&json).unwrap(), version);
        }
        assert!("".parse::<ReleaseVersion>().is_err());
        assert!("a\nb".parse::<ReleaseVersion>().is_err());
    }
}
