//! `flist publish`

use std::path::PathBuf;

use flist::hub::RunMode;
use flist::publish::{Publication, publish};

use super::hub_access::HubAccess;
use super::lint::Gate;

/// Pack a directory and publish it on a hub: blocks first, then the versioned flist, then the link that
/// nodes follow.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Repository on the hub
    #[arg(long)]
    repo: String,
    /// Name of the flist, without version and ending
    #[arg(long)]
    name: String,
    /// Version of the release
    #[arg(long)]
    version: semver::Version,
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

pub(super) fn run(arguments: Arguments) -> super::Outcome {
    arguments.gate.check(&arguments.directory)?;
    let publication = Publication {
        token: arguments.access.token()?,
        hub: arguments.access.hub,
        repo: arguments.repo,
        name: arguments.name,
        version: arguments.version,
        run_mode: arguments.run_mode,
        route: arguments.route,
    };
    let published = publish(&publication, &arguments.directory)?;
    println!(
        "{}: {} entries, {} bytes; {} of {} blocks were new ({} bytes sent)",
        published.flist,
        published.entries,
        published.summary.bytes,
        published.summary.new_blocks,
        published.summary.blocks,
        published.summary.new_bytes
    );
    match published.link {
        Some(link) => println!("{link} now points to it"),
        None => println!("no run mode was given, so no node follows it yet"),
    }
    Ok(())
}
