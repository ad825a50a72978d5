//! The directories of a hub. Everything that is read is opened beneath a directory that was opened at
//! start; the kernel refuses paths and links that would leave it (`openat2`, Linux 5.6).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::ServerError;
use crate::block::BlockId;
use crate::hub::FlistName;

/// The kernel answers EAGAIN when a rename anywhere on the machine meets a `..` that is being resolved.
const OPEN_ATTEMPTS: usize = 1000;

/// The opened directories of a hub.
#[derive(Debug)]
pub(super) struct Layout {
    users_path: PathBuf,
    store_path: PathBuf,
    users: OwnedFd,
    store: OwnedFd,
}

/// What a name in a repo is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A link, with its target as it is stored.
    Link(String),
}

/// A name in a repo, without following it if it is a link.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The name.
    pub(super) name: String,
    /// What it is.
    pub(super) object: Object,
    /// Its own length in bytes.
    pub(super) size: u64,
    /// When it changed itself, in seconds since 1970.
    pub(super) modified: i64,
}

impl Layout {
    /// Opens the directories below `root`, and makes those that are missing.
    pub(super) fn open(root: &Path) -> Result<Self, ServerError> {
        let directory = |path: &Path| {
            std::fs::create_dir_all(path)?;
            Ok(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
        };
        let opened = |path: PathBuf| match directory(&path) {
            Ok(fd) => Ok((path, fd)),
            Err(source) => Err(ServerError::Directory { path, source }),
        };
        let (users_path, users) = opened(root.join("public").join("users"))?;
        let (store_path, store) = opened(root.join("store"))?;
        Ok(Self { users_path, store_path, users, store })
    }

    /// The opened directory with all repos.
    pub(super) fn users(&self) -> &OwnedFd {
        &self.users
    }

    /// The directory with all blocks.
    pub(super) fn store_path(&self) -> &Path {
        &self.store_path
    }

    /// The directory with all repos.
    pub(super) fn users_path(&self) -> &Path {
        &self.users_path
    }

    /// The directory of a repo.
    pub(super) fn repo_path(&self, repo: &str) -> PathBuf {
        self.users_path.join(repo)
    }

    /// The directory that holds a block.
    pub(super) fn block_directory(&self, id: &BlockId) -> PathBuf {
        self.store_path.join(prefix(id))
    }

    /// Opens a flist, following links inside the hub; none when it leads to no file.
    pub(super) fn open_flist(&self, name: &FlistName) -> io::Result<Option<File>> {
        open_file(&self.users, &format!("{}/{}", name.repo(), name.file()))
    }

    /// Opens a block; none when the hub does not have it.
    pub(super) fn open_block(&self, id: &BlockId) -> io::Result<Option<File>> {
        open_file(&self.store, &format!("{}/{id}", prefix(id)))
    }

    /// The names of all repos, sorted, with the time they changed in seconds since 1970.
    pub(super) fn repos(&self) -> io::Result<Vec<(String, i64)>> {
        let mut repos = Vec::new();
        for name in names(&self.users, ".")? {
            if let Some(found) = look(&self.users, name)?
                && found.object == Object::Directory
                && !found.name.starts_with('.')
            {
                repos.push((found.name, found.modified));
            }
        }
        Ok(repos)
    }

    /// What a repo holds, sorted by name; none when there is no such repo. Temporary files, and names
    /// that are no UTF-8, are left out.
    pub(super) fn entries(&self, repo: &str) -> io::Result<Option<Vec<Found>>> {
        let Some(directory) = self.open_repo(repo)? else { return Ok(None) };
        let mut entries = Vec::new();
        for name in names(&directory, ".")? {
            if name.starts_with('.') && !name.starts_with(TAG_PREFIX) {
                continue;
            }
            entries.extend(look(&directory, name)?);
        }
        Ok(Some(entries))
    }

    /// Whether there is such a repo.
    pub(super) fn has_repo(&self, repo: &str) -> io::Result<bool> {
        Ok(self.open_repo(repo)?.is_some())
    }

    /// What a flist's name is, without following it; none when it is not there.
    pub(super) fn entry(&self, name: &FlistName) -> io::Result<Option<Found>> {
        self.name(name.repo(), name.file())
    }

    /// What a name of a repo is, without following it; none when it is not there.
    pub(super) fn name(&self, repo: &str, name: &str) -> io::Result<Option<Found>> {
        match self.open_repo(repo)? {
            Some(directory) => look(&directory, name.to_owned()),
            None => Ok(None),
        }
    }

    /// Length in bytes and time in seconds since 1970 of what a link with this target, stored in this
    /// directory beneath that of the repos, leads to inside the hub; none when it leads nowhere. To ask by
    /// the target, not by the link's name, keeps both together while the link moves.
    pub(super) fn target_destination(&self, directory: &str, target: &str) -> io::Result<Option<(u64, i64)>> {
        if target.starts_with('/') {
            return Ok(None);
        }
        let opened = open_beneath(&self.users, &format!("{directory}/{target}"), OFlag::O_PATH)?;
        opened.map(|fd| Ok(fstat(fd).map(|stat| (length(&stat), stat.st_mtime))?)).transpose()
    }

    /// The file that a link with this target, stored in this repo, leads to inside the hub; none when it leads
    /// to no file.
    pub(super) fn open_target(&self, repo: &str, target: &str) -> io::Result<Option<File>> {
        if target.starts_with('/') {
            return Ok(None);
        }
        open_file(&self.users, &format!("{repo}/{target}"))
    }

    fn open_repo(&self, repo: &str) -> io::Result<Option<OwnedFd>> {
        open_beneath(&self.users, repo, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }
}

/// How the directory of a tag starts.
pub(super) const TAG_PREFIX: &str = ".tag-";

fn prefix(id: &BlockId) -> String {
    format!("{:02x}", id.as_bytes()[0])
}

/// Opens a regular file; none when the path leads to nothing, to something else, or out of `base`.
pub(super) fn open_file(base: &OwnedFd, path: &str) -> io::Result<Option<File>> {
    // Without O_NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let Some(fd) = open_beneath(base, path, flags)? else { return Ok(None) };
    let file = File::from(fd);
    Ok(file.metadata()?.is_file().then_some(file))
}

pub(super) fn open_beneath(base: &OwnedFd, path: &str, flags: OFlag) -> io::Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..OPEN_ATTEMPTS {
        match openat2(base, path, how) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            // Missing, no directory, out of the base, a circle of links, no device behind it.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EXDEV | Errno::ELOOP | Errno::ENXIO) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EAGAIN.into())
}

pub(super) fn names(base: &OwnedFd, path: &str) -> io::Result<Vec<String>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::openat(base, path, flags, Mode::empty())? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// None when the name vanished meanwhile, is not one that can be sent, or is a device and the like.
pub(super) fn look(directory: impl AsFd, name: String) -> io::Result<Option<Found>> {
    let stat = match fstatat(&directory, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        stat => stat?,
    };
    let object = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Object::File,
        SFlag::S_IFDIR => Object::Directory,
        SFlag::S_IFLNK => match readlinkat(&directory, name.as_str()) {
            // It was replaced between the two calls by something else, or removed.
            Err(Errno::ENOENT | Errno::EINVAL) => return Ok(None),
            target => match target?.into_string() {
                Ok(target) => Object::Link(target),
                Err(_) => return Ok(None),
            },
        },
        _ => return Ok(None),
    };
    Ok(Some(Found { name, object, size: length(&stat), modified: stat.st_mtime }))
}

fn length(stat: &FileStat) -> u64 {
    // The kernel gives no negative length.
    u64::try_from(stat.st_size).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn hub() -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::open(root.path()).unwrap();
        std::fs::create_dir(layout.repo_path("a")).unwrap();
        std::fs::write(layout.repo_path("a").join("real.flist"), "content").unwrap();
        (root, layout)
    }

