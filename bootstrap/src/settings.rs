//! Settings of both programs: defaults, overridden by `/etc/molt/config.yaml`, by the kernel command line,
//! by arguments.

mod channel;
mod error;
mod file;
mod hub;
mod kernel;
mod trust;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flist::hub::{Channel, Packages, RunMode};
use zinit_client::UnitName;

pub use self::channel::{BootstrapUpdate, Pin};
pub use self::error::SettingsError;
pub(crate) use self::file::MAX_FILE;
pub use self::file::{CONFIG, MAX_KEPT_GENERATIONS, Maintenance};
use self::file::{ConfigFile, kept, longest_postponement, read_config, seconds_within};
pub use self::hub::{AccessFiles, HubSettings};
pub use self::kernel::{KernelPolicy, KernelSettings};
pub(crate) use self::trust::NO_DIRECTOR;
pub use self::trust::TrustSettings;
use crate::health::HealthLimits;
use crate::kernel_params::{self, KernelParams, Switches};
use crate::maintenance::{Windows, ZONEINFO};

const DEFAULT_CONFIG: &str = "/etc/molt/config.yaml";
const DEFAULT_CMDLINE: &str = "/proc/cmdline";
const DEFAULT_POLL: Duration = Duration::from_secs(600);
const MAX_POLL_SECONDS: u64 = 7 * 24 * 3600;
const DEFAULT_HANDOVER: Duration = Duration::from_secs(30);
const MAX_HANDOVER_SECONDS: u64 = 600;
const MAX_HEALTH_SECONDS: u64 = 3600;

/// Arguments of both programs that override everything else.
#[derive(Debug, Clone, clap::Args)]
pub struct Overrides {
    /// The root file system to install into
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The configuration file, which has to be there if it is named [default: /etc/molt/config.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The file with the kernel command line [default: /proc/cmdline]
    #[arg(long, value_name = "FILE")]
    pub cmdline: Option<PathBuf>,
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

impl Overrides {
    /// The configuration file.
    pub fn config(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }

    /// The file with the kernel command line.
    pub fn cmdline(&self) -> &Path {
        self.cmdline.as_deref().unwrap_or(Path::new(DEFAULT_CMDLINE))
    }

    /// Whether the files are there that somebody has named: what is in them was meant to hold.
    fn require_named(&self) -> Result<(), SettingsError> {
        let named = [("--config", &self.config), ("--cmdline", &self.cmdline)];
        let absent = |(option, path): (&'static str, &Option<PathBuf>)| {
            let path = path.clone().filter(|path| !path.exists())?;
            Some(SettingsError::Absent { option, path })
        };
        named.into_iter().find_map(absent).map_or(Ok(()), Err)
    }
}

/// What holds after everything has been weighed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The root file system.
    pub root: PathBuf,
    /// zinit's socket.
    pub zinit_socket: PathBuf,
    /// Where releases come from.
    pub hub: HubSettings,
    /// The run mode.
    pub run_mode: RunMode,
    /// What the node can follow, with the packages of each: what the run mode follows on a hub, of which the
    /// first one counts that is there, or what was asked for.
    pub channels: Vec<(Channel, Packages)>,
    /// What says so, for people: `runmode= on the kernel command line`.
    pub channels_from: &'static str,
    /// Where these are a version of something: of what.
    pub pin: Option<Pin>,
    /// Where a newer bootstrap is looked for.
    pub bootstrap: BootstrapUpdate,
    /// Time between two polls.
    pub poll_interval: Duration,
    /// How long a new identityd may take to say that it runs.
    pub handover_timeout: Duration,
    /// How long services are watched after an upgrade.
    pub health: HealthLimits,
    /// What is trusted, and who this node is to those who sign.
    pub trust: TrustSettings,
    /// What is done about another kernel in a release.
    pub kernel: KernelSettings,
    /// When upgrades may begin by themselves; `None`: at any time.
    pub maintenance: Option<Maintenance>,
    /// Generations before the current one that are kept; `None`: what suits the root.
    pub keep_generations: Option<usize>,
    /// How long a release may be postponed in all, from the first time on.
    pub longest_postponement: Duration,
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
    /// [`SettingsError`]. A configuration file that is not there is no error, unless it was named.
    pub fn load(overrides: &Overrides) -> Result<Self, SettingsError> {
        let mut settings = Self::load_without_secrets(overrides)?;
        settings.hub.access = settings.hub.shown.read(&settings.hub.urls)?;
        Ok(settings)
    }

    /// As [`Settings::load`], without what hubs are shown: for those who ask none, or read it themselves, and have to
    /// work on a node whose secrets cannot be read.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_without_secrets(overrides: &Overrides) -> Result<Self, SettingsError> {
        overrides.require_named()?;
        let params = read_params(overrides.cmdline())?;
        let file = read_config(overrides.config())?;
        Self::weigh(file, params, overrides)
    }

