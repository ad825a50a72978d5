//! Settings of both programs: defaults, overridden by `/etc/molt/config.yaml`, by the kernel command line,
//! by arguments.

mod channel;
mod trust;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flist::hub::{Channel, HubClient, HubError, MAX_HUBS, NameError, Packages, RunMode, TagNameError};
use flist::store::{StoreError, StoreUrl};
use flist::tree::Route;
use serde::Deserialize;
use zinit_client::UnitName;

pub use self::channel::BootstrapUpdate;
use self::channel::{BootstrapNames, ChannelNames};
use self::trust::TrustNames;
pub use self::trust::TrustSettings;
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
    /// The channel's names do not form the name of a taglink.
    #[error("the channel has no usable name")]
    Taglink(#[source] TagNameError),
    /// The version that was asked for is no tag's name.
    #[error("the version that was asked for cannot be a tag")]
    Tag(#[source] TagNameError),
}

/// The configuration file. Unknown keys are errors, because a setting with a typing error would silently
/// not hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    #[serde(deserialize_with = "one_or_several")]
    hub: Vec<String>,
    store: Option<String>,
    run_mode: Option<RunMode>,
    flist: Option<Channel>,
    poll_interval: Option<u64>,
    handover_timeout: Option<u64>,
    start_timeout: Option<u64>,
    health_window: Option<u64>,
    keep_generations: Option<u64>,
    protected: BTreeSet<UnitName>,
    channel: ChannelNames,
    bootstrap: BootstrapNames,
    maintenance: Option<Maintenance>,
    trust: TrustNames,
    allow_downgrade: bool,
    hardware: Option<String>,
    node_id: Option<String>,
    group: Option<String>,
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

/// One text, or a list of them.
fn one_or_several<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected one address or a list of them")]
    enum OneOrSeveral {
        One(String),
        Several(Vec<String>),
    }
    Ok(match OneOrSeveral::deserialize(from)? {
        OneOrSeveral::One(one) => vec![one],
        OneOrSeveral::Several(several) => several,
    })
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
    /// Address of the hub; of several with the same content, the best one first, with commas between them
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub hub: Vec<String>,
    /// Where the blocks of flists are that do not say so themselves
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// Run mode: dev, test, prod or qa
    #[arg(long, value_name = "MODE")]
    pub run_mode: Option<RunMode>,
    /// Follow this flist, taglink or tag instead of what the run mode follows
    #[arg(long, value_name = "REPO/NAME[.flist]")]
    pub flist: Option<Channel>,
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
    /// Addresses of hubs with the same content, the best one first.
    pub hubs: Vec<String>,
    /// Where the blocks of flists are that do not say so themselves.
    pub store: Route,
    /// The run mode.
    pub run_mode: RunMode,
    /// What the node can follow, with the packages of each: what the run mode follows on a hub, of which the
    /// first one counts that is there, or what was asked for.
    pub channels: Vec<(Channel, Packages)>,
    /// Where a newer bootstrap is looked for.
    pub bootstrap: BootstrapUpdate,
    /// Time between two polls.
    pub poll_interval: Duration,
    /// How long a new identityd may take to say that it runs.
    pub handover_timeout: Duration,
    /// How long services are watched after an upgrade.
    pub health: HealthLimits,
    /// What is trusted.
    pub trust: TrustSettings,
    /// Whether nothing that a hub says is checked, because somebody said so on the kernel command line.
    pub insecure: bool,
    /// Whether a lower version than the installed one is taken.
    pub allow_downgrade: bool,
    /// What hardware this node is, as releases name it.
    pub hardware: Option<String>,
    /// What a director calls this node; `None`: what the machine is called.
    pub node_id: Option<String>,
    /// The group of nodes that it belongs to.
    pub group: Option<String>,
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

    fn weigh(file: ConfigFile, params: KernelParams, overrides: &Overrides) -> Result<Self, SettingsError> {
        let run_mode = overrides.run_mode.or(params.run_mode).or(file.run_mode).unwrap_or_default();
        let asked = overrides.flist.clone().or(params.flist);
        let channels = match (asked, params.version, file.flist) {
            (Some(channel), ..) | (None, None, Some(channel)) => vec![(channel, file.channel.packages())],
            (None, Some(version), _) => file.channel.pinned(&version, run_mode, &overrides.config)?,
            (None, None, None) => file.channel.of(run_mode, &overrides.config)?,
        };
        let given = [overrides.hub.clone(), params.hubs, file.hub, vec![DEFAULT_HUB.to_owned()]];
        let hubs = given.into_iter().find(|hubs| !hubs.is_empty()).unwrap_or_default();
        hubs.iter().try_for_each(|hub| HubClient::check_address(hub)).map_err(SettingsError::Hub)?;
        if hubs.len() > MAX_HUBS {
            return Err(SettingsError::Range {
                path: overrides.config.clone(),
                key: "hub",
                value: format!("a list of {}", hubs.len()),
                expected: format!("at most {MAX_HUBS} addresses"),
            });
        }
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
            hubs,
            store: Route::everything(store),
            run_mode,
            channels,
            bootstrap: file.bootstrap.of(run_mode, &overrides.config)?,
            poll_interval,
            handover_timeout,
            health,
            trust: file.trust.settings(),
            insecure: params.switches.insecure,
            allow_downgrade: params.switches.downgrade || file.allow_downgrade,
            hardware: file.hardware,
            node_id: file.node_id,
            group: params.group.or(file.group),
            maintenance: file.maintenance,
            keep_generations: kept(&overrides.config, file.keep_generations)?,
            protected: file.protected,
            config: overrides.config.clone(),
            state_dir: overrides.state_dir.clone(),
            run_dir: overrides.run_dir.clone(),
            cache_dir: overrides.cache_dir.clone(),
            switches: params.switches,
            unknown_params: params.unknown,
        })
    }
}

