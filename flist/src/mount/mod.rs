//! Mounting a flist by FUSE, read-only, without libfuse and, as root, without `fusermount`.
//!
//! The session has its own threads, and the stores block on threads of their own, so a reader of the
//! mount can never wait for itself.

mod blocks;
mod fs;
mod inodes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::store::Store;
use crate::tree::Tree;

/// Requests of the kernel that are answered at the same time.
const THREADS: usize = 4;

/// What a mount is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Files are copied from it: nothing can be executed from it and set-uid bits have no effect.
    Install,
    /// A person uses it like any other file system.
    General,
}

/// Why a flist could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no `/dev/fuse`, or it may not be used.
    #[error("FUSE is not available; load the module 'fuse' and make sure that /dev/fuse exists")]
    NoFuse(#[source] std::io::Error),
    /// The mount failed.
    #[error("cannot mount on {path}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The mount could not be removed.
    #[error("cannot unmount {path}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// A mounted flist. Dropping it unmounts; [`MountedFlist::unmount`] also tells whether that worked.
pub struct MountedFlist {
    session: Option<BackgroundSession>,
    path: PathBuf,
}

/// Mounts a tree on a directory that exists.
///
/// # Errors
/// [`MountError::NoFuse`] where FUSE cannot be used at all, [`MountError::Mount`] otherwise.
pub fn mount(
    tree: &Tree,
    store: Arc<dyn Store>,
    path: &Path,
    purpose: Purpose,
) -> Result<MountedFlist, MountError> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    opened.map_err(MountError::NoFuse)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("flist".to_owned()),
        MountOption::Subtype("flist".to_owned()),
        MountOption::RO,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
    ];
    if purpose == Purpose::Install {
        config.mount_options.extend([MountOption::NoSuid, MountOption::NoExec]);
    }
    config.acl = if nix::unistd::geteuid().is_root() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let failed = |source| MountError::Mount { path: path.to_owned(), source };
    let filesystem = fs::FlistFs { table: inodes::InodeTable::new(tree), blocks: blocks::Blocks::new(store) };
    let session = Session::new(filesystem, path, &config).and_then(Session::spawn).map_err(failed)?;
    Ok(MountedFlist { session: Some(session), path: path.to_owned() })
}

/// Takes a mount away from its mount point at once; those who use it still can.
///
/// # Errors
/// [`MountError::Unmount`], for instance when nothing is mounted there.
pub fn detach(path: &Path) -> Result<(), MountError> {
    umount2(path, MntFlags::MNT_DETACH)
        .map_err(|errno| MountError::Unmount { path: path.to_owned(), source: errno.into() })
}

impl MountedFlist {
    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts and waits for the session's threads to end. A mount that is in use is detached: it goes
    /// when its last user does.
    ///
    /// # Errors
    /// [`MountError::Unmount`].
    pub fn unmount(mut self) -> Result<(), MountError> {
        let failed = |source| MountError::Unmount { path: self.path.clone(), source };
        let Some(session) = self.session.take() else { return Ok(()) };
        match umount2(&self.path, MntFlags::empty()) {
            // EINVAL: somebody else has unmounted it already.
            Ok(()) | Err(Errno::EINVAL) => session.join().map_err(failed),
            Err(Errno::EBUSY) => {
                tracing::warn!(path = %self.path.display(), "the mount is in use, detaching it");
                detach(&self.path)
            }
            // As an ordinary user fusermount has to do it, which the session knows how to call.
            Err(_) => session.umount_and_join().map_err(failed),
        }
    }

    /// Waits until somebody else unmounts it.
    ///
    /// # Errors
    /// [`MountError::Unmount`] when the session broke instead.
    pub fn wait(mut self) -> Result<(), MountError> {
        let failed = |source| MountError::Unmount { path: self.path.clone(), source };
        match self.session.take() {
            Some(session) => session.join().map_err(failed),
            None => Ok(()),
        }
    }
}
