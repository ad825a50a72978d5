//! Service units: what a file `NAME.yaml` in zinit's directory says. Pure.

mod name;
mod order;
mod render;
mod signal;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use name::{MAX_NAME_BYTES, NameError, UnitName};
pub use order::{OrderError, missing_dependencies, order_subset, start_order, stop_order};
pub use signal::{SignalError, SignalName};

/// Largest unit file that is parsed, in bytes.
pub const MAX_UNIT_BYTES: usize = 64 << 10;

/// Longest time that [`ServiceUnit::stop_timeout`] gives a service, whatever its unit says.
pub const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(600);

/// Seconds that zinit gives a service at shutdown when its unit says nothing.
const DEFAULT_SHUTDOWN_TIMEOUT: u64 = 10;

/// A parsed unit.
///
/// [`parse`](Self::parse) takes what zinit 0.2 takes, with two exceptions, both errors here: a
/// dependency in `after` that is no [`UnitName`], and a mistake in the `molt` block, which zinit
/// ignores. Keys that zinit does not know are ignored as zinit does, and [`render`](Self::render)
/// does not bring them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUnit {
    /// The command line, in shell words but run without a shell; see [`command`](Self::command).
    pub exec: String,
    /// A command that tells by exit code 0 that the service is ready; tried every two seconds.
    pub test: Option<String>,
    /// Runs to its end once, instead of being kept alive.
    pub oneshot: bool,
    /// Seconds that zinit waits for the service at its own shutdown, as written; for our own
    /// waiting see [`stop_timeout`](Self::stop_timeout).
    pub shutdown_timeout: u64,
    /// Services that must be up before this one starts.
    pub after: Vec<UnitName>,
    /// The signal that asks the service to end.
    pub stop_signal: SignalName,
    /// Where its output goes.
    pub log: LogTarget,
    /// Environment on top of what zinit passes on.
    pub env: BTreeMap<String, String>,
    /// Working directory; `None` is `/`.
    pub dir: Option<String>,
    /// Our own settings, which zinit ignores.
    pub molt: MoltSettings,
}

/// Where the output of a service goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// Nowhere.
    None,
    /// Into zinit's ring of log lines.
    #[default]
    Ring,
    /// To zinit's own standard output.
    Stdout,
}

/// The `molt` block of a unit: how a live upgrade treats this service. Unknown keys are errors, as
/// a setting with a typing error would silently not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MoltSettings {
    /// How long the service must stay healthy after an upgrade, in seconds; `None` leaves it to the
    /// node's configuration.
    pub health_window: Option<u64>,
    /// Globs of files that the service depends on without having them open: a change to one of
    /// them makes the service affected.
    pub uses: Vec<String>,
    /// The longest downtime that an upgrade may cause without being asked for, in milliseconds; `None` is no limit.
    #[serde(alias = "max_downtime_ms")]
    pub downtime_budget: Option<u64>,
}

impl MoltSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A unit that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The file is far larger than any unit.
    #[error("unit {name} has {bytes} bytes; at most {MAX_UNIT_BYTES} are read")]
    TooLarge {
        /// The unit.
        name: UnitName,
        /// Its size.
        bytes: usize,
    },
    /// The text is no YAML, or a key has a value of the wrong kind.
    #[error("unit {name} is not valid")]
    Yaml {
        /// The unit.
        name: UnitName,
        /// Where and why.
        source: serde_yaml::Error,
    },
    /// There is no command.
    #[error("unit {name} has no `exec`; give it the command line to run")]
    NoExec {
        /// The unit.
        name: UnitName,
    },
    /// The command line has no program, or a quote in it is not closed.
    #[error("a command line has an open quote or no program: {command:?}")]
    BadCommand {
        /// The command line.
        command: String,
    },
}

impl ServiceUnit {
    /// A unit that runs `exec` and has the defaults otherwise.
    pub fn new(exec: impl Into<String>) -> Self {
        Self::from(UnitFile { exec: exec.into(), ..UnitFile::default() })
    }

