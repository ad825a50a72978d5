//! The root file system that is installed into, as the engine sees it: items at paths, identified.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flist::block::Codec;
use flist::path::FlistPath;
use flist::tree::Fingerprint;
use flist::xattr;
use nix::errno::Errno;

use crate::disk::{self, Beneath, Disk, Kind, Reader, Stat};
use crate::item::{Item, What};

/// Why something in the root file system could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The root itself cannot be opened.
    #[error("cannot open the root file system at {path}")]
    Open {
        /// Where it was looked for.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An operation on a path failed.
    #[error("cannot {action} /{path}")]
    At {
        /// What was tried.
        action: &'static str,
        /// On what, relative to the root.
        path: FlistPath,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody changed something while the upgrade was prepared.
    #[error(
        "/{0} was changed by somebody else while the upgrade was prepared; it is looked at again the next time"
    )]
    Changed(FlistPath),
    /// A directory of the root leads out of it.
    #[error("the directory /{0} is not beneath the root file system")]
    Outside(FlistPath),
}

/// A root file system.
#[derive(Debug)]
pub struct Root {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

/// What was found at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The thing itself; a symlink is not followed.
    pub item: Item,
    /// It is a symlink to a directory inside the root.
    pub leads_to_directory: bool,
    /// Something is mounted here, so it cannot be exchanged.
    pub mount_point: bool,
    /// Tells whether it has changed since.
    pub stamp: Stamp,
}

/// Changes whenever what is at a path is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device and inode number.
    pub inode: (u64, u64),
    /// Time of the last change, in seconds and nanoseconds.
    pub changed: (i64, i64),
    /// Length in bytes.
    pub size: u64,
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Self {
        Self { inode: stat.inode, changed: stat.changed, size: stat.size }
    }
}

/// An error that names a path.
pub fn failed(action: &'static str, path: &FlistPath) -> impl Fn(io::Error) -> RootError + use<> {
    let path = path.clone();
    move |source| RootError::At { action, path: path.clone(), source }
}

