//! The tree that is looked at, and the way a path takes through it.

use crate::path::{FlistPath, MAX_PATH};

/// Most symbolic links on the way to one file, as in Linux.
const MAX_LINKS: usize = 40;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// Its permission bits (`st_mode & 0o7777`).
        mode: u32,
    },
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A device, a pipe or a socket.
    Other,
}

impl Node {
    /// Whether it is a file that root may execute.
    pub fn is_executable(&self) -> bool {
        matches!(self, Self::File { mode, .. } if mode & 0o111 != 0)
    }
}

/// A root file system could not be looked at. That says nothing about whether it would run.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} '{path}' of the root that is rehearsed")]
pub struct RootError {
    /// What was tried.
    pub action: &'static str,
    /// On which entry.
    pub path: FlistPath,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A root file system as it would be. No method follows symbolic links: the directories of every path that is
/// given are known to be directories.
pub trait FutureRoot {
    /// What is at `path`; `None` when nothing is.
    ///
    /// # Errors
    /// [`RootError`] when that cannot be told.
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError>;

    /// Up to `length` bytes of the file at `path` from `offset`; fewer only at its end.
    ///
    /// # Errors
    /// [`RootError`] when they cannot be had.
    fn read(&self, path: &FlistPath, offset: u64, length: usize) -> Result<Vec<u8>, RootError>;

    /// The names in the directory at `path`, sorted.
    ///
    /// # Errors
    /// [`RootError`] when they cannot be had.
    fn list(&self, path: &FlistPath) -> Result<Vec<Vec<u8>>, RootError>;
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// To something that is no symbolic link.
    Found(FlistPath, Node),
    /// To nothing.
    Missing,
    /// In a circle, or through too many symbolic links.
    Loop,
}

/// Follows `path` as a process does whose root is `root`: absolute targets of symbolic links and `..` stay
/// inside. A leading `/` makes no difference.
///
/// # Errors
/// Those of the root.
pub fn resolve(root: &dyn FutureRoot, path: &[u8]) -> Result<Resolved, RootError> {
    let mut at = FlistPath::root();
    let mut node = Node::Directory;
    let mut links = 0;
    let mut todo: Vec<Vec<u8>> = components(path);
    while let Some(name) = todo.pop() {
        if node != Node::Directory {
            return Ok(Resolved::Missing);
        }
        if name == b".." {
            at = at.parent().unwrap_or_default();
            continue;
        }
        let Ok(next) = at.join(&name) else { return Ok(Resolved::Missing) };
        match root.look(&next)? {
            None => return Ok(Resolved::Missing),
            Some(Node::Symlink(target)) => {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(Resolved::Loop);
                }
                if target.is_empty() || target.len() > MAX_PATH {
                    return Ok(Resolved::Missing);
                }
                if target.starts_with(b"/") {
                    at = FlistPath::root();
                }
                todo.extend(components(&target));
            }
            Some(found) => (at, node) = (next, found),
        }
    }
    Ok(Resolved::Found(at, node))
}

/// The names of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}
