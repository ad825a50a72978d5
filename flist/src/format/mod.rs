//! Formats of flists. The format is found by content, never by file name.

pub mod classic;
pub mod fl;
mod rows;

pub use rows::RowsError;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::block::Codec;
use crate::tree::{Limits, Tree};

/// Longest address of a store, and longest tag, in bytes.
const MAX_TEXT: usize = 256 * 1024;

/// The formats of flists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One SQLite file, as rfs has it.
    Fl,
    /// A gzip'd tar archive, as 0-fs has it.
    Classic,
}

impl Format {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fl, Self::Classic];

    /// By the first bytes; `None` for what is no flist.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|format| bytes.starts_with(format.magic()))
    }

    /// The first bytes of every such flist.
    pub const fn magic(self) -> &'static [u8] {
        match self {
            Self::Fl => fl::MAGIC,
            Self::Classic => classic::MAGIC,
        }
    }

    /// Its one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fl => "fl",
            Self::Classic => "classic",
        }
    }

    /// How its blocks are sealed.
    pub const fn codec(self) -> Codec {
        match self {
            Self::Fl => Codec::Fl,
            Self::Classic => Codec::Classic,
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|format| format.as_str() == text);
        named.ok_or_else(|| "there are the formats fl and classic".to_owned())
    }
}

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
    /// A classic flist with something wrong in it.
    #[error("this classic flist is not usable")]
    Classic(#[source] classic::ClassicError),
}

/// Reads a flist file.
///
/// # Errors
/// [`FormatError`]; nothing of a bad flist is returned.
pub fn read(path: &Path, limits: &Limits) -> Result<Tree, FormatError> {
    Ok(read_with_format(path, limits)?.0)
}

/// As [`read`], and tells which format it is.
///
/// # Errors
/// As [`read`].
pub fn read_with_format(path: &Path, limits: &Limits) -> Result<(Tree, Format), FormatError> {
    let bytes = read_bytes(path, limits)?;
    let unusable = |error| FormatError::Unusable { path: path.to_owned(), source: Box::new(error) };
    let tree = parse(&bytes, limits).map_err(unusable)?;
    Ok((tree, Format::of(&bytes).unwrap_or(Format::Fl)))
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
/// [`FormatError::Unknown`], [`FormatError::Fl`] and [`FormatError::Classic`].
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Tree, FormatError> {
    match Format::of(bytes) {
        Some(Format::Fl) => fl::parse(bytes, limits).map_err(FormatError::Fl),
        Some(Format::Classic) => classic::parse(bytes, limits).map_err(FormatError::Classic),
        None if bytes.is_empty() => Err(FormatError::Unknown("it is empty")),
        None => Err(FormatError::Unknown(
            "it is neither an SQLite file, as fl flists are, nor a gzip archive, as classic ones are",
        )),
    }
}

/// The flist of a tree; the same bytes for the same tree.
///
/// # Errors
/// [`FormatError::Fl`] and [`FormatError::Classic`], for instance when the blocks are not of this format.
pub fn to_bytes(tree: &Tree, format: Format) -> Result<Vec<u8>, FormatError> {
    match format {
        Format::Fl => fl::to_bytes(tree).map_err(FormatError::Fl),
        Format::Classic => classic::to_bytes(tree).map_err(FormatError::Classic),
    }
}

/// Writes a flist file in the fl format, as [`write_as`] does.
///
/// # Errors
/// As [`write_as`].
pub fn write(tree: &Tree, path: &Path) -> Result<(), FormatError> {
    write_as(tree, path, Format::Fl)
}

/// Writes a flist file, all or nothing: a temporary file beside it is renamed.
///
/// # Errors
/// [`FormatError::File`], and those of [`to_bytes`].
pub fn write_as(tree: &Tree, path: &Path, format: Format) -> Result<(), FormatError> {
    let bytes = to_bytes(tree, format)?;
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
        for bad in [&b""[..], b"\x1f", b"hello", b"SQLite"] {
            assert!(matches!(parse(bad, &limits), Err(FormatError::Unknown(_))), "{bad:?}");
        }
        let limits = Limits { flist_bytes: 3, ..limits };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "long").unwrap();
        assert!(matches!(read(file.path(), &limits), Err(FormatError::TooLarge { .. })));
    }
}
