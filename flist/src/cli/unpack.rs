//! `flist unpack`

use std::path::PathBuf;

use flist::unpack;

use super::reading::Reading;

/// Unpack a flist into a directory.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    reading: Reading,
    /// The directory to unpack into; it is created if it is not there
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    let (tree, store) = arguments.reading.open()?;
    unpack::unpack(&tree, store.as_ref(), &arguments.directory)?;
    println!("{}: {} entries, {} bytes", arguments.directory.display(), tree.len(), tree.total_bytes());
    Ok(())
}
