//! What a release looks like in a node, to tell two releases from each other and from a mixture.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::digest_of;
use crate::error::{Doing, Error};

/// One file or link: mode, and digest of the content or target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) content: String,
}

/// Every file and link of a release, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Image {
    /// That of a payload.
    pub(super) fn of(directory: &Path) -> Result<Self, Error> {
        let mut image = Self { entries: BTreeMap::new() };
        image.collect(directory, Path::new(""))?;
        Ok(image)
    }

    /// The same with some paths of another one.
    pub(super) fn with(&self, other: &Self, paths: &[&str]) -> Self {
        let mut image = self.clone();
        for path in paths.iter().map(Path::new) {
            match other.entries.get(path) {
                Some(entry) => image.entries.insert(path.to_owned(), entry.clone()),
                None => image.entries.remove(path),
            };
        }
        image
    }

    /// In what a node with this root differs, looking at the paths of `either` release; `None`: it is this
    /// release, byte for byte.
    pub(super) fn difference(
        &self,
        root: &Path,
        either: &BTreeSet<PathBuf>,
    ) -> Result<Option<String>, Error> {
        let mut there = BTreeMap::new();
        for path in either {
            there.extend(entry(&root.join(path))?.map(|entry| (path.clone(), entry)));
        }
        Ok(self.difference_from(&there, either))
    }

    /// As [`difference`](Self::difference), for a node in which this was found.
    pub(super) fn difference_from(
        &self,
        there: &BTreeMap<PathBuf, Entry>,
        either: &BTreeSet<PathBuf>,
    ) -> Option<String> {
        let differs = |path: &&PathBuf| there.get(*path) != self.entries.get(*path);
        let path = either.iter().find(differs)?;
        let (found, wanted) = (there.get(path), self.entries.get(path));
        Some(format!("/{} is {found:?}, not {wanted:?}", path.display()))
    }

    /// Its paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.entries.keys()
    }

    fn collect(&mut self, top: &Path, below: &Path) -> Result<(), Error> {
        let directory = top.join(below);
        for listed in fs::read_dir(&directory).doing(|| format!("list {}", directory.display()))? {
            let listed = listed.doing(|| format!("list {}", directory.display()))?;
            let path = below.join(listed.file_name());
            if listed.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.collect(top, &path)?;
            } else if let Some(entry) = entry(&listed.path())? {
                self.entries.insert(path, entry);
            }
        }
        Ok(())
    }
}

/// What is there; `None` when nothing is.
fn entry(path: &Path) -> Result<Option<Entry>, Error> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(None) };
    let content = if metadata.is_symlink() {
        let target = fs::read_link(path).doing(|| format!("read the link {}", path.display()))?;
        target.display().to_string()
    } else if metadata.is_file() {
        digest_of(path)?
    } else {
        format!("{:?}", metadata.file_type())
    };
    Ok(Some(Entry { mode: metadata.permissions().mode(), content }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_is_neither() {
        let [old, new, root] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        fs::write(old.path().join("a"), "1").unwrap();
        fs::write(old.path().join("dropped"), "1").unwrap();
        fs::write(new.path().join("a"), "2").unwrap();
        let images = [&old, &new].map(|release| Image::of(release.path()).unwrap());
        let paths: BTreeSet<_> = images.iter().flat_map(Image::paths).cloned().collect();
        let is = |number: usize| images[number].difference(root.path(), &paths).unwrap().is_none();

        fs::write(root.path().join("a"), "2").unwrap();
        assert_eq!((is(0), is(1)), (false, true));
        fs::write(root.path().join("dropped"), "1").unwrap();
        assert_eq!((is(0), is(1)), (false, false));
        fs::write(root.path().join("a"), "1").unwrap();
        assert_eq!((is(0), is(1)), (true, false));
        fs::set_permissions(root.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!((is(0), is(1)), (false, false));
    }
}
