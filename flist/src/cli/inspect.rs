//! `flist inspect`

use std::io::Write;
use std::path::PathBuf;

use flist::exit::Exit;
use flist::format::{self, Format};
use flist::path::{FlistPath, escape};
use flist::tree::{Entry, Kind, Limits, Tree};
use serde_json::{Value, json};

use super::output::Output;
use super::reading::Meta;

/// Show what is in a flist: one line an entry, with --json also the blocks.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    meta: Meta,
    /// The flist, unless -m names it
    flist: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  flist inspect app.fl
  flist inspect --json -m app.fl";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let flist = arguments.meta.only(arguments.flist.as_deref())?;
    let (tree, format) = format::read_with_format(&flist, &Limits::default())?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let written = if output.json {
        serde_json::to_writer_pretty(&mut out, &as_json(&tree, format))
            .map_err(Into::into)
            .and_then(|()| writeln!(out))
    } else {
        print(&tree, format, &mut out)
    };
    match written.and_then(|()| out.flush()) {
        // Somebody who pipes into `head` has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

/// One line an entry: `kind mode size uid:gid mtime path [-> target]`, unusual bytes as `%XX`.
fn print(tree: &Tree, format: Format, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "# format {}", format.as_str())?;
    for route in &tree.routes {
        writeln!(out, "# route {:02x}-{:02x} {}", route.first, route.last, route.url)?;
    }
    for (key, value) in &tree.tags {
        writeln!(out, "# tag {} {}", key.escape_debug(), value.escape_debug())?;
    }
    for (path, entry) in tree.iter() {
        let meta = &entry.meta;
        let (letter, size) = letter_and_size(&entry.kind);
        write!(out, "{letter} {:04o} {size} {}:{} {} {path}", meta.mode, meta.uid, meta.gid, meta.mtime)?;
        match &entry.kind {
            Kind::Symlink(target) => writeln!(out, " -> {}", escape(target))?,
            _ => writeln!(out)?,
        }
    }
    Ok(())
}

fn letter_and_size(kind: &Kind) -> (char, u64) {
    match kind {
        Kind::Directory => ('d', 0),
        Kind::File(content) => ('f', content.size),
        Kind::Symlink(target) => ('l', target.len() as u64),
        Kind::CharDevice(_) => ('c', 0),
        Kind::BlockDevice(_) => ('b', 0),
        Kind::Fifo => ('p', 0),
        Kind::Socket => ('s', 0),
    }
}

fn as_json(tree: &Tree, format: Format) -> Value {
    let routes: Vec<_> =
        tree.routes.iter().map(|r| json!({"first": r.first, "last": r.last, "url": r.url})).collect();
    let entries: Vec<_> = tree.iter().map(|(path, entry)| entry_as_json(path, entry)).collect();
    json!({
        "format": format.as_str(),
        "entries": entries,
        "routes": routes,
        "tags": tree.tags,
        "bytes": tree.total_bytes(),
    })
}

fn entry_as_json(path: &FlistPath, entry: &Entry) -> Value {
    let meta = &entry.meta;
    let mut value = json!({
        "path": path,
        "kind": entry.kind.word(),
        "mode": format!("{:04o}", meta.mode),
        "uid": meta.uid,
        "gid": meta.gid,
        "mtime": meta.mtime,
    });
    match &entry.kind {
        Kind::File(content) => {
            value["size"] = content.size.into();
            value["blocks"] = content
                .blocks
                .iter()
                .map(|block| json!({"id": block.id.to_string(), "key": block.key.to_string()}))
                .collect();
        }
        Kind::Symlink(target) => value["target"] = escape(target).into(),
        Kind::CharDevice(rdev) | Kind::BlockDevice(rdev) => value["rdev"] = (*rdev).into(),
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    value
}
