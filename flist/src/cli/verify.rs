//! `flist verify`

use std::path::PathBuf;
use std::sync::Arc;

use flist::exit::Exit;
use flist::verify::{BadBlock, Verified, verify};
use serde_json::{Value, json};

use super::output::{Output, counted};
use super::progress::ObservedStore;
use super::reading::Reading;

/// Fetch every block of a flist and check it; tells all that are missing or wrong.
///
/// Exits with 6 when there are such blocks, and with 3 when all that is wrong is that a store could not be
/// reached.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    reading: Reading,
    /// The flist, unless -m names it
    flist: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  flist verify app.fl
  flist verify app.fl -s http://127.0.0.1:8080/store
  flist verify --json -m app.fl";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let flist = arguments.reading.meta.only(arguments.flist.as_deref())?;
    let (tree, store) = arguments.reading.open(&flist)?;
    let store = ObservedStore::new(Arc::clone(&store), &tree, output.progress("verifying"));
    let verified = verify(&tree, &store);
    drop(store);
    let checked = || {
        let blocks = counted(verified.blocks as u64, "block");
        format!("{blocks} with {} checked", counted(verified.bytes, "byte"))
    };
    if verified.bad.is_empty() {
        return output.done(&as_json(&verified), checked);
    }
    output.data(&as_json(&verified), || verified.bad.values().map(line).collect())?;
    output.note(&checked());
    if !output.json {
        let all = counted(verified.blocks as u64, "block");
        eprintln!("flist: {} of {all} missing or wrong", verified.bad.len());
    }
    let unreachable = verified.bad.values().all(|bad| bad.error.is_retryable());
    Ok(if unreachable { Exit::Unreachable } else { Exit::Differs })
}

fn line(BadBlock { files, error }: &BadBlock) -> String {
    let files: Vec<_> = files.iter().map(|file| format!("'{file}'")).collect();
    format!("{} (needed by {})\n", flist::report(error), files.join(", "))
}

fn as_json(verified: &Verified) -> Value {
    let bad: Vec<_> = verified
        .bad
        .iter()
        .map(|(id, BadBlock { files, error })| {
            json!({"block": id.to_string(), "files": files, "problem": flist::report(error)})
        })
        .collect();
    json!({"blocks": verified.blocks, "bytes": verified.bytes, "bad": bad})
}
