//! What a rehearsal has to know of services.

use super::Subject;
use crate::package::{Command, PackageName};

/// What a command of a service is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// It is the service.
    Exec,
    /// It tells whether the service is ready.
    Test,
    /// It belongs to no service but to a package: a hook, a migration, or an inverse.
    Package,
}

impl Purpose {
    /// The key of the unit that holds the command.
    pub fn key(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Test => "test",
            Self::Package => "hook or migration",
        }
    }
}

/// One command of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name of its unit, or of its package.
    pub unit: String,
    /// What the command is for.
    pub purpose: Purpose,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The directory it runs in; `None` is `/`.
    pub directory: Option<String>,
    /// The `PATH` that its unit sets; `None` is [`SEARCH_PATH`].
    pub path: Option<String>,
    /// The `LD_LIBRARY_PATH` that its unit sets.
    pub library_path: Option<String>,
}

impl Service {
    /// A program of a package, which is run as it is.
    pub fn of_package(name: &PackageName, command: &Command) -> Self {
        Self {
            unit: name.to_string(),
            purpose: Purpose::Package,
            argv: command.words(),
            directory: None,
            path: None,
            library_path: None,
        }
    }

    /// Who a finding about it names.
    pub(super) fn subject(&self) -> Subject {
        match self.purpose {
            Purpose::Exec | Purpose::Test => Subject::Unit(self.unit.clone()),
            Purpose::Package => Subject::Package(self.unit.clone()),
        }
    }
}

/// Where a program without a directory is looked for when a unit sets no `PATH`.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
