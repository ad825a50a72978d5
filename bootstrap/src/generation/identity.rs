//! Which root file system something was installed into.

use std::io;

use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use super::GenerationError;
use crate::disk;
use crate::root::Root;

/// Tells whether a root file system is the one that something was installed into: a random marker is put
/// into it with the first generation. A root in RAM, a RAM layer above one, and a reformatted disk have
/// lost it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootIdentity {
    /// The content of the marker; `None` before the first generation.
    pub marker: Option<String>,
    /// The root lies in RAM (tmpfs or ramfs), so what is kept in it costs memory.
    pub volatile: bool,
}

/// The marker's name.
const MARKER: &str = ".molt-root";

/// Longest marker, in bytes.
const MAX_MARKER: usize = 64;

impl RootIdentity {
    /// The identity of a root file system now.
    ///
    /// # Errors
    /// [`GenerationError::Identity`].
    pub fn of(root: &Root) -> Result<Self, GenerationError> {
        let filesystem = root.disk().filesystem(&FlistPath::root()).map_err(GenerationError::Identity)?;
        let path = marker_path()?;
        let marker = root.read_small(&path, MAX_MARKER);
        let marker = marker.map_err(|error| GenerationError::Identity(io::Error::other(error)))?;
        let marker = marker.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Ok(Self { marker: marker.filter(|marker| !marker.is_empty()), volatile: filesystem.in_ram })
    }

    /// The identity that a root file system has or gets with [`RootIdentity::mark`]. Nothing is written: a marker
    /// without any record tells of records that are lost.
    ///
    /// # Errors
    /// [`GenerationError::Identity`].
    pub fn to_be(root: &Root) -> Result<Self, GenerationError> {
        let now = Self::of(root)?;
        match now.marker {
            Some(_) => Ok(now),
            None => Ok(Self { marker: Some(random_token().map_err(GenerationError::Identity)?), ..now }),
        }
    }

    /// Gives a root file system this identity, unless it has it.
    ///
    /// # Errors
    /// [`GenerationError::Identity`].
    pub fn mark(&self, root: &Root) -> Result<(), GenerationError> {
        match &self.marker {
            Some(marker) if !self.survives_in(&Self::of(root)?) => {
                disk::replace(root.disk(), &marker_path()?, marker.as_bytes(), 0o600)
                    .map_err(GenerationError::Identity)
            }
            _ => Ok(()),
        }
    }

    /// Whether what was installed into `self` can still be there in `now`.
    pub fn survives_in(&self, now: &Self) -> bool {
        self.marker.is_some() && self.marker == now.marker
    }
}

/// A text that nobody has used before.
///
/// # Errors
/// The system's, when /proc is not there.
pub fn random_token() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// What tells this boot of the machine from every other one. Without /proc, all boots are one.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn marker_path() -> Result<FlistPath, GenerationError> {
    MARKER.parse().map_err(|error| GenerationError::Identity(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_keeps_its_marker() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(RootIdentity::of(&root).unwrap().marker, None);
        let marked = RootIdentity::to_be(&root).unwrap();
        assert_eq!(RootIdentity::of(&root).unwrap().marker, None);
        marked.mark(&root).unwrap();
        marked.mark(&root).unwrap();
        assert_eq!(RootIdentity::to_be(&root).unwrap(), marked);
        assert!(marked.survives_in(&RootIdentity::of(&root).unwrap()));
        let other = tempfile::tempdir().unwrap();
        let other = RootIdentity::to_be(&Root::open(other.path()).unwrap()).unwrap();
        assert!(!marked.survives_in(&other));
    }
}
