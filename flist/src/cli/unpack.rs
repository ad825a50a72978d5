//! `flist unpack`

use std::path::PathBuf;

use flist::tree::Limits;
use flist::{format, store, unpack};

/// Unpack a flist into a directory.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The flist to read
    #[arg(short = 'm', long = "meta", value_name = "FLIST")]
    meta: PathBuf,
    /// Where the blocks are, instead of the flist's own routes
    #[arg(short, long, value_name = "STORE")]
    store: Option<String>,
    /// Keep fetched blocks in this directory
    #[arg(short, long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// The directory to unpack into; it is created if it is not there
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    let tree = format::read(&arguments.meta, &Limits::default())?;
    let store =
        store::open_for_reading(&tree.routes, arguments.store.as_deref(), arguments.cache.as_deref())?;
    unpack::unpack(&tree, store.as_ref(), &arguments.directory)?;
    println!("{}: {} entries, {} bytes", arguments.directory.display(), tree.len(), tree.total_bytes());
    Ok(())
}
