//! `flist promote`

use flist::exit::Exit;
use flist::hub::{FlistName, HubClient, RunMode, TaglinkName, destination};
use serde_json::json;

use super::failure::Failure;
use super::hub_access::HubAccess;
use super::output::Output;

/// Give the nodes of one run mode what those of another have.
///
/// Points the channel of the second run mode to what the channel of the first points to now. With --name the
/// channels are links, <repo>/<name>:<run mode>:latest.flist; without it taglinks, <repo>/<run mode>.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// Repository on the hub
    #[arg(long)]
    repo: String,
    /// Name of the flist, without version and ending; not given for taglinks
    #[arg(long)]
    name: Option<String>,
    /// The run mode that has the release (dev, test, prod, qa)
    from: RunMode,
    /// The run mode that gets it
    to: RunMode,
}

const EXAMPLES: &str = "Examples:
  flist promote --hub http://127.0.0.1:8080 --repo tf-zos --name zos dev test
  flist promote --hub https://hub.example --token-file ~/.hub-token --repo tf-zos qa prod";

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, repo, name, from, to } = arguments;
    if from == to {
        return Err(Failure::usage(format!("both run modes are {from}; name two")));
    }
    let (channel, target) = access.run(async |client| match &name {
        Some(name) => promote_link(&client, &repo, name, from, to).await,
        None => promote_taglink(&client, &repo, from, to).await,
    })?;
    output.done(&json!({"link": channel, "target": target}), || format!("{channel} now points to {target}"))
}

type Promoted = Result<(String, String), Failure>;

async fn promote_link(client: &HubClient, repo: &str, name: &str, from: RunMode, to: RunMode) -> Promoted {
    let (from, to) = (
        FlistName::channel_link(repo, name, from.hub_name())?,
        FlistName::channel_link(repo, name, to.hub_name())?,
    );
    let light = client.light(&from).await?.light;
    let target = destination(&from, &light)?.flist;
    if target == from {
        let message = format!("{from} is a flist, not a link; publish a version and link to it");
        return Err(Failure::new(Exit::Failed, message));
    }
    client.link_to(&to, &target).await?;
    Ok((to.to_string(), target.to_string()))
}

async fn promote_taglink(client: &HubClient, repo: &str, from: RunMode, to: RunMode) -> Promoted {
    let (from, to) = (TaglinkName::new(repo, from.hub_name())?, TaglinkName::new(repo, to.hub_name())?);
    let target = client.taglink(&from).await?;
    client.put_taglink(&to, &target).await?;
    Ok((to.to_string(), target.to_string()))
}
