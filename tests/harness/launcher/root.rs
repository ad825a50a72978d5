//! The root file system of a node: the base image and a small /dev.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};

use super::Spec;
use crate::error::{Doing, Error};
use crate::{BaseFile, Content};

/// Character devices: name, major, minor (Documentation/admin-guide/devices.txt of Linux).
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const FUSE: (&str, u64, u64) = ("fuse", 10, 229);

/// Links in /dev. The console of a node is what its PID 1 writes to.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("console", "/proc/1/fd/1"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Mounts the root file system and fills it.
pub(super) fn populate(spec: &Spec) -> Result<(), Error> {
    // For the directories that nobody gives a mode, and inherited by everything in the node.
    umask(Mode::from_bits_truncate(0o022));
    let base = spec.medium.mount(&spec.mount_point, spec.size_mib)?;
    for file in &spec.base {
        place(base, file)?;
    }
    spec.medium.complete(&spec.mount_point, spec.size_mib)?;
    devices(&spec.mount_point.join("dev"), spec.fuse)
}

fn place(root: &Path, file: &BaseFile) -> Result<(), Error> {
    let at = inside(root, &file.path);
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent).doing(|| format!("make {}", parent.display()))?;
    }
    let made = match &file.content {
        Content::Directory => fs::create_dir_all(&at),
        Content::Text(text) => fs::write(&at, text),
        Content::Copy(from) => {
            return fs::copy(from, &at)
                .and_then(|_| set_mode(&at, file.mode))
                .doing(|| format!("copy {} to {} of the node", from.display(), file.path.display()));
        }
        Content::Link(target) => {
            return symlink(target, &at).doing(|| format!("link {}", file.path.display()));
        }
    };
    made.and_then(|()| set_mode(&at, file.mode)).doing(|| format!("make {} of the node", file.path.display()))
}

fn devices(dev: &Path, fuse: bool) -> Result<(), Error> {
    mount(Some("molt-dev"), dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("size=1m,mode=0755"))
        .doing(|| "mount /dev of the node".to_owned())?;
    for (name, major, minor) in DEVICES.into_iter().chain(fuse.then_some(FUSE)) {
        let at = dev.join(name);
        mknod(&at, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))
            .map_err(Into::into)
            .and_then(|()| set_mode(&at, 0o666))
            .doing(|| format!("make /dev/{name} of the node"))?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, dev.join(name)).doing(|| format!("make /dev/{name} of the node"))?;
    }
    let memory = dev.join("shm");
    fs::create_dir(&memory)
        .and_then(|()| set_mode(&memory, 0o1777))
        .doing(|| "make /dev/shm of the node".to_owned())
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
