//! Keys that nodes trust, and releases signed with them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Doing, Error};
use crate::{BaseFile, Hub, place};

/// Where a node looks for its root of trust.
const ROOT: &str = "/etc/molt/root.json";

/// Where it looks for its director's.
const DIRECTOR: &str = "/etc/molt/director.json";

/// A trust repository with new keys.
pub struct Signing {
    scratch: TempDir,
    /// The subcommand of `flist` that it belongs to: `trust` or `director`.
    what: &'static str,
}

impl Signing {
    /// Makes keys by `flist trust init`.
    ///
    /// # Errors
    /// When that fails.
    pub fn new(hub: &Hub) -> Result<Self, Error> {
        Self::with_keys(hub, "trust")
    }

    /// Makes the keys of a director by `flist director init`.
    ///
    /// # Errors
    /// When that fails.
    pub fn director(hub: &Hub) -> Result<Self, Error> {
        Self::with_keys(hub, "director")
    }

    fn with_keys(hub: &Hub, what: &'static str) -> Result<Self, Error> {
        let signing = Self { scratch: place::scratch("trust")?, what };
        let secret = signing.secret();
        fs::write(&secret, "a passphrase of the tests\n")
            .and_then(|()| fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)))
            .doing(|| format!("write {}", secret.display()))?;
        let options = signing.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        hub.command(&[&[what, "init"], &options[..]].concat())?;
        Ok(signing)
    }

    /// The repository.
    pub fn directory(&self) -> PathBuf {
        self.scratch.path().join("trust")
    }

    /// The file of the base image that makes a node trust these keys.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn root(&self) -> Result<BaseFile, Error> {
        let path = self.root_path();
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        let place = if self.what == "director" { DIRECTOR } else { ROOT };
        Ok(BaseFile::text(place, text))
    }

    /// The root of trust.
    pub fn root_path(&self) -> PathBuf {
        self.directory().join("root.json")
    }

    /// Publishes a signed release for the run mode `dev`; returns what `flist publish` printed.
    ///
    /// # Errors
    /// When it is refused.
    pub fn publish(&self, hub: &Hub, version: &str, directory: &Path) -> Result<String, Error> {
        self.publish_with(hub, version, directory, ("dev", &[]))
    }

    /// As [`publish`](Self::publish), for a run mode and with more options of `flist publish`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn publish_with(
        &self,
        hub: &Hub,
        version: &str,
        directory: &Path,
        (run_mode, more): (&str, &[&str]),
    ) -> Result<String, Error> {
        let options = self.options();
        let options = ["--sign"].into_iter().chain(options.iter().map(String::as_str));
        let options: Vec<&str> = options.chain(more.iter().copied()).collect();
        hub.publish_with(version, directory, Some(run_mode), &options)
    }

    /// Runs a subcommand of `flist trust`, or of `flist director`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn run(&self, hub: &Hub, arguments: &[&str]) -> Result<String, Error> {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        hub.command(&[&[self.what], arguments, &options[..]].concat())
    }

    /// Options of `flist` that name the repository and its passphrase.
    pub fn options(&self) -> Vec<String> {
        let (directory, secret) = (self.directory(), self.secret());
        ["--dir", &directory.display().to_string(), "--passphrase-file", &secret.display().to_string()]
            .map(str::to_owned)
            .to_vec()
    }

    fn secret(&self) -> PathBuf {
        self.scratch.path().join("secret")
    }
}
