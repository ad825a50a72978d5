//! Files with secrets: nobody but their owner can use them.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Why a file is not read.
#[derive(Debug)]
pub enum NotPrivate {
    /// It cannot be opened.
    Open(io::Error),
    /// It is not fit to hold secrets: what is wrong, and the remedy.
    Unsafe(String),
}

/// Opens a file of at most `limit` bytes that is readable by its owner only, who is this user or root.
///
/// # Errors
/// [`NotPrivate`].
pub fn open(path: &Path, limit: u64) -> Result<(File, Metadata), NotPrivate> {
    // Without O_NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(NotPrivate::Open)?;
    let metadata = file.metadata().map_err(NotPrivate::Open)?;
    match problem_of(path, &metadata, limit) {
        Some(problem) => Err(NotPrivate::Unsafe(problem)),
        None => Ok((file, metadata)),
    }
}

fn problem_of(path: &Path, metadata: &Metadata, limit: u64) -> Option<String> {
    let (owner, user, path) = (metadata.uid(), nix::unistd::geteuid().as_raw(), path.display());
    if !metadata.is_file() {
        Some("is not a regular file".to_owned())
    } else if metadata.mode() & 0o077 != 0 {
        Some(format!("can be used by others than its owner; make it private with: chmod 600 {path}"))
    } else if owner != 0 && owner != user {
        Some(format!("belongs to user {owner}; as root, make it your own with: chown {user} {path}"))
    } else if metadata.len() > limit {
        Some(format!("is longer than {limit} bytes, and so than any such file"))
    } else {
        None
    }
}
