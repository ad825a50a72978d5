//! What a node may install: the newest signed release that is for it, fetched from a hub and compared with what was
//! signed.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::choose::{Downgrade, OfferRefusal, Pick, choose};
use super::claims::{Claims, NodeFacts};
use super::client::{Fresh, SignedTarget, TrustClient, learn_time};
use super::clock::Clocks;
use super::director::{Who, Withheld, chosen};
use super::error::TrustError;
use super::offer::SignedOffer;
use super::trusted::Trusted;
use crate::hub::{
    Channel, ChannelNameError, Download, FlistName, HubClient, HubError, Release, ReleaseId, Sha256,
};

/// What a node asks for.
#[derive(Debug, Clone)]
pub struct Wanted<'w> {
    /// The channels that it can follow.
    pub channels: &'w [Channel],
    /// What this node calls each of them, in the same order: the release carries that name. One that follows a version
    /// of a channel has another name for it than one that follows its newest.
    pub names: &'w [Channel],
    /// Which release of them.
    pub pick: Pick,
    /// What it is.
    pub node: &'w NodeFacts,
    /// Whether an older release than the installed one is taken.
    pub downgrade: Downgrade,
    /// The release that it has, which is not fetched again.
    pub known: Option<ReleaseId>,
    /// Who it is to a director.
    pub who: &'w Who,
}

/// What a node is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// What it may install now.
    pub what: What,
    /// The newer release that the director has not chosen for it, if there is one.
    pub withheld: Option<Withheld>,
}

/// What a node may install now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The release that it knows; signed until then.
    Known {
        /// When the first of the signatures expires.
        until: Timestamp,
    },
    /// Another release.
    Release(Box<Trusted<Release>>),
    /// Nothing, not even what it knows: the director has chosen nothing for it.
    Nothing,
}

/// Asks what a node may install: what is signed, and where there is a director also chosen by it.
///
/// # Errors
/// [`TrustError`].
pub async fn offered(
    client: &TrustClient,
    director: Option<&TrustClient>,
    hub: &HubClient,
    wanted: &Wanted<'_>,
    clocks: &Clocks,
) -> Result<Offered, TrustError> {
    let refreshed = client.refresh(clocks).await;
    // Flists are fetched by TLS.
    learn_time(client.state.path());
    let mut fresh = refreshed?;
    let offers = fresh.releases(wanted.node.run_mode).await?;
    let choosing =
        |offers: &[SignedOffer]| choose(offers, wanted.channels, &wanted.pick, wanted.node, wanted.downgrade);
    let (offer, withheld) = match director {
        None => (choosing(&offers).map_err(TrustError::Refusal)?, None),
        Some(director) => {
            let mut directing = director.refresh(clocks).await?;
            let now = directing.now().as_second();
            let (kept, mut others) = chosen(offers, &directing.choices().await?, wanted.who, now);
            others.retain(|(offer, _)| wanted.channels.iter().any(|channel| offer.is_on(channel)));
            match choosing(&kept) {
                Ok(offer) => {
                    let withheld = Withheld::newest(&others, Some(&offer.version));
                    (offer, withheld)
                }
                // What is installed stays: the director only has not come to this node yet.
                Err(
                    OfferRefusal::Nothing { .. }
                    | OfferRefusal::NotSigned { .. }
                    | OfferRefusal::Downgrade { .. },
                ) if !others.is_empty() => {
                    return Ok(Offered { what: What::Nothing, withheld: Withheld::newest(&others, None) });
                }
                Err(refusal) => return Err(TrustError::Refusal(refusal)),
            }
        }
    };
    let what = match wanted.known == Some(offer.release) {
        true => What::Known { until: fresh.expires() },
        false => What::Release(Box::new(fetched(hub, &offer, wanted, &fresh).await?)),
    };
    Ok(Offered { what, withheld })
}

async fn fetched(
    hub: &HubClient,
    offer: &SignedOffer,
    wanted: &Wanted<'_>,
    fresh: &Fresh,
) -> Result<Trusted<Release>, TrustError> {
    let mut channels = wanted.channels.iter().zip(wanted.names);
    let channel = channels.find(|(channel, _)| offer.is_on(channel)).map(|(_, name)| name.clone());
    let channel = channel.ok_or_else(|| {
        let (channel, run_mode) = (offer.channel.clone(), offer.run_mode);
        TrustError::Refusal(OfferRefusal::Nothing { channel, run_mode, hint: String::new() })
    })?;
    let contents = in_time(hub, offer, &channel, contents(hub, offer)).await?;
    offer.verified(channel, contents, fresh)
}

