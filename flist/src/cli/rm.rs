//! `flist rm`

use flist::hub::{FlistName, HubClient, HubError, Kind, Removal};

use super::hub_access::{HubAccess, HubName};

/// Take flists, links, tags or taglinks off a hub. What others point to stays, unless it is forced.
///
/// Blocks stay in the hub's store: other flists may need them.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Also what links, tags or taglinks point to; they will lead nowhere
    #[arg(long)]
    force: bool,
    /// What to remove: <repo>/<name>.flist, <repo>/tags/<tag>, or <repo>/<name> for a taglink
    #[arg(value_name = "NAME", required = true)]
    names: Vec<HubName>,
}

const EXAMPLES: &str = "Examples:
  flist rm --hub http://127.0.0.1:8080 tf-zos/zos:v0.9.0.flist
  flist rm --hub http://127.0.0.1:8080 tf-zos/testing tf-zos/tags/0.9.0";

pub(super) fn run(arguments: Arguments) -> super::Outcome {
    let Arguments { access, force, names } = arguments;
    access.run(async |client| {
        for name in names {
            let removal = match name {
                HubName::Flist(name) => flist_or_link(&client, name).await?,
                HubName::Tag(name) => Removal::Tag(name),
                HubName::Taglink(name) => Removal::Taglink(name),
            };
            client.remove(&removal, force).await?;
            println!("removed {removal}");
        }
        Ok(())
    })
}

/// A flist and a link have the same form of name; the hub knows which it is.
async fn flist_or_link(client: &HubClient, name: FlistName) -> Result<Removal, HubError> {
    Ok(match client.light(&name).await?.light.kind {
        Kind::Symlink => Removal::Link(name),
        _ => Removal::Flist(name),
    })
}
