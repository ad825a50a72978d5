//! Mounting a flist by FUSE, read-only, without libfuse and, as root, without `fusermount`.
//!
//! The session has its own threads, and the stores block on threads of their own, so a reader of the
//! mount can never wait for itself.

mod ahead;
mod attach;
mod blocks;
mod fs;
mod inodes;
mod sequence;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use attach::{Attached, Removal, attach, clear_dead};
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use crate::store::Store;
use crate::tree::Tree;

/// Requests of the kernel that are answered at the same time.
const THREADS: usize = 4;

/// How long an unmount waits for the session to end. It ends at once, unless another mount namespace has
/// a copy of the mount, which then is served for as long as this process lives.
const SESSION_END: Duration = Duration::from_secs(2);

/// What a mount is for. Either way it is read-only, and set-uid bits and devices are shown but have no
/// effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Files are copied from it: nothing can be executed from it.
    Install,
    /// A person looks at it, and may run what is in it.
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
    /// A process that was killed has left a dead mount there.
    #[error(
        "cannot take away the dead mount on {path}; do so with 'umount --lazy' as root, or 'fusermount3 -uz'"
    )]
    Dead {
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
    /// Our own mount; `None` where fusermount has made it for an ordinary user and the session knows it.
    attached: Option<Attached>,
    path: PathBuf,
}

/// Mounts a tree on a directory that exists. Dead mounts of flists there, which processes that were killed
/// have left, are taken away first.
///
/// # Errors
/// [`MountError::NoFuse`] where FUSE cannot be used at all, [`MountError::Dead`] where a dead mount is in the
/// way, [`MountError::Mount`] otherwise.
pub fn mount(
    tree: &Tree,
    store: Arc<dyn Store>,
    path: &Path,
    purpose: Purpose,
) -> Result<MountedFlist, MountError> {
    let device = File::options().read(true).write(true).open("/dev/fuse").map_err(MountError::NoFuse)?;
    clear_dead(path).map_err(|source| match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
        Errno::EPERM => MountError::Dead { path: path.to_owned(), source },
        _ => MountError::Mount { path: path.to_owned(), source },
    })?;
    let (table, blocks) = (inodes::InodeTable::new(tree), blocks::Blocks::new(store));
    let shared = Arc::new(ahead::Shared::new(table, blocks));
    let (read_ahead, waiting) = ahead::read_ahead(shared.clone());
    let filesystem = fs::FlistFs::new(shared, read_ahead);
    let started = if geteuid().is_root() {
        start(filesystem, device.into(), path, purpose)
    } else {
        start_as_user(filesystem, path, purpose)
    };
    let (session, attached) =
        started.map_err(|source| MountError::Mount { path: path.to_owned(), source })?;
    if let Err(error) = waiting.start(&session.notifier()) {
        tracing::debug!(path = %path.display(), %error, "short files are not read ahead");
    }
    Ok(MountedFlist { session: Some(session), attached, path: path.to_owned() })
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
    /// when its last user does. That somebody else has unmounted it already is no error.
    ///
    /// # Errors
    /// [`MountError::Unmount`], for instance when something else is mounted on top of it.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.end().map_err(|source| MountError::Unmount { path: self.path.clone(), source })
    }

    /// Waits until somebody else unmounts it.
    ///
    /// # Errors
    /// [`MountError::Unmount`] when the session broke instead.
    pub fn wait(mut self) -> Result<(), MountError> {
        let ended = self.session.take().map_or(Ok(()), BackgroundSession::join);
        // A session that broke leaves a mount that answers nobody.
        let removed = self.attached.as_ref().map_or(Ok(Removal::Gone), Attached::remove);
        ended.and(removed.map(drop)).map_err(|source| MountError::Unmount { path: self.path.clone(), source })
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let Some(attached) = &self.attached else { return session.umount_and_join() };
        match attached.remove()? {
            Removal::Gone => {
                let deadline = Instant::now() + SESSION_END;
                while !session.guard.is_finished() && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(1));
                }
                if session.guard.is_finished() {
                    return session.join();
                }
                tracing::debug!(path = %self.path.display(), "the mount is still used elsewhere");
            }
            Removal::Detached => {
                tracing::warn!(path = %self.path.display(), "the mount is in use, it was detached");
            }
        }
        Ok(())
    }
}

impl Drop for MountedFlist {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(path = %self.path.display(), %error, "cannot unmount");
        }
    }
}

type Started = (BackgroundSession, Option<Attached>);

fn start(filesystem: fs::FlistFs, device: OwnedFd, path: &Path, purpose: Purpose) -> io::Result<Started> {
    let attached = attach(&device, path, purpose)?;
    // The kernel waits for the session's first answer from now on.
    let session = Session::from_fd(filesystem, device, SessionACL::All, config(SessionACL::All));
    match session.and_then(Session::spawn) {
        Ok(session) => {
            // Only the answer that the session has given by now lets the kernel read ahead at all.
            if let Err(error) = attached.read_ahead() {
                tracing::debug!(path = %path.display(), %error, "reads ahead no further than by default");
            }
            Ok((session, Some(attached)))
        }
        Err(error) => {
            if let Err(left) = attached.remove() {
                tracing::warn!(path = %path.display(), error = %left, "a dead mount is left");
            }
            Err(error)
        }
    }
}

/// Ordinary users mount by the help of fusermount, which fuser calls.
fn start_as_user(filesystem: fs::FlistFs, path: &Path, purpose: Purpose) -> io::Result<Started> {
    let mut config = config(SessionACL::Owner);
    config.mount_options = vec![
        MountOption::FSName("flist".to_owned()),
        MountOption::Subtype("flist".to_owned()),
        MountOption::RO,
        MountOption::DefaultPermissions,
    ];
    if purpose == Purpose::Install {
        config.mount_options.push(MountOption::NoExec);
    }
    let session = Session::new(filesystem, path, &config)?.spawn()?;
    Ok((session, None))
}

fn config(acl: SessionACL) -> Config {
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}
