//! Everything that the engine does to files, behind one narrow trait.
//!
//! The engine reads and changes files only through a [`Disk`]: [`Beneath`] for real, a model in the tests.
//! Each method that changes something is one effect: it happens or it does not, and a fault test can fail
//! any of them. Names lead to what is beneath the disk's top directory and never out of it: symlinks in the
//! directories of a path are followed inside, as a process whose root this is would follow them; the last
//! component is not followed unless a method says so.

mod beneath;
mod replace;

use std::io;

use flist::path::FlistPath;
use flist::xattr::Xattrs;

pub use beneath::Beneath;
pub use replace::{Replacement, replace};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What is known of something without reading it (stat(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification, in seconds since 1970.
    pub mtime: i64,
    /// Length in bytes.
    pub size: u64,
    /// `st_rdev` of a device.
    pub rdev: u64,
    /// Device and inode number.
    pub inode: (u64, u64),
    /// Time of the last change, in seconds and nanoseconds.
    pub changed: (i64, i64),
    /// Something is mounted here.
    pub mount_point: bool,
}

/// The file system that a directory lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its device number; equal for all directories of one file system.
    pub device: u64,
    /// It lies in RAM (tmpfs or ramfs): what is kept in it costs memory and is lost at the next start.
    pub in_ram: bool,
    /// Nothing can be written to it, also not by root.
    pub read_only: bool,
    /// What is replaced in it is copied first, because it lies in a layer below (overlayfs).
    pub copies_up: bool,
    /// Bytes that can still be written to it, for one in RAM at most what memory is available; `None` where
    /// nobody knows.
    pub available: Option<u64>,
    /// Bytes of memory that are available for all that lie in RAM together; `None` for others, or where nobody knows.
    pub memory: Option<u64>,
}

/// How [`Disk::rename`] treats what is at the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// Nothing may be there.
    NoReplace,
    /// It vanishes.
    Replace,
    /// It gets the old name.
    Exchange,
}

