//! `flist convert`

use std::path::PathBuf;

use flist::convert::{ConvertSummary, convert};
use flist::format::{self, Format};
use flist::store::{open_for_reading, open_for_writing};
use flist::tree::{Limits, Route};
use serde_json::json;

use super::failure::Failure;
use super::hub_access::TokenAccess;
use super::output::{Output, counted, counted_entries};
use super::pack::{check_output, published};

/// Row of the metadata of classic flists, and so a tag, that names the store.
const BACKEND: &str = "backend";

/// Write the same tree in the other format; its blocks are read, verified, and sealed anew.
///
/// Tags stay. A classic flist cannot have extended attributes, and its readers pass devices over: what is lost is told.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where the blocks are, instead of the flist's own routes
    #[arg(short, long, value_name = "[00-7f=]STORE")]
    store: Vec<Route>,
    /// Where the new blocks go; by default where the old ones are
    #[arg(short, long, value_name = "[00-7f=]STORE")]
    to: Vec<Route>,
    /// Where readers will find the new blocks, if that is elsewhere than where they go
    #[arg(long, value_name = "[00-7f=]STORE")]
    route: Vec<Route>,
    /// Format of the result, fl or classic; by default the other one
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write the stores' passwords into the flist, so that all its readers know them
    #[arg(long)]
    keep_passwords: bool,
    #[command(flatten)]
    token: TokenAccess,
    /// The flist to read
    a: PathBuf,
    /// The flist to write
    b: PathBuf,
}

const EXAMPLES: &str = "Examples:
  flist convert -s zdb://127.0.0.1:9900/blocks --to dir:///srv/blocks old.flist new.fl
  flist convert --to zdb://127.0.0.1:9900/blocks app.fl app.flist
  flist convert --format fl --to dir:///srv/elsewhere app.fl copy.fl";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let Arguments { a, b, .. } = arguments;
    check_output(b)?;
    if let (Ok(from), Ok(to)) = (a.canonicalize(), b.canonicalize())
        && from == to
    {
        let message = format!(
            "{} would be replaced by itself in the other format; name another file to write",
            a.display()
        );
        return Err(Failure::usage(message));
    }
    let (tree, from) = format::read_with_format(a, &Limits::default())?;
    let format = arguments.format.unwrap_or(match from {
        Format::Fl => Format::Classic,
        Format::Classic => Format::Fl,
    });
    let sources = if arguments.store.is_empty() { &tree.routes } else { &arguments.store };
    if sources.is_empty() && tree.files().any(|(_, _, content)| !content.blocks.is_empty()) {
        return Err(Failure::usage("the flist does not say where its blocks are; name their store with -s"));
    }
    let targets = if arguments.to.is_empty() { sources } else { &arguments.to };
    let token = arguments.token.token()?;
    let (reading, writing) =
        (open_for_reading(sources, &[], None)?, open_for_writing(targets, token.as_ref())?);
    let progress = output.progress("converting");
    let (mut tree, summary) = convert(&tree, format.codec(), reading.as_ref(), writing.as_ref(), &progress)?;
    drop(progress);
    let routes = if arguments.route.is_empty() { targets } else { &arguments.route };
    let published = routes.iter().map(|route| published(route, arguments.keep_passwords));
    let routes = published.collect::<Result<Vec<_>, _>>()?;
    // It names the store of the old blocks.
    if routes != tree.routes && tree.tags.remove(BACKEND).is_some() {
        tracing::info!("the tag '{BACKEND}' names another store than the routes, it is left out");
    }
    tree.routes = routes;
    format::write_as(&tree, b, format)?;
    let ConvertSummary { blocks, new_blocks, new_bytes } = summary;
    let said = json!({
        "flist": b,
        "from": from.as_str(),
        "format": format.as_str(),
        "entries": tree.len(),
        "blocks": blocks,
        "new_blocks": new_blocks,
        "new_bytes": new_bytes,
    });
    output.done(&said, || {
        let (name, entries) = (b.display(), counted_entries(tree.len()));
        let blocks = counted(blocks as u64, "block");
        format!(
            "{name}: {}, {entries} in {blocks}; new to the store: {new_blocks} ({})",
            format.as_str(),
            counted(new_bytes, "byte")
        )
    })
}
