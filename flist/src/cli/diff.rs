//! `flist diff`

use std::path::PathBuf;

use flist::diff::{Change, diff, new_blocks};
use flist::format;
use flist::tree::Limits;
use serde_json::json;

/// Show what differs between two flists: + added, - removed, ~ changed.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The first flist
    a: PathBuf,
    /// The second flist
    b: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> super::Outcome {
    let limits = Limits::default();
    let (a, b) = (format::read(&arguments.a, &limits)?, format::read(&arguments.b, &limits)?);
    let (differences, blocks) = (diff(&a, &b), new_blocks(&a, &b).len());
    if arguments.json {
        println!("{:#}", json!({"differences": differences, "new_blocks": blocks}));
        return Ok(());
    }
    for difference in &differences {
        let path = &difference.path;
        match &difference.change {
            Change::Added => println!("+ /{path}"),
            Change::Removed => println!("- /{path}"),
            Change::Changed { what } => println!("~ /{path} ({})", what.join(", ")),
        }
    }
    println!("{} differences; {blocks} blocks of the second are not in the first", differences.len());
    Ok(())
}