    /// Parses the text of the file `NAME.yaml`.
    ///
    /// # Errors
    /// See [`UnitError`]. A command line that cannot be split is none of them: zinit loads such a
    /// unit, and fails when it starts it.
    pub fn parse(name: &UnitName, text: &str) -> Result<Self, UnitError> {
        if text.len() > MAX_UNIT_BYTES {
            return Err(UnitError::TooLarge { name: name.clone(), bytes: text.len() });
        }
        let file: UnitFile =
            serde_yaml::from_str(text).map_err(|source| UnitError::Yaml { name: name.clone(), source })?;
        if file.exec.is_empty() {
            return Err(UnitError::NoExec { name: name.clone() });
        }
        Ok(Self::from(file))
    }

    /// The unit as YAML text, which parses to an equal unit. Keys with their default are left out;
    /// equal units give equal bytes.
    pub fn render(&self) -> String {
        render::render(self)
    }

    /// The program and arguments of `exec`, split as zinit splits them.
    ///
    /// # Errors
    /// [`UnitError::BadCommand`].
    pub fn command(&self) -> Result<Vec<String>, UnitError> {
        split_command(&self.exec)
    }

    /// The program and arguments of `test`, if there is one.
    ///
    /// # Errors
    /// [`UnitError::BadCommand`].
    pub fn test_command(&self) -> Result<Option<Vec<String>>, UnitError> {
        self.test.as_deref().map(split_command).transpose()
    }

    /// How long to wait for the service to end before it is killed: its `shutdown_timeout`, but at
    /// most [`MAX_STOP_TIMEOUT`].
    pub fn stop_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_timeout).min(MAX_STOP_TIMEOUT)
    }

    /// The directory it runs in.
    pub fn working_directory(&self) -> &str {
        self.dir.as_deref().unwrap_or("/")
    }
}

fn split_command(command: &str) -> Result<Vec<String>, UnitError> {
    match shlex::split(command) {
        Some(words) if !words.is_empty() => Ok(words),
        _ => Err(UnitError::BadCommand { command: command.to_owned() }),
    }
}

