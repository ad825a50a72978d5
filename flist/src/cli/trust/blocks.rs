//! Whether the blocks of a signed release can be had, for `flist trust check --blocks`.

use flist::exit::Exit;
use flist::format;
use flist::hub::Access;
use flist::report;
use flist::store::open_with_access;
use flist::tree::{Limits, Route, Tree};
use flist::verify::verify;

use crate::cli::failure::Failure;
use crate::cli::output::counted;

/// Whether the blocks are looked at, and where.
#[derive(clap::Args)]
pub(super) struct Blocks {
    /// Also fetch and check every block of what is signed: whether a node could install all of it
    #[arg(long)]
    pub(super) blocks: bool,
    /// The store with the blocks of flists that name none, as nodes have it in `store`
    #[arg(long, value_name = "STORE", requires = "blocks")]
    store: Option<Route>,
}

impl Blocks {
    /// Why a node could not install this flist, if it could not.
    ///
    /// # Errors
    /// Its store cannot be reached now, or nobody has said which one it is.
    pub(super) fn amiss(
        &self,
        target: &str,
        flist: &[u8],
        access: &Access,
    ) -> Result<Option<String>, Failure> {
        let tree = match format::parse(flist, &Limits::default()) {
            Ok(tree) => tree,
            Err(error) => return Ok(Some(format!("{target} is no usable flist: {}", report(&error)))),
        };
        let store = open_with_access(&self.routes(target, &tree)?, access)?;
        let verified = verify(&tree, &*store);
        let Some(first) = verified.bad.values().next() else { return Ok(None) };
        let all = counted(verified.blocks as u64, "block");
        let said =
            format!("{} of {all} of {target} missing or wrong: {}", verified.bad.len(), report(&first.error));
        match verified.bad.values().all(|bad| bad.error.is_retryable()) {
            true => Err(Failure::new(Exit::Unreachable, said)),
            false => Ok(Some(said)),
        }
    }

    fn routes(&self, target: &str, tree: &Tree) -> Result<Vec<Route>, Failure> {
        let has_blocks = tree.files().any(|(_, _, content)| !content.blocks.is_empty());
        match &self.store {
            _ if !tree.routes.is_empty() => Ok(tree.routes.clone()),
            Some(store) => Ok(vec![store.clone()]),
            None if !has_blocks => Ok(Vec::new()),
            None => Err(Failure::usage(format!(
                "{target} does not say where its blocks are; name the store of the nodes with --store, such as zdb://hub.grid.tf:9900"
            ))),
        }
    }
}
