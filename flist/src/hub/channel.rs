//! From a channel to the release that it offers.
//!
//! A channel is what a run mode follows: a link such as `tf-zos/zos:development:latest.flist`, or a plain
//! flist, which then follows its own content. What is downloaded is always the link's destination, never
//! the link, so that name, version and content belong together even while the link moves.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Download, Validators};
use super::client::{HubClient, LightAnswer};
use super::error::HubError;
use super::model::{Kind, Light};
use super::name::{FlistName, NameError, printable};
use super::release::{Release, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};

/// Longest flist that is accepted, in bytes.
pub const MAX_FLIST: u64 = 256 * 1024 * 1024;

/// Why a channel does not lead to a flist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The hub calls it a link but does not say where it points to.
    #[error("it is a link, but the hub does not say where to")]
    Missing,
    /// Neither a flist nor a link to one.
    #[error("it is neither a flist nor a link to one")]
    NotAFlist,
    /// The link points to itself.
    #[error("it is a link to itself")]
    Itself,
    /// The target is not in one of the forms that hubs use.
    #[error("its target '{target}' is neither <name>.flist nor ../<repo>/<name>.flist")]
    Form {
        /// The target, without control characters.
        target: String,
    },
    /// The target is not a name.
    #[error("its target is no flist's name")]
    Name {
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
}

/// The flist that a channel leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Its name.
    pub flist: FlistName,
    /// The version in its name.
    pub version: ReleaseVersion,
}

/// What a poll remembers for the next one. It may be kept on disk; it proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The destination.
    pub target: FlistName,
    /// Length of the destination in bytes, as the hub described it.
    pub size: u64,
    /// When the destination changed, in seconds since 1970, as the hub described it.
    pub updated: i64,
    /// MD5 of the destination, as the hub described it; a difference only leads to a new download.
    pub md5: Option<String>,
    /// What the destination's content came with.
    pub validators: Validators,
    /// The release that was found.
    pub release: ReleaseId,
}

/// What a poll found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The same release under the same name; the value is what to remember from now on.
    Unchanged(Seen),
    /// A release that was not known, and what to remember of it.
    Release(Box<Release>, Seen),
}

/// Finds what `channel` offers now. With what the last poll has `known`, a channel that has not changed
/// costs one description and one conditional request without a body.
///
/// A destination that is itself a link is used as the hub serves it; its version is the one in the name
/// of the first destination.
///
/// # Errors
/// The channel does not exist ([`HubError::NotFound`]), leads nowhere ([`HubError::Dangling`],
/// [`HubError::BadTarget`]), its flist is longer than [`MAX_FLIST`], or the hub could not be used.
pub async fn resolve(
    client: &HubClient,
    channel: &FlistName,
    known: Option<&Seen>,
) -> Result<Resolution, HubError> {
    let answer = client.light(channel).await?;
    let destination = destination(channel, &answer.light)
        .map_err(|source| HubError::BadTarget { link: channel.clone(), source })?;
    let same = known.filter(|seen| seen.describes(&destination.flist, &answer.light));
    let validators = same.map(|seen| &seen.validators);
    let download = client.download(&destination.flist, validators, MAX_FLIST).await;
    match (download.map_err(|error| dangling(error, channel, &destination.flist))?, same) {
        (Download::Content { bytes, validators }, _) => {
            let (release, seen) = release(channel, destination, answer, bytes, validators);
            let found = |known: &&Seen| known.target == seen.target && known.release == seen.release;
            Ok(match known.filter(found) {
                Some(_) => Resolution::Unchanged(seen),
                None => Resolution::Release(Box::new(release), seen),
            })
        }
        (Download::NotModified, Some(seen)) => Ok(Resolution::Unchanged(seen.clone())),
        // `download` never gives this answer unless it was given validators.
        (Download::NotModified, None) => {
            let (url, message) = (client.url().to_owned(), String::new());
            Err(HubError::Status { url, status: 304, message, overridable: false })
        }
    }
}

/// Where a channel leads to, by the hub's description of it. A plain flist leads to itself. Accepted
/// targets are `<name>.flist` in the channel's own repo, `../<repo>/<name>.flist` as links are stored,
/// and `<repo>/<name>.flist` as listings show them.
///
/// # Errors
/// [`TargetError`].
pub fn destination(channel: &FlistName, light: &Light) -> Result<Destination, TargetError> {
    let flist = match (light.kind, &light.target) {
        (Kind::Regular, _) => channel.clone(),
        (Kind::Symlink, Some(target)) => target_name(channel.repo(), target)?,
        (Kind::Symlink, None) => return Err(TargetError::Missing),
        (Kind::Taglink | Kind::Tag | Kind::Other, _) => return Err(TargetError::NotAFlist),
    };
    if light.kind == Kind::Symlink && flist == *channel {
        return Err(TargetError::Itself);
    }
    let version = ReleaseVersion::in_name(&flist);
    Ok(Destination { flist, version })
}

