//! `flist publish`

use std::path::PathBuf;

use flist::hub::RunMode;
use flist::pack::PackSummary;
use flist::publish::{Publication, Published, ask, publish};
use serde_json::json;

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::lint::Gate;
use super::output::{Output, counted, counted_entries};

/// Pack a directory and publish it on a hub: blocks first, then the versioned flist, then the link that
/// nodes follow.
///
/// Publishing the same content again changes nothing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Repository on the hub
    #[arg(long)]
    repo: String,
    /// Name of the flist, without version and ending
    #[arg(long)]
    name: String,
    /// Version of the release, three numbers: 1.0.0
    #[arg(long, value_parser = version)]
    version: semver::Version,
    /// Give other content to a version that is on the hub already
    #[arg(long)]
    replace: bool,
    /// Move the link of this run mode (dev, test, prod, qa) to the new version
    #[arg(long, value_name = "MODE")]
    run_mode: Option<RunMode>,
    /// Address of the block store, as nodes reach it; by default /store of the hub
    #[arg(long, value_name = "URL")]
    route: Option<String>,
    #[command(flatten)]
    gate: Gate,
    /// The directory to publish
    directory: PathBuf,
}

const EXAMPLES: &str = "Examples:
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --run-mode dev ./app
  flist publish --hub http://127.0.0.1:8080 --repo tf-zos --name zos --version 1.0.0 --replace ./app
  flist publish --hub https://hub.example --token-file ~/.hub-token --repo tf-zos --name zos --version 1.1.0 ./app";

fn version(text: &str) -> Result<semver::Version, String> {
    text.parse().map_err(|_| "a version has three numbers, such as 1.0.0 or 1.2.0-rc.1".to_owned())
}

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let publication = Publication {
        token: arguments.access.token.token()?,
        hub: arguments.access.hub,
        repo: arguments.repo,
        name: arguments.name,
        version: arguments.version,
        run_mode: arguments.run_mode,
        route: arguments.route,
        replace: arguments.replace,
    };
    // A hub that is not there is found before the directory is read, which takes its time.
    ask(&publication)?;
    arguments.gate.check(&arguments.directory, output)?;
    let progress = output.progress("publishing");
    let failed = |error| Failure::from(error).or_insist("to replace this one, use --replace");
    let published = publish(&publication, &arguments.directory, &progress).map_err(failed)?;
    drop(progress);
    let replaced = publication.replace;
    output.done(&as_json(&published), || text(&published, replaced))
}

fn as_json(Published { flist, link, entries, summary }: &Published) -> serde_json::Value {
    json!({
        "flist": flist.to_string(),
        "link": link.as_ref().map(ToString::to_string),
        "entries": entries,
        "bytes": summary.bytes,
        "blocks": summary.blocks,
        "new_blocks": summary.new_blocks,
        "new_bytes": summary.new_bytes,
    })
}

fn text(published: &Published, replaced: bool) -> String {
    let link = match &published.link {
        Some(link) => format!("{link} now points to it"),
        None if replaced => "whatever links to it leads to this content now".to_owned(),
        None => "no run mode was given, so no link leads to it yet".to_owned(),
    };
    let PackSummary { bytes, blocks, new_blocks, new_bytes } = published.summary;
    format!(
        "{}: {}, {}; {new_blocks} of {} were new ({} sent)\n{link}",
        published.flist,
        counted_entries(published.entries),
        counted(bytes, "byte"),
        counted(blocks as u64, "block"),
        counted(new_bytes, "byte")
    )
}
