//! Attaching a FUSE connection to a directory, and taking exactly that mount away again.
//!
//! Done here and not by fuser, which unmounts by path once more after somebody has unmounted: it would
//! take away what was mounted at the same place before or since.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::{Mode, SFlag};
use nix::sys::statfs::statfs;
use nix::unistd::{getgid, getuid};

use super::Purpose;
use crate::mountinfo::mounts;

/// Type of a mounted flist in the kernel's list of mounts.
const FILE_SYSTEM: &str = "fuse.flist";

/// How far the kernel reads ahead of a sequential reader, in KiB: four blocks.
const READ_AHEAD_KIB: u32 = 2048;

/// What became of a mount that should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// It is gone, or was gone already.
    Gone,
    /// It is out of sight and goes when its last user does.
    Detached,
}

/// One mount, known by its number, so that no other mount at the same place is taken for it.
#[derive(Debug)]
pub(super) struct Attached {
    /// The mount point, without symlinks.
    path: PathBuf,
    /// The kernel's number of the mount.
    id: u64,
}

/// Mounts the FUSE connection `device` on a directory. Needs root.
///
/// # Errors
/// Those of the system.
pub(super) fn attach(device: &OwnedFd, path: &Path, purpose: Purpose) -> io::Result<Attached> {
    let path = path.canonicalize()?;
    let mut flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    if purpose == Purpose::Install {
        flags |= MsFlags::MS_NOEXEC;
    }
    let options = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions,allow_other",
        device.as_raw_fd(),
        SFlag::S_IFDIR.bits(),
        getuid(),
        getgid()
    );
    nix::mount::mount(Some("flist"), &path, Some(FILE_SYSTEM), flags, Some(options.as_str()))?;
    match visible_mount(&path) {
        Ok(id) => Ok(Attached { path, id }),
        Err(error) => {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
            Err(error)
        }
    }
}

/// Takes away what sessions that were killed have left at `path`: mounts of flists that one sees there and
/// that nobody serves any more. Other file systems are not even asked whether they live.
///
/// # Errors
/// Those of the system; EPERM when there is one and the user may not unmount it.
pub(super) fn clear_dead(path: &Path) -> io::Result<()> {
    let path = path.canonicalize()?;
    while is_dead(&path)? {
        match umount2(&path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
            Ok(()) => tracing::info!(path = %path.display(), "took away the mount of a process that is gone"),
            // A directory in a dead mount, not its top: it is in nobody's way.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn is_dead(path: &Path) -> io::Result<bool> {
    let id = visible_mount(path)?;
    let ours = mounts()?.iter().any(|mount| mount.id == id && mount.kind == FILE_SYSTEM);
    Ok(ours && statfs(path).is_err_and(|errno| errno == Errno::ENOTCONN))
}

impl Attached {
    /// Lets the kernel read ahead by some blocks, so that several threads fetch them for one reader. FUSE
    /// itself can only ask for less than the system's default.
    ///
    /// # Errors
    /// Those of the system, for instance where /sys is read-only.
    pub(super) fn read_ahead(&self) -> io::Result<()> {
        let own = mounts()?.into_iter().find(|mount| mount.id == self.id);
        let device = own.ok_or(ErrorKind::NotFound)?.device;
        fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB.to_string())
    }

    /// Takes the mount away; one that is in use is detached.
    ///
    /// # Errors
    /// Those of the system; "busy" when another mount covers it.
    pub(super) fn remove(&self) -> io::Result<Removal> {
        if !self.is_listed()? {
            return Ok(Removal::Gone);
        }
        if visible_mount(&self.path)? != self.id {
            return Err(Errno::EBUSY.into());
        }
        match umount2(&self.path, MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: somebody else was faster.
            Ok(()) | Err(Errno::EINVAL) => Ok(Removal::Gone),
            Err(Errno::EBUSY) => {
                umount2(&self.path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?;
                Ok(Removal::Detached)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn is_listed(&self) -> io::Result<bool> {
        Ok(mounts()?.iter().any(|mount| mount.id == self.id))
    }
}

/// The number of the mount one sees at a path. Its file system is not asked, which may not answer.
fn visible_mount(path: &Path) -> io::Result<u64> {
    // Not by `OpenOptions`: with musl it takes O_PATH for an access mode, drops it, and waits for the file system.
    let opened = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()))?;
    let number = facts.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    number.and_then(|number| number.trim().parse().ok()).ok_or_else(|| {
        io::Error::new(ErrorKind::InvalidData, "the kernel does not tell the number of a mount")
    })
}
