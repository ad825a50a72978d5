//! The kernel of the installed release, and the first root file system for it.

use std::fs::File;
use std::io::{self, Read, Seek};

use bootstrap::disk::Reader;
use bootstrap::engine::{Engine, EngineError};
use bootstrap::generation::Generation;
use bootstrap::item::{Item, What};
use bootstrap::root::RootError;
use flist::path::FlistPath;
use flist::tree::Fingerprint;

use super::image::{ENOUGH, ImageError, KernelId};

/// Where a release has its kernel.
pub const IMAGE: &str = "boot/vmlinuz";

/// Where it has the first root file system for it.
pub const INITRAMFS: &str = "boot/initramfs";

/// Largest kernel, in bytes. Those of distributions have 8 to 16 MiB.
const LARGEST_IMAGE: u64 = 256 << 20;

/// Largest first root file system, in bytes.
const LARGEST_INITRAMFS: u64 = 1 << 30;

/// Why nobody can tell which kernel a release brings, or it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShippedError {
    /// Nobody knows what is installed.
    #[error("what is installed cannot be found out")]
    Installed(#[source] EngineError),
    /// Its directory cannot be found.
    #[error("/{path} cannot be looked for")]
    Path {
        /// Which file.
        path: &'static str,
        /// Why not.
        #[source]
        source: RootError,
    },
    /// The release does not have it.
    #[error("the release brings no /{0}, without which its kernel is not started")]
    Missing(&'static str),
    /// It is something else.
    #[error("/{path} is a {word} in the release; it has to be a regular file")]
    NoFile {
        /// Which file.
        path: &'static str,
        /// What it is.
        word: &'static str,
    },
    /// It is absurdly large.
    #[error("/{path} has {size} bytes, and at most {limit} are taken")]
    TooLarge {
        /// Which file.
        path: &'static str,
        /// Its length in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// It cannot be read.
    #[error("/{path} cannot be read")]
    Read {
        /// Which file.
        path: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody has changed it.
    #[error("/{0} is not what the release brought: somebody has changed it")]
    Changed(&'static str),
    /// It is no kernel that this program knows.
    #[error("/{IMAGE} is not usable")]
    Image(#[source] ImageError),
}

/// A kernel that can be started.
#[derive(Debug)]
pub struct Startable {
    /// Which one.
    pub kernel: KernelId,
    /// Its file, which has what the release brought.
    pub image: File,
    /// The first root file system for it, likewise.
    pub initramfs: File,
}

/// The kernel of the installed release; `None` where it brings none. One that is in the root and of no release, such as
/// a base image's, is none of the release's. Reads the beginning of the file; blocks the thread.
///
/// # Errors
/// [`ShippedError`].
pub fn shipped(engine: &Engine) -> Result<Option<KernelId>, ShippedError> {
    let Some(generation) = engine.current().map_err(ShippedError::Installed)? else { return Ok(None) };
    let Some((at, _)) = find(engine, &generation, IMAGE, LARGEST_IMAGE)? else { return Ok(None) };
    let file = engine.root().disk().open(&at, false).map_err(unreadable(IMAGE))?;
    identify(Reader::new(file)).map(Some)
}

/// The same, opened to be started: both files are read to their ends, and are what the release brought. Blocks the
/// thread.
///
/// # Errors
/// [`ShippedError`].
pub fn startable(engine: &Engine) -> Result<Startable, ShippedError> {
    let generation = engine.current().map_err(ShippedError::Installed)?;
    let generation = generation.ok_or(ShippedError::Missing(IMAGE))?;
    let mut image = verified(engine, &generation, IMAGE, LARGEST_IMAGE)?;
    let initramfs = verified(engine, &generation, INITRAMFS, LARGEST_INITRAMFS)?;
    image.rewind().map_err(unreadable(IMAGE))?;
    Ok(Startable { kernel: identify(&image)?, image, initramfs })
}

fn unreadable(path: &'static str) -> impl Fn(io::Error) -> ShippedError {
    move |source| ShippedError::Read { path, source }
}

fn identify(image: impl Read) -> Result<KernelId, ShippedError> {
    let mut bytes = Vec::with_capacity(ENOUGH);
    image.take(ENOUGH as u64).read_to_end(&mut bytes).map_err(unreadable(IMAGE))?;
    KernelId::of_image(&bytes).map_err(ShippedError::Image)
}

/// A file of the release, and where it is without symlinks.
fn find<'g>(
    engine: &Engine,
    generation: &'g Generation,
    path: &'static str,
    limit: u64,
) -> Result<Option<(FlistPath, &'g Item)>, ShippedError> {
    let at: FlistPath = path.parse().map_err(|error| unreadable(path)(io::Error::other(error)))?;
    let at = engine.root().canonical(&at).map_err(|source| ShippedError::Path { path, source })?;
    match generation.items.get(&at) {
        None => Ok(None),
        Some(Item { what: What::File { size, .. }, .. }) if *size > limit => {
            Err(ShippedError::TooLarge { path, size: *size, limit })
        }
        Some(item @ Item { what: What::File { .. }, .. }) => Ok(Some((at, item))),
        Some(item) => Err(ShippedError::NoFile { path, word: item.word() }),
    }
}

/// Opens a file of the release that has what the release brought.
fn verified(
    engine: &Engine,
    generation: &Generation,
    path: &'static str,
    limit: u64,
) -> Result<File, ShippedError> {
    let (at, item) = find(engine, generation, path, limit)?.ok_or(ShippedError::Missing(path))?;
    let What::File { size, fingerprint } = item.what else { return Err(ShippedError::Missing(path)) };
    // Not through symlinks, and what is no file is not even opened: a pipe would keep whoever opens it.
    let stat = engine.root().stat(&at).map_err(|source| ShippedError::Path { path, source })?;
    if stat.is_none_or(|stat| stat.kind != bootstrap::disk::Kind::File || stat.size != size) {
        return Err(ShippedError::Changed(path));
    }
    let file = File::open(engine.root().outer(&at)).map_err(unreadable(path))?;
    let found =
        Fingerprint::of_reader(Read::take(&file, limit), fingerprint.codec()).map_err(unreadable(path))?;
    if found == fingerprint { Ok(file) } else { Err(ShippedError::Changed(path)) }
}