/// The flist that a link in `repo` leads to, by its target in one of the three accepted forms.
pub(crate) fn target_name(repo: &str, target: &str) -> Result<FlistName, TargetError> {
    let (sibling, rest) = match target.strip_prefix("../") {
        Some(rest) => (true, rest),
        None => (false, target),
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let name = match parts[..] {
        [repo, file] => FlistName::new(repo, file),
        [file] if !sibling => FlistName::new(repo, file),
        _ => return Err(TargetError::Form { target: printable(target) }),
    };
    name.map_err(|source| TargetError::Name { source })
}

fn release(
    channel: &FlistName,
    destination: Destination,
    answer: LightAnswer,
    bytes: Vec<u8>,
    validators: Validators,
) -> (Release, Seen) {
    let Destination { flist: location, version } = destination;
    // The package is the channel's, which stays the same when the destination is renamed.
    let package = channel.package().to_owned();
    let sha256 = Sha256::of(&bytes);
    let id = ReleaseId::of([(package.as_str(), sha256)]);
    let LightAnswer { light, raw: mut info } = answer;
    info.insert("version".to_owned(), Value::from(version.to_string()));
    info.insert("release".to_owned(), Value::from(id.to_string()));
    let seen = Seen {
        target: location.clone(),
        size: light.size,
        updated: light.updated,
        md5: light.md5,
        validators,
        release: id,
    };
    let flists = vec![ReleaseFlist { package, location, sha256, bytes }];
    (Release { channel: channel.clone(), id, version, flists, info }, seen)
}

fn dangling(error: HubError, channel: &FlistName, target: &FlistName) -> HubError {
    match error {
        HubError::NotFound { hub, .. } if channel != target => {
            HubError::Dangling { link: channel.clone(), target: target.clone(), hub }
        }
        other => other,
    }
}

impl Seen {
    /// Whether a description is of what was seen, as far as it tells. Where it tells more than the
    /// validators (whose time has a resolution of a second), a difference makes the request unconditional.
    fn describes(&self, target: &FlistName, light: &Light) -> bool {
        self.target == *target
            && self.size == light.size
            && self.updated == light.updated
            && self.md5 == light.md5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn light(kind: Kind, target: Option<&str>) -> Light {
        Light {
            name: "zos:production:latest.flist".to_owned(),
            size: 1,
            updated: 2,
            kind,
            md5: None,
            linktime: None,
            target: target.map(str::to_owned),
        }
    }

    fn channel() -> FlistName {
        FlistName::channel_link("tf-zos", "zos", "production").unwrap()
    }

    #[test]
    fn every_form_of_target_leads_to_its_flist() {
        for (target, flist, version) in [
            ("zos:v1.2.3.flist", "tf-zos/zos:v1.2.3.flist", "1.2.3"),
            ("../tf-autobuilder/zos-a-1.0.0.flist", "tf-autobuilder/zos-a-1.0.0.flist", "1.0.0"),
            ("tf-autobuilder/zos:nightly.flist", "tf-autobuilder/zos:nightly.flist", "nightly"),
            ("../tf-zos/zos:v3.0.0-rc1.flist", "tf-zos/zos:v3.0.0-rc1.flist", "3.0.0-rc1"),
        ] {
            let found = destination(&channel(), &light(Kind::Symlink, Some(target))).unwrap();
            assert_eq!((found.flist.to_string(), found.version.to_string()), (flist.into(), version.into()));
        }
    }

    #[test]
    fn a_plain_flist_leads_to_itself() {
        let plain: FlistName = "tf-zos/zos:v1.2.3.flist".parse().unwrap();
        let found = destination(&plain, &light(Kind::Regular, None)).unwrap();
        assert_eq!((&found.flist, found.version.to_string()), (&plain, "1.2.3".into()));
    }

    #[test]
    fn hostile_targets_are_refused() {
        for target in [
            "",
            "/",
            "..",
            "../",
            "../..",
            "../../etc",
            "../../etc/passwd.flist",
            "../../../x/y.flist",
            "/etc/passwd.flist",
            "/x.flist",
            "zos:v1.2.3",
            ".flist",
            "../x.flist",
            "../.tag-1/x.flist",
            ".tag-1/x.flist",
            "tf-zos/tags/1.0.0",
            "a/b/x.flist",
            "a//x.flist",
            "x\0.flist",
            "x\n.flist",
            "http://evil/x.flist",
        ] {
            let found = destination(&channel(), &light(Kind::Symlink, Some(target)));
            assert!(found.is_err(), "{target:?} leads to {found:?}");
        }
    }

    #[test]
    fn other_things_than_flists_and_links_are_refused() {
        let at = |kind, target| destination(&channel(), &light(kind, target));
        assert_eq!(at(Kind::Symlink, None), Err(TargetError::Missing));
        assert_eq!(at(Kind::Taglink, Some("tf-zos/tags/1.0.0")), Err(TargetError::NotAFlist));
        assert_eq!(at(Kind::Other, Some("zos.flist")), Err(TargetError::NotAFlist));
        let itself = "../tf-zos/zos:production:latest.flist";
        assert_eq!(at(Kind::Symlink, Some(itself)), Err(TargetError::Itself));
    }

    #[test]
    fn what_a_poll_remembers_survives_a_round_trip() {
        let seen = Seen {
            target: "tf-zos/zos:v1.2.3.flist".parse().unwrap(),
            size: 1,
            updated: 2,
            md5: Some("aa".into()),
            validators: Validators { etag: Some("\"e\"".into()), last_modified: None },
            release: ReleaseId::of([("zos", Sha256::of(b"x"))]),
        };
        let json = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Seen>(&json).unwrap(), seen);
        assert!(
            seen.describes(&seen.target, &Light { md5: Some("aa".into()), ..light(Kind::Symlink, None) })
        );
        assert!(!seen.describes(&seen.target, &light(Kind::Symlink, None)));
    }
}
