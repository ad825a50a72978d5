//! `flist diff`

use std::fmt::Write;
use std::path::PathBuf;

use flist::diff::{Change, Difference, diff_by, new_blocks};
use flist::exit::Exit;
use flist::format;
use flist::path::FlistPath;
use flist::store::{FetchError, Store, fetch_plain, open_for_reading};
use flist::tree::{Content, Limits, Route};
use serde_json::json;

use super::failure::Failure;
use super::output::{Output, counted};

/// Show what differs between two flists: + added, - removed, ~ changed.
///
/// Exits with 0 when nothing differs and with 6 when something does. No blocks are read, unless the flists are of
/// different formats: then files of the same size are compared by the blocks of the first.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where the blocks of the first flist are, instead of its own routes; for flists of different formats
    #[arg(short, long, value_name = "[00-7f=]STORE")]
    store: Vec<Route>,
    /// The first flist
    a: PathBuf,
    /// The second flist
    b: PathBuf,
}

const EXAMPLES: &str = "Examples:
  flist diff old.fl new.fl
  flist diff --json old.fl new.fl
  flist diff -s dir:///srv/blocks old.flist new.fl
  flist diff old.fl new.fl && echo 'the same'";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let limits = Limits::default();
    let (a, b) = (format::read(&arguments.a, &limits)?, format::read(&arguments.b, &limits)?);
    let store = open_for_reading(&a.routes, &arguments.store, None)?;
    let same = |_: &FlistPath, a: &Content, b: &Content| same_content(a, b, store.as_ref());
    let differences = diff_by(&a, &b, same).map_err(|error| {
        let remedy = "the flists are of different formats; name the store of the first with -s".to_owned();
        Failure { remedy: Some(remedy), ..Failure::from(error) }
    })?;
    let blocks = new_blocks(&a, &b).len();
    output.data(&json!({"differences": differences, "new_blocks": blocks}), || lines(&differences))?;
    let sum = counted(differences.len() as u64, "difference");
    output.note(&format!("{sum}; {} of the second are not in the first", counted(blocks as u64, "block")));
    Ok(if differences.is_empty() { Exit::Done } else { Exit::Differs })
}

/// Whether two files of the same size have the same content.
fn same_content(a: &Content, b: &Content, store_of_a: &dyn Store) -> Result<bool, FetchError> {
    let (by_a, by_b) = (a.fingerprint(), b.fingerprint());
    if by_a.codec() == by_b.codec() {
        return Ok(by_a == by_b);
    }
    for (index, block) in b.blocks.iter().enumerate() {
        if !block.key.is_of(&fetch_plain(store_of_a, a, index)?) {
            return Ok(false);
        }
    }
    Ok(true)
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
