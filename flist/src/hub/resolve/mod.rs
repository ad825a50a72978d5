//! From a channel to the release that it offers.
//!
//! ```text
//! channel ──taglink, tag, list, light──► Offer ──GET of each (304?)──► Release
//! ```
//!
//! What is downloaded is always a destination, never a link, so that name, version and content belong together
//! even while a link moves: a taglink is read once, and the tag that it named is what counts. Where several
//! flists were read, what names them is read once more; if it has changed by then, all begins again.

mod look;
mod offer;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::answer::Validators;
use super::channel::{Channel, Packages};
use super::client::HubClient;
use super::error::HubError;
use super::name::FlistName;
use super::release::{Release, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};
use look::{Looked, look, whole};
use offer::Offer;
pub use offer::OfferError;

/// How often a channel may change while it is read.
const ATTEMPTS: usize = 4;

/// What a poll remembers for the next one. It may be kept on disk; it proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Address of the hub: another one has other validators.
    pub hub: String,
    /// The channel.
    pub channel: Channel,
    /// The version that it offered.
    pub version: ReleaseVersion,
    /// The release that was found.
    pub release: ReleaseId,
    /// Its flists.
    pub flists: Vec<SeenFlist>,
}

/// What a poll remembers of one flist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenFlist {
    /// The package that it installs.
    pub package: String,
    /// The destination.
    pub location: FlistName,
    /// The digest of its content.
    pub sha256: Sha256,
    /// How the hub described it; `None` where its validators say more.
    pub described: Option<Described>,
    /// What its content came with.
    pub validators: Validators,
}

/// A hub's description of a content, as far as it tells a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// Length in bytes.
    pub size: u64,
    /// When it changed, in seconds since 1970.
    pub updated: i64,
    /// MD5 in hexadecimal. It proves nothing; a difference leads to a new download.
    pub md5: Option<String>,
}

/// What a poll found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The same release under the same names; the value is what to remember from now on.
    Unchanged(Seen),
    /// A release that was not known, and what to remember of it.
    Release(Box<Release>, Seen),
}

/// Finds what `channel` offers now. With what the last poll has `known`, a channel that has not changed costs
/// the requests that tell which flists it has, and for each of them one conditional request without a body (and
/// one description, where the hub sends no `ETag`).
///
/// A destination that is itself a link is used as the hub serves it; its version is the one in the name of the
/// first destination. The version of a tag is its name.
///
/// # Errors
/// The channel does not exist ([`HubError::NotFound`]), leads nowhere ([`HubError::Dangling`],
/// [`HubError::BadTarget`]), offers no usable release ([`HubError::BadOffer`]), has flists that are longer
/// together than [`MAX_FLIST`](super::MAX_FLIST), never holds still ([`HubError::Moving`]), does not come in time
/// ([`HubError::TooLate`]), or the hub could not be used.
pub async fn resolve(
    client: &HubClient,
    channel: &Channel,
    packages: &Packages,
    known: Option<&Seen>,
) -> Result<Resolution, HubError> {
    let limit = client.timeouts.release;
    match tokio::time::timeout(limit, attempts(client, channel, packages, known)).await {
        Ok(resolved) => resolved,
        Err(_) => {
            let (hub, channel) = (client.url().to_owned(), channel.clone());
            Err(HubError::TooLate { hub, channel, seconds: limit.as_secs() })
        }
    }
}

async fn attempts(
    client: &HubClient,
    channel: &Channel,
    packages: &Packages,
    known: Option<&Seen>,
) -> Result<Resolution, HubError> {
    let known = known.filter(|seen| seen.channel == *channel && seen.hub == client.url());
    for _ in 0..ATTEMPTS {
        if let Some(resolution) = attempt(client, channel, packages, known).await? {
            return Ok(resolution);
        }
    }
    Err(HubError::Moving { channel: channel.clone() })
}

/// As [`resolve`], of the first of these channels that the hub has; each with its packages.
///
/// # Errors
/// As [`resolve`]; [`HubError::NotFound`] when the hub has none of them.
pub async fn resolve_first(
    client: &HubClient,
    channels: &[(Channel, Packages)],
    known: Option<&Seen>,
) -> Result<Resolution, HubError> {
    for (channel, packages) in channels {
        match resolve(client, channel, packages, known).await {
            Err(HubError::NotFound { .. }) if channels.len() > 1 => {}
            other => return other,
        }
    }
    let names: Vec<_> = channels.iter().map(|(channel, _)| channel.to_string()).collect();
    Err(HubError::NotFound { what: names.join(" or "), hub: client.url().to_owned() })
}

