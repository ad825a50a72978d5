//! A tree → a directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, geteuid, symlinkat};

use crate::path::FlistPath;
use crate::store::{Batch, FetchError, Plain, Store};
use crate::tree::{Content, Entry, Kind, Meta, Tree};
use crate::xattr::{self, Xattrs};

/// Why a tree could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The destination could not be opened.
    #[error("cannot use {path} as the destination")]
    Destination {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Something is in the way.
    #[error("'{0}' is already there; remove it, or unpack elsewhere")]
    Exists(FlistPath),
    /// An entry could not be made.
    #[error("cannot {action} '{path}'")]
    Write {
        /// What was tried.
        action: &'static str,
        /// The entry.
        path: FlistPath,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The content of a file could not be had.
    #[error("cannot get the content of '{path}'")]
    Fetch {
        /// The file.
        path: FlistPath,
        /// The reason.
        #[source]
        source: FetchError,
    },
}

/// Unpacks a tree into a directory, which is created if need be. Existing directories are used, anything
/// else in the way is an error, and no symlink is followed. Owners are set when running as root; modes,
/// set-uid bits and times always.
///
/// # Errors
/// [`UnpackError`] naming the entry. What was unpacked before the error stays.
pub fn unpack(tree: &Tree, store: &dyn Store, directory: &Path) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Destination { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let root = File::open(directory).map_err(failed)?.into();
    let target = Target { tree, root, set_owner: geteuid().is_root() };

    for (path, entry) in tree.iter() {
        target.make_empty(path, entry)?;
    }
    fill_files(tree, store, &target)?;
    // Deepest first, because making an entry changes its directory's time.
    for (path, entry) in tree.iter().collect::<Vec<_>>().into_iter().rev() {
        if matches!(entry.kind, Kind::Directory) {
            target.finish_directory(path, &entry.meta)?;
        }
    }
    target.finish_directory(&FlistPath::root(), tree.root())
}

/// Threads that fetch and write: more than cores, because a store may be far away.
const MIN_THREADS: usize = 8;

type FileToFill<'t> = (&'t FlistPath, &'t Entry, &'t Content);

