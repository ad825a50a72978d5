//! What the root file system of a node is on.
//!
//! All of it is mounted in the mount namespace of the node, and ends with it: the kernel frees the loop device when
//! its file system is unmounted, whatever the node died of.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error};
use crate::job;

/// Longest time that making a file system or mounting it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Most MiB of the base image below an overlay: more than any has.
const BASE_MIB: u32 = 2048;

/// Kinds of root file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RootKind {
    /// In RAM.
    Tmpfs,
    /// ext4 on a loop device.
    Ext4,
    /// An overlayfs: the base image below it cannot be written, what is above it is a tmpfs.
    Overlay,
}

impl RootKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tmpfs, Self::Ext4, Self::Overlay];
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Overlay => "overlay",
        })
    }
}

/// What the root file system of one node is on, with what the host provides for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Medium {
    /// A tmpfs.
    Tmpfs,
    /// An ext4.
    Ext4 {
        /// The file that it is in.
        image: PathBuf,
    },
    /// An overlayfs of two tmpfs.
    Overlay {
        /// An empty directory to mount the one with the base image on.
        lower: PathBuf,
        /// An empty directory to mount the one with what changes on.
        upper: PathBuf,
    },
}

impl Medium {
    /// Makes what it needs in the directory `scratch` of the host.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn make(kind: RootKind, scratch: &Path, size_mib: u32) -> Result<Self, Error> {
        let directory = |name: &str| {
            let path = scratch.join(name);
            fs::create_dir(&path).doing(|| format!("make {}", path.display()))?;
            Ok(path)
        };
        match kind {
            RootKind::Tmpfs => Ok(Self::Tmpfs),
            RootKind::Overlay => Ok(Self::Overlay { lower: directory("lower")?, upper: directory("upper")? }),
            RootKind::Ext4 => {
                let image = scratch.join("image");
                File::create(&image)
                    .and_then(|file| file.set_len(u64::from(size_mib) << 20))
                    .doing(|| format!("make {}", image.display()))?;
                // Nothing is reserved for root, who is the only one to write there.
                let mut format = Command::new("/sbin/mke2fs");
                format.args(["-q", "-F", "-t", "ext4", "-m", "0"]).arg(&image);
                job::run(&mut format, LIMIT)?;
                Ok(Self::Ext4 { image })
            }
        }
    }

    /// Mounts what the base image goes to, and says where that is.
    pub(super) fn mount<'m>(&'m self, mount_point: &'m Path, size_mib: u32) -> Result<&'m Path, Error> {
        match self {
            Self::Tmpfs => tmpfs(mount_point, size_mib).map(|()| mount_point),
            Self::Ext4 { image } => {
                // The program takes a free loop device and has the kernel free it afterwards.
                let mut program = Command::new("mount");
                program.args(["-t", "ext4", "-o", "loop"]).arg(image).arg(mount_point);
                job::run(&mut program, LIMIT).map(|_| mount_point)
            }
            Self::Overlay { lower, .. } => tmpfs(lower, BASE_MIB).map(|()| lower.as_path()),
        }
    }

    /// Makes it the root file system, now that the base image is there.
    pub(super) fn complete(&self, mount_point: &Path, size_mib: u32) -> Result<(), Error> {
        let Self::Overlay { lower, upper } = self else { return Ok(()) };
        let nothing = None::<&str>;
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(nothing, lower, nothing, read_only, nothing)
            .doing(|| "make the base image read-only".to_owned())?;
        tmpfs(upper, size_mib)?;
        let (files, work) = (upper.join("files"), upper.join("work"));
        for directory in [&files, &work] {
            fs::create_dir(directory).doing(|| format!("make {}", directory.display()))?;
        }
        let layers = [("lowerdir", lower), ("upperdir", &files), ("workdir", &work)];
        let options = layers.map(|(name, path)| format!("{name}={}", path.display())).join(",");
        mount(Some("molt-root"), mount_point, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .doing(|| "mount the overlay of the node".to_owned())
    }
}

fn tmpfs(on: &Path, size_mib: u32) -> Result<(), Error> {
    let options = format!("size={size_mib}m,mode=0755");
    mount(Some("molt-root"), on, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .doing(|| format!("mount a tmpfs on {}", on.display()))
}
