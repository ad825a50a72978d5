//! Disks of virtual machines.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::error::{Doing, Error};
use crate::place;

/// A raw disk image that vanishes when it is dropped.
pub struct DiskImage {
    scratch: TempDir,
}

impl DiskImage {
    /// A disk with an empty ext4 on it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn ext4(label: &str, size_mib: u64) -> Result<Self, Error> {
        let disk = Self { scratch: place::scratch("disk")? };
        make_ext4(&disk.path(), label, size_mib)?;
        Ok(disk)
    }

    /// A copy of this disk as it is now.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn duplicate(&self) -> Result<Self, Error> {
        let copy = Self { scratch: place::scratch("disk")? };
        super::host(Command::new("cp").arg("--sparse=always").arg(self.path()).arg(copy.path()))?;
        Ok(copy)
    }

    /// The image.
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }
}

fn make_ext4(path: &Path, label: &str, size_mib: u64) -> Result<(), Error> {
    let made = File::create(path).and_then(|file| file.set_len(size_mib << 20));
    made.doing(|| format!("make {}", path.display()))?;
    let mut format = Command::new("/sbin/mke2fs");
    super::host(format.args(["-q", "-F", "-t", "ext4", "-L", label]).arg(path))
}