impl Settings {
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

    /// The names of what can be followed, for messages.
    pub fn channel_names(&self) -> String {
        let names: Vec<_> = self.channels.iter().map(|(channel, _)| channel.to_string()).collect();
        names.join(" or ")
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

/// Whether a configuration file can be used; it has to be there.
///
/// # Errors
/// [`SettingsError`].
pub fn check_config(path: &Path) -> Result<(), SettingsError> {
    read_config(path).map(drop)
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
        assert_eq!((&settings.hubs[..], settings.run_mode), (&["http://file".to_owned()][..], RunMode::Test));
        assert_eq!(settings.poll_interval, Duration::from_secs(5));
        assert_eq!(settings.channel_names(), "tf-zos/testing or tf-zos/zos:testing:latest.flist");
        let settings = load(file, "runmode=dev hub=http://kernel,http://second", &[]).unwrap();
        assert_eq!(
            (settings.hubs, settings.run_mode),
            (vec!["http://kernel".into(), "http://second".into()], RunMode::Dev)
        );
        let settings =
            load(file, "runmode=dev", &["--run-mode", "qa", "--hub", "http://arg,http://b"]).unwrap();
        assert_eq!(
            (settings.hubs, settings.run_mode),
            (vec!["http://arg".into(), "http://b".into()], RunMode::Qa)
        );
        for text in ["a/b.flist", "a/b", "a/tags/1.0.0"] {
            let settings = load("", &format!("flist={text}"), &[]).unwrap();
            assert_eq!((settings.channel_names().as_str(), settings.run_mode), (text, RunMode::Prod));
        }
    }

    #[test]
    fn several_hubs_are_a_list() {
        let settings = load("hub: [http://a, http://b]\n", "", &[]).unwrap();
        assert_eq!(settings.hubs, ["http://a", "http://b"]);
        assert_eq!(load("", "", &[]).unwrap().hubs, [DEFAULT_HUB]);
        assert!(matches!(load("hub: [http://a, b]\n", "", &[]), Err(SettingsError::Hub(_))));
        let error = load("hub: {a: 1}\n", "", &[]).unwrap_err();
        assert!(flist::report(&error).contains("one address or a list of them"), "{}", flist::report(&error));
        let many = vec!["http://a"; MAX_HUBS + 1].join(", ");
        assert!(matches!(load(&format!("hub: [{many}]\n"), "", &[]), Err(SettingsError::Range { .. })));
    }

    #[test]
    fn layouts_of_the_public_hub() {
        let of = |text: &str| load(text, "runmode=dev", &[]).map(|settings| settings.channels);
        let link = of("channel: {layout: link, packages: tf-zos-bins}\n").unwrap();
        let [(channel, packages)] = &link[..] else { panic!("{link:?}") };
        assert_eq!(channel.to_string(), "tf-zos/zos:development:latest.flist");
        assert_eq!(packages.repo.as_ref().unwrap().repo, "tf-zos-bins.dev");
        let tag = of("channel: {layout: tag, variant: v3light, name: os, packages: x}\n").unwrap();
        let [(channel, packages)] = &tag[..] else { panic!("{tag:?}") };
        assert_eq!(
            (channel.to_string().as_str(), packages.boot.as_str()),
            ("tf-zos/development-v3light", "os")
        );
        assert!(packages.repo.is_none());
        let error = of("channel: {packages: ../x}\n").unwrap_err().to_string();
        assert!(error.contains("channel.packages is ../x, expected the name of a repo"), "{error}");
        assert!(of("channel: {layout: stars}\n").is_err());
        // What was asked for is followed alone.
        let settings = load("channel: {packages: bins}\n", "flist=a/b.flist", &[]).unwrap();
        assert!(settings.channels.iter().all(|(_, packages)| packages.repo.is_none()));
    }

    #[test]
    fn a_newer_bootstrap_is_looked_for_by_run_mode_unless_that_is_off() {
        let of = |config: &str, cmdline: &str| {
            load(config, cmdline, &[]).unwrap().bootstrap.channel.map(|channel| channel.to_string())
        };
        assert_eq!(of("", "").as_deref(), Some("tf-autobuilder/bootstrap:latest.flist"));
        assert_eq!(of("", "runmode=dev").as_deref(), Some("tf-autobuilder/bootstrap:development.flist"));
        assert_eq!(of("bootstrap: {flist: a/b.flist}\n", "").as_deref(), Some("a/b.flist"));
        assert_eq!(of("bootstrap: {update: false}\n", ""), None);
        let bad = load("bootstrap: {start_timeout: 601}\n", "", &[]);
        assert!(matches!(bad, Err(SettingsError::Range { .. })), "{bad:?}");
    }

    #[test]
    fn flists_that_name_no_store_have_a_default_one() {
        let url = |config: &str, arguments: &[&str]| load(config, "", arguments).unwrap().store.url;
        assert_eq!(url("store: zdb://file/ns\n", &[]), "zdb://file/ns");
        assert_eq!(url("store: zdb://file/ns\n", &["--store", "dir:///arg"]), "dir:///arg");
        assert_eq!(url("", &[]), DEFAULT_STORE);
        assert!(matches!(load("store: ftp://x\n", "", &[]), Err(SettingsError::Store(_))));
    }

    #[test]
    fn a_version_on_the_kernel_command_line_pins_the_flist() {
        let settings = load("channel: {repo: a, name: b}\nflist: c/d.flist\n", "version=1.2.3", &[]).unwrap();
        assert_eq!(settings.channel_names(), "a/tags/1.2.3 or a/b:v1.2.3.flist");
        let settings = load("", "version=1.2.3", &["--flist", "a/c.flist"]).unwrap();
        assert_eq!(settings.channel_names(), "a/c.flist");
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
