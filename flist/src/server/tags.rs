//! Tags as directories: `<repo>/.tag-<tag>/<name>.flist`, links to flists.
//!
//! A tag is replaced by exchanging its directory for one that was prepared beside it, so what one opened
//! directory says is one release; whoever also follows names beneath it looks again afterwards whether
//! the directory is still the one that was opened.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

use super::layout::{Found, Layout, Object, TAG_PREFIX, look, names, open_beneath, open_file};
use crate::hub::{FlistName, TagName, target_name};

/// How often a tag may be replaced while it is being read.
const READ_ATTEMPTS: usize = 100;

/// One entry of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tagged {
    /// The name in the tag.
    pub(super) name: String,
    /// Where the link points to, as it is stored.
    pub(super) target: String,
    /// When the link was made, in seconds since 1970.
    pub(super) linked: i64,
    /// Length of the link itself in bytes.
    pub(super) link_size: u64,
    /// Length in bytes and time of the destination; none when it is not there.
    pub(super) destination: Option<(u64, i64)>,
}

impl Layout {
    /// The directory of a tag.
    pub(super) fn tag_path(&self, tag: &TagName) -> PathBuf {
        self.repo_path(tag.repo()).join(format!("{TAG_PREFIX}{}", tag.tag()))
    }

    /// Whether there is such a tag.
    pub(super) fn has_tag(&self, tag: &TagName) -> io::Result<bool> {
        Ok(self.open_tag(tag)?.is_some())
    }

    /// The entries of a tag, sorted by name, all of one release; none when there is no such tag.
    pub(super) fn tag_entries(&self, tag: &TagName) -> io::Result<Option<Vec<Tagged>>> {
        for _ in 0..READ_ATTEMPTS {
            let Some(directory) = self.open_tag(tag)? else { return Ok(None) };
            let entries = self.read_tag(tag, &directory)?;
            if let Some(now) = self.open_tag(tag)?
                && is_same(&now, &directory)?
            {
                return Ok(Some(entries));
            }
        }
        Err(io::Error::other("the tag is replaced too fast to be read"))
    }

    /// Opens a flist of a tag, following links inside the hub; none when it leads to no file.
    pub(super) fn open_tagged(&self, tag: &TagName, file: &str) -> io::Result<Option<std::fs::File>> {
        open_file(self.users(), &format!("{}/{TAG_PREFIX}{}/{file}", tag.repo(), tag.tag()))
    }

    fn open_tag(&self, tag: &TagName) -> io::Result<Option<OwnedFd>> {
        let path = format!("{}/{TAG_PREFIX}{}", tag.repo(), tag.tag());
        open_beneath(self.users(), &path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    fn read_tag(&self, tag: &TagName, directory: &OwnedFd) -> io::Result<Vec<Tagged>> {
        let mut entries = Vec::new();
        for name in names(directory, ".")? {
            let Some(Found { name, object: Object::Link(target), size, modified }) = look(directory, name)?
            else {
                continue;
            };
            let inside = format!("{}{}", TAG_PREFIX, tag.tag());
            let destination = self.target_destination(&format!("{}/{inside}", tag.repo()), &target)?;
            entries.push(Tagged { name, target, linked: modified, link_size: size, destination });
        }
        Ok(entries)
    }
}

/// The flist that a link in a tag of `repo` leads to, by its target: `../../<repo>/<name>.flist` or
/// `../<name>.flist`.
pub(super) fn tagged_flist(repo: &str, target: &str) -> Option<FlistName> {
    target_name(repo, target.strip_prefix("../")?).ok()
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::*;

    fn fill(directory: &Path, release: &str) {
        std::fs::create_dir(directory).unwrap();
        for package in 0..20 {
            symlink(format!("../../a/{release}.flist"), directory.join(format!("{package}.flist"))).unwrap();
        }
    }

    #[test]
    fn entries_are_of_one_release_while_the_tag_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::open(root.path()).unwrap();
        let tag = TagName::new("a", "rolling").unwrap();
        std::fs::create_dir(layout.repo_path("a")).unwrap();
        for release in ["one", "three"] {
            std::fs::write(layout.repo_path("a").join(format!("{release}.flist")), release).unwrap();
        }
        assert_eq!(layout.tag_entries(&tag).unwrap(), None);
        let (path, aside) = (layout.tag_path(&tag), layout.repo_path("a").join(".new"));
        fill(&path, "three");
        let done = AtomicBool::new(false);
        let replace = || {
            for release in ["one", "three"].iter().cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                fill(&aside, release);
                renameat_with(CWD, &aside, CWD, &path, RenameFlags::EXCHANGE).unwrap();
                std::fs::remove_dir_all(&aside).unwrap();
            }
        };
        let whole = |entries: &[Tagged]| {
            let size = entries.first().map_or(0, |entry| entry.target.len() - "../../a/.flist".len());
            entries.len() == 20
                && entries.iter().all(|entry| {
                    entry.target == entries[0].target
                        && entry.destination.is_some_and(|(length, _)| length == size as u64)
                })
        };
        std::thread::scope(|scope| {
            scope.spawn(replace);
            let reads = (0..1000).map(|_| layout.tag_entries(&tag));
            let mixed = reads.filter(|read| !matches!(read, Ok(Some(entries)) if whole(entries))).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(mixed, 0);
        });
    }
}
