//! `flist list`

use flist::hub::{Kind, ListingEntry, TagName};

use super::hub_access::HubAccess;

/// List what a hub has: its repos, what is in a repo, or in a tag.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// As JSON, in the hub's own form
    #[arg(long)]
    json: bool,
    /// A repo, or a tag: <repo>/tags/<tag>; without it the repos
    place: Option<String>,
}

const EXAMPLES: &str = "Examples:
  flist list --hub http://127.0.0.1:8080
  flist list --hub http://127.0.0.1:8080 tf-zos
  flist list --hub http://127.0.0.1:8080 --json tf-zos/tags/1.0.0";

pub(super) fn run(arguments: Arguments) -> super::Outcome {
    let Arguments { access, json, place } = arguments;
    let text = access.run(async |client| {
        let Some(place) = &place else {
            let repos = client.repos().await?;
            return match json {
                true => as_json(&repos),
                false => Ok(repos.into_iter().map(|repo| repo.name + "\n").collect()),
            };
        };
        let entries = match place.contains('/') {
            true => client.tag(&place.parse::<TagName>()?).await?,
            false => client.list(place).await?,
        };
        if json { as_json(&entries) } else { Ok(entries.iter().map(line).collect()) }
    })?;
    super::print(&text)
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
    let shown = format!("{kind:<8}{:>12}  {}{target}", entry.size, entry.name);
    // Names come from the hub; a terminal must not obey them.
    shown.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).chain(['\n']).collect()
}

fn as_json<T: serde::Serialize>(value: &T) -> Result<String, Box<dyn std::error::Error>> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
