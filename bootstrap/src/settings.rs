//! Settings of both programs: defaults, overridden by `/etc/molt/config.yaml`, by the kernel command line,
//! by arguments.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flist::hub::{FlistName, HubClient, HubError, NameError, RunMode};
use flist::store::{StoreError, StoreUrl};
use flist::tree::{Route, Tree};
use serde::Deserialize;
use zinit_client::UnitName;

use crate::health::HealthLimits;
use crate::kernel_params::{self, KernelParams, KernelParamsError, Switches};

const DEFAULT_HUB: &str = "https://hub.grid.tf";

/// Where the blocks of flists are that do not say so themselves, as few classic ones do.
const DEFAULT_STORE: &str = "zdb://hub.grid.tf:9900";

const DEFAULT_POLL: Duration = Duration::from_secs(600);
const MAX_POLL_SECONDS: u64 = 7 * 24 * 3600;
const DEFAULT_HANDOVER: Duration = Duration::from_secs(30);
const MAX_HANDOVER_SECONDS: u64 = 600;
const MAX_HEALTH_SECONDS: u64 = 3600;

/// Most generations before the current one that can be kept.
pub const MAX_KEPT_GENERATIONS: u64 = 100;

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Why the settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is not valid.
    #[error("{path} is not valid")]
    File {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        #[source]
        source: serde_yaml::Error,
    },
    /// A value of the configuration file is out of range.
    #[error("{path}: {key} is {value}, expected {expected}")]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// The kernel command line is not usable.
    #[error("the kernel command line asks for something that cannot be")]
    KernelParams(#[source] KernelParamsError),
    /// The hub's address is none.
    #[error("the address of the hub is not usable")]
    Hub(#[source] HubError),
    /// The store's address is none.
    #[error("the address of the store is not usable")]
    Store(#[source] StoreError),
    /// The channel's names do not form the name of a flist.
    #[error("the channel has no usable name")]
    Channel(#[source] NameError),
}

/// The configuration file. Unknown keys are errors, because a setting with a typing error would silently
/// not hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    hub: Option<String>,
    store: Option<String>,
    run_mode: Option<RunMode>,
    flist: Option<FlistName>,
    poll_interval: Option<u64>,
    handover_timeout: Option<u64>,
    start_timeout: Option<u64>,
    health_window: Option<u64>,
    keep_generations: Option<u64>,
    protected: BTreeSet<UnitName>,
    channel: ChannelNames,
    maintenance: Option<Maintenance>,
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

fn utc() -> String {
    "UTC".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChannelNames {
    repo: String,
    name: String,
}

impl Default for ChannelNames {
    fn default() -> Self {
        Self { repo: "tf-zos".to_owned(), name: "zos".to_owned() }
    }
}

/// Arguments of both programs that override everything else.
#[derive(Debug, Clone, clap::Args)]
pub struct Overrides {
    /// The root file system to install into
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/molt/config.yaml")]
    pub config: PathBuf,
    /// The kernel command line
    #[arg(long, value_name = "FILE", default_value = "/proc/cmdline")]
    pub cmdline: PathBuf,
    /// zinit's socket
    #[arg(long, value_name = "PATH", default_value = "/var/run/zinit.sock")]
    pub zinit_socket: PathBuf,
    /// Address of the hub
    #[arg(long, value_name = "URL")]
    pub hub: Option<String>,
    /// Where the blocks of flists are that do not say so themselves
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// Run mode: dev, test, prod or qa
    #[arg(long, value_name = "MODE")]
    pub run_mode: Option<RunMode>,
    /// Follow this flist instead of the run mode's
    #[arg(long, value_name = "REPO/NAME.flist")]
    pub flist: Option<FlistName>,
    /// Generations, journal, releases that failed
    #[arg(long, value_name = "DIR", default_value = "/var/lib/molt")]
    pub state_dir: PathBuf,
    /// Lock, status, control socket
    #[arg(long, value_name = "DIR", default_value = "/run/molt")]
    pub run_dir: PathBuf,
    /// Fetched blocks
    #[arg(long, value_name = "DIR", default_value = "/var/cache/molt")]
    pub cache_dir: PathBuf,
}

/// What holds after everything has been weighed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The root file system.
    pub root: PathBuf,
    /// zinit's socket.
    pub zinit_socket: PathBuf,
    /// Address of the hub.
    pub hub: String,
    /// Where the blocks of flists are that do not say so themselves.
    pub store: Route,
    /// The run mode.
    pub run_mode: RunMode,
    /// What the node follows: the run mode's channel, or the flist that was asked for.
    pub channel: FlistName,
    /// Time between two polls.
    pub poll_interval: Duration,
    /// How long a new identityd may take to say that it runs.
    pub handover_timeout: Duration,
    /// How long services are watched after an upgrade.
    pub health: HealthLimits,
    /// When upgrades may begin by themselves; `None`: at any time.
    pub maintenance: Option<Maintenance>,
    /// Generations before the current one that are kept; `None`: what suits the root.
    pub keep_generations: Option<usize>,
    /// Services that no upgrade stops, besides those that never are.
    pub protected: BTreeSet<UnitName>,
    /// The configuration file, for messages about what is in it.
    pub config: PathBuf,
    /// Generations, journal, releases that failed (0700).
    pub state_dir: PathBuf,
    /// Lock, status, control socket (0700).
    pub run_dir: PathBuf,
    /// Fetched blocks.
    pub cache_dir: PathBuf,
    /// The group that the node belongs to.
    pub group: Option<u32>,
    /// What the kernel command line switches on.
    pub switches: Switches,
    /// Kernel parameters in our name space that nobody knows, to be reported.
    pub unknown_params: Vec<String>,
}

impl Settings {
    /// Reads the configuration file and the kernel command line and weighs them with the arguments.
    ///
    /// # Errors
    /// [`SettingsError`]. A configuration file that is not there is no error.
    pub fn load(overrides: &Overrides) -> Result<Self, SettingsError> {
        let cmdline = std::fs::read_to_string(&overrides.cmdline)
            .map_err(|source| SettingsError::Read { path: overrides.cmdline.clone(), source })?;
        let params = kernel_params::parse(&cmdline).map_err(SettingsError::KernelParams)?;
        Self::weigh(read_config(&overrides.config)?, params, overrides)
    }

    /// Where the blocks of a flist are: where it says, or in the default store.
    pub fn routes<'r>(&'r self, tree: &'r Tree) -> &'r [Route] {
        if tree.routes.is_empty() { std::slice::from_ref(&self.store) } else { &tree.routes }
    }

    fn weigh(file: ConfigFile, params: KernelParams, overrides: &Overrides) -> Result<Self, SettingsError> {
        let run_mode = overrides.run_mode.or(params.run_mode).or(file.run_mode).unwrap_or_default();
        let asked = match params.version {
            Some(version) => {
                let pinned = format!("{}:v{version}.flist", file.channel.name);
                Some(FlistName::new(&file.channel.repo, &pinned).map_err(SettingsError::Channel)?)
            }
            None => params.flist,
        };
        let channel = match overrides.flist.clone().or(asked).or(file.flist) {
            Some(flist) => flist,
            None => FlistName::channel_link(&file.channel.repo, &file.channel.name, run_mode.hub_name())
                .map_err(SettingsError::Channel)?,
        };
        let hub = overrides.hub.clone().or(params.hub).or(file.hub).unwrap_or_else(|| DEFAULT_HUB.to_owned());
        HubClient::check_address(&hub).map_err(SettingsError::Hub)?;
        let store = overrides.store.clone().or(file.store).unwrap_or_else(|| DEFAULT_STORE.to_owned());
        store.parse::<StoreUrl>().map_err(SettingsError::Store)?;
        let seconds = |key, value, default, max| seconds_within(&overrides.config, key, value, default, max);
        let poll_interval = seconds("poll_interval", file.poll_interval, DEFAULT_POLL, MAX_POLL_SECONDS)?;
        let handover_timeout =
            seconds("handover_timeout", file.handover_timeout, DEFAULT_HANDOVER, MAX_HANDOVER_SECONDS)?;
        let HealthLimits { start_timeout, window } = HealthLimits::default();
        let health = HealthLimits {
            start_timeout: seconds("start_timeout", file.start_timeout, start_timeout, MAX_HEALTH_SECONDS)?,
            window: seconds("health_window", file.health_window, window, MAX_HEALTH_SECONDS)?,
        };
        Ok(Self {
            root: overrides.root.clone(),
            zinit_socket: overrides.zinit_socket.clone(),
            hub,
            store: Route::everything(store),
            run_mode,
            channel,
            poll_interval,
            handover_timeout,
            health,
            maintenance: file.maintenance,
            keep_generations: kept(&overrides.config, file.keep_generations)?,
            protected: file.protected,
            config: overrides.config.clone(),
            state_dir: overrides.state_dir.clone(),
            run_dir: overrides.run_dir.clone(),
            cache_dir: overrides.cache_dir.clone(),
            group: params.group,
            switches: params.switches,
            unknown_params: params.unknown,
        })
    }
}

fn seconds_within(
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

fn kept(path: &Path, value: Option<u64>) -> Result<Option<usize>, SettingsError> {
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

fn read_config(path: &Path) -> Result<ConfigFile, SettingsError> {
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_FILE), &mut text).map_err(failed)?;
    if text.trim().is_empty() {
        return Ok(ConfigFile::default());
    }
    serde_yaml::from_str(&text).map_err(|source| SettingsError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use flist::tree::Meta;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        overrides: Overrides,
    }

    fn load(config: &str, cmdline: &str, arguments: &[&str]) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let (config_path, cmdline_path) = (dir.path().join("config"), dir.path().join("cmdline"));
        std::fs::write(&config_path, config).unwrap();
        std::fs::write(&cmdline_path, cmdline).unwrap();
        let mut all = vec!["x", "--config", config_path.to_str().unwrap()];
        all.extend(["--cmdline", cmdline_path.to_str().unwrap()]);
        all.extend(arguments);
        Settings::load(&Arguments::parse_from(all).overrides)
    }

    #[test]
    fn later_sources_win() {
        let file = "hub: http://file\nrun_mode: test\npoll_interval: 5\n";
        let settings = load(file, "", &[]).unwrap();
        assert_eq!((settings.hub.as_str(), settings.run_mode), ("http://file", RunMode::Test));
        assert_eq!(settings.poll_interval, Duration::from_secs(5));
        assert_eq!(settings.channel.to_string(), "tf-zos/zos:testing:latest.flist");
        let settings = load(file, "runmode=dev hub=http://kernel", &[]).unwrap();
        assert_eq!((settings.hub.as_str(), settings.run_mode), ("http://kernel", RunMode::Dev));
        let settings = load(file, "runmode=dev", &["--run-mode", "qa", "--hub", "http://arg"]).unwrap();
        assert_eq!((settings.hub.as_str(), settings.run_mode), ("http://arg", RunMode::Qa));
        let settings = load("", "flist=a/b.flist", &[]).unwrap();
        assert_eq!((settings.channel.to_string().as_str(), settings.run_mode), ("a/b.flist", RunMode::Prod));
    }

    #[test]
    fn a_flist_that_names_no_store_has_its_blocks_in_the_default_one() {
        let root = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
        let mut tree = Tree::new(root);
        let url = |settings: &Settings, tree: &Tree| settings.routes(tree)[0].url.clone();
        let settings = load("store: zdb://file/ns\n", "", &[]).unwrap();
        assert_eq!(url(&settings, &tree), "zdb://file/ns");
        let settings = load("store: zdb://file/ns\n", "", &["--store", "dir:///arg"]).unwrap();
        assert_eq!(url(&settings, &tree), "dir:///arg");
        let settings = load("", "", &[]).unwrap();
        assert_eq!(url(&settings, &tree), DEFAULT_STORE);
        tree.routes.push(Route::everything("dir:///own"));
        assert_eq!(url(&settings, &tree), "dir:///own");
        assert!(matches!(load("store: ftp://x\n", "", &[]), Err(SettingsError::Store(_))));
    }

    #[test]
    fn a_version_on_the_kernel_command_line_pins_the_flist() {
        let settings = load("channel: {repo: a, name: b}\nflist: c/d.flist\n", "version=1.2.3", &[]).unwrap();
        assert_eq!(settings.channel.to_string(), "a/b:v1.2.3.flist");
        let settings = load("", "version=1.2.3", &["--flist", "a/c.flist"]).unwrap();
        assert_eq!(settings.channel.to_string(), "a/c.flist");
    }

    #[test]
    fn mistakes_in_the_file_name_line_and_key() {
        let error = load("hub: http://x\npol_interval: 5\n", "", &[]).unwrap_err();
        let text = flist::report(&error);
        assert!(text.contains("pol_interval") && text.contains("line 2"), "{text}");
        assert!(matches!(load("poll_interval: 0\n", "", &[]), Err(SettingsError::Range { .. })));
        let error = load("maintenance: { windows: [], zone: UTC }\n", "", &[]).unwrap_err();
        assert!(flist::report(&error).contains("zone"), "{}", flist::report(&error));
    }

    #[test]
    fn how_many_generations_are_kept_is_limited() {
        assert_eq!(load("", "", &[]).unwrap().keep_generations, None);
        assert_eq!(load("keep_generations: 0\n", "", &[]).unwrap().keep_generations, Some(0));
        let error = load("keep_generations: 101\n", "", &[]).unwrap_err();
        assert!(error.to_string().contains("keep_generations is 101, expected 0 to 100"), "{error}");
    }

    #[test]
    fn services_can_be_protected() {
        assert!(load("", "", &[]).unwrap().protected.is_empty());
        let settings = load("protected: [redis, bus]\n", "", &[]).unwrap();
        assert_eq!(settings.protected.iter().map(UnitName::as_str).collect::<Vec<_>>(), ["bus", "redis"]);
        let error = load("protected: [../redis]\n", "", &[]).unwrap_err();
        assert!(flist::report(&error).contains("line 1"), "{}", flist::report(&error));
    }

    #[test]
    fn maintenance_windows_are_taken_as_they_are_written() {
        assert_eq!(load("", "", &[]).unwrap().maintenance, None);
        let settings = load("maintenance: { windows: [\"Sat 02:00-05:00\"] }\n", "", &[]).unwrap();
        let expected = Maintenance { timezone: utc(), windows: vec!["Sat 02:00-05:00".to_owned()] };
        assert_eq!(settings.maintenance, Some(expected));
    }
}