    fn name(text: &str) -> FlistName {
        text.parse().unwrap()
    }

    #[test]
    fn links_are_followed_inside_and_never_out() {
        let (root, layout) = hub();
        std::fs::write(root.path().join("secret.flist"), "secret").unwrap();
        std::fs::create_dir(layout.repo_path("b")).unwrap();
        let outside = root.path().join("secret.flist");
        for (link, target, found) in [
            ("local.flist", "../a/real.flist", true),
            ("chain.flist", "local.flist", true),
            ("out.flist", "../../../secret.flist", false),
            ("absolute.flist", outside.to_str().unwrap(), false),
            ("inside but absolute.flist", layout.repo_path("a").join("real.flist").to_str().unwrap(), false),
            ("circle.flist", "circle.flist", false),
            ("dangling.flist", "nothing.flist", false),
            ("magic.flist", "/proc/self/exe", false),
            ("directory.flist", "../a", false),
        ] {
            symlink(target, layout.repo_path("b").join(link)).unwrap();
            let opened = layout.open_flist(&name(&format!("b/{link}"))).unwrap();
            assert_eq!(opened.is_some(), found, "{link}");
        }
        symlink(root.path(), layout.repo_path("escape")).unwrap();
        assert!(layout.open_flist(&name("escape/secret.flist")).unwrap().is_none());
        assert!(layout.entries("escape").unwrap().is_none());
    }

    #[test]
    fn renames_elsewhere_do_not_disturb_links_between_repos() {
        let (root, layout) = hub();
        std::fs::create_dir(layout.repo_path("b")).unwrap();
        symlink("../a/real.flist", layout.repo_path("b").join("cross.flist")).unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        std::fs::write(&one, "").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let renames = || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(&one, &two).unwrap();
                std::fs::rename(&two, &one).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(renames);
            let opened = (0..20_000).map(|_| layout.open_flist(&name("b/cross.flist")));
            let failed = opened.filter(|opened| !matches!(opened, Ok(Some(_)))).count();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(failed, 0);
        });
    }

    #[test]
    fn a_pipe_is_no_flist_and_does_not_block() {
        let (_root, layout) = hub();
        nix::unistd::mkfifo(&layout.repo_path("a").join("pipe.flist"), Mode::S_IRWXU).unwrap();
        assert!(layout.open_flist(&name("a/pipe.flist")).unwrap().is_none());
        assert!(layout.entry(&name("a/pipe.flist")).unwrap().is_none());
    }

    #[test]
    fn entries_are_sorted_and_leave_out_temporary_files() {
        let (_root, layout) = hub();
        let repo = layout.repo_path("a");
        std::fs::write(repo.join(".upload-1"), "").unwrap();
        std::fs::create_dir(repo.join(".tag-1.0.0")).unwrap();
        symlink("real.flist", repo.join("link.flist")).unwrap();
        let entries = layout.entries("a").unwrap().unwrap();
        let names: Vec<_> = entries.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, [".tag-1.0.0", "link.flist", "real.flist"]);
        assert_eq!(entries[1].object, Object::Link("real.flist".into()));
        assert_eq!(layout.target_destination("a", "real.flist").unwrap().unwrap().0, 7);
        assert_eq!(layout.target_destination("a", "gone.flist").unwrap(), None);
        assert_eq!(layout.target_destination("a", "/a/real.flist").unwrap(), None);
        assert!(layout.entries("nobody").unwrap().is_none());
    }
}
