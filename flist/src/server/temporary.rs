//! Names for what is not finished, and the removal of what a crash left under them.
//!
//! Each is a prefix and as many random characters as tempfile appends. No name that a hub serves looks so,
//! and no other program writes such names: `flist pack` into the hub's store has its own.

use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use super::layout::Layout;

/// A flist or a block that is being received: a file.
pub(super) const UPLOAD: &str = ".upload-";

/// A link that is about to get its name.
pub(super) const LINK: &str = ".link-";

/// A tag that is about to get its name: a directory.
pub(super) const TAG: &str = ".new-tag-";

/// A directory that is being removed.
pub(super) const GONE: &str = ".gone-";

/// How many random characters follow.
const RANDOM: usize = 6;

/// Removes what a crash left, before anything is served, and returns how much it was. What cannot be removed
/// is logged and stays: it is in nobody's way.
pub(super) fn sweep(layout: &Layout) -> usize {
    let removed = leftovers(layout).iter().filter(|(path, kind)| remove(path, *kind)).count();
    if removed > 0 {
        tracing::info!(removed, "removed what a crash left");
    }
    removed
}

fn remove(path: &Path, kind: FileType) -> bool {
    let removed = if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = &removed {
        tracing::warn!(path = %path.display(), %error, "cannot remove what a crash left");
    }
    removed.is_ok()
}

fn leftovers(layout: &Layout) -> Vec<(PathBuf, FileType)> {
    let repos = layout.repos().unwrap_or_else(|error| {
        complain(layout.users_path(), &error);
        Vec::new()
    });
    let mut directories = vec![layout.users_path().to_owned()];
    directories.extend(repos.iter().map(|(repo, _)| layout.repo_path(repo)));
    // Not behind a link: what it leads to may belong to others.
    let prefixes = list(layout.store_path()).into_iter().filter(|(_, kind)| kind.is_dir());
    directories.extend(prefixes.map(|(path, _)| path));
    let found = directories.iter().flat_map(|directory| list(directory));
    found.filter(|(path, kind)| path.file_name().is_some_and(|name| is_temporary(name, *kind))).collect()
}

/// What is in a directory, as far as it can be read.
fn list(directory: &Path) -> Vec<(PathBuf, FileType)> {
    let one =
        |entry: io::Result<fs::DirEntry>| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
    let known = |entry: io::Result<_>| entry.map_err(|error| complain(directory, &error)).ok();
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(one).filter_map(known).collect(),
        Err(error) => {
            complain(directory, &error);
            Vec::new()
        }
    }
}

fn complain(directory: &Path, error: &io::Error) {
    tracing::warn!(directory = %directory.display(), %error, "cannot look for what a crash left");
}

fn is_temporary(name: &OsStr, kind: FileType) -> bool {
    let prefixes: &[&str] = match kind {
        _ if kind.is_file() => &[UPLOAD],
        _ if kind.is_symlink() => &[LINK],
        _ if kind.is_dir() => &[TAG, GONE],
        _ => &[],
    };
    let Some(name) = name.to_str() else { return false };
    let random = |rest: &str| rest.len() == RANDOM && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    prefixes.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(random))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_crash_left_goes_and_everything_else_stays() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::open(root.path()).unwrap();
        let (users, repo, prefix) =
            (layout.users_path(), layout.repo_path("a"), root.path().join("store/00"));
        for directory in [&repo, &prefix, &root.path().join("elsewhere")] {
            fs::create_dir(directory).unwrap();
        }
        symlink(root.path().join("elsewhere"), root.path().join("store/ff")).unwrap();
        let left = [users.join(".upload-a1B2c3"), prefix.join(".upload-a1B2c3"), repo.join(".upload-a1B2c3")];
        left.iter().for_each(|path| fs::write(path, "half").unwrap());
        symlink("x.flist", repo.join(".link-a1B2c3")).unwrap();
        for directory in [".gone-a1B2c3/tag", ".new-tag-a1B2c3"] {
            fs::create_dir_all(repo.join(directory)).unwrap();
            symlink("../x.flist", repo.join(directory).join("x.flist")).unwrap();
        }
        let kept = [
            users.join(".upload-a1B2c3d4"),
            users.join("upload-a1B2c3"),
            repo.join(".link-a1B2c3"),
            repo.join("x.flist"),
            prefix.join(".block-a1B2c3"),
            root.path().join("elsewhere/.upload-a1B2c3"),
            root.path().join(".upload-a1B2c3"),
        ];
        assert_eq!(sweep(&layout), 6);
        kept.iter().for_each(|path| fs::write(path, "").unwrap());
        fs::create_dir_all(repo.join(".tag-1.0.0")).unwrap();
        assert_eq!(sweep(&layout), 0);
        assert!(kept.iter().all(|path| path.exists()));
        assert!(!left.iter().any(|path| path.exists()));
        assert!(!repo.join(".gone-a1B2c3").exists() && !repo.join(".new-tag-a1B2c3").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_read_keeps_nothing_else_from_being_swept() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::open(root.path()).unwrap();
        fs::write(layout.users_path().join(".upload-a1B2c3"), "half").unwrap();
        fs::remove_dir_all(layout.store_path()).unwrap();
        assert_eq!(sweep(&layout), 1);
    }

    #[test]
    fn temporary_files_have_names_that_are_recognised() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let file = tempfile::Builder::new().prefix(UPLOAD).tempfile_in(directory.path()).unwrap();
            let kind = file.as_file().metadata().unwrap().file_type();
            assert!(is_temporary(file.path().file_name().unwrap(), kind), "{}", file.path().display());
        }
    }
}