    /// As [`Settings::load_without_secrets`], for who has to find out what is wrong with a node: where the configuration
    /// file or the kernel command line cannot be used, what holds without it, and why it cannot.
    ///
    /// # Errors
    /// As [`Settings::load`], of arguments that cannot be used, and of files that this user may not read.
    pub fn load_what_can_be(overrides: &Overrides) -> Result<(Self, Option<SettingsError>), SettingsError> {
        overrides.require_named()?;
        let (params, of_params) = usable(read_params(overrides.cmdline()))?;
        let (file, of_file) = usable(read_config(overrides.config()))?;
        let unusable = of_file.or(of_params);
        // Each may be understood, and yet say something that cannot be.
        match Self::weigh(file, params.clone(), overrides) {
            Ok(settings) => Ok((settings, unusable)),
            Err(error) => {
                let without = Self::weigh(ConfigFile::default(), params, overrides);
                let without = without
                    .or_else(|_| Self::weigh(ConfigFile::default(), KernelParams::default(), overrides));
                Ok((without?, Some(unusable.unwrap_or(error))))
            }
        }
    }

    /// Whether both programs would start with this text as their configuration file, on a node whose kernel command line
    /// says nothing, and what they would go by then; `path` is for errors.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn check(path: &Path, text: &[u8]) -> Result<Self, SettingsError> {
        let unreadable = |error| SettingsError::Read {
            path: path.to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        };
        let text = std::str::from_utf8(text).map_err(unreadable)?;
        let nowhere = PathBuf::new;
        let overrides = Overrides {
            root: nowhere(),
            config: Some(path.to_owned()),
            cmdline: None,
            zinit_socket: nowhere(),
            hub: Vec::new(),
            store: None,
            run_mode: None,
            flist: None,
            state_dir: nowhere(),
            run_dir: nowhere(),
            cache_dir: nowhere(),
        };
        let settings = Self::weigh(file::parse(path, text)?, KernelParams::default(), &overrides)?;
        // bootstrap boots with windows that nobody can keep; identityd does not start.
        let windows = settings.maintenance.as_ref();
        let windows = windows.map(|windows| Windows::new(windows, &Path::new("/").join(ZONEINFO)));
        let unusable = |source| SettingsError::Maintenance { path: path.to_owned(), source };
        windows.transpose().map_err(unusable)?;
        Ok(settings)
    }

    /// The files without which nothing is installed, because the configuration names them, with the options that do.
    pub fn named_files(&self) -> Vec<(&'static str, &Path)> {
        self.trust.named().chain(self.hub.shown.named()).collect()
    }

    /// The files that say whom this node believes, and who it is; they need not be there.
    pub fn looked_for(&self) -> [&Path; 4] {
        let [token, certificate] = self.hub.shown.all();
        [&self.trust.root, &self.trust.director, token, certificate]
    }

    fn weigh(file: ConfigFile, params: KernelParams, overrides: &Overrides) -> Result<Self, SettingsError> {
        let run_mode = overrides.run_mode.or(params.run_mode).or(file.run_mode).unwrap_or_default();
        let asked = overrides.flist.clone().or(params.flist.clone());
        let (channels, pin) = match (asked, &params.version, file.flist.clone()) {
            (Some(channel), ..) | (None, None, Some(channel)) => {
                (vec![(channel, file.channel.packages())], None)
            }
            (None, Some(version), _) => {
                let (channels, pin) = file.channel.pinned(version, run_mode, overrides.config())?;
                (channels, Some(pin))
            }
            (None, None, None) => (file.channel.of(run_mode, overrides.config())?, None),
        };
        let channels_from = channel::said_by(&file, &params, overrides);
        let hub = HubSettings::weigh(&file, &params, overrides)?;
        let trust = TrustSettings::weigh(&file, &params);
        let seconds = |key, value, default, max| seconds_within(overrides.config(), key, value, default, max);
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
            run_mode,
            channels,
            channels_from,
            pin,
            bootstrap: file.bootstrap.of(run_mode, overrides.config())?,
            poll_interval,
            handover_timeout,
            health,
            trust,
            kernel: file.kernel.weigh(overrides.config())?,
            maintenance: file.maintenance,
            keep_generations: kept(overrides.config(), file.keep_generations)?,
            longest_postponement: longest_postponement(
                overrides.config(),
                file.longest_postponement.as_deref(),
            )?,
            protected: file.protected,
            config: overrides.config().to_owned(),
            state_dir: overrides.state_dir.clone(),
            run_dir: overrides.run_dir.clone(),
            cache_dir: overrides.cache_dir.clone(),
            switches: params.switches,
            unknown_params: params.unknown,
        })
    }
}

fn read_params(path: &Path) -> Result<KernelParams, SettingsError> {
    let cmdline = std::fs::read_to_string(path);
    let cmdline = cmdline.map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    kernel_params::parse(&cmdline).map_err(SettingsError::KernelParams)
}

/// What was read, or nothing and why; what somebody else could read stays an error.
fn usable<T: Default>(read: Result<T, SettingsError>) -> Result<(T, Option<SettingsError>), SettingsError> {
    match read {
        Ok(read) => Ok((read, None)),
        Err(SettingsError::Read { path, source }) if source.kind() == ErrorKind::PermissionDenied => {
            Err(SettingsError::Read { path, source })
        }
        Err(error) => Ok((T::default(), Some(error))),
    }
}

#[cfg(test)]
mod tests;