/// One attempt; `None` when the channel changed meanwhile.
async fn attempt(
    client: &HubClient,
    channel: &Channel,
    packages: &Packages,
    known: Option<&Seen>,
) -> Result<Option<Resolution>, HubError> {
    let offer = Offer::ask(client, channel, packages).await?;
    let mut looked = Vec::new();
    for entry in &offer.entries {
        let known = known.and_then(|known| known.flists.iter().find(|flist| entry.is(flist)));
        match look(client, entry, known, room(client, &looked, &[])).await? {
            Some(one) => looked.push(one),
            None => return Ok(None),
        }
    }
    let id = ReleaseId::of(looked.iter().map(|one| (one.seen.package.as_str(), one.seen.sha256)));
    let flists = looked.iter().map(|one| one.seen.clone()).collect();
    let (hub, version) = (client.url().to_owned(), offer.version.clone());
    let seen = Seen { hub, channel: channel.clone(), version, release: id, flists };
    if known.is_some_and(|known| known.is_same_as(&seen)) {
        return Ok(Some(Resolution::Unchanged(seen)));
    }
    // A release is everything, also what has not changed.
    let mut flists = Vec::new();
    while !looked.is_empty() {
        let Looked { seen: SeenFlist { package, location, sha256, .. }, bytes } = looked.remove(0);
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => match whole(client, &location, &sha256, room(client, &looked, &flists)).await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
        };
        flists.push(ReleaseFlist { package, location, sha256, bytes });
    }
    let Some(info) = info(client, &offer, &flists, id).await? else { return Ok(None) };
    if flists.len() > 1 && offer.again(client, packages).await? != offer {
        return Ok(None);
    }
    let release = Release { channel: channel.clone(), id, version: offer.version, flists, info };
    Ok(Some(Resolution::Release(Box::new(release), seen)))
}

/// How many bytes the next flist may have, beside those that are here.
fn room(client: &HubClient, looked: &[Looked], flists: &[ReleaseFlist]) -> u64 {
    let bytes = looked.iter().filter_map(|one| one.bytes.as_ref()).map(Vec::len);
    let taken: usize = bytes.chain(flists.iter().map(|flist| flist.bytes.len())).sum();
    client.most.saturating_sub(taken as u64)
}

/// The text of flist.info: how the hub describes the flist that nodes boot from, which is the last one.
async fn info(
    client: &HubClient,
    offer: &Offer,
    flists: &[ReleaseFlist],
    id: ReleaseId,
) -> Result<Option<Map<String, Value>>, HubError> {
    let mut info = match (&offer.light, flists.last()) {
        (Some(light), _) => light.raw.clone(),
        (None, Some(boot)) => {
            let answer = client.light(&boot.location).await?;
            if answer.light.size != boot.bytes.len() as u64 {
                return Ok(None);
            }
            answer.raw
        }
        (None, None) => Map::new(),
    };
    info.insert("version".to_owned(), Value::from(offer.version.to_string()));
    info.insert("release".to_owned(), Value::from(id.to_string()));
    Ok(Some(info))
}

impl Seen {
    fn is_same_as(&self, other: &Self) -> bool {
        let names = |seen: &Self| -> Vec<_> {
            seen.flists.iter().map(|flist| (flist.package.clone(), flist.location.clone())).collect()
        };
        self.release == other.release && self.version == other.version && names(self) == names(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_poll_remembers_survives_a_round_trip() {
        let flist = SeenFlist {
            package: "zos".to_owned(),
            location: "tf-zos/zos:v1.2.3.flist".parse().unwrap(),
            sha256: Sha256::of(b"x"),
            described: Some(Described { size: 1, updated: 2, md5: Some("aa".into()) }),
            validators: Validators { etag: Some("\"e\"".into()), last_modified: None },
        };
        let seen = Seen {
            hub: "http://hub/".to_owned(),
            channel: "tf-zos/production".parse().unwrap(),
            version: "1.2.3".parse().unwrap(),
            release: ReleaseId::of([("zos", Sha256::of(b"x"))]),
            flists: vec![flist],
        };
        let json = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Seen>(&json).unwrap(), seen);
    }
}
