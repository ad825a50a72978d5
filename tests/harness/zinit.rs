//! A program that is some zinit, and how it is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use zinit_client::Dialect;

use crate::error::{Doing, Error};
use crate::job;

/// How long a program may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// Puts the units where zinit 0.2.20 to 0.2.28 looks for them, in a mount namespace, and becomes it.
const IN_PLACE: &str = "mount -t tmpfs molt-etc /etc && mkdir /etc/zinit && mount --bind \"$1\" /etc/zinit && shift && exec \"$@\"";

/// A supervisor that can be started.
#[derive(Debug, Clone)]
pub struct Zinit {
    program: PathBuf,
    dialect: Dialect,
    version: String,
    respawn_delay: Option<Duration>,
}

impl Zinit {
    /// The zinit at this path. What it speaks follows from its version, unless it is said; the stand-in speaks
    /// what it is told to.
    ///
    /// # Errors
    /// When it does not tell a version that is known.
    pub fn at(program: &Path, dialect: Option<Dialect>) -> Result<Self, Error> {
        let program = std::path::absolute(program).doing(|| format!("find {}", program.display()))?;
        let version = job::run(Command::new(&program).arg("--version"), VERSION_LIMIT)?.trim().to_owned();
        let Some(dialect) = dialect.or_else(|| dialect_of(&version)) else {
            let shown = program.display();
            return Err(Error::Unexpected(format!(
                "nobody knows what {shown} speaks, which calls itself {version:?}; say it with --dialect"
            )));
        };
        Ok(Self { program, dialect, version, respawn_delay: None })
    }

    /// Starts a service that has ended after this time, where it is ours; real ones take their two seconds.
    #[must_use]
    pub fn with_respawn_delay(mut self, delay: Option<Duration>) -> Self {
        self.respawn_delay = delay;
        self
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What it calls itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it is ours.
    pub fn is_stand_in(&self) -> bool {
        self.version.starts_with("molt-supervisor")
    }

    /// Its arguments where units are in `units`, which only zinit 0.2.19 and older, and ours, take from there.
    pub fn arguments(&self, socket: &Path, units: &Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        match self.dialect {
            Dialect::Service if !self.is_stand_in() => {
                words.extend(["--config-dir".into(), units.join("services").into()]);
                words.extend(["--socket".into(), socket.into(), "--log-level".into(), "warn".into()]);
            }
            dialect => {
                words.extend(["-s".into(), socket.into()]);
                words.extend(["init".into(), "--container".into(), "-c".into(), units.into()]);
                if self.is_stand_in() {
                    words.extend(["--dialect".into(), dialect.to_string().into()]);
                    if let Some(delay) = self.respawn_delay {
                        words.extend(["--respawn-delay".into(), delay.as_millis().to_string().into()]);
                    }
                }
            }
        }
        words
    }

    /// A command that supervises the units of a directory anywhere.
    pub fn command(&self, socket: &Path, units: &Path) -> Command {
        if self.dialect == Dialect::Jsonrpc && !self.is_stand_in() {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", IN_PLACE, "sh"]);
            command.arg(units).arg(&self.program).args(self.arguments(socket, units));
            return command;
        }
        let mut command = Command::new(&self.program);
        command.args(self.arguments(socket, units));
        command
    }
}

/// `zinit v0.2.11`, `zinit-server 0.3.9`, `molt-supervisor 0.1.0`.
fn dialect_of(version: &str) -> Option<Dialect> {
    let (name, number) = version.split_once(' ')?;
    if name == "molt-supervisor" {
        return Some(Dialect::Line);
    }
    let number = number.trim_start_matches('v');
    let mut parts = number.split(['.', '-', '+', ' ']).map_while(|part| part.parse::<u32>().ok());
    match (name, parts.next()?, parts.next()?, parts.next()?) {
        ("zinit", 0, 2, 0..=19) => Some(Dialect::Line),
        ("zinit", 0, 2, _) => Some(Dialect::Jsonrpc),
        ("zinit-server", 0, 3, _) => Some(Dialect::Service),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (version, dialect) in [
            ("molt-supervisor 0.1.0", Some(Dialect::Line)),
            ("zinit v0.2.11", Some(Dialect::Line)),
            ("zinit v0.2.19-3-gabcdef", Some(Dialect::Line)),
            ("zinit v0.2.20", Some(Dialect::Jsonrpc)),
            ("zinit v0.2.28-modified", Some(Dialect::Jsonrpc)),
            ("zinit-server 0.3.9", Some(Dialect::Service)),
            ("zinit v1.0.0", None),
            ("busybox", None),
        ] {
            assert_eq!(dialect_of(version), dialect, "{version}");
        }
    }
}
