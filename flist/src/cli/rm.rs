//! `flist rm`

use flist::exit::Exit;
use flist::hub::{FlistName, HubClient, HubError, Kind, Removal};
use serde_json::json;
use tokio::sync::OnceCell;

use super::failure::Failure;
use super::hub_access::{HubAccess, HubName};
use super::output::Output;
use super::trust::Signatures;

/// Take flists, links, tags or taglinks off a hub. What others point to, and what is signed, stays, unless it is forced.
///
/// Blocks stay in the hub's store: other flists may need them.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Also what links, tags or taglinks point to, which will lead nowhere, and what is signed, which nodes will wait for
    #[arg(long)]
    force: bool,
    /// What to remove: <repo>/<name>.flist, <repo>/tags/<tag>, or <repo>/<name> for a taglink
    #[arg(value_name = "NAME", required = true)]
    names: Vec<HubName>,
}

const EXAMPLES: &str = "Examples:
  flist rm --hub http://127.0.0.1:8080 tf-zos/zos:v0.9.0.flist
  flist rm --hub http://127.0.0.1:8080 tf-zos/testing tf-zos/tags/0.9.0
  flist rm --hub http://127.0.0.1:8080 --force tf-zos/zos:v0.9.0.flist";

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, force, names } = arguments;
    let mut removed = Vec::new();
    let done = access.run(async |client| {
        let signatures = OnceCell::new();
        for name in names {
            let removal = match name {
                HubName::Flist(name) => flist_or_link(&client, name).await?,
                HubName::Tag(name) => Removal::Tag(name),
                HubName::Taglink(name) => Removal::Taglink(name),
            };
            if let (Removal::Flist(flist) | Removal::Link(flist), false) = (&removal, force)
                && let Some(signatures) = signatures.get_or_try_init(|| Signatures::on(&client)).await?
            {
                signatures.check_removal(client.url(), flist)?;
            }
            let failed = |error| Failure::from(error).or_insist("to remove it all the same, use --force");
            client.remove(&removal, force).await.map_err(failed)?;
            if !output.json {
                output.done(&(), || format!("removed {removal}"))?;
            }
            removed.push(removal.to_string());
        }
        Ok(())
    });
    match done {
        Err(failure) if output.json && !removed.is_empty() => {
            let stopped = Stopped { removed: removed.join(", "), source: failure.error };
            Err(Failure { error: Box::new(stopped), ..failure })
        }
        Err(failure) => Err(failure),
        Ok(()) if output.json => output.done(&json!({"removed": removed}), String::new),
        Ok(()) => Ok(Exit::Done),
    }
}

/// What had been removed by then, for those who only read the error.
#[derive(Debug, thiserror::Error)]
#[error("stopped after {removed} had been removed")]
struct Stopped {
    removed: String,
    source: Box<dyn std::error::Error>,
}

/// A flist and a link have the same form of name; the hub knows which it is.
async fn flist_or_link(client: &HubClient, name: FlistName) -> Result<Removal, HubError> {
    Ok(match client.light(&name).await?.light.kind {
        Kind::Symlink => Removal::Link(name),
        _ => Removal::Flist(name),
    })
}