/// Something without content, to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special<'s> {
    /// A symbolic link to this target.
    Symlink(&'s [u8]),
    /// A character device with this `st_rdev`.
    CharDevice(u64),
    /// A block device with this `st_rdev`.
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A regular file, open for reading.
pub trait OpenFile: Send {
    /// Reads into the buffer from an offset in bytes; fewer bytes than it holds at the end only.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Files beneath a directory.
///
/// Every error is the system's, with its number (`raw_os_error`), and nothing has changed when a method
/// returns one, except that a part of the bytes may have been appended, and that nobody knows what is on the
/// medium when a sync fails.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// What is at a path; `None` when nothing is, or a directory on the way is missing.
    ///
    /// # Errors
    /// See [`Disk`].
    fn stat(&self, path: &FlistPath) -> io::Result<Option<Stat>>;

    /// The path without symlinks of the directory that a path leads to, the last component followed;
    /// `None` when there is no such directory. `EXDEV` when it is not beneath the disk's top.
    ///
    /// # Errors
    /// See [`Disk`].
    fn real_directory(&self, path: &FlistPath) -> io::Result<Option<FlistPath>>;

    /// The top of the mount that a directory lies in; the disk's top when that mount begins above it.
    /// Renames work only within one mount.
    ///
    /// # Errors
    /// See [`Disk`].
    fn mount_top(&self, directory: &FlistPath) -> io::Result<FlistPath>;

    /// The file system that a directory lies in.
    ///
    /// # Errors
    /// See [`Disk`].
    fn filesystem(&self, directory: &FlistPath) -> io::Result<Filesystem>;

    /// What a symlink points to.
    ///
    /// # Errors
    /// See [`Disk`].
    fn read_link(&self, path: &FlistPath) -> io::Result<Vec<u8>>;

    /// The extended attributes that a flist can hold.
    ///
    /// # Errors
    /// See [`Disk`].
    fn xattrs(&self, path: &FlistPath) -> io::Result<Xattrs>;

    /// The names in a directory, sorted; its symlinks are followed.
    ///
    /// # Errors
    /// See [`Disk`].
    fn list(&self, directory: &FlistPath) -> io::Result<Vec<Vec<u8>>>;

    /// Opens a regular file for reading; with `follow`, also through a symlink at the end of the path.
    /// `EINVAL` for anything else than a regular file.
    ///
    /// # Errors
    /// See [`Disk`].
    fn open(&self, path: &FlistPath, follow: bool) -> io::Result<Box<dyn OpenFile>>;

    /// Makes a directory with mode 0700.
    ///
    /// # Errors
    /// See [`Disk`].
    fn make_directory(&self, path: &FlistPath) -> io::Result<()>;

    /// Makes an empty file with mode 0600 where nothing is.
    ///
    /// # Errors
    /// See [`Disk`].
    fn create(&self, path: &FlistPath) -> io::Result<()>;

    /// Takes space for `bytes` in a file without making it longer, so that as much can be appended later.
    /// `EOPNOTSUPP` where the file system cannot.
    ///
    /// # Errors
    /// See [`Disk`].
    fn reserve(&self, path: &FlistPath, bytes: u64) -> io::Result<()>;

    /// Appends to a file.
    ///
    /// # Errors
    /// See [`Disk`].
    fn append(&self, path: &FlistPath, bytes: &[u8]) -> io::Result<()>;

    /// Makes something without content where nothing is.
    ///
    /// # Errors
    /// See [`Disk`].
    fn make_special(&self, path: &FlistPath, special: Special<'_>) -> io::Result<()>;

    /// Sets owner and group; the kernel takes set-uid bits and capabilities away with it.
    ///
    /// # Errors
    /// See [`Disk`].
    fn set_owner(&self, path: &FlistPath, uid: u32, gid: u32) -> io::Result<()>;

    /// Sets the permission bits of something that is no symlink.
    ///
    /// # Errors
    /// See [`Disk`].
    fn set_mode(&self, path: &FlistPath, mode: u32) -> io::Result<()>;

    /// Sets extended attributes; those that are there and not named stay.
    ///
    /// # Errors
    /// See [`Disk`].
    fn set_xattrs(&self, path: &FlistPath, xattrs: &Xattrs) -> io::Result<()>;

    /// Sets the times of access and modification, in seconds since 1970.
    ///
    /// # Errors
    /// See [`Disk`].
    fn set_mtime(&self, path: &FlistPath, seconds: i64) -> io::Result<()>;

    /// Where [`Filesystem::copies_up`]: copies what is at a path, with the directories above it, into the layer that
    /// is written to, so that a rename need not. Only its times of access and change differ afterwards, and maybe its
    /// inode number.
    ///
    /// # Errors
    /// See [`Disk`].
    fn copy_up(&self, path: &FlistPath) -> io::Result<()>;

    /// Gives a file, not a directory, a second name.
    ///
    /// # Errors
    /// See [`Disk`].
    fn link(&self, from: &FlistPath, to: &FlistPath) -> io::Result<()>;

    /// Renames.
    ///
    /// # Errors
    /// See [`Disk`]; `EINVAL` where the file system cannot exchange.
    fn rename(&self, from: &FlistPath, to: &FlistPath, how: Rename) -> io::Result<()>;

    /// Removes anything but a directory.
    ///
    /// # Errors
    /// See [`Disk`].
    fn remove(&self, path: &FlistPath) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// See [`Disk`].
    fn remove_directory(&self, path: &FlistPath) -> io::Result<()>;

    /// Removes a directory with everything in it, or a symlink in its place. No symlink is followed, also not one that
    /// somebody who may write in there puts in the place of a directory meanwhile. A part of it may be gone when this
    /// fails.
    ///
    /// # Errors
    /// See [`Disk`].
    fn remove_tree(&self, path: &FlistPath) -> io::Result<()>;

    /// Waits until the content of a file is on the medium.
    ///
    /// # Errors
    /// See [`Disk`].
    fn sync_file(&self, path: &FlistPath) -> io::Result<()>;

    /// Waits until the names in a directory are on the medium.
    ///
    /// # Errors
    /// See [`Disk`].
    fn sync_directory(&self, path: &FlistPath) -> io::Result<()>;

    /// Waits until everything in the file system of a directory is on the medium.
    ///
    /// # Errors
    /// See [`Disk`].
    fn sync_filesystem(&self, directory: &FlistPath) -> io::Result<()>;
}

/// Reads a small file; `None` when it is not there. With `follow`, symlinks at the end of the path too.
///
/// # Errors
/// The system's; `EFBIG` for a file longer than `limit` bytes.
pub fn read_small(
    disk: &dyn Disk,
    path: &FlistPath,
    limit: usize,
    follow: bool,
) -> io::Result<Option<Vec<u8>>> {
    use nix::errno::Errno;
    let file = match disk.open(path, follow) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; 4096.min(limit + 1)];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
        if length > limit {
            return Err(Errno::EFBIG.into());
        }
        if length == bytes.len() {
            bytes.resize((length * 2).min(limit + 1), 0);
        }
    }
    bytes.truncate(length);
    Ok(Some(bytes))
}

/// Whether an error says that there is nothing of this name.
pub fn is_absent(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENOTDIR))
}

/// Whether an error says that there is something else than a regular file of a bearable length.
pub fn is_no_plain_file(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ELOOP | Errno::EINVAL | Errno::EFBIG | Errno::ENXIO | Errno::ENODEV))
}

/// An open file from its beginning to its end.
pub struct Reader {
    file: Box<dyn OpenFile>,
    at: u64,
}

impl Reader {
    /// Reads from the beginning.
    pub fn new(file: Box<dyn OpenFile>) -> Self {
        Self { file, at: 0 }
    }
}

impl io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
