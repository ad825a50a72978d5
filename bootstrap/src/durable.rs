//! Files that are replaced all or nothing and are still there after a power cut.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// How the names of files begin that are not whole yet.
pub(crate) const TEMPORARY: &str = ".new-";

/// Replaces (or makes) a file: a temporary file beside it is written, synced and renamed, and the
/// directory is synced.
///
/// # Errors
/// The system's. The file is the old or the new one then, never a mixture: it is the new one when only
/// syncing the directory failed.
#[tracing::instrument(level = "trace", skip_all, fields(at = %path.display()))]
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
    // Set explicitly, because a mode given at creation is subject to the umask.
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Makes a directory and its parents if they are not there; the last one is private to root (0700).
///
/// # Errors
/// The system's.
pub fn private_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    // One that is as it shall be needs no writable disk.
    match std::fs::metadata(path)?.permissions().mode() & 0o7777 {
        0o700 => Ok(()),
        _ => std::fs::set_permissions(path, Permissions::from_mode(0o700)),
    }
}