/// Waits for what is fetched of a release as long as a node does.
async fn in_time<T>(
    hub: &HubClient,
    offer: &SignedOffer,
    channel: &Channel,
    fetching: impl Future<Output = Result<T, TrustError>>,
) -> Result<T, TrustError> {
    let limit = hub.timeouts.release;
    tokio::time::timeout(limit, fetching).await.unwrap_or_else(|_| {
        let target = offer.flists.last().map(|(target, _)| target.path.clone()).unwrap_or_default();
        let (hub, channel) = (hub.url().to_owned(), channel.clone());
        let source = HubError::TooLate { hub, channel, seconds: limit.as_secs() };
        Err(TrustError::Hub { target, source: source.into() })
    })
}

/// Flists that a hub was seen to serve as they were signed.
#[derive(Debug, Default)]
pub struct Served(BTreeSet<(FlistName, u64, Sha256)>);

/// Whether a hub serves all flists of a release as they were signed. Nothing of it is kept: one flist at a time is in
/// memory. What was `served` before is not fetched again: a release may be signed for several run modes.
///
/// # Errors
/// [`TrustError::Hub`], [`TrustError::TooLong`] or [`TrustError::Mismatch`], by the name of the flist, as a node would
/// have it.
pub async fn check_served(
    hub: &HubClient,
    offer: &SignedOffer,
    served: &mut Served,
) -> Result<(), TrustError> {
    let all = async {
        fits(offer, hub.most)?;
        for (target, claims) in &offer.flists {
            let what = target.sha256().map(|sha256| (claims.flist.clone(), target.length, sha256));
            if what.as_ref().is_some_and(|what| served.0.contains(what)) {
                continue;
            }
            let mut check = target.check();
            check.update(&content(hub, target, claims).await?)?;
            check.finish()?;
            served.0.extend(what);
        }
        Ok(())
    };
    in_time(hub, offer, &named(offer)?, all).await
}

/// The channel that a release was signed for.
fn named(offer: &SignedOffer) -> Result<Channel, TrustError> {
    offer.channel.parse().map_err(|error: ChannelNameError| TrustError::BadTarget {
        target: offer.channel.clone(),
        problem: error.to_string(),
    })
}

/// All flists of a release, each of the length and the digests that were signed.
///
/// # Errors
/// As [`check_served`].
pub async fn served_flists(hub: &HubClient, offer: &SignedOffer) -> Result<Vec<Vec<u8>>, TrustError> {
    in_time(hub, offer, &named(offer)?, async {
        let contents = contents(hub, offer).await?;
        for ((target, _), content) in offer.flists.iter().zip(&contents) {
            let mut check = target.check();
            check.update(content)?;
            check.finish()?;
        }
        Ok(contents)
    })
    .await
}

/// All flists of a release, which are in memory together: they become one tree.
async fn contents(hub: &HubClient, offer: &SignedOffer) -> Result<Vec<Vec<u8>>, TrustError> {
    fits(offer, hub.most)?;
    let mut contents = Vec::new();
    for (target, claims) in &offer.flists {
        contents.push(content(hub, target, claims).await?);
    }
    Ok(contents)
}

/// Whether a node takes that many bytes, by what was signed and before anything is fetched.
fn fits(offer: &SignedOffer, limit: u64) -> Result<(), TrustError> {
    let mut length = 0_u64;
    for (target, _) in &offer.flists {
        length = length.saturating_add(target.length);
        if length > limit {
            return Err(TrustError::TooLong { target: target.path.clone(), length, limit });
        }
    }
    Ok(())
}

/// A flist of the length that was signed; whether it is the right one is seen later.
async fn content(hub: &HubClient, target: &SignedTarget, claims: &Claims) -> Result<Vec<u8>, TrustError> {
    let failed = |source: HubError| TrustError::Hub { target: target.path.clone(), source: source.into() };
    match hub.download(&claims.flist, None, target.length).await.map_err(failed)? {
        Download::Content { bytes, .. } => Ok(bytes),
        // `download` never gives this answer unless it was given validators.
        Download::NotModified => Err(failed(HubError::Status {
            url: hub.url().to_owned(),
            status: 304,
            message: String::new(),
            overridable: false,
        })),
    }
}
