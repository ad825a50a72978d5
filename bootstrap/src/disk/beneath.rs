//! The files beneath a real directory, by `openat2(RESOLVE_IN_ROOT)`. Each effect is a span of the log.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flist::mountinfo::mounts;
use flist::path::FlistPath;
use flist::xattr::{self, Xattrs};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mkdirat, mknodat, utimensat};
use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::FsFlags;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use rustix::fs::{FallocateFlags, RenameFlags, StatxAttributes, StatxFlags, renameat_with};
use tracing::instrument;

use super::{Disk, Filesystem, Kind, OpenFile, Rename, Special, Stat};

/// How often a look-up that raced with a rename is tried again.
const RACES: usize = 100;

/// `RAMFS_MAGIC` of linux/magic.h, which nix does not name.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Bytes of memory that can be taken without swapping (`MemAvailable` of proc_meminfo(5), in KiB); `None` where
/// the kernel does not tell.
fn available_memory() -> io::Result<Option<u64>> {
    let info = std::fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    Ok(kib.map(|kib| kib.saturating_mul(1024)))
}

/// The files beneath a directory.
#[derive(Debug)]
pub struct Beneath {
    fd: OwnedFd,
    path: PathBuf,
}

/// A name in an open directory: what the `*at` system calls work on.
struct Place {
    dir: OwnedFd,
    name: OsString,
}

impl Place {
    /// As a path of this process: through the open directory, so that nobody can move it away.
    fn through_descriptor(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()).join(&self.name)
    }
}

impl Beneath {
    /// Opens the directory; `/` for the running system's root.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let fd = File::open(&path)?.into();
        Ok(Self { fd, path })
    }

    /// Where the directory is in the file system of this process, without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path as the log shows it.
    fn outer(&self, path: &FlistPath) -> PathBuf {
        self.path.join(path.as_path())
    }

    fn open_at(&self, path: &FlistPath, flags: OFlag) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let name = if path.is_root() { Path::new(".") } else { path.as_path() };
        // EAGAIN: a rename somewhere on the machine raced with a `..` in a symlink (openat2(2)).
        let mut answer = openat2(&self.fd, name, how);
        for _ in 0..RACES {
            match answer {
                Err(Errno::EAGAIN | Errno::EINTR) => answer = openat2(&self.fd, name, how),
                _ => break,
            }
        }
        answer
    }

    fn directory(&self, path: &FlistPath) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    fn place(&self, path: &FlistPath) -> Result<Place, Errno> {
        let name = if path.is_root() { OsStr::new(".") } else { OsStr::from_bytes(path.name()) };
        let dir = self.directory(&path.parent().unwrap_or_default())?;
        Ok(Place { dir, name: name.to_owned() })
    }

    fn file(&self, path: &FlistPath, flags: OFlag) -> io::Result<File> {
        let place = self.place(path)?;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(openat(&place.dir, place.name.as_os_str(), flags, Mode::empty())?.into())
    }

    fn path_of(&self, dir: &OwnedFd) -> io::Result<FlistPath> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        let inside = path.strip_prefix(&self.path).map_err(|_| io::Error::from(Errno::EXDEV))?;
        FlistPath::from_bytes(inside.as_os_str().as_bytes()).map_err(|_| Errno::EXDEV.into())
    }
}

