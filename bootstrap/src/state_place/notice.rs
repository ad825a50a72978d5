//! The file that says that RAM counts, and why.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{IN_FORCE, StatePlaceError, now};
use crate::durable;

/// The layout of the notice. Additions do not change it.
const SCHEMA: u32 = 1;

/// Why the state is in RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub(super) schema: u32,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// What is wrong with its disk.
    pub reason: String,
    /// Files of it that could not be read, so that nobody knows what they say; they count again once the disk works.
    #[serde(default)]
    pub unread: Vec<String>,
    /// Files that were copied from it.
    #[serde(default)]
    pub(super) seeded: Vec<String>,
    /// RAM and the disk have different generations of this number, and nobody knows which one the root is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) undecided: Option<u64>,
}

impl Notice {
    /// A new one: the state moves now.
    pub(super) fn new(reason: &str, unread: Vec<String>, seeded: Vec<String>) -> Self {
        Self { schema: SCHEMA, since: now(), reason: reason.to_owned(), unread, seeded, undecided: None }
    }

    /// What one says; one that is damaged says nothing but that RAM counts.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let unknown = || Self { since: 0, ..Self::new("nobody knows why", Vec::new(), Vec::new()) };
        serde_json::from_slice(bytes).unwrap_or_else(|_| unknown())
    }

    /// Puts it where it makes RAM count.
    pub(super) fn write(&self, ram: &Path) -> Result<(), StatePlaceError> {
        let path = ram.join(IN_FORCE);
        let json = serde_json::to_vec(self).map_err(io::Error::from);
        let written = json.and_then(|json| durable::replace(&path, &json, 0o600));
        written.map_err(|source| StatePlaceError::File { action: "write", path, source })
    }
}
