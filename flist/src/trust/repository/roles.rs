//! The roles of a repository, and with what keys they begin. Pure.

use std::fmt;
use std::str::FromStr;

use crate::hub::RunMode;

/// A role of our repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleName {
    /// Says which keys the others have.
    Root,
    /// Delegates to the run modes.
    Targets,
    /// Lists the versions of everything.
    Snapshot,
    /// Says that all this is fresh.
    Timestamp,
    /// Signs the releases of a run mode.
    Mode(RunMode),
}

/// A text is not the name of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a role; the roles are root, targets, snapshot, timestamp, dev, test, prod and qa")]
pub struct RoleNameError(String);

/// All run modes.
pub(super) const MODES: [RunMode; 4] = [RunMode::Dev, RunMode::Test, RunMode::Prod, RunMode::Qa];

impl RoleName {
    /// Its name in metadata and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
            Self::Mode(mode) => mode.as_str(),
        }
    }

    /// Whether it only lists what the others have.
    pub(super) fn is_listing(self) -> bool {
        matches!(self, Self::Snapshot | Self::Timestamp)
    }

    /// The name of its file, without the version.
    pub(super) fn file(self) -> String {
        format!("{}.json", self.as_str())
    }

    /// The name of its file in this version; timestamp has none, so that it can be asked for.
    pub(super) fn versioned(self, version: u64) -> String {
        match self {
            Self::Timestamp => self.file(),
            _ => format!("{version}.{}", self.file()),
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RoleName {
    type Err = RoleNameError;

    fn from_str(text: &str) -> Result<Self, RoleNameError> {
        match text {
            "root" => Ok(Self::Root),
            "targets" => Ok(Self::Targets),
            "snapshot" => Ok(Self::Snapshot),
            "timestamp" => Ok(Self::Timestamp),
            mode => mode
                .parse()
                .map(Self::Mode)
                .map_err(|_| RoleNameError(text.escape_debug().take(60).collect())),
        }
    }
}

/// With how many keys a role begins, and how many have to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolePlan {
    /// The role.
    pub role: RoleName,
    /// How many keys it has.
    pub keys: usize,
    /// How many of them have to sign.
    pub threshold: usize,
}

/// With what a repository begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every role once.
    pub roles: Vec<RolePlan>,
}

impl Plan {
    /// A repository of releases: two of three for the root, one of one for all others.
    pub fn releases() -> Self {
        let first = [RoleName::Targets, RoleName::Snapshot, RoleName::Timestamp];
        let others = first.into_iter().chain(MODES.map(RoleName::Mode));
        let one = |role| RolePlan { role, keys: 1, threshold: 1 };
        let root = RolePlan { role: RoleName::Root, keys: 3, threshold: 2 };
        Self { roles: [root].into_iter().chain(others.map(one)).collect() }
    }

    /// A director: as above, without run modes; its targets are signed by its own role.
    pub fn director() -> Self {
        let Self { mut roles } = Self::releases();
        roles.retain(|plan| !matches!(plan.role, RoleName::Mode(_)));
        Self { roles }
    }

    /// With other numbers for one role.
    #[must_use]
    pub fn with(mut self, changed: RolePlan) -> Self {
        self.roles.iter_mut().filter(|plan| plan.role == changed.role).for_each(|plan| *plan = changed);
        self
    }

    /// The numbers of a role; `None` when the repository has none such.
    pub(super) fn of(&self, role: RoleName) -> Option<RolePlan> {
        self.roles.iter().find(|plan| plan.role == role).copied()
    }
}

impl FromStr for RolePlan {
    type Err = String;

    /// `<role>=<threshold>/<keys>`
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("'{text}' is not of the form <role>=<threshold>/<keys>, such as prod=2/3");
        let (role, numbers) = text.split_once('=').ok_or_else(form)?;
        let (threshold, keys) = numbers.split_once('/').ok_or_else(form)?;
        let role = role.parse().map_err(|error: RoleNameError| error.to_string())?;
        let (threshold, keys) = (threshold.parse().map_err(|_| form())?, keys.parse().map_err(|_| form())?);
        match threshold >= 1 && threshold <= keys && keys <= 64 {
            true => Ok(Self { role, keys, threshold }),
            false => Err(format!(
                "{text}: the threshold is 1 to the number of keys, of which there are at most 64"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for name in ["root", "targets", "snapshot", "timestamp", "dev", "test", "prod", "qa"] {
            assert_eq!(name.parse::<RoleName>().unwrap().to_string(), name);
        }
        assert!("../x".parse::<RoleName>().is_err());
        let prod = RolePlan { role: RoleName::Mode(RunMode::Prod), keys: 3, threshold: 2 };
        assert_eq!("prod=2/3".parse(), Ok(prod));
        assert_eq!(Plan::releases().with(prod).of(prod.role), Some(prod));
        for bad in ["prod", "prod=2", "prod=0/1", "prod=3/2", "x=1/1", "prod=1/65"] {
            assert!(bad.parse::<RolePlan>().is_err(), "{bad}");
        }
    }
}
