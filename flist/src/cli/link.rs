//! `flist link`

use flist::hub::{Channel, FlistName, TagName};
use serde_json::json;

use super::failure::Failure;
use super::hub_access::{HubAccess, HubName};
use super::output::Output;
use super::trust::{Target, Unsigned, check_link};

/// Point a link to a flist, or a taglink to a tag. Readers see the old destination or the new one.
///
/// Nodes with a root of trust follow what is signed for a channel, and not where it points to; so on a hub with signed
/// releases a channel is pointed to what is signed for it.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    #[command(flatten)]
    unsigned: Unsigned,
    /// The name that moves: <repo>/<name>.flist for a link, <repo>/<name> for a taglink
    link: HubName,
    /// Where it is to point: <repo>/<name>.flist of any repo, or <repo>/tags/<tag>
    target: String,
}

const EXAMPLES: &str = "Examples:
  flist link --hub http://127.0.0.1:8080 tf-zos/zos:testing:latest.flist tf-zos/zos:v1.0.0.flist
  flist link --hub http://127.0.0.1:8080 tf-zos/testing tf-zos/tags/1.0.0";

pub(super) fn run(arguments: Arguments, output: &Output) -> super::Outcome {
    let Arguments { access, unsigned: Unsigned { unsigned }, link, target } = arguments;
    let (link, target) = match link {
        HubName::Flist(link) => {
            let flist: FlistName = target.parse().map_err(|error| wrong_target("link", &error))?;
            access.run(async |client| {
                if !unsigned {
                    check_link(&client, &Channel::Flist(link.clone()), Target::Flist(&flist)).await?;
                }
                Ok(client.link_to(&link, &flist).await?)
            })?;
            (link.to_string(), flist.to_string())
        }
        HubName::Taglink(link) => {
            let tag: TagName = target.parse().map_err(|error| wrong_target("taglink", &error))?;
            access.run(async |client| {
                if !unsigned {
                    check_link(&client, &Channel::Taglink(link.clone()), Target::Tag(&tag, None)).await?;
                }
                Ok(client.put_taglink(&link, &tag).await?)
            })?;
            (link.to_string(), tag.to_string())
        }
        HubName::Tag(tag) => {
            return Err(Failure::usage(format!("{tag} is a tag; its entries are set by: flist tag")));
        }
    };
    output.done(&json!({"link": link, "target": target}), || format!("{link} now points to {target}"))
}

fn wrong_target(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::usage(format!("a {what} cannot point there: {error}"))
}
