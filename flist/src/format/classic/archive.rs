//! The archive: gzip over tar over a few files.

use std::io::{self, Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use tar::{Archive, Builder, EntryType, Header};

use super::ClassicError;

const DATABASE: &str = "flistdb.sqlite3";

/// Where the blocks are; 0-fs honours it.
const ROUTER: &str = "router.yaml";

/// Longest `router.yaml`, in bytes.
const MAX_ROUTER: u64 = 64 * 1024;

/// The files that count.
#[derive(Debug)]
pub(super) struct Members {
    /// An SQLite file.
    pub(super) database: Vec<u8>,
    /// The routes.
    pub(super) router: Option<Vec<u8>>,
}

/// Takes an archive apart, of which at most `limit` bytes are unpacked. Nothing is written anywhere; whatever else is
/// in it is passed over.
///
/// # Errors
/// [`ClassicError::Archive`], [`ClassicError::TooLarge`], [`ClassicError::Members`].
pub(super) fn read(bytes: &[u8], limit: u64) -> Result<Members, ClassicError> {
    let failed = |source: io::Error| match source.get_ref() {
        Some(inner) if inner.is::<Beyond>() => ClassicError::TooLarge { limit },
        _ => ClassicError::Archive { action: "unpack", source: innermost(source) },
    };
    let mut archive = Archive::new(Bounded { inner: MultiGzDecoder::new(bytes), left: limit });
    let (mut database, mut router) = (None, None);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let (name, most) = match plain_name(&entry.path_bytes()) {
            name if name == DATABASE.as_bytes() => (DATABASE, limit),
            name if name == ROUTER.as_bytes() => (ROUTER, MAX_ROUTER),
            _ => continue,
        };
        if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            return Err(ClassicError::Members { problem: format!("holds a {name} that is no plain file") });
        }
        let mut content = Vec::new();
        entry.by_ref().take(most + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > most {
            return Err(ClassicError::Members {
                problem: format!("holds a {name} of more than {most} bytes"),
            });
        }
        let member = if name == DATABASE { &mut database } else { &mut router };
        if member.replace(content).is_some() {
            return Err(ClassicError::Members { problem: format!("holds {name} twice") });
        }
    }
    // gzip's checksum comes after everything else.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(failed)?;
    match database {
        Some(database) => Ok(Members { database, router }),
        None => Err(ClassicError::Members { problem: format!("holds no {DATABASE}") }),
    }
}

/// tar wraps errors of what it reads from, which would be told twice.
fn innermost(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.source()) {
        Some(source) => io::Error::new(error.kind(), source.to_string()),
        None => error,
    }
}

/// Without `./` or `/` before it.
fn plain_name(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    path
}

/// Puts an archive together, as tar and gzip would, without the time and the names of the machine.
///
/// # Errors
/// [`ClassicError::Archive`].
pub(super) fn write(members: &Members) -> Result<Vec<u8>, ClassicError> {
    let failed = |source| ClassicError::Archive { action: "make", source };
    let pack = || {
        let mut archive = Builder::new(GzBuilder::new().mtime(0).write(Vec::new(), Compression::default()));
        append(&mut archive, "./", EntryType::Directory, 0o755, &[])?;
        append(&mut archive, &format!("./{DATABASE}"), EntryType::Regular, 0o644, &members.database)?;
        if let Some(router) = &members.router {
            append(&mut archive, &format!("./{ROUTER}"), EntryType::Regular, 0o644, router)?;
        }
        archive.into_inner()?.finish()
    };
    pack().map_err(failed)
}

fn append(
    archive: &mut Builder<impl Write>,
    name: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    // `set_path` would leave out the "./" that others have.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    for set in [Header::set_mtime, Header::set_uid, Header::set_gid] {
        set(&mut header, 0);
    }
    header.set_cksum();
    archive.append(&header, content)
}

/// Fails when more than so many bytes come out of it.
struct Bounded<R> {
    inner: R,
    left: u64,
}

/// There is more than was allowed.
#[derive(Debug, thiserror::Error)]
#[error("there is too much in it")]
struct Beyond;

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).saturating_add(1).min(buffer.len());
        let read = self.inner.read(&mut buffer[..most])?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(Beyond))?;
        Ok(read)
    }
}
