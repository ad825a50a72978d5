//! Unit files, as zinit 0.2.11 reads them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Largest unit file, in bytes.
const MAX_UNIT_BYTES: usize = 64 << 10;

/// A unit; every empty string means "not given".
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Unit {
    pub(crate) exec: String,
    pub(crate) test: String,
    pub(crate) oneshot: bool,
    /// Seconds.
    pub(crate) shutdown_timeout: u64,
    pub(crate) after: Vec<String>,
    pub(crate) signal: Signals,
    pub(crate) log: LogTarget,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Signals {
    #[serde(deserialize_with = "signal_by_name")]
    pub(crate) stop: Signal,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogTarget {
    None,
    #[default]
    Ring,
    Stdout,
}

/// A unit file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it has more than {MAX_UNIT_BYTES} bytes")]
    TooLarge,
    #[error("it is no valid unit")]
    Yaml(#[source] serde_yaml::Error),
    #[error("it has no `exec`")]
    NoExec,
}

impl Default for Unit {
    fn default() -> Self {
        Self {
            exec: String::new(),
            test: String::new(),
            oneshot: false,
            shutdown_timeout: 10,
            after: Vec::new(),
            signal: Signals::default(),
            log: LogTarget::default(),
            env: BTreeMap::new(),
            dir: String::new(),
        }
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self { stop: Signal::SIGTERM }
    }
}

impl Unit {
    /// Parses the text of a unit file.
    pub(crate) fn parse(text: &str) -> Result<Self, UnitError> {
        let unit: Self = serde_yaml::from_str(text).map_err(UnitError::Yaml)?;
        if unit.exec.is_empty() { Err(UnitError::NoExec) } else { Ok(unit) }
    }

    /// Reads the unit file at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self, UnitError> {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_UNIT_BYTES as u64 + 1).read_to_string(&mut text))
            .map_err(UnitError::Read)?;
        if text.len() > MAX_UNIT_BYTES {
            return Err(UnitError::TooLarge);
        }
        Self::parse(&text)
    }
}

/// The unit files in `directory` by the name of their service: regular files that end in `.yaml`.
pub(crate) fn find(directory: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_file() || path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            files.insert(name.to_owned(), path);
        }
    }
    Ok(files)
}

/// A signal by its full name in any case; neither `TERM` nor `15` is one.
pub(crate) fn parse_signal(name: &str) -> Option<Signal> {
    Signal::from_str(&name.to_uppercase()).ok()
}

fn signal_by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signal, D::Error> {
    let name = String::deserialize(deserializer)?;
    parse_signal(&name).ok_or_else(|| D::Error::custom(format!("{name:?} is no name of a signal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_defaults() {
        let unit = Unit::parse("exec: a\nmolt: {uses: [x]}\n").unwrap();
        assert_eq!((unit.oneshot, unit.shutdown_timeout, unit.log), (false, 10, LogTarget::Ring));
        assert_eq!(unit.signal.stop, Signal::SIGTERM);
        assert!(unit.test.is_empty() && unit.dir.is_empty() && unit.after.is_empty());
        let unit = Unit::parse("exec: a\nsignal: {stop: SigUsr1}\nlog: none\nafter: [b]\n").unwrap();
        assert_eq!((unit.signal.stop, unit.log), (Signal::SIGUSR1, LogTarget::None));
        assert_eq!(unit.after, ["b"]);
    }

    #[test]
    fn bad_units() {
        for text in ["exec: [a", "exec: a\nsignal: {stop: TERM}", "exec: a\nlog: x", "oneshot: true", ""] {
            assert!(Unit::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_regular_yaml_files_are_units() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.x.yaml", "c.yml", "d", ".yaml"] {
            std::fs::write(directory.path().join(name), "exec: a\n").unwrap();
        }
        std::fs::create_dir(directory.path().join("e.yaml")).unwrap();
        let found = find(directory.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a.x", "b"]);
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        std::fs::write(&path, format!("exec: a\n#{}", "x".repeat(MAX_UNIT_BYTES))).unwrap();
        assert!(matches!(Unit::load(&path), Err(UnitError::TooLarge)));
    }
}
