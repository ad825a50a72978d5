//! `flist diff`

use std::fmt::Write;
use std::path::PathBuf;

use flist::diff::{Change, Difference, diff, new_blocks};
use flist::exit::Exit;
use flist::format;
use flist::tree::Limits;
use serde_json::json;

use super::output::{Output, counted};

/// Show what differs between two flists: + added, - removed, ~ changed.
///
/// Exits with 0 when nothing differs and with 6 when something does. No blocks are read.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The first flist
    a: PathBuf,
    /// The second flist
    b: PathBuf,
}

const EXAMPLES: &str = "Examples:
  flist diff old.fl new.fl
  flist diff --json old.fl new.fl
  flist diff old.fl new.fl && echo 'the same'";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let limits = Limits::default();
    let (a, b) = (format::read(&arguments.a, &limits)?, format::read(&arguments.b, &limits)?);
    let (differences, blocks) = (diff(&a, &b), new_blocks(&a, &b).len());
    output.data(&json!({"differences": differences, "new_blocks": blocks}), || lines(&differences))?;
    let sum = counted(differences.len() as u64, "difference");
    output.note(&format!("{sum}; {} of the second are not in the first", counted(blocks as u64, "block")));
    Ok(if differences.is_empty() { Exit::Done } else { Exit::Differs })
}

fn lines(differences: &[Difference]) -> String {
    let mut text = String::new();
    for Difference { path, change } in differences {
        // Writing to a String cannot fail.
        let _infallible = match change {
            Change::Added => writeln!(text, "+ /{path}"),
            Change::Removed => writeln!(text, "- /{path}"),
            Change::Changed { what } => writeln!(text, "~ /{path} ({})", what.join(", ")),
        };
    }
    text
}
