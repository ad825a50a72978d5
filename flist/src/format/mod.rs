//! Formats of flists. The format is found by content, never by file name.

pub mod fl;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::tree::{Limits, Tree};

/// Why a flist could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file could not be opened, read or written.
    #[error("cannot {action} flist {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`Limits::flist_bytes`].
    #[error("flist {path} has more than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The content of the file is not usable.
    #[error("cannot use flist {path}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<FormatError>,
    },
    /// The content is of no known format.
    #[error("this is no flist: {0}")]
    Unknown(&'static str),
    /// An fl flist with something wrong in it.
    #[error("this fl flist is not usable")]
    Fl(#[source] fl::FlError),
}

/// Reads a flist file.
///
/// # Errors
/// [`FormatError`]; nothing of a bad flist is returned.
pub fn read(path: &Path, limits: &Limits) -> Result<Tree, FormatError> {
    parse(&read_bytes(path, limits)?, limits)
        .map_err(|error| FormatError::Unusable { path: path.to_owned(), source: Box::new(error) })
}

/// Reads the bytes of a flist file, at most [`Limits::flist_bytes`] of them.
///
/// # Errors
/// [`FormatError::File`], [`FormatError::TooLarge`].
pub fn read_bytes(path: &Path, limits: &Limits) -> Result<Vec<u8>, FormatError> {
    let failed = |source| FormatError::File { action: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(limits.flist_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits.flist_bytes {
        return Err(FormatError::TooLarge { path: path.to_owned(), limit: limits.flist_bytes });
    }
    Ok(bytes)
}

/// Reads a flist from memory.
///
/// # Errors
/// [`FormatError::Unknown`] and [`FormatError::Fl`].
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Tree, FormatError> {
    match bytes {
        [] => Err(FormatError::Unknown("it is empty")),
        _ if bytes.starts_with(fl::MAGIC) => fl::parse(bytes, limits).map_err(FormatError::Fl),
        [0x1f, 0x8b, ..] => Err(FormatError::Unknown(
            "it looks like a classic (0-fs) flist, which this version cannot read; convert it to fl",
        )),
        _ => Err(FormatError::Unknown("it is not an SQLite file, as fl flists are")),
    }
}

/// Writes a flist file in the fl format, all or nothing: a temporary file beside it is renamed.
///
/// # Errors
/// [`FormatError::File`], and [`FormatError::Fl`] when SQLite fails.
pub fn write(tree: &Tree, path: &Path) -> Result<(), FormatError> {
    let bytes = fl::to_bytes(tree).map_err(FormatError::Fl)?;
    let failed = |source| FormatError::File { action: "write", path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".flist-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)
        .map_err(failed)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_flist_is_named() {
        let limits = Limits::default();
        for bad in [&b""[..], b"\x1f\x8b\x08", b"hello", b"SQLite"] {
            assert!(matches!(parse(bad, &limits), Err(FormatError::Unknown(_))), "{bad:?}");
        }
        let limits = Limits { flist_bytes: 3, ..limits };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "long").unwrap();
        assert!(matches!(read(file.path(), &limits), Err(FormatError::TooLarge { .. })));
    }
}
