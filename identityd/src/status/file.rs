//! The file of the snapshot, in the run directory.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::{SCHEMA, Status};
use crate::agent::Stage;

/// Name of the snapshot in the run directory.
pub(super) const FILE: &str = "status.json";

/// Larger snapshots are not ours.
const LARGEST_FILE: u64 = 1024 * 1024;

/// The run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It is not there and cannot be made.
    #[error("could not make the run directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could replace what lies in it.
    #[error(
        "the run directory {} is not a directory of user {owner}'s own; remove it and start again",
        path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Who should own it.
        owner: u32,
    },
    /// The snapshot cannot be written.
    #[error("could not write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The run directory, 0700, and the snapshot in it.
#[derive(Debug)]
pub struct StatusFile {
    directory: PathBuf,
}

impl StatusFile {
    /// Makes the directory where it is missing, and closes it to others.
    pub fn prepare(directory: &Path) -> Result<Self, StatusError> {
        let failed = |source| StatusError::MakeDirectory { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let metadata = fs::symlink_metadata(directory).map_err(failed)?;
        let owner = nix::unistd::geteuid().as_raw();
        if !metadata.is_dir() || metadata.uid() != owner {
            return Err(StatusError::NotOurs { path: directory.to_owned(), owner });
        }
        if metadata.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// What an earlier daemon left; `None` without a readable snapshot of this layout. It may have been a newer one,
    /// before a rollback: then its sums are read, even where this version does not understand where it was.
    pub fn read(&self) -> Option<Status> {
        let mut text = Vec::new();
        let file = File::open(self.directory.join(FILE)).ok()?;
        file.take(LARGEST_FILE).read_to_end(&mut text).ok()?;
        let mut value: Value = serde_json::from_slice(&text).ok()?;
        if value.get("schema") != Some(&SCHEMA.into()) {
            return None;
        }
        if let Ok(status) = Status::deserialize(&value) {
            return Some(status);
        }
        // Where that one was does not outlive it.
        let fields = value.as_object_mut()?;
        for name in [
            "gate",
            "gates",
            "last_error",
            "rollback",
            "state_in_ram",
            "outdated",
            "conflicts",
            "kernel",
            "node",
            "candidate",
            "failed",
            "installed",
        ] {
            fields.remove(name);
        }
        fields.insert("stage".to_owned(), Stage::Waiting.as_str().into());
        serde_json::from_value(value).ok()
    }

    /// Replaces the snapshot, 0600, at once: readers see the old or the new one. Not synced: the
    /// run directory does not outlive the boot.
    pub fn write(&self, status: &Status) -> Result<(), StatusError> {
        let path = self.directory.join(FILE);
        let draft = self.directory.join(format!(".{FILE}.new"));
        let written = || {
            let text = serde_json::to_vec_pretty(status)?;
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            fs::rename(&draft, &path)
        };
        written().map_err(|source| StatusError::Write { path: path.clone(), source })
    }
}