fn fill_files(tree: &Tree, store: &dyn Store, target: &Target<'_>) -> Result<(), UnpackError> {
    let mut files: Vec<_> = tree.files().collect();
    // The longest first, so that no thread is left alone with one at the end.
    files.sort_by_key(|(_, _, content)| std::cmp::Reverse(content.size));
    let (long, short) = files.split_at(files.partition_point(|(_, _, content)| content.blocks.len() > 1));
    let jobs: Vec<&[FileToFill<'_>]> = long.chunks(1).chain(short.chunks(Batch::SIZE)).collect();
    let (next, stopped, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let threads = thread::available_parallelism().map_or(1, NonZero::get).max(MIN_THREADS).min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut batch = Batch::default();
                while !stopped.load(Ordering::Relaxed)
                    && let Some(files) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let filled = match files {
                        [(path, entry, content)] => {
                            target.long_file(path, &entry.meta, content, store, &mut batch)
                        }
                        files => target.short_files(files, store, &mut batch),
                    };
                    if let Err(error) = filled {
                        stopped.store(true, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(|poison| poison.into_inner()).get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(|poison| poison.into_inner()).map_or(Ok(()), Err)
}

/// The directory that is written to.
struct Target<'t> {
    tree: &'t Tree,
    root: OwnedFd,
    set_owner: bool,
}

impl Target<'_> {
    /// Opens beneath the destination; a symlink anywhere in the path is an error.
    fn open(&self, path: &FlistPath, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve);
        openat2(&self.root, path.as_path(), how)
    }

    fn open_directory(&self, path: &FlistPath) -> Result<OwnedFd, UnpackError> {
        self.open(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY, Mode::empty())
            .map_err(failed("open directory", path))
    }

    /// Makes everything but regular files.
    fn make_empty(&self, path: &FlistPath, entry: &Entry) -> Result<(), UnpackError> {
        if matches!(entry.kind, Kind::File(_)) {
            return Ok(());
        }
        let parent = self.open_directory(&path.parent().unwrap_or_default())?;
        let name = OsStr::from_bytes(path.name());
        let private = Mode::S_IRWXU;
        let node = |kind, rdev| mknodat(&parent, name, kind, private, rdev);
        let made = match &entry.kind {
            Kind::Directory => match mkdirat(&parent, name, private) {
                // Opening it later fails if it is something else than a directory.
                Err(Errno::EEXIST) => return self.open_directory(path).map(drop),
                other => return other.map_err(failed("create directory", path)),
            },
            Kind::Symlink(target) => symlinkat(target.as_slice(), &parent, name),
            Kind::CharDevice(rdev) => node(SFlag::S_IFCHR, *rdev),
            Kind::BlockDevice(rdev) => node(SFlag::S_IFBLK, *rdev),
            Kind::Fifo => node(SFlag::S_IFIFO, 0),
            Kind::Socket => node(SFlag::S_IFSOCK, 0),
            Kind::File(_) => Ok(()),
        };
        made.map_err(|errno| match errno {
            Errno::EEXIST => UnpackError::Exists(path.clone()),
            errno => failed("create", path)(errno),
        })?;
        self.finish_special(&parent, name, path, entry)
    }

    /// Only root may give rights to files.
    fn xattrs(&self, path: &FlistPath) -> Option<&Xattrs> {
        self.tree.xattrs(path).filter(|_| self.set_owner)
    }

    /// Owner first, then mode and extended attributes, because a change of owner clears set-uid bits and
    /// capabilities; the time last.
    fn finish_special(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &FlistPath,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let meta = &entry.meta;
        if self.set_owner {
            let (uid, gid) = owner(meta);
            fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed("chown", path))?;
        }
        if !matches!(entry.kind, Kind::Symlink(_)) {
            fchmodat(parent, name, mode(meta), FchmodatFlags::NoFollowSymlink)
                .map_err(failed("chmod", path))?;
        }
        if let Some(xattrs) = self.xattrs(path) {
            let at = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
            xattr::write(&at, xattrs).map_err(xattrs_failed(path))?;
        }
        let time = TimeSpec::new(meta.mtime, 0);
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(failed("set the time of", path))
    }

    fn create(&self, path: &FlistPath) -> Result<File, UnpackError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
        let file = self.open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| match errno {
            Errno::EEXIST => UnpackError::Exists(path.clone()),
            errno => failed("create", path)(errno),
        })?;
        Ok(File::from(file))
    }

    /// A file of any number of blocks, some of them at a time.
    fn long_file(
        &self,
        path: &FlistPath,
        meta: &Meta,
        content: &Content,
        store: &dyn Store,
        batch: &mut Batch,
    ) -> Result<(), UnpackError> {
        let mut file = self.create(path)?;
        let blocks: Vec<_> = (0..content.blocks.len()).map(|index| (content, index)).collect();
        for some in blocks.chunks(Batch::SIZE) {
            batch.fetch(store, some, |_, plain| write(&mut file, path, plain))?;
        }
        self.finish_open(&file, path, meta)
    }

    /// A few files of at most one block each: their blocks are fetched together.
    fn short_files(
        &self,
        files: &[FileToFill<'_>],
        store: &dyn Store,
        batch: &mut Batch,
    ) -> Result<(), UnpackError> {
        let (filled, empty): (Vec<_>, Vec<_>) =
            files.iter().partition(|(_, _, content)| !content.blocks.is_empty());
        for (path, entry, _) in empty {
            self.finish_open(&self.create(path)?, path, &entry.meta)?;
        }
        let blocks: Vec<_> = filled.iter().map(|(_, _, content)| (*content, 0)).collect();
        batch.fetch(store, &blocks, |place, plain| {
            let (path, entry, _) = filled[place];
            let mut file = self.create(path)?;
            write(&mut file, path, plain)?;
            self.finish_open(&file, path, &entry.meta)
        })
    }

    fn finish_directory(&self, path: &FlistPath, meta: &Meta) -> Result<(), UnpackError> {
        self.finish_open(&self.open_directory(path)?, path, meta)
    }

    fn finish_open(&self, fd: impl AsFd, path: &FlistPath, meta: &Meta) -> Result<(), UnpackError> {
        if self.set_owner {
            let (uid, gid) = owner(meta);
            fchown(&fd, uid, gid).map_err(failed("chown", path))?;
        }
        fchmod(&fd, mode(meta)).map_err(failed("chmod", path))?;
        if let Some(xattrs) = self.xattrs(path) {
            xattr::write_open(&fd, xattrs).map_err(xattrs_failed(path))?;
        }
        let time = TimeSpec::new(meta.mtime, 0);
        futimens(&fd, &time, &time).map_err(failed("set the time of", path))
    }
}

fn write(file: &mut File, path: &FlistPath, plain: Result<Plain<'_>, FetchError>) -> Result<(), UnpackError> {
    let plain = plain.map_err(|source| UnpackError::Fetch { path: path.clone(), source })?;
    file.write_all(plain.bytes()).map_err(|source| UnpackError::Write {
        action: "write",
        path: path.clone(),
        source,
    })
}

fn xattrs_failed(path: &FlistPath) -> impl Fn(std::io::Error) -> UnpackError + '_ {
    move |source| UnpackError::Write { action: "set the extended attributes of", path: path.clone(), source }
}

fn owner(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

fn mode(meta: &Meta) -> Mode {
    Mode::from_bits_truncate(meta.mode)
}

fn failed<'p>(action: &'static str, path: &'p FlistPath) -> impl Fn(Errno) -> UnpackError + 'p {
    move |errno| UnpackError::Write { action, path: path.clone(), source: errno.into() }
}
