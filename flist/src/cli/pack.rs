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
    /// Where the blocks go: dir://PATH, http(s):// of a hub's /store, zdb:// or redis://. Given several
    /// times, each can keep a range of ids (00-7f=URL), and several may keep the same
    #[arg(short, long, value_name = "[00-7f=]STORE", required = true)]
    store: Vec<Route>,
    /// Where readers will find the blocks, if that is elsewhere than where they go
    #[arg(long, value_name = "[00-7f=]STORE")]
    route: Vec<Route>,
    /// Write the stores' passwords into the flist, so that all its readers know them
    #[arg(long)]
    keep_passwords: bool,
    /// The directory to pack
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    let store = store::open_routes(&arguments.store)?;
    let (mut tree, summary) = flist::pack::pack(&arguments.directory, store.as_ref())?;
    let routes = if arguments.route.is_empty() { &arguments.store } else { &arguments.route };
    tree.routes =
        routes.iter().map(|route| published(route, arguments.keep_passwords)).collect::<Result<_, _>>()?;
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

/// A route as readers get it: independent of the directory that `pack` was started in, and without the
/// password unless that is wanted.
fn published(route: &Route, keep_password: bool) -> Result<Route, Box<dyn std::error::Error>> {
    let url: store::StoreUrl = route.url.parse()?;
    let url = match url {
        store::StoreUrl::Http(_) | store::StoreUrl::Redis(_) if keep_password => route.url.clone(),
        url => url.public()?,
    };
    Ok(Route { url, ..*route })
}
