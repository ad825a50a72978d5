//! What a node trusts, as the configuration file names it.

use std::path::PathBuf;

use serde::Deserialize;

/// What is trusted, as the configuration file says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TrustNames {
    root: Option<PathBuf>,
    director: Option<PathBuf>,
}

/// What is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustSettings {
    /// The file with the root of trust.
    pub root: PathBuf,
    /// Whether nothing is installed without it: it was named.
    pub is_required: bool,
    /// The file with the director's root.
    pub director: PathBuf,
    /// Whether nothing is installed without a director: its root was named.
    pub is_directed: bool,
}

/// Where the root of trust is in a base image.
const DEFAULT_ROOT: &str = "/etc/molt/root.json";

/// Where the director's root is in a base image.
const DEFAULT_DIRECTOR: &str = "/etc/molt/director.json";

impl TrustNames {
    pub(super) fn settings(self) -> TrustSettings {
        TrustSettings {
            is_required: self.root.is_some(),
            root: self.root.unwrap_or_else(|| DEFAULT_ROOT.into()),
            is_directed: self.director.is_some(),
            director: self.director.unwrap_or_else(|| DEFAULT_DIRECTOR.into()),
        }
    }
}
