//! `flist verify`

use flist::verify::{BadBlock, verify};
use serde_json::json;

use super::reading::Reading;

/// Fetch every block of a flist and check it; tells all that are missing or wrong.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    reading: Reading,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    let (tree, store) = arguments.reading.open()?;
    let verified = verify(&tree, store.as_ref());
    if arguments.json {
        let bad: Vec<_> = verified
            .bad
            .iter()
            .map(|(id, BadBlock { files, error })| {
                json!({"block": id.to_string(), "files": files, "problem": flist::report(error)})
            })
            .collect();
        println!("{:#}", json!({"blocks": verified.blocks, "bytes": verified.bytes, "bad": bad}));
    } else {
        for BadBlock { files, error } in verified.bad.values() {
            let files: Vec<_> = files.iter().map(|file| format!("'{file}'")).collect();
            println!("{} (needed by {})", flist::report(error), files.join(", "));
        }
        println!("{} blocks with {} bytes checked", verified.blocks, verified.bytes);
    }
    match verified.bad.len() {
        0 => Ok(()),
        bad => Err(format!("{bad} of {} blocks are missing or wrong", verified.blocks).into()),
    }
}
