//! What the subcommands that read a flist and its blocks have in common.

use std::path::PathBuf;
use std::sync::Arc;

use flist::store::{Store, open_for_reading};
use flist::tree::{Limits, Route, Tree};

#[derive(clap::Args)]
pub(super) struct Reading {
    /// The flist to read
    #[arg(short = 'm', long = "meta", value_name = "FLIST")]
    pub(super) meta: PathBuf,
    /// Where the blocks are, instead of the flist's own routes: dir://, http(s)://, zdb://, redis://. Given
    /// several times, each can keep a range of ids (00-7f=URL), and several may keep the same
    #[arg(short, long, value_name = "[00-7f=]STORE")]
    store: Vec<Route>,
    /// Keep fetched blocks in this directory
    #[arg(short, long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Reading {
    /// The tree and the stores with its blocks.
    pub(super) fn open(&self) -> Result<(Tree, Arc<dyn Store>), Box<dyn std::error::Error>> {
        let tree = flist::format::read(&self.meta, &Limits::default())?;
        let store = open_for_reading(&tree.routes, &self.store, self.cache.as_deref())?;
        Ok((tree, store))
    }
}
