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
    Unsafe(&'static str),
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
    match problem_of(&metadata, limit) {
        Some(problem) => Err(NotPrivate::Unsafe(problem)),
        None => Ok((file, metadata)),
    }
}

fn problem_of(metadata: &Metadata, limit: u64) -> Option<&'static str> {
    let owner = metadata.uid();
    if !metadata.is_file() {
        Some("is not a regular file")
    } else if metadata.mode() & 0o077 != 0 {
        Some("can be used by others than its owner; make it private with: chmod 600")
    } else if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        Some("belongs to another user; make it your own with: chown")
    } else if metadata.len() > limit {
        Some("is longer than any such file")
    } else {
        None
    }
}
