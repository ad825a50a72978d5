//! The root file system that is installed into.
//!
//! Every path is opened beneath the root with `openat2(RESOLVE_IN_ROOT)`: symlinks are followed as they
//! would be by a process whose root this is, and nothing can lead out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flist::path::FlistPath;
use flist::tree::Fingerprint;
use flist::xattr::{self, Xattrs};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use crate::item::{Item, What};

/// How often a look-up that raced with a rename is tried again.
const RACES: usize = 100;

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
    fd: OwnedFd,
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
    pub size: i64,
}

impl From<&FileStat> for Stamp {
    fn from(stat: &FileStat) -> Self {
        let (inode, changed) = ((stat.st_dev, stat.st_ino), (stat.st_ctime, stat.st_ctime_nsec));
        Self { inode, changed, size: stat.st_size }
    }
}

/// A name in an open directory: what the `*at` system calls work on.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub dir: OwnedFd,
    /// The path it stands for, for messages.
    pub path: FlistPath,
}

impl Place {
    /// The name in the directory.
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.path.name())
    }

    /// The place as a path of this process: through the open directory, so that nobody can move it away.
    pub fn through_descriptor(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()).join(self.name())
    }

    /// The extended attributes that give rights.
    fn rights(&self) -> Result<Xattrs, RootError> {
        let mut xattrs = xattr::read(&self.through_descriptor()).map_err(|source| RootError::At {
            action: "read the extended attributes of",
            path: self.path.clone(),
            source,
        })?;
        xattrs.retain(|name, _| xattr::changes_rights(name));
        Ok(xattrs)
    }

    /// An error that names this place.
    pub fn error(&self, action: &'static str) -> impl Fn(Errno) -> RootError + use<> {
        failed(action, &self.path)
    }
}

/// An error that names a path.
pub fn failed(action: &'static str, path: &FlistPath) -> impl Fn(Errno) -> RootError + use<> {
    let path = path.clone();
    move |errno| RootError::At { action, path: path.clone(), source: errno.into() }
}

impl Root {
    /// Opens a root file system; `/` for the running one.
    ///
    /// # Errors
    /// [`RootError::Open`].
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let failed = |source| RootError::Open { path: path.to_owned(), source };
        let path = path.canonicalize().map_err(failed)?;
        let fd = File::open(&path).map_err(failed)?.into();
        Ok(Self { fd, path })
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

