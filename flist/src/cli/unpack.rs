//! `flist unpack`

use std::path::PathBuf;

use flist::unpack;
use serde_json::json;

use super::destination::Destination;
use super::output::{Output, counted, counted_entries};
use super::progress::ObservedStore;
use super::reading::Reading;

/// Unpack a flist into a directory.
///
/// When it fails, a directory that was new or empty is so again.
#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    reading: Reading,
    /// Unpack into a directory that has something in it; files that are there are never overwritten, the modes
    /// and owners of directories become those in the flist
    #[arg(long)]
    merge: bool,
    /// The flist, unless -m names it, and the directory to unpack into, which is made if it is not there
    #[arg(value_names = ["FLIST", "DIRECTORY"], num_args = 1..=2, required = true)]
    arguments: Vec<PathBuf>,
}

const USAGE: &str = "flist unpack [OPTIONS] <FLIST> <DIRECTORY>
       flist unpack [OPTIONS] -m <FLIST> <DIRECTORY>";

const EXAMPLES: &str = "Examples:
  flist unpack app.fl /tmp/app
  flist unpack -m app.fl -s http://127.0.0.1:8080/store -c /var/cache/flist /tmp/app
  flist unpack --merge app.fl /srv/overlay";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let (flist, directory) = arguments.reading.meta.with_directory(&arguments.arguments)?;
    let (tree, store) = arguments.reading.open(&flist)?;
    let destination = Destination::look(&directory, arguments.merge)?;
    destination.has_room_for(&tree)?;
    let store = ObservedStore::new(store, &tree, output.progress("unpacking"));
    let unpacked = unpack::unpack(&tree, &store, &directory);
    drop(store);
    if unpacked.is_err() {
        output.note(&destination.clean_up());
    }
    unpacked?;
    let (entries, bytes) = (tree.len(), tree.total_bytes());
    output.done(&json!({"directory": directory, "entries": entries, "bytes": bytes}), || {
        format!("{}: {}, {}", directory.display(), counted_entries(entries), counted(bytes, "byte"))
    })
}
