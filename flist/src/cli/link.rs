//! `flist link`

use flist::hub::{FlistName, TagName};

use super::hub_access::{HubAccess, HubName};

/// Point a link to a flist, or a taglink to a tag. Readers see the old destination or the new one.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    access: HubAccess,
    /// The name that moves: <repo>/<name>.flist for a link, <repo>/<name> for a taglink
    link: HubName,
    /// Where it is to point: <repo>/<name>.flist of any repo, or <repo>/tags/<tag>
    target: String,
}

const EXAMPLES: &str = "Examples:
  flist link --hub http://127.0.0.1:8080 tf-zos/zos:testing:latest.flist tf-zos/zos:v1.0.0.flist
  flist link --hub http://127.0.0.1:8080 tf-zos/testing tf-zos/tags/1.0.0";

pub(super) fn run(arguments: Arguments) -> super::Outcome {
    let Arguments { access, link, target } = arguments;
    match link {
        HubName::Flist(link) => {
            let flist: FlistName = target.parse()?;
            access.run(async |client| Ok(client.link_to(&link, &flist).await?))?;
            println!("{link} now points to {flist}");
        }
        HubName::Taglink(link) => {
            let tag: TagName = target.parse()?;
            access.run(async |client| Ok(client.put_taglink(&link, &tag).await?))?;
            println!("{link} now points to {tag}");
        }
        HubName::Tag(tag) => {
            return Err(format!("{tag} is a tag; its entries are set by: flist tag").into());
        }
    }
    Ok(())
}
