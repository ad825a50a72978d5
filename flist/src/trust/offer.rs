//! Which signed releases there are, and whether what was fetched is one of them.

use std::collections::BTreeMap;

use md5::{Digest, Md5};
use semver::Version;
use serde_json::{Map, Value};

use super::claims::Claims;
use super::client::{Fresh, SignedTarget};
use super::error::TrustError;
use super::trusted::Trusted;
use crate::hub::{
    Channel, FlistName, Kind, Light, Release, ReleaseFlist, ReleaseId, ReleaseVersion, RunMode, Sha256,
};

/// Most flists that are looked at in one role.
const MAX_TARGETS: usize = 100_000;

/// A release that is signed for a run mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOffer {
    /// The run mode.
    pub run_mode: RunMode,
    /// The channel that offers it.
    pub channel: String,
    /// Its version.
    pub version: Version,
    /// Its id.
    pub release: ReleaseId,
    /// What it consists of; nodes boot from the last one.
    pub flists: Vec<(SignedTarget, Claims)>,
}

impl Fresh {
    /// All releases that are signed for a run mode, oldest first. A release of which something is missing, or that is
    /// mixed from several, is none.
    ///
    /// # Errors
    /// [`TrustError`].
    pub async fn releases(&mut self, run_mode: RunMode) -> Result<Vec<SignedOffer>, TrustError> {
        // Loads the role that is responsible for everything of this run mode.
        match self.target(&format!("{run_mode}/-/-")).await {
            Ok(_) | Err(TrustError::Unsigned { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut groups: BTreeMap<(String, Version, ReleaseId), Vec<(SignedTarget, Claims)>> = BTreeMap::new();
        for path in self.paths(run_mode.as_str()).into_iter().take(MAX_TARGETS) {
            // Only now it is known that who lists it may do so.
            let target = match self.target(&path).await {
                Ok(target) => target,
                Err(TrustError::Unsigned { .. } | TrustError::BadTarget { .. }) => continue,
                Err(error) => return Err(error),
            };
            match Claims::parse(target.custom.as_ref()) {
                Ok(claims) if claims.path() == path && claims.run_mode == run_mode => {
                    let key = (claims.channel.clone(), claims.version.clone(), claims.release);
                    groups.entry(key).or_default().push((target, claims));
                }
                Ok(_) => tracing::warn!(path, "this target says that it is another one"),
                Err(error) => tracing::warn!(path, error, "this target is no release"),
            }
        }
        let whole = |((channel, version, release), mut flists): (_, Vec<(SignedTarget, Claims)>)| {
            flists.sort_by_key(|(_, claims)| claims.index);
            let offer = SignedOffer { run_mode, channel, version, release, flists };
            let is_whole = offer.is_whole();
            if !is_whole {
                tracing::warn!(channel = offer.channel, version = %offer.version, "this release is not complete");
            }
            is_whole.then_some(offer)
        };
        let mut offers: Vec<SignedOffer> = groups.into_iter().filter_map(whole).collect();
        offers.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(offers)
    }
}

impl SignedOffer {
    /// Whether a node that follows this channel is offered it: as its channel, or as the flist itself.
    pub fn is_on(&self, channel: &Channel) -> bool {
        let is_flist = |name: &FlistName| self.flists.last().is_some_and(|(_, claims)| claims.flist == *name);
        self.channel == channel.to_string() || matches!(channel, Channel::Flist(name) if is_flist(name))
    }

    fn is_whole(&self) -> bool {
        let of = |(target, claims): &(SignedTarget, Claims)| Some((claims.name.clone(), target.sha256()?));
        let all: Option<Vec<(String, Sha256)>> = self.flists.iter().map(of).collect();
        all.is_some_and(|all| {
            ReleaseId::of(all.iter().map(|(name, sha256)| (name.as_str(), *sha256))) == self.release
        })
    }

    /// Takes what was fetched for its flists, in their order, if it is what was signed.
    ///
    /// # Errors
    /// [`TrustError::Mismatch`], by the name of the flist.
    pub fn verified(
        &self,
        channel: Channel,
        contents: Vec<Vec<u8>>,
        fresh: &Fresh,
    ) -> Result<Trusted<Release>, TrustError> {
        let mut flists = Vec::new();
        if contents.len() != self.flists.len() {
            let problem = format!("{} flists were fetched for {}", contents.len(), self.flists.len());
            return Err(TrustError::Mismatch { target: self.channel.clone(), problem });
        }
        for ((target, claims), bytes) in self.flists.iter().zip(contents) {
            let mut check = target.check();
            check.update(&bytes)?;
            check.finish()?;
            let sha256 = Sha256::of(&bytes);
            flists.push(ReleaseFlist {
                package: claims.name.clone(),
                location: claims.flist.clone(),
                sha256,
                bytes,
            });
        }
        let version = ReleaseVersion::Semver(self.version.clone());
        let info = flists.last().map(|flist| self.info(flist)).unwrap_or_default();
        let release = Release { channel, id: self.release, version, flists, info };
        Ok(Trusted::signed(release, fresh.expires()))
    }

    /// The text of flist.info, for tools that know the ancestor: what a hub would say of the flist, and nothing that
    /// only a hub says.
    fn info(&self, flist: &ReleaseFlist) -> Map<String, Value> {
        let light = Light {
            name: flist.location.file().to_owned(),
            size: flist.bytes.len() as u64,
            updated: 0,
            kind: Kind::Regular,
            md5: Some(hex::encode(Md5::digest(&flist.bytes))),
            linktime: None,
            target: None,
        };
        let mut info = match serde_json::to_value(light) {
            Ok(Value::Object(info)) => info,
            _ => Map::new(),
        };
        // When the hub got it is nothing that anybody has signed.
        info.remove("updated");
        info.insert("version".to_owned(), self.version.to_string().into());
        info.insert("release".to_owned(), self.release.to_string().into());
        info
    }
}
