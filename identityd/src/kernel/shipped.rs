//! The kernel of the installed release.

use std::io::{self, Read};

use bootstrap::disk::Reader;
use bootstrap::engine::{Engine, EngineError};
use bootstrap::item::What;
use bootstrap::root::RootError;
use flist::path::FlistPath;

use super::image::{ENOUGH, ImageError, KernelId};

/// Where a release has its kernel.
pub const IMAGE: &str = "boot/vmlinuz";

/// Largest kernel, in bytes. Those of distributions have 8 to 16 MiB.
const LARGEST: u64 = 256 << 20;

/// Why nobody can tell which kernel a release brings.
#[derive(Debug, thiserror::Error)]
pub enum ShippedError {
    /// Nobody knows what is installed.
    #[error("what is installed cannot be found out")]
    Installed(#[source] EngineError),
    /// Its directory cannot be found.
    #[error("/{IMAGE} cannot be looked for")]
    Path(#[source] RootError),
    /// It is something else.
    #[error("/{IMAGE} is a {0} in the release; it has to be the kernel itself, a regular file")]
    NoFile(&'static str),
    /// It is absurdly large.
    #[error("/{IMAGE} has {0} bytes, more than the {LARGEST} that a kernel may have")]
    TooLarge(u64),
    /// It cannot be read.
    #[error("/{IMAGE} cannot be read")]
    Read(#[source] io::Error),
    /// It is no kernel that this program knows.
    #[error("/{IMAGE} is not usable")]
    Image(#[source] ImageError),
}

/// The kernel of the installed release; `None` where it brings none. One that is in the root and of no release, such as
/// a base image's, is none of the release's. Reads the beginning of the file; blocks the thread.
///
/// # Errors
/// [`ShippedError`].
pub fn shipped(engine: &Engine) -> Result<Option<KernelId>, ShippedError> {
    let Some(generation) = engine.current().map_err(ShippedError::Installed)? else { return Ok(None) };
    let image: FlistPath = IMAGE.parse().map_err(|error| ShippedError::Read(io::Error::other(error)))?;
    let image = engine.root().canonical(&image).map_err(ShippedError::Path)?;
    let Some(item) = generation.items.get(&image) else { return Ok(None) };
    match &item.what {
        What::File { size, .. } if *size > LARGEST => return Err(ShippedError::TooLarge(*size)),
        What::File { .. } => {}
        _ => return Err(ShippedError::NoFile(item.word())),
    }
    let file = engine.root().disk().open(&image, false).map_err(ShippedError::Read)?;
    let mut bytes = Vec::with_capacity(ENOUGH);
    Reader::new(file).take(ENOUGH as u64).read_to_end(&mut bytes).map_err(ShippedError::Read)?;
    KernelId::of_image(&bytes).map(Some).map_err(ShippedError::Image)
}