impl Root {
    /// Opens a root file system; `/` for the running one.
    ///
    /// # Errors
    /// [`RootError::Open`].
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let disk = Beneath::open(path).map_err(|source| RootError::Open { path: path.to_owned(), source })?;
        let path = disk.path().to_owned();
        Ok(Self { disk: Arc::new(disk), path })
    }

    /// A root file system on another disk; `path` is what it is called in messages.
    pub fn on(disk: Arc<dyn Disk>, path: &Path) -> Self {
        Self { disk, path: path.to_owned() }
    }

    /// Its files.
    pub fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// Where the root is in the file system of this process.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a path of the root is in the file system of this process. For messages and for programs that
    /// take names; the engine itself opens paths beneath the root.
    pub fn outer(&self, path: &FlistPath) -> PathBuf {
        if path.is_root() { self.path.clone() } else { self.path.join(path.as_path()) }
    }

    /// The same path without symlinks in its directories, so that two names of one file become equal.
    /// Directories that are not there yet are taken as they are written.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn canonical(&self, path: &FlistPath) -> Result<FlistPath, RootError> {
        let Some(parent) = path.parent() else { return Ok(FlistPath::root()) };
        let directory = match self.disk.real_directory(&parent) {
            Ok(Some(directory)) => directory,
            Ok(None) => self.canonical(&parent)?,
            Err(error) if error.raw_os_error() == Some(Errno::EXDEV as i32) => {
                return Err(RootError::Outside(parent));
            }
            Err(error) => return Err(failed("find the real path of", &parent)(error)),
        };
        directory.join(path.name()).map_err(|_| RootError::Outside(path.clone()))
    }

    /// What is at a path, with the content of a file read and identified by the keys of `codec`; `None` when there
    /// is nothing.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn observe(&self, path: &FlistPath, codec: Codec) -> Result<Option<Found>, RootError> {
        Ok(self.observe_by_each(path, [codec])?.map(|(found, _)| found))
    }

    /// As [`Root::observe`] with the first of several codecs, and a file's content identified by each of them;
    /// nothing else has fingerprints.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn observe_by_each<const N: usize>(
        &self,
        path: &FlistPath,
        codecs: [Codec; N],
    ) -> Result<Option<(Found, Vec<Fingerprint>)>, RootError> {
        let Some(stat) = self.stat(path)? else { return Ok(None) };
        let fingerprints = match stat.kind {
            Kind::File => {
                let file = self.disk.open(path, false).map_err(failed("open", path))?;
                let each = Fingerprint::each_of_reader(Reader::new(file), codecs);
                each.map_err(failed("read", path))?.to_vec()
            }
            _ => Vec::new(),
        };
        let what = self.what(path, &stat, fingerprints.first().copied())?;
        let leads_to_directory = matches!(what, What::Symlink { .. })
            && match self.disk.real_directory(path) {
                Ok(directory) => directory.is_some(),
                Err(error) if disk::is_no_plain_file(&error) => false,
                Err(error) => return Err(failed("follow", path)(error)),
            };
        let mut xattrs = self.disk.xattrs(path).map_err(failed("read the extended attributes of", path))?;
        xattrs.retain(|name, _| xattr::changes_rights(name));
        let Stat { mode, uid, gid, mtime, mount_point, .. } = stat;
        let item = Item { mode, uid, gid, mtime, xattrs, what };
        let found = Found { item, leads_to_directory, mount_point, stamp: Stamp::from(&stat) };
        Ok(Some((found, fingerprints)))
    }

    fn what(
        &self,
        path: &FlistPath,
        stat: &Stat,
        fingerprint: Option<Fingerprint>,
    ) -> Result<What, RootError> {
        Ok(match stat.kind {
            Kind::Directory => What::Directory,
            Kind::Symlink => {
                What::Symlink { target: self.disk.read_link(path).map_err(failed("read the link", path))? }
            }
            Kind::File => {
                let fingerprint = fingerprint.unwrap_or_else(|| Fingerprint::of(0, std::iter::empty()));
                What::File { size: stat.size, fingerprint }
            }
            Kind::CharDevice => What::CharDevice { rdev: stat.rdev },
            Kind::BlockDevice => What::BlockDevice { rdev: stat.rdev },
            Kind::Fifo => What::Fifo,
            Kind::Socket => What::Socket,
        })
    }

    /// What is at a path without reading it; a symlink is not followed.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn stat(&self, path: &FlistPath) -> Result<Option<Stat>, RootError> {
        self.disk.stat(path).map_err(failed("look at", path))
    }

    /// The stamp of what is at a path; a symlink is not followed.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn stamp(&self, path: &FlistPath) -> Result<Option<Stamp>, RootError> {
        Ok(self.stat(path)?.map(|stat| Stamp::from(&stat)))
    }

    /// The inode number of what is at a path; a symlink is not followed.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn inode(&self, path: &FlistPath) -> Result<Option<u64>, RootError> {
        Ok(self.stat(path)?.map(|stat| stat.inode.1))
    }

    /// Reads a small file, following symlinks inside the root; `None` when it is not there.
    ///
    /// # Errors
    /// [`RootError::At`]; a file longer than `limit` bytes is `EFBIG`.
    pub fn read_small(&self, path: &FlistPath, limit: usize) -> Result<Option<Vec<u8>>, RootError> {
        disk::read_small(self.disk(), path, limit, true).map_err(failed("read", path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn path(text: &str) -> FlistPath {
        text.parse().unwrap()
    }

    #[test]
    fn symlinks_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        symlink("usr/bin", dir.path().join("bin")).unwrap();
        symlink("/usr/bin", dir.path().join("sbin")).unwrap();
        symlink("../../../../../..", dir.path().join("up")).unwrap();
        std::fs::write(dir.path().join("usr/bin/sh"), "x").unwrap();

        assert_eq!(root.canonical(&path("bin/sh")).unwrap(), path("usr/bin/sh"));
        assert_eq!(root.canonical(&path("sbin/new/deep")).unwrap(), path("usr/bin/new/deep"));
        assert_eq!(root.canonical(&path("up/etc")).unwrap(), path("etc"));
        assert!(root.observe(&path("sbin/sh"), Codec::Fl).unwrap().is_some());
        assert!(root.observe(&path("up/etc/passwd"), Codec::Fl).unwrap().is_none());
        assert!(root.observe(&path("bin"), Codec::Fl).unwrap().unwrap().leads_to_directory);
        assert_eq!(root.read_small(&path("bin/sh"), 10).unwrap().unwrap(), b"x");
        assert!(root.read_small(&path("bin/sh"), 0).is_err());
    }
}
