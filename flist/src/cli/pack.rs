//! `flist pack`

use std::path::PathBuf;

use flist::tree::Route;
use flist::{format, store};

/// Pack a directory into a flist; its blocks go to a store.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The flist to write
    #[arg(short = 'm', long = "meta", value_name = "OUT.fl")]
    meta: PathBuf,
    /// Where the blocks go: dir://PATH, or http(s):// of a hub's /store
    #[arg(short, long, value_name = "STORE")]
    store: String,
    /// Where readers will find the blocks, if that is another address than the store's
    #[arg(long, value_name = "STORE")]
    route: Option<String>,
    /// The directory to pack
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    let store = store::open(&arguments.store)?;
    let (mut tree, summary) = flist::pack::pack(&arguments.directory, store.as_ref())?;
    let route = match &arguments.route {
        Some(route) => route.clone(),
        None => absolute(&arguments.store)?,
    };
    tree.routes = vec![Route::everything(route)];
    format::write(&tree, &arguments.meta)?;
    println!(
        "{}: {} entries, {} bytes in {} blocks; {} blocks ({} bytes) were new to the store",
        arguments.meta.display(),
        tree.len(),
        summary.bytes,
        summary.blocks,
        summary.new_blocks,
        summary.new_bytes
    );
    Ok(())
}

/// A route must not depend on the directory that `pack` was started in.
fn absolute(store: &str) -> std::io::Result<String> {
    match store.parse() {
        Ok(store::StoreUrl::Dir(path)) => Ok(format!("dir://{}", std::path::absolute(path)?.display())),
        _ => Ok(store.to_owned()),
    }
}
