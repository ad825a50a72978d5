//! What is linted, and what it is laid over: directories and flists.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flist::path::FlistPath;
use flist::rehearsal::{FutureRoot, Node, RootError, TreeRoot};
use flist::store::{Store, open_for_reading};
use flist::tree::{Limits, Route, Tree};
use nix::fcntl::OFlag;

/// A directory, or a flist with the stores of its blocks.
pub(super) enum Operand {
    Directory(PathBuf),
    Flist(Box<Tree>, Arc<dyn Store>),
}

impl Operand {
    /// Opens a directory or a flist; the blocks of a flist are in `stores`, where given, instead of where it
    /// says.
    pub(super) fn open(path: &Path, stores: &[Route]) -> Result<Self, Box<dyn Error>> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let tree = flist::format::read(path, &Limits::default())?;
        let store = open_for_reading(&tree.routes, stores, None)?;
        Ok(Self::Flist(Box::new(tree), store))
    }

    /// It as a root file system.
    pub(super) fn root(&self) -> Box<dyn FutureRoot + '_> {
        match self {
            Self::Directory(top) => Box::new(DirRoot { top: top.clone() }),
            Self::Flist(tree, store) => Box::new(TreeRoot::new(tree, store.as_ref())),
        }
    }
}

/// A directory that is laid out like a root file system.
struct DirRoot {
    top: PathBuf,
}

impl DirRoot {
    fn at(&self, path: &FlistPath) -> PathBuf {
        self.top.join(path.as_path())
    }
}

fn failed(action: &'static str, path: &FlistPath) -> impl Fn(io::Error) -> RootError {
    move |error| RootError { action, path: path.clone(), source: Box::new(error) }
}

impl FutureRoot for DirRoot {
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError> {
        let metadata = match fs::symlink_metadata(self.at(path)) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed("look at", path)(error)),
        };
        let kind = metadata.file_type();
        Ok(Some(match () {
            // The top may itself be given by a symlink.
            () if kind.is_dir() || path.is_root() => Node::Directory,
            () if kind.is_file() => {
                Node::File { size: metadata.len(), mode: metadata.permissions().mode() & 0o7777 }
            }
            () if kind.is_symlink() => {
                let target = fs::read_link(self.at(path)).map_err(failed("read the link", path))?;
                Node::Symlink(target.into_os_string().into_vec())
            }
            () => Node::Other,
        }))
    }

    fn read(&self, path: &FlistPath, offset: u64, length: usize) -> Result<Vec<u8>, RootError> {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(self.at(path))
            .map_err(failed("open", path))?;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", path)(error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn list(&self, path: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
        let entries = fs::read_dir(self.at(path)).map_err(failed("list", path))?;
        let names: Result<Vec<_>, _> =
            entries.map(|entry| entry.map(|entry| entry.file_name().into_vec())).collect();
        let mut names = names.map_err(failed("list", path))?;
        names.sort_unstable();
        Ok(names)
    }
}