/// The file's own shape; zinit writes "not there" as an empty string.
#[derive(Deserialize)]
#[serde(default)]
struct UnitFile {
    exec: String,
    test: String,
    oneshot: bool,
    shutdown_timeout: u64,
    after: Vec<UnitName>,
    signal: SignalBlock,
    log: LogTarget,
    env: BTreeMap<String, String>,
    dir: String,
    molt: Option<MoltSettings>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SignalBlock {
    stop: SignalName,
}

impl Default for UnitFile {
    fn default() -> Self {
        Self {
            exec: String::new(),
            test: String::new(),
            oneshot: false,
            shutdown_timeout: DEFAULT_SHUTDOWN_TIMEOUT,
            after: Vec::new(),
            signal: SignalBlock::default(),
            log: LogTarget::default(),
            env: BTreeMap::new(),
            dir: String::new(),
            molt: None,
        }
    }
}

impl From<UnitFile> for ServiceUnit {
    fn from(file: UnitFile) -> Self {
        let given = |text: String| (!text.is_empty()).then_some(text);
        Self {
            exec: file.exec,
            test: given(file.test),
            oneshot: file.oneshot,
            shutdown_timeout: file.shutdown_timeout,
            after: file.after,
            stop_signal: file.signal.stop,
            log: file.log,
            env: file.env,
            dir: given(file.dir),
            molt: file.molt.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServiceUnit, UnitError> {
        ServiceUnit::parse(&"redis".parse().unwrap(), text)
    }

    #[test]
    fn every_key_is_read() {
        let unit = parse(
            "exec: redis-server --port 6379 'a b'\n\
             test: redis-cli ping\n\
             oneshot: true\n\
             shutdown_timeout: 3\n\
             after: [net, disk]\n\
             signal: {stop: sigint}\n\
             log: stdout\n\
             env: {PORT: \"6379\"}\n\
             dir: /srv\n\
             molt: {health_window: 30, uses: [/etc/redis/*], downtime_budget: 500}\n\
             of_a_newer_zinit: 1\n",
        )
        .unwrap();
        assert_eq!(unit.command().unwrap(), ["redis-server", "--port", "6379", "a b"]);
        assert_eq!(unit.test_command().unwrap().unwrap(), ["redis-cli", "ping"]);
        assert!(unit.oneshot);
        assert_eq!(unit.stop_timeout(), Duration::from_secs(3));
        assert_eq!(unit.after.iter().map(UnitName::as_str).collect::<Vec<_>>(), ["net", "disk"]);
        assert_eq!(unit.stop_signal.as_str(), "SIGINT");
        assert_eq!(unit.log, LogTarget::Stdout);
        assert_eq!(unit.env["PORT"], "6379");
        assert_eq!(unit.working_directory(), "/srv");
        let molt = MoltSettings {
            health_window: Some(30),
            uses: vec!["/etc/redis/*".to_owned()],
            downtime_budget: Some(500),
        };
        assert_eq!(unit.molt, molt);
    }

    #[test]
    fn defaults_are_zinit_s() {
        let unit = parse("exec: sleep 1\ntest: ''\ndir: \"\"\n").unwrap();
        assert_eq!(unit, ServiceUnit::new("sleep 1"));
        assert_eq!((unit.oneshot, unit.shutdown_timeout, unit.log), (false, 10, LogTarget::Ring));
        assert_eq!(unit.stop_signal, SignalName::TERM);
        assert_eq!((unit.test_command().unwrap(), unit.working_directory()), (None, "/"));
        assert_eq!(parse("exec: a\nsignal: {}\nmolt:\n").unwrap(), ServiceUnit::new("a"));
    }

    #[test]
    fn bad_units_say_what_is_wrong() {
        for text in [
            "exec: [a",
            "exec: 'a'\nexec: 'b'",
            "exec: {}",
            "exec: a\noneshot: maybe",
            "exec: a\nshutdown_timeout: -1",
            "exec: a\nsignal: {stop: TERM}",
            "exec: a\nsignal: {stop: '15'}",
            "exec: a\nlog: syslog",
            "exec: a\nafter: [../b]",
            "exec: a\nmolt: {helth_window: 3}",
            "exec: a\nmolt: {max_downtime_ms: -1}",
            "- a\n- b",
        ] {
            assert!(matches!(parse(text), Err(UnitError::Yaml { .. })), "{text}: {:?}", parse(text));
        }
        assert!(matches!(parse("{}"), Err(UnitError::NoExec { .. })));
        assert!(matches!(parse("exec: ''"), Err(UnitError::NoExec { .. })));
        assert!(parse("").is_err());
        let large = format!("exec: a\n#{}", "x".repeat(MAX_UNIT_BYTES));
        assert!(matches!(parse(&large), Err(UnitError::TooLarge { .. })));
        let Err(UnitError::Yaml { source, .. }) = parse("exec: a\nmolt: {helth_window: 3}") else {
            panic!("accepted");
        };
        assert!(source.to_string().contains("helth_window"), "{source}");
    }

    #[test]
    fn a_yaml_bomb_does_not_go_off() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..30 {
            let last = level - 1;
            let refs = vec![format!("*a{last}"); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        // Under keys that zinit does not know it is never expanded, under ours it does not fit.
        text.push_str("exec: a\n");
        assert_eq!(parse(&text).unwrap(), ServiceUnit::new("a"));
        text.push_str("molt: {uses: *a29}\n");
        assert!(matches!(parse(&text), Err(UnitError::Yaml { .. })));
    }

    #[test]
    fn a_command_that_cannot_be_split_fails_when_it_is_split() {
        for exec in ["sh -c 'a", "   ", "# only a comment"] {
            let unit = ServiceUnit::new(exec);
            assert!(matches!(unit.command(), Err(UnitError::BadCommand { .. })), "{exec}");
        }
        assert!(parse("exec: \"sh -c 'a\"").is_ok());
    }

    #[test]
    fn the_wait_for_an_end_is_capped() {
        let unit = parse(&format!("exec: a\nshutdown_timeout: {}", u64::MAX)).unwrap();
        assert_eq!(unit.stop_timeout(), MAX_STOP_TIMEOUT);
        assert_eq!(unit.shutdown_timeout, u64::MAX);
    }
}
