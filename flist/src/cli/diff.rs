//! `flist diff`

use std::fmt::Write;
use std::path::PathBuf;

use flist::diff::{Change, Difference, Services, Sizes, diff_by, new_blocks, services, sizes};
use flist::exit::Exit;
use flist::format;
use flist::path::FlistPath;
use flist::store::{FetchError, Store, fetch_plain, open_for_reading};
use flist::tree::{Content, Limits, Route};
use serde_json::json;

use super::failure::Failure;
use super::output::{Output, counted};

/// Show what differs between two flists: + added, - removed, ~ changed, with sizes in bytes.
///
/// Then come their versions, where `flist publish` has noted them and they differ, the services whose units differ, and
/// bytes of all files: in lines that begin with #. Exits with 0 when nothing differs and with 6 when something does. No blocks are read, unless the flists are of
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

/// The tag by which `flist publish` notes the version.
const VERSION: &str = "version";

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
    let summary = Summary {
        versions: [&a, &b].map(|tree| tree.tags.get(VERSION).map(String::as_str)),
        services: services(&differences),
        sizes: sizes(&a, &b, &differences),
    };
    let [old, new] = summary.versions;
    let json = json!({
        "differences": differences, "new_blocks": blocks, "version": {"old": old, "new": new},
        "services": summary.services, "bytes": summary.sizes,
    });
    output.data(&json, || lines(&differences) + &summary.lines(&differences))?;
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

/// What is to be said of two flists as a whole.
struct Summary<'t> {
    versions: [Option<&'t str>; 2],
    services: Services,
    sizes: Sizes,
}

impl Summary<'_> {
    fn lines(&self, differences: &[Difference]) -> String {
        let mut text = String::new();
        let [old, new] = self.versions.map(|version| version.unwrap_or("none").escape_debug());
        if self.versions[0] != self.versions[1] {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "# version: {old} -> {new}");
        }
        let Services { added, removed, changed } = &self.services;
        let marked = [("+", added), ("-", removed), ("~", changed)];
        let marked = marked
            .map(|(mark, names)| names.iter().map(move |name| format!("{mark} {}", name.escape_debug())));
        let services: Vec<_> = marked.into_iter().flatten().collect();
        if !services.is_empty() {
            let _infallible = writeln!(text, "# services: {}", services.join(", "));
        }
        let Sizes { old, new, added, removed, changed_from, changed_to } = self.sizes;
        if !differences.is_empty() {
            let _infallible = writeln!(
                text,
                "# bytes: {old} -> {new}; {added} added, {removed} removed, {changed_from} -> {changed_to} changed"
            );
        }
        text
    }
}

fn lines(differences: &[Difference]) -> String {
    let mut text = String::new();
    for Difference { path, change, old_bytes, new_bytes } in differences {
        let size = |bytes: &Option<u64>| {
            bytes.map(|bytes| format!(" ({})", counted(bytes, "byte"))).unwrap_or_default()
        };
        let _infallible = match change {
            Change::Added => writeln!(text, "+ /{path}{}", size(new_bytes)),
            Change::Removed => writeln!(text, "- /{path}{}", size(old_bytes)),
            Change::Changed { what } => {
                let sizes = sizes_of(what, *old_bytes, *new_bytes);
                writeln!(text, "~ /{path} ({}{sizes})", what.join(", "))
            }
        };
    }
    text
}

/// The sizes of a file whose content is another one.
fn sizes_of(what: &[&str], old: Option<u64>, new: Option<u64>) -> String {
    match (old, new) {
        _ if !what.iter().any(|what| ["content", "kind"].contains(what)) => String::new(),
        (Some(old), Some(new)) => format!("; {old} -> {}", counted(new, "byte")),
        (Some(old), None) => format!("; {} before", counted(old, "byte")),
        (None, Some(new)) => format!("; {} now", counted(new, "byte")),
        (None, None) => String::new(),
    }
}
