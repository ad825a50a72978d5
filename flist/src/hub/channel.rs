//! What a node can follow on a hub, and where a link leads to. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::model::{Kind, Light};
use super::name::{FlistName, NameError, check_component, printable};
use super::release::ReleaseVersion;
use super::run_mode::RunMode;
use super::tag::{TagName, TaglinkName};

/// Longest flist that is accepted, in bytes.
pub const MAX_FLIST: u64 = 256 * 1024 * 1024;

/// The forms of a channel's name, for messages.
pub(crate) const CHANNEL_FORMS: &str =
    "<repo>/<name>.flist (a flist or a link to one), <repo>/<name> (a taglink) or <repo>/tags/<tag>";

/// A text is not the name of something that can be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is nothing that can be followed: {reason}; expected {CHANNEL_FORMS}")]
pub struct ChannelNameError {
    /// What was given, without control characters, cut to a printable length.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What a node follows on a hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Channel {
    /// A link to a flist, or a flist, which then follows its own content: `<repo>/<name>.flist`.
    Flist(FlistName),
    /// A movable name for a tag: `<repo>/<name>`.
    Taglink(TaglinkName),
    /// A tag, whose entries may be replaced: `<repo>/tags/<tag>`.
    Tag(TagName),
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flist(name) => name.fmt(f),
            Self::Taglink(name) => name.fmt(f),
            Self::Tag(name) => name.fmt(f),
        }
    }
}

impl FromStr for Channel {
    type Err = ChannelNameError;

    fn from_str(text: &str) -> Result<Self, ChannelNameError> {
        let refused = |reason| ChannelNameError { text: printable(text), reason };
        if !text.contains('/') {
            Err(refused("it names no repo"))
        } else if text.ends_with(".flist") {
            text.parse().map(Self::Flist).map_err(|error: NameError| refused(error.reason))
        } else if text.contains("/tags/") {
            text.parse().map(Self::Tag).map_err(|error: super::TagNameError| refused(error.reason))
        } else {
            text.parse().map(Self::Taglink).map_err(|error: super::TagNameError| refused(error.reason))
        }
    }
}

impl TryFrom<String> for Channel {
    type Error = ChannelNameError;

    fn try_from(text: String) -> Result<Self, ChannelNameError> {
        text.parse()
    }
}

impl From<Channel> for String {
    fn from(channel: Channel) -> Self {
        channel.to_string()
    }
}

impl From<FlistName> for Channel {
    fn from(name: FlistName) -> Self {
        Self::Flist(name)
    }
}

/// A repo in which every flist is a package of the release, beside the link of a run mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageRepo {
    /// Its name.
    pub repo: String,
    /// Of several links of one package, that of this run mode counts: `<package>:<mode>:latest.flist`.
    pub run_mode: RunMode,
}

impl PackageRepo {
    /// The repo of a run mode: `base` for production, `<base>.test`, `<base>.dev` and `<base>.qa` for others.
    ///
    /// # Errors
    /// The reason why that is not the name of a repo, as the end of a sentence.
    pub fn of(base: &str, run_mode: RunMode) -> Result<Self, &'static str> {
        let repo = match run_mode {
            RunMode::Prod => base.to_owned(),
            RunMode::Dev | RunMode::Test | RunMode::Qa => format!("{base}.{run_mode}"),
        };
        check_component(&repo)?;
        Ok(Self { repo, run_mode })
    }
}

/// How the packages of a channel are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// The package that a node boots from: the last one of a release, and the one that flist.info describes.
    pub boot: String,
    /// Where the other packages are, for a channel that is a flist.
    pub repo: Option<PackageRepo>,
}

impl Default for Packages {
    fn default() -> Self {
        Self { boot: "zos".to_owned(), repo: None }
    }
}

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
    fn what_can_be_followed_has_one_of_three_forms() {
        for text in ["tf-zos/zos:production:latest.flist", "tf-zos/production", "tf-zos/tags/v1.2.3"] {
            let channel: Channel = text.parse().unwrap();
            assert_eq!(channel.to_string(), text);
            let json = serde_json::to_string(&channel).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Channel>(&json).unwrap(), channel);
        }
        for bad in ["", "zos", "tf-zos/", "/production", "../x", "a/tags/..", "a/b/c", "a/.flist", "a/tags"] {
            let error = bad.parse::<Channel>().unwrap_err().to_string();
            assert!(error.contains("expected <repo>/<name>.flist"), "{error}");
        }
    }

    #[test]
    fn repos_of_packages_are_named_after_the_run_mode() {
        let repo = |mode| PackageRepo::of("tf-zos-bins", mode).unwrap().repo;
        assert_eq!(repo(RunMode::Prod), "tf-zos-bins");
        assert_eq!(
            (repo(RunMode::Test), repo(RunMode::Dev)),
            ("tf-zos-bins.test".into(), "tf-zos-bins.dev".into())
        );
        assert!(PackageRepo::of("../x", RunMode::Dev).is_err());
    }
}
