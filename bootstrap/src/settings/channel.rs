//! What the run modes follow, as the configuration file names it.

use std::path::Path;
use std::time::Duration;

use flist::hub::{Channel, FlistName, PackageRepo, Packages, ReleaseVersion, RunMode, TagName, TaglinkName};
use semver::Version;
use serde::Deserialize;

use super::file::{ConfigFile, seconds_within};
use super::{Overrides, Settings, SettingsError};
use crate::boot_report::{MAX_PATIENCE, PATIENCE};
use crate::kernel_params::KernelParams;

/// Where the channels of the run modes are on a hub.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ChannelNames {
    repo: String,
    name: String,
    layout: Layout,
    variant: Option<String>,
    packages: Option<String>,
}

/// How a hub names what a run mode offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Layout {
    /// As a tag where there is one, else as a link.
    #[default]
    Auto,
    /// A taglink `<repo>/<run mode>` to a tag.
    Tag,
    /// A link `<repo>/<name>:<run mode>:latest.flist` to a flist.
    Link,
}

impl Default for ChannelNames {
    fn default() -> Self {
        Self {
            repo: "tf-zos".to_owned(),
            name: "zos".to_owned(),
            layout: Layout::Auto,
            variant: None,
            packages: None,
        }
    }
}

impl ChannelNames {
    fn taglink(&self, run_mode: RunMode) -> Result<Channel, SettingsError> {
        let name = match &self.variant {
            Some(variant) => format!("{}-{variant}", run_mode.hub_name()),
            None => run_mode.hub_name().to_owned(),
        };
        TaglinkName::new(&self.repo, &name).map(Channel::Taglink).map_err(SettingsError::Taglink)
    }

    fn link(&self, run_mode: RunMode) -> Result<Channel, SettingsError> {
        let link = FlistName::channel_link(&self.repo, &self.name, run_mode.hub_name());
        link.map(Channel::Flist).map_err(SettingsError::Channel)
    }

    /// What this run mode can follow, with the packages of each: the first one that the hub has counts.
    pub(super) fn of(
        &self,
        run_mode: RunMode,
        path: &Path,
    ) -> Result<Vec<(Channel, Packages)>, SettingsError> {
        let bad_repo = |reason: &'static str| SettingsError::Range {
            path: path.to_owned(),
            key: "channel.packages",
            value: self.packages.clone().unwrap_or_default(),
            expected: format!("the name of a repo, but {reason}"),
        };
        let repo = self.packages.as_ref().map(|base| PackageRepo::of(base, run_mode)).transpose();
        let (tagged, repo) = (self.packages(), repo.map_err(bad_repo)?);
        let tag = (self.taglink(run_mode)?, tagged.clone());
        let link = (self.link(run_mode)?, Packages { repo, ..tagged });
        Ok(match self.layout {
            Layout::Auto => vec![tag, link],
            Layout::Tag => vec![tag],
            Layout::Link => vec![link],
        })
    }

    /// A version instead of what this run mode offers now, by the names that hubs have for it; and what it is a version
    /// of, in the same order.
    pub(super) fn pinned(
        &self,
        version: &Version,
        run_mode: RunMode,
        path: &Path,
    ) -> Result<(Vec<(Channel, Packages)>, Pin), SettingsError> {
        let channels = self.of(run_mode, path)?;
        let named = |(channel, packages): &(Channel, Packages)| {
            Ok((version_of(channel, &version.to_string())?, packages.clone()))
        };
        let pinned = channels.iter().map(named).collect::<Result<_, SettingsError>>()?;
        let of = channels.into_iter().map(|(channel, _)| channel).collect();
        Ok((pinned, Pin { version: version.clone(), of }))
    }

    /// How the packages of a channel are found that was asked for by its name.
    pub(super) fn packages(&self) -> Packages {
        Packages { boot: self.name.clone(), repo: None }
    }
}

/// What says which channels a node follows, in the order in which it is weighed; for people. Pure.
pub(super) fn said_by(file: &ConfigFile, params: &KernelParams, overrides: &Overrides) -> &'static str {
    let said = [
        (overrides.flist.is_some(), "--flist"),
        (params.flist.is_some(), "flist= on the kernel command line"),
        (params.version.is_some(), "version= on the kernel command line"),
        (file.flist.is_some(), "flist in the configuration file"),
        (overrides.run_mode.is_some(), "--run-mode"),
        (params.run_mode.is_some(), "runmode= on the kernel command line"),
        (file.run_mode.is_some(), "run_mode in the configuration file"),
    ];
    said.into_iter().find_map(|(is_said, by)| is_said.then_some(by)).unwrap_or("the default run mode")
}

