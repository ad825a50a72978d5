//! What the subcommands that read a flist and its blocks have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flist::store::{Store, open_for_reading};
use flist::tree::{Limits, Route, Tree};

use super::failure::Failure;

/// Which flist is read, with `-m` or without; what follows it is the subcommand's.
#[derive(clap::Args)]
pub(super) struct Meta {
    /// The flist to read; may also be given without -m, as the first argument
    #[arg(short = 'm', long = "meta", value_name = "FLIST")]
    meta: Option<PathBuf>,
}

impl Meta {
    /// The flist of a subcommand that needs only that.
    pub(super) fn only(&self, argument: Option<&Path>) -> Result<PathBuf, Failure> {
        match (&self.meta, argument) {
            (Some(flist), None) => Ok(flist.clone()),
            (None, Some(flist)) => Ok(flist.to_owned()),
            (Some(_), Some(_)) => Err(Failure::usage("two flists were given; name one, with -m or without")),
            (None, None) => {
                Err(Failure::usage("no flist was given; name it as the first argument or with -m"))
            }
        }
    }

    /// The flist and the directory of a subcommand that needs both.
    pub(super) fn with_directory(&self, arguments: &[PathBuf]) -> Result<(PathBuf, PathBuf), Failure> {
        match (&self.meta, arguments) {
            (Some(flist), [directory]) => Ok((flist.clone(), directory.clone())),
            (None, [flist, directory]) => Ok((flist.clone(), directory.clone())),
            (Some(_), _) => {
                Err(Failure::usage("the flist was given twice; name it once, with -m or without"))
            }
            (None, _) => Err(Failure::usage("a flist and a directory are needed: FLIST DIRECTORY")),
        }
    }
}

/// Where the blocks of a flist are.
#[derive(clap::Args)]
pub(super) struct Reading {
    #[command(flatten)]
    pub(super) meta: Meta,
    /// Where the blocks are, instead of the flist's own routes: dir://, http(s)://, zdb://, redis://. Given
    /// several times, each can keep a range of ids (00-7f=URL), and several may keep the same
    #[arg(short, long, value_name = "[00-7f=]STORE")]
    store: Vec<Route>,
    /// Keep fetched blocks in this directory
    #[arg(short, long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Reading {
    /// The tree of a flist and the stores with its blocks.
    pub(super) fn open(&self, flist: &Path) -> Result<(Tree, Arc<dyn Store>), Failure> {
        if let Some(address) =
            flist.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://"))
        {
            return Err(Failure::usage(format!(
                "{address} is an address, not a file; get the flist first: curl -fLO {address}"
            )));
        }
        let tree = flist::format::read(flist, &Limits::default())?;
        let nowhere = tree.routes.is_empty() && self.store.is_empty() && self.cache.is_none();
        if nowhere && tree.files().any(|(_, _, content)| !content.blocks.is_empty()) {
            return Err(Failure::usage(format!(
                "{} does not say where its blocks are; name their store with -s, such as zdb://hub.grid.tf:9900",
                flist.display()
            )));
        }
        let store = open_for_reading(&tree.routes, &self.store, self.cache.as_deref())?;
        Ok((tree, store))
    }
}