    /// The directory itself.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Opens something, following symlinks inside the root.
    ///
    /// # Errors
    /// The system's answer; `ENOENT` and `ENOTDIR` are for the caller to judge.
    pub fn open_at(&self, path: &FlistPath, flags: OFlag) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        // EAGAIN: a rename somewhere on the machine raced with a `..` in a symlink (openat2(2)).
        let mut answer = openat2(&self.fd, path.as_path(), how);
        for _ in 0..RACES {
            match answer {
                Err(Errno::EAGAIN | Errno::EINTR) => answer = openat2(&self.fd, path.as_path(), how),
                _ => break,
            }
        }
        answer
    }

    /// The directory that holds a path, opened; `None` when there is no such directory.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn find(&self, path: &FlistPath) -> Result<Option<Place>, RootError> {
        let parent = path.parent().unwrap_or_default();
        match self.open_at(&parent, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(dir) => Ok(Some(Place { dir, path: path.clone() })),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(failed("open the directory of", path)(errno)),
        }
    }

    /// As [`Root::find`], where the directory has to be there.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn place(&self, path: &FlistPath) -> Result<Place, RootError> {
        self.find(path)?.ok_or_else(|| failed("find the directory of", path)(Errno::ENOENT))
    }

    /// The same path without symlinks in its directories, so that two names of one file become equal.
    /// Directories that are not there yet are taken as they are written.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn canonical(&self, path: &FlistPath) -> Result<FlistPath, RootError> {
        let Some(parent) = path.parent() else { return Ok(FlistPath::root()) };
        let directory = match self.find(path)? {
            Some(place) => self.path_of(&place.dir, &parent)?,
            None => self.canonical(&parent)?,
        };
        directory.join(path.name()).map_err(|_| RootError::Outside(path.clone()))
    }

    /// The path of an open directory, relative to the root.
    fn path_of(&self, dir: &OwnedFd, asked: &FlistPath) -> Result<FlistPath, RootError> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).map_err(|source| {
            RootError::At { action: "find the real path of", path: asked.clone(), source }
        })?;
        let inside = path.strip_prefix(&self.path).map_err(|_| RootError::Outside(asked.clone()))?;
        FlistPath::from_bytes(inside.as_os_str().as_bytes()).map_err(|_| RootError::Outside(asked.clone()))
    }

    /// What is at a path, with the content of a file read and identified; `None` when there is nothing.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn observe(&self, path: &FlistPath) -> Result<Option<Found>, RootError> {
        let Some((place, stat)) = self.stat(path)? else { return Ok(None) };
        let what = self.what(&place, &stat)?;
        let leads_to_directory = matches!(what, What::Symlink { .. })
            && self.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok();
        let item = Item {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            xattrs: place.rights()?,
            what,
        };
        let mount_point = is_mount_point(&place)?;
        Ok(Some(Found { item, leads_to_directory, mount_point, stamp: Stamp::from(&stat) }))
    }

    fn what(&self, place: &Place, stat: &FileStat) -> Result<What, RootError> {
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        Ok(match kind {
            SFlag::S_IFDIR => What::Directory,
            SFlag::S_IFLNK => {
                let target = readlinkat(&place.dir, place.name()).map_err(place.error("read the link"))?;
                What::Symlink { target: target.as_bytes().to_vec() }
            }
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = nix::fcntl::openat(&place.dir, place.name(), flags, Mode::empty())
                    .map_err(place.error("open"))?;
                let fingerprint = Fingerprint::of_reader(File::from(file))
                    .map_err(|source| RootError::At { action: "read", path: place.path.clone(), source })?;
                What::File { size: stat.st_size.unsigned_abs(), fingerprint }
            }
            SFlag::S_IFCHR => What::CharDevice { rdev: stat.st_rdev },
            SFlag::S_IFBLK => What::BlockDevice { rdev: stat.st_rdev },
            SFlag::S_IFIFO => What::Fifo,
            _ => What::Socket,
        })
    }

    /// The stamp of what is at a path; a symlink is not followed.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn stamp(&self, path: &FlistPath) -> Result<Option<Stamp>, RootError> {
        Ok(self.stat(path)?.map(|(_, stat)| Stamp::from(&stat)))
    }

    /// The inode number of what is at a path; a symlink is not followed.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn inode(&self, path: &FlistPath) -> Result<Option<u64>, RootError> {
        Ok(self.stat(path)?.map(|(_, stat)| stat.st_ino))
    }

    fn stat(&self, path: &FlistPath) -> Result<Option<(Place, FileStat)>, RootError> {
        let Some(place) = self.find(path)? else { return Ok(None) };
        match fstatat(&place.dir, place.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((place, stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(place.error("look at")(errno)),
        }
    }

    /// Reads a small file, following symlinks inside the root; `None` when it is not there.
    ///
    /// # Errors
    /// [`RootError::At`]; a file longer than `limit` bytes is `EFBIG`.
    pub fn read_small(&self, path: &FlistPath, limit: usize) -> Result<Option<Vec<u8>>, RootError> {
        let file = match self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(failed("open", path)(errno)),
        };
        let mut bytes = Vec::new();
        let read_failed = |source| RootError::At { action: "read", path: path.clone(), source };
        io::Read::read_to_end(&mut io::Read::take(file, limit as u64 + 1), &mut bytes)
            .map_err(read_failed)?;
        if bytes.len() > limit {
            return Err(failed("read", path)(Errno::EFBIG));
        }
        Ok(Some(bytes))
    }

    /// The top of the mount that a directory lies in, as a path of the root; the root itself when that
    /// mount begins above it. Renames work only within one mount.
    ///
    /// # Errors
    /// [`RootError::At`].
    pub fn mount_top(&self, dir: impl AsFd, path: &FlistPath) -> Result<FlistPath, RootError> {
        let failed = |source| RootError::At { action: "find the mount of", path: path.clone(), source };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_fd().as_raw_fd()))
            .map_err(failed)?;
        let mounts = std::fs::read("/proc/self/mountinfo").map_err(failed)?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
        let top = id.and_then(|id| mount_point(&mounts, id));
        let inside = top.as_deref().and_then(|top| top.strip_prefix(&self.path).ok());
        let inside = inside.map_or(&b""[..], |inside| inside.as_os_str().as_bytes());
        FlistPath::from_bytes(inside).map_err(|_| RootError::Outside(path.clone()))
    }
}

/// Whether something is mounted at a place (statx(2), since Linux 5.8; older kernels do not tell).
fn is_mount_point(place: &Place) -> Result<bool, RootError> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW | rustix::fs::AtFlags::NO_AUTOMOUNT;
    let answer = rustix::fs::statx(&place.dir, place.name(), flags, rustix::fs::StatxFlags::empty());
    let answer = answer.map_err(|errno| place.error("look at")(Errno::from_raw(errno.raw_os_error())))?;
    Ok(answer.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// Where the mount with this id is, by the text of `/proc/self/mountinfo` (proc(5)): its first field is
/// the id, its fifth the mount point with some characters in octal.
fn mount_point(mountinfo: &[u8], id: &str) -> Option<PathBuf> {
    let line = mountinfo
        .split(|byte| *byte == b'\n')
        .find(|line| line.split(|byte| *byte == b' ').next() == Some(id.as_bytes()))?;
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[3..]).1,
            None => (bytes.push(first), rest = after).1,
        }
    }
    Some(PathBuf::from(OsStr::from_bytes(&bytes)))
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
        assert!(root.observe(&path("sbin/sh")).unwrap().is_some());
        assert!(root.observe(&path("up/etc/passwd")).unwrap().is_none());
        assert!(root.observe(&path("bin")).unwrap().unwrap().leads_to_directory);
        assert_eq!(root.read_small(&path("bin/sh"), 10).unwrap().unwrap(), b"x");
        assert!(root.read_small(&path("bin/sh"), 0).is_err());
    }

    #[test]
    fn mount_points_are_decoded() {
        let info = b"21 1 0:19 / / rw - tmpfs t rw\n22 21 0:20 / /a\\040b rw - tmpfs t rw\n";
        assert_eq!(mount_point(info, "22"), Some("/a b".into()));
        assert_eq!(mount_point(info, "2"), None);
    }
}