/// How a hub names a version of what a channel offers: the tag of this name, or the flist with it in its name. Pure.
fn version_of(channel: &Channel, version: &str) -> Result<Channel, SettingsError> {
    let tag = |repo: &str| TagName::new(repo, version).map(Channel::Tag).map_err(SettingsError::Tag);
    match channel {
        Channel::Taglink(link) => tag(link.repo()),
        Channel::Tag(other) => tag(other.repo()),
        Channel::Flist(link) => {
            let flist = FlistName::new(link.repo(), &format!("{}:v{version}.flist", link.package()));
            flist.map(Channel::Flist).map_err(SettingsError::Channel)
        }
    }
}

/// One version of what the run mode follows, instead of the newest.
///
/// Without signatures it is what a hub has under the names for this version. What is signed says itself which version
/// of which channel it is, whatever its flists are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    version: Version,
    /// What the run mode follows: for each of [`Settings::channels`], what that is a version of.
    of: Vec<Channel>,
}

impl Settings {
    /// Which version of which channels is looked for among signed releases where these channels are followed, each in the
    /// place of its own; `None`: the newest of these.
    pub(crate) fn pinned(&self, channels: &[Channel]) -> Option<(Version, Vec<Channel>)> {
        let Pin { version, of } = self.pin.as_ref()?;
        let of = |channel: &Channel| {
            let at = self.channels.iter().position(|(known, _)| known == channel)?;
            of.get(at).cloned()
        };
        Some((version.clone(), channels.iter().map(of).collect::<Option<_>>()?))
    }

    /// Whether a release that this node had of a channel is of what its run mode follows, also where now or then it was
    /// asked for by its version.
    pub(crate) fn is_of_run_mode(&self, channel: &Channel, version: &ReleaseVersion) -> bool {
        let followed = self.channels.iter().map(|(channel, _)| channel);
        let of = |of: &Channel| {
            *of == *channel || version_of(of, &version.to_string()).is_ok_and(|named| named == *channel)
        };
        followed.chain(self.pin.iter().flat_map(|pin| &pin.of)).any(of)
    }

    /// Whether this node can follow this channel.
    pub fn follows(&self, channel: &Channel) -> bool {
        self.channels.iter().any(|(known, _)| known == channel)
    }

    /// A channel with its packages.
    pub fn followed(&self, channel: &Channel) -> (Channel, Packages) {
        match self.channels.iter().find(|(known, _)| known == channel) {
            Some(known) => known.clone(),
            // It was followed before the settings changed.
            None => {
                let boot = self.channels.first().map(|(_, packages)| packages.boot.clone());
                let boot = boot.unwrap_or_else(|| Packages::default().boot);
                (channel.clone(), Packages { boot, repo: None })
            }
        }
    }

    /// Where this node is to follow something else than this channel: what, and what says so, for people.
    pub fn asks_instead_of(&self, channel: &Channel) -> Option<String> {
        let (by, asked) = (self.channels_from, self.channel_names());
        (!self.follows(channel)).then(|| format!("{by} asks for {asked}"))
    }

    /// The names of what can be followed, for messages.
    pub fn channel_names(&self) -> String {
        let names: Vec<_> = self.channels.iter().map(|(channel, _)| channel.to_string()).collect();
        names.join(" or ")
    }
}

/// Most seconds that a newer bootstrap can be given to start.
const MAX_START_SECONDS: u64 = 600;

/// Where a newer bootstrap is looked for at boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapUpdate {
    /// Its channel; `None`: nowhere.
    pub channel: Option<Channel>,
    /// How long it may take to start.
    pub start_timeout: Duration,
    /// How long it may get no further, before the base image's tries.
    pub progress_timeout: Duration,
}

/// The same, as the configuration file says it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BootstrapNames {
    update: bool,
    flist: Option<Channel>,
    start_timeout: Option<u64>,
    progress_timeout: Option<u64>,
}

impl Default for BootstrapNames {
    fn default() -> Self {
        Self { update: true, flist: None, start_timeout: None, progress_timeout: None }
    }
}

impl BootstrapNames {
    pub(super) fn of(self, run_mode: RunMode, path: &Path) -> Result<BootstrapUpdate, SettingsError> {
        let file = match run_mode {
            RunMode::Dev => "bootstrap:development.flist",
            RunMode::Test | RunMode::Prod | RunMode::Qa => "bootstrap:latest.flist",
        };
        let usual = FlistName::new("tf-autobuilder", file).map_err(SettingsError::Channel)?;
        let channel = self.update.then(|| self.flist.unwrap_or(Channel::Flist(usual)));
        let (key, default) = ("bootstrap.start_timeout", Duration::from_secs(30));
        let start_timeout = seconds_within(path, key, self.start_timeout, default, MAX_START_SECONDS)?;
        let key = "bootstrap.progress_timeout";
        let progress_timeout = seconds_within(path, key, self.progress_timeout, PATIENCE, MAX_PATIENCE)?;
        Ok(BootstrapUpdate { channel, start_timeout, progress_timeout })
    }
}
