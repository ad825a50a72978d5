//! The configuration file, `/etc/molt/config.yaml`, as it is written.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use flist::hub::{Channel, RunMode};
use flist::span;
use serde::Deserialize;
use zinit_client::UnitName;

use super::channel::{BootstrapNames, ChannelNames};
use super::error::SettingsError;
use super::hub::AccessFiles;
use super::kernel::KernelNames;
use super::trust::TrustNames;

/// Most generations before the current one that can be kept.
pub const MAX_KEPT_GENERATIONS: u64 = 100;

/// How long a release may be postponed in all, unless something else is said.
const DEFAULT_POSTPONEMENT: Duration = Duration::from_secs(14 * 24 * 3600);

/// The longest that can be said.
const MAX_POSTPONEMENT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Where the configuration file is in a root, unless an argument says otherwise.
pub const CONFIG: &str = "etc/molt/config.yaml";

/// Largest configuration file, in bytes.
pub(crate) const MAX_FILE: u64 = 64 * 1024;

/// The configuration file. Unknown keys are errors, because a setting with a typing error would silently
/// not hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConfigFile {
    #[serde(deserialize_with = "one_or_several")]
    pub(super) hub: Vec<String>,
    pub(super) hub_access: AccessFiles,
    pub(super) store: Option<String>,
    pub(super) run_mode: Option<RunMode>,
    pub(super) flist: Option<Channel>,
    pub(super) poll_interval: Option<u64>,
    pub(super) handover_timeout: Option<u64>,
    pub(super) start_timeout: Option<u64>,
    pub(super) health_window: Option<u64>,
    pub(super) keep_generations: Option<u64>,
    pub(super) longest_postponement: Option<String>,
    pub(super) protected: BTreeSet<UnitName>,
    pub(super) channel: ChannelNames,
    pub(super) bootstrap: BootstrapNames,
    pub(super) kernel: KernelNames,
    pub(super) maintenance: Option<Maintenance>,
    pub(super) trust: TrustNames,
    pub(super) allow_downgrade: bool,
    pub(super) hardware: Option<String>,
    pub(super) node_id: Option<String>,
    pub(super) group: Option<String>,
}

/// When upgrades may begin by themselves, as it is written in the configuration file. What the words mean
/// is identityd's business: a node boots with windows that it could not keep.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// The time zone of the windows: a name of the IANA's or a POSIX TZ string.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Days and times: `Sat,Sun 02:00-05:00`.
    pub windows: Vec<String>,
}

pub(super) fn utc() -> String {
    "UTC".to_owned()
}

/// One text, or a list of them.
fn one_or_several<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected one address or a list of them, with at least one")]
    enum OneOrSeveral {
        One(String),
        Several(Vec<String>),
    }
    match OneOrSeveral::deserialize(from)? {
        OneOrSeveral::One(one) => Ok(vec![one]),
        // Whoever writes this does not mean the hub that counts where none is named.
        OneOrSeveral::Several(several) if several.is_empty() => {
            Err(serde::de::Error::custom("it is an empty list; expected at least one address"))
        }
        OneOrSeveral::Several(several) => Ok(several),
    }
}

pub(super) fn read_config(path: &Path) -> Result<ConfigFile, SettingsError> {
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    // One byte more than allowed: what is cut off could still be read, and would say something else.
    std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_FILE + 1), &mut text).map_err(failed)?;
    parse(path, &text)
}

/// Reads what a configuration file says; `path` is for errors.
pub(super) fn parse(path: &Path, text: &str) -> Result<ConfigFile, SettingsError> {
    if text.len() as u64 > MAX_FILE {
        return Err(SettingsError::TooLong { path: path.to_owned(), limit: MAX_FILE });
    }
    if text.trim().is_empty() {
        return Ok(ConfigFile::default());
    }
    serde_yaml::from_str(text).map_err(|source| SettingsError::File { path: path.to_owned(), source })
}

pub(super) fn seconds_within(
    path: &Path,
    key: &'static str,
    value: Option<u64>,
    default: Duration,
    max: u64,
) -> Result<Duration, SettingsError> {
    match value {
        None => Ok(default),
        Some(seconds) if (1..=max).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Some(seconds) => Err(SettingsError::Range {
            path: path.to_owned(),
            key,
            value: seconds.to_string(),
            expected: format!("1 to {max} seconds"),
        }),
    }
}

pub(super) fn kept(path: &Path, value: Option<u64>) -> Result<Option<usize>, SettingsError> {
    let Some(number) = value else { return Ok(None) };
    match usize::try_from(number).ok().filter(|_| number <= MAX_KEPT_GENERATIONS) {
        Some(number) => Ok(Some(number)),
        None => Err(SettingsError::Range {
            path: path.to_owned(),
            key: "keep_generations",
            value: number.to_string(),
            expected: format!("0 to {MAX_KEPT_GENERATIONS}"),
        }),
    }
}

/// How long a release may be postponed in all.
pub(super) fn longest_postponement(path: &Path, value: Option<&str>) -> Result<Duration, SettingsError> {
    let Some(text) = value else { return Ok(DEFAULT_POSTPONEMENT) };
    let longest = span::parse(text).ok().filter(|longest| *longest <= MAX_POSTPONEMENT);
    longest.ok_or_else(|| SettingsError::Range {
        path: path.to_owned(),
        key: "longest_postponement",
        value: text.chars().take(80).collect(),
        expected: format!("0d to {}, such as 14d or 36h", span::text(MAX_POSTPONEMENT)),
    })
}
