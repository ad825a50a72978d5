//! `flist publish` without `--sign`, on a hub that has signed releases.

use std::collections::BTreeMap;

use flist::exit::Exit;
use flist::hub::{Channel, FlistName, HubClient, RunMode, TaglinkName};
use flist::publish::Publication;

use super::What;
use crate::cli::failure::Failure;
use crate::cli::hub_access::HubAccess;
use crate::cli::trust::{Signatures, in_order};

/// What has to be told of a publication that nobody has signed; nothing where no node asks for signatures.
///
/// # Errors
/// A link would move to it, or a signed flist get another content.
pub(super) fn allowed(
    access: &HubAccess,
    publication: &Publication,
    what: &What,
) -> Result<Option<String>, Failure> {
    let Some(signatures) = access.run(async |client: HubClient| Signatures::on(&client).await)? else {
        return Ok(None);
    };
    if publication.run_mode.is_some() {
        let remedy = "sign it with --sign and --dir; or publish it without --run-mode, and sign it later with `flist trust release`; or say --unsigned, for nodes without a root of trust alone";
        return Err(refused(
            "this hub has signed releases, and nodes with a root of trust would not install what the link then leads to, because it is not signed",
            remedy,
        ));
    }
    let Publication { repo, version, .. } = publication;
    let mode = RunMode::Prod.hub_name();
    let (name, channel, flists): (_, _, BTreeMap<String, FlistName>) = match what {
        What::One(name, _) => {
            let flist = FlistName::versioned(repo, name, version)?;
            let link = FlistName::channel_link(repo, name, mode)?;
            (flist.to_string(), Channel::Flist(link), [(name.clone(), flist)].into())
        }
        What::Several(packages) => {
            let flist = |name: &String| Ok((name.clone(), FlistName::versioned(repo, name, version)?));
            let flists = packages.keys().map(flist).collect::<Result<_, Failure>>()?;
            let link = TaglinkName::new(repo, mode)?;
            (format!("{repo}/tags/{version}"), Channel::Taglink(link), flists)
        }
    };
    if publication.replace
        && let Some(signed) = flists.values().find(|flist| signatures.names(flist))
    {
        return Err(refused(
            &format!(
                "{signed} is a part of a signed release, which nodes could not install any more with other content"
            ),
            "publish another version; or sign the new content with --run-mode and --sign; or say --unsigned",
        ));
    }
    Ok(signatures.unsigned_yet(&publication.hub, &name, &channel, Some(version), &in_order(&flists)))
}

fn refused(why: &str, remedy: &str) -> Failure {
    let message = format!("nothing was published: {why}");
    Failure { remedy: Some(remedy.to_owned()), ..Failure::new(Exit::Refused, message) }
}
