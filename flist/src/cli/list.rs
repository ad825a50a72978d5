//! `flist list`

use flist::exit::Exit;
use flist::hub::{Kind, ListingEntry, TagName};

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::output::Output;

/// List what a hub has: its repos, what is in a repo, or in a tag. With --json in the hub's own form.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// A repo, or a tag: <repo>/tags/<tag>; without it the repos
    place: Option<String>,
}

const EXAMPLES: &str = "Examples:
  flist list --hub http://127.0.0.1:8080
  flist list --hub http://127.0.0.1:8080 tf-zos
  flist list --hub http://127.0.0.1:8080 --json tf-zos/tags/1.0.0";

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, place } = arguments;
    let Some(place) = place else {
        let repos = access.run(async |client| Ok(client.repos().await?))?;
        if repos.is_empty() {
            output.note(&format!("hub {} has no repos yet; flist publish makes one", access.hub));
        }
        return output.data(&repos, || repos.iter().map(|repo| shown(&repo.name)).collect());
    };
    let place = place.trim_end_matches('/');
    let entries = match place.contains('/') {
        true => {
            let tag: TagName = place.parse().map_err(|error: flist::hub::TagNameError| {
                Failure::new(Exit::Usage, format!("only repos and tags can be listed: {error}"))
            })?;
            access.run(async |client| Ok(client.tag(&tag).await?))?
        }
        false => access.run(async |client| Ok(client.list(place).await?))?,
    };
    if entries.is_empty() {
        output.note(&format!("there is nothing in {place}"));
    }
    output.data(&entries, || entries.iter().map(line).collect())
}

/// One line: kind, size, name, and where a link points to.
fn line(entry: &ListingEntry) -> String {
    let kind = match entry.kind {
        Kind::Regular => "flist",
        Kind::Symlink => "link",
        Kind::Taglink => "taglink",
        Kind::Tag => "tag",
        Kind::Other => "other",
    };
    let target = entry.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    shown(&format!("{kind:<8}{:>12}  {}{target}", entry.size, entry.name))
}

/// A line of what comes from the hub; a terminal must not obey it.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).chain(['\n']).collect()
}
