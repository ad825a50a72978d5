//! `flist pack`

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use flist::format::Format;
use flist::pack::{PackSummary, pack_observed};
use flist::store::StoreUrl;
use flist::tree::Route;
use flist::{format, store};
use nix::unistd::{AccessFlags, access};
use serde_json::json;

use super::failure::Failure;
use super::hub_access::TokenAccess;
use super::output::{Output, counted, counted_entries};

/// Pack a directory into a flist; its blocks go to a store.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The flist to write
    #[arg(short = 'm', long = "meta", value_name = "OUT")]
    meta: PathBuf,
    /// Where the blocks go: dir://PATH, http(s):// of a hub's /store, zdb:// or redis://. Given several
    /// times, each can keep a range of ids (00-7f=URL), and several may keep the same
    #[arg(short, long, value_name = "[00-7f=]STORE", required = true)]
    store: Vec<Route>,
    /// Where readers will find the blocks, if that is elsewhere than where they go
    #[arg(long, value_name = "[00-7f=]STORE")]
    route: Vec<Route>,
    /// Format of the flist: fl or classic
    #[arg(long, value_name = "FORMAT", default_value = "fl")]
    format: Format,
    /// Write the stores' passwords into the flist, so that all its readers know them
    #[arg(long)]
    keep_passwords: bool,
    #[command(flatten)]
    token: TokenAccess,
    /// The directory to pack
    directory: PathBuf,
}

const EXAMPLES: &str = "Examples:
  flist pack -m app.fl -s dir:///srv/blocks ./app
  flist pack -m app.fl -s http://127.0.0.1:8080/store --token-file ~/.hub-token ./app
  flist pack --format classic -m app.flist -s zdb://127.0.0.1:9900/blocks ./app
  flist pack -m app.fl -s 00-7f=dir:///srv/a -s 80-ff=dir:///srv/b ./app";

pub(super) fn run(arguments: &Arguments, output: &Output) -> super::Outcome {
    let Arguments { meta, directory, .. } = arguments;
    check_output(meta)?;
    check_input(directory, &arguments.store)?;
    let store = store::open_for_writing(&arguments.store, arguments.token.token()?.as_ref())?;
    let progress = output.progress("packing");
    let (mut tree, summary) = pack_observed(directory, store.as_ref(), arguments.format.codec(), &progress)?;
    drop(progress);
    let routes = if arguments.route.is_empty() { &arguments.store } else { &arguments.route };
    tree.routes =
        routes.iter().map(|route| published(route, arguments.keep_passwords)).collect::<Result<_, _>>()?;
    format::write_as(&tree, meta, arguments.format)?;
    let PackSummary { bytes, blocks, new_blocks, new_bytes } = summary;
    let said = json!({
        "flist": meta,
        "entries": tree.len(),
        "bytes": bytes,
        "blocks": blocks,
        "new_blocks": new_blocks,
        "new_bytes": new_bytes,
    });
    output.done(&said, || {
        let (meta, entries) = (meta.display(), counted_entries(tree.len()));
        let (bytes, blocks) = (counted(bytes, "byte"), counted(blocks as u64, "block"));
        format!(
            "{meta}: {entries}, {bytes} in {blocks}; new to the store: {new_blocks} ({})",
            counted(new_bytes, "byte")
        )
    })
}

/// Refuses what could not be written in the end, before everything has been packed.
pub(super) fn check_output(flist: &Path) -> Result<(), Failure> {
    let directory = match flist.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let refused = |why: String| Err(Failure::usage(format!("cannot write flist {}: {why}", flist.display())));
    let shown = directory.display();
    if flist.is_dir() {
        return refused("it is a directory".to_owned());
    }
    match directory.metadata() {
        Ok(found) if !found.is_dir() => refused(format!("{shown} is not a directory")),
        Ok(_) => match access(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
            Ok(()) => Ok(()),
            Err(errno) => refused(format!("directory {shown} cannot be written: {}", errno.desc())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            refused(format!("there is no directory {shown}; make it first"))
        }
        Err(error) => refused(format!("directory {shown} cannot be used: {error}")),
    }
}

/// There has to be something to pack; and a store in the directory would be packed too, and grow while it is.
fn check_input(directory: &Path, stores: &[Route]) -> Result<(), Failure> {
    if !directory.exists() {
        return Err(Failure::usage(format!(
            "cannot pack {}: there is no such directory",
            directory.display()
        )));
    }
    // What cannot be resolved cannot be packed either, which says why.
    let Ok(packed) = directory.canonicalize() else { return Ok(()) };
    for route in stores {
        if let StoreUrl::Dir(store) = route.url.parse()?
            && resolved(&store)?.starts_with(&packed)
        {
            let (store, directory) = (store.display(), directory.display());
            return Err(Failure::usage(format!(
                "store {store} is in {directory}, so its blocks would be packed too; use a store elsewhere"
            )));
        }
    }
    Ok(())
}

/// Where a path that may not be there yet will be.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut there = path.as_path();
    loop {
        if let Ok(known) = there.canonicalize() {
            return Ok(path.strip_prefix(there).map_or(known.clone(), |rest| known.join(rest)));
        }
        match there.parent() {
            Some(parent) => there = parent,
            None => return Ok(path),
        }
    }
}

/// A route as readers get it: independent of the directory that `pack` was started in, and without the
/// password unless that is wanted.
pub(super) fn published(route: &Route, keep_password: bool) -> Result<Route, Failure> {
    let url: StoreUrl = route.url.parse()?;
    let url = match url {
        StoreUrl::Http(_) | StoreUrl::Redis(_) if keep_password => route.url.clone(),
        url => url.public()?,
    };
    Ok(Route { url, ..*route })
}