impl Disk for Beneath {
    fn stat(&self, path: &FlistPath) -> io::Result<Option<Stat>> {
        let place = match self.place(path) {
            Ok(place) => place,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW | rustix::fs::AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&place.dir, place.name.as_os_str(), flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => Ok(Some(stat_of(&stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn real_directory(&self, path: &FlistPath) -> io::Result<Option<FlistPath>> {
        match self.directory(path) {
            Ok(dir) => self.path_of(&dir).map(Some),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn mount_top(&self, directory: &FlistPath) -> io::Result<FlistPath> {
        let dir = self.directory(directory)?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_fd().as_raw_fd()))?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
        let top = mounts()?.into_iter().find(|mount| Some(mount.id) == id).map(|mount| mount.at);
        let inside = top.as_deref().and_then(|top| top.strip_prefix(&self.path).ok());
        let inside = inside.map_or(&b""[..], |inside| inside.as_os_str().as_bytes());
        FlistPath::from_bytes(inside).map_err(|_| Errno::EXDEV.into())
    }

    fn filesystem(&self, directory: &FlistPath) -> io::Result<Filesystem> {
        let dir = self.directory(directory)?;
        let statfs = fstatfs(&dir)?;
        let kind = statfs.filesystem_type();
        let device = nix::sys::stat::fstat(&dir)?.st_dev;
        // Its type is another one in each C library.
        let block_size = u64::try_from(statfs.block_size()).unwrap_or(0);
        let free = statfs.blocks_available().saturating_mul(block_size);
        let in_ram = kind == TMPFS_MAGIC || kind == RAMFS_MAGIC;
        // ramfs has no limit of its own, and that of a tmpfs can be more than there is.
        let memory = if in_ram { available_memory()? } else { None };
        let available = match statfs.blocks() > 0 {
            true => Some(memory.map_or(free, |memory| memory.min(free))),
            false => memory,
        };
        let read_only = statfs.flags().contains(FsFlags::ST_RDONLY);
        let copies_up = kind == OVERLAYFS_SUPER_MAGIC;
        Ok(Filesystem { device, in_ram, read_only, copies_up, available, memory })
    }

    fn copy_up(&self, path: &FlistPath) -> io::Result<()> {
        let place = self.place(path)?;
        // A change of attributes copies up whatever it is (fs/overlayfs/inode.c, ovl_setattr). The time of access is
        // the one that means nothing; a change of owner would take rights away, and opening a program that runs
        // for writing is refused.
        let (now, as_it_is) = (TimeSpec::UTIME_NOW, TimeSpec::UTIME_OMIT);
        let flags = UtimensatFlags::NoFollowSymlink;
        Ok(utimensat(&place.dir, place.name.as_os_str(), &now, &as_it_is, flags)?)
    }

    fn read_link(&self, path: &FlistPath) -> io::Result<Vec<u8>> {
        let place = self.place(path)?;
        Ok(readlinkat(&place.dir, place.name.as_os_str())?.as_bytes().to_vec())
    }

    fn xattrs(&self, path: &FlistPath) -> io::Result<Xattrs> {
        xattr::read(&self.place(path)?.through_descriptor())
    }

    fn list(&self, directory: &FlistPath) -> io::Result<Vec<Vec<u8>>> {
        let dir = self.open_at(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut names = Vec::new();
        for entry in nix::dir::Dir::from_fd(dir)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &FlistPath, follow: bool) -> io::Result<Box<dyn OpenFile>> {
        let file = match follow {
            true => self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?.into(),
            false => self.file(path, OFlag::O_RDONLY)?,
        };
        match file.metadata()?.is_file() {
            true => Ok(Box::new(file)),
            false => Err(Errno::EINVAL.into()),
        }
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn make_directory(&self, path: &FlistPath) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(mkdirat(&place.dir, place.name.as_os_str(), Mode::S_IRWXU)?)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn create(&self, path: &FlistPath) -> io::Result<()> {
        let place = self.place(path)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        openat(&place.dir, place.name.as_os_str(), flags, mode)?;
        Ok(())
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn reserve(&self, path: &FlistPath, bytes: u64) -> io::Result<()> {
        let file = self.file(path, OFlag::O_WRONLY)?;
        Ok(rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes)?)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn append(&self, path: &FlistPath, bytes: &[u8]) -> io::Result<()> {
        self.file(path, OFlag::O_WRONLY | OFlag::O_APPEND)?.write_all(bytes)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn make_special(&self, path: &FlistPath, special: Special<'_>) -> io::Result<()> {
        let place = self.place(path)?;
        let (dir, name) = (&place.dir, place.name.as_os_str());
        let node = |kind, rdev| mknodat(dir, name, kind, Mode::S_IRUSR, rdev);
        match special {
            Special::Symlink(target) => symlinkat(target, dir, name),
            Special::CharDevice(rdev) => node(SFlag::S_IFCHR, rdev),
            Special::BlockDevice(rdev) => node(SFlag::S_IFBLK, rdev),
            Special::Fifo => node(SFlag::S_IFIFO, 0),
            Special::Socket => node(SFlag::S_IFSOCK, 0),
        }?;
        Ok(())
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn set_owner(&self, path: &FlistPath, uid: u32, gid: u32) -> io::Result<()> {
        let place = self.place(path)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(fchownat(&place.dir, place.name.as_os_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn set_mode(&self, path: &FlistPath, mode: u32) -> io::Result<()> {
        let place = self.place(path)?;
        let mode = Mode::from_bits_truncate(mode);
        // Linux has no call that changes the mode of a name without following it, so look first; whoever
        // could put a symlink there meanwhile is root.
        let stat = nix::sys::stat::fstatat(&place.dir, place.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(fchmodat(&place.dir, place.name.as_os_str(), mode, FchmodatFlags::FollowSymlink)?)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn set_xattrs(&self, path: &FlistPath, xattrs: &Xattrs) -> io::Result<()> {
        xattr::write(&self.place(path)?.through_descriptor(), xattrs)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn set_mtime(&self, path: &FlistPath, seconds: i64) -> io::Result<()> {
        let place = self.place(path)?;
        let time = TimeSpec::new(seconds, 0);
        let flags = UtimensatFlags::NoFollowSymlink;
        Ok(utimensat(&place.dir, place.name.as_os_str(), &time, &time, flags)?)
    }

    #[instrument(level = "trace", skip_all, fields(from = %self.outer(from).display(), to = %self.outer(to).display()))]
    fn link(&self, from: &FlistPath, to: &FlistPath) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        let (old, new) = (from.name.as_os_str(), to.name.as_os_str());
        Ok(linkat(&from.dir, old, &to.dir, new, LinkatFlags::empty())?)
    }

    #[instrument(level = "trace", skip_all, fields(from = %self.outer(from).display(), to = %self.outer(to).display()))]
    fn rename(&self, from: &FlistPath, to: &FlistPath, how: Rename) -> io::Result<()> {
        let (from, to) = (self.place(from)?, self.place(to)?);
        let flags = match how {
            Rename::NoReplace => RenameFlags::NOREPLACE,
            Rename::Replace => RenameFlags::empty(),
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(renameat_with(&from.dir, from.name.as_os_str(), &to.dir, to.name.as_os_str(), flags)?)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn remove(&self, path: &FlistPath) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(unlinkat(&place.dir, place.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn remove_directory(&self, path: &FlistPath) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(unlinkat(&place.dir, place.name.as_os_str(), UnlinkatFlags::RemoveDir)?)
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn remove_tree(&self, path: &FlistPath) -> io::Result<()> {
        // It goes from descriptor to descriptor.
        std::fs::remove_dir_all(self.place(path)?.through_descriptor())
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn sync_file(&self, path: &FlistPath) -> io::Result<()> {
        self.file(path, OFlag::O_RDONLY)?.sync_all()
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(path).display()))]
    fn sync_directory(&self, path: &FlistPath) -> io::Result<()> {
        File::from(self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?).sync_all()
    }

    #[instrument(level = "trace", skip_all, fields(at = %self.outer(directory).display()))]
    fn sync_filesystem(&self, directory: &FlistPath) -> io::Result<()> {
        let dir = self.open_at(directory, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        Ok(rustix::fs::syncfs(&dir)?)
    }
}

impl OpenFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, offset) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

fn stat_of(stat: &rustix::fs::Statx) -> Stat {
    let mode = u32::from(stat.stx_mode);
    let kind = match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFLNK => Kind::Symlink,
        SFlag::S_IFCHR => Kind::CharDevice,
        SFlag::S_IFBLK => Kind::BlockDevice,
        SFlag::S_IFIFO => Kind::Fifo,
        _ => Kind::Socket,
    };
    let device = |major, minor| rustix::fs::makedev(major, minor);
    Stat {
        kind,
        mode: mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: stat.stx_mtime.tv_sec,
        size: stat.stx_size,
        rdev: device(stat.stx_rdev_major, stat.stx_rdev_minor),
        inode: (device(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        changed: (stat.stx_ctime.tv_sec, i64::from(stat.stx_ctime.tv_nsec)),
        // Since Linux 5.8; older kernels do not tell.
        mount_point: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    }
}
