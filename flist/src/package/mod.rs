//! Package descriptions: what a release asks of a node, and what has to be run when it is installed. Pure.
//!
//! ```text
//! usr/lib/molt/packages/<package>.yaml ──parse──► Package ─┬─ Requires × NodeFacts ──► Unmet
//!                                                          ├─ Schema × schema of the state ──► Migrate or refused
//!                                                          └─ Hook, Migration: programs to run
//! ```
//! A release has as many packages as it has descriptions, in whatever flists they come.

mod names;
mod parse;
mod requires;
mod schema;

use serde::{Deserialize, Serialize};

use crate::path::FlistPath;

pub use names::{Command, HookName, NameError, NodePath, PackageName};
pub use parse::{MAX_DESCRIPTION, MAX_PACKAGES, PackageError, in_one_release, package_at, parse};
pub use requires::{KernelVersion, NodeFacts, Place, Requires, Unmet};
pub use schema::{
    Direction, Migrate, SCHEMA_FILE, SCHEMA_MARK, SchemaRefusal, Standing, mark, migrate, parse_mark,
};

/// Where descriptions are in a release.
pub const DIRECTORY: &str = "usr/lib/molt/packages";

/// What one package declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Package {
    /// What the node has to be like. Not recorded: it counts before the installation only.
    #[serde(skip)]
    pub requires: Requires,
    /// Programs that are run when a release is installed, in this order.
    pub hooks: Vec<Hook>,
    /// What is known of its state.
    pub state: Option<State>,
}

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// When everything is staged and nothing has been stopped yet.
    BeforeSwap,
    /// When the files are those of the release and the stopped services have not been started.
    BeforeStart,
    /// When the services have been started, before they are watched.
    AfterStart,
}

impl When {
    /// Its one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeSwap => "before-swap",
            Self::BeforeStart => "before-start",
            Self::AfterStart => "after-start",
        }
    }
}

/// A program that is run when a release is installed. Running it twice has to do no more than running it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its name, for people and to tell hooks of two releases apart.
    pub name: HookName,
    /// When it is run.
    pub when: When,
    /// What is run.
    pub run: Command,
    /// What takes back what it did; `None`: there is nothing to take back.
    pub undo: Option<Command>,
    /// Longest time it may take, in seconds.
    pub timeout: u64,
    /// It is run only when one of these paths changes (globs); always, when there are none.
    #[serde(default)]
    pub changes: Vec<String>,
}

/// What is known of the state of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The number of the layout that the state has once this release runs.
    pub schema: u32,
    /// The lowest number that the programs of this release can read.
    pub floor: u32,
    /// The directories that it lies in.
    #[serde(default)]
    pub paths: Vec<NodePath>,
    /// Services that use it: they are stopped while it is migrated.
    #[serde(default)]
    pub services: Vec<String>,
    /// Most bytes that it has, before and after a migration.
    #[serde(default)]
    pub limit: u64,
    /// What changes its layout, in the order of the numbers.
    #[serde(default)]
    pub migrations: Vec<Migration>,
}

/// A program that takes the state from one layout to the next, and back. It works on a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The layout that it leads to, from the one before.
    pub to: u32,
    /// What is run.
    pub run: Command,
    /// What leads back; `None`: nothing does.
    #[serde(default)]
    pub undo: Option<Command>,
    /// Longest time each of them may take, in seconds.
    pub timeout: u64,
}

impl State {
    /// The migration that leads to a layout.
    pub fn migration(&self, to: u32) -> Option<&Migration> {
        self.migrations.iter().find(|migration| migration.to == to)
    }
}

impl Package {
    /// Every program that it runs, with a word for what it is: a program that is missing keeps the package from
    /// being installed, or from being taken back.
    pub fn programs(&self) -> impl Iterator<Item = (String, &Command)> {
        let hooks = self.hooks.iter().flat_map(|hook| {
            let name = |what: &str| format!("{what} {}", hook.name);
            let undo = hook.undo.iter().map(move |undo| (name("inverse of hook"), undo));
            std::iter::once((name("hook"), &hook.run)).chain(undo)
        });
        let migrations = self.state.iter().flat_map(|state| &state.migrations).flat_map(|migration| {
            let name = |what: &str| format!("{what} {}", migration.to);
            let undo = migration.undo.iter().map(move |undo| (name("inverse of migration"), undo));
            std::iter::once((name("migration"), &migration.run)).chain(undo)
        });
        hooks.chain(migrations)
    }
}

/// Whether one path is the other, or lies beneath it.
fn overlap(a: &FlistPath, b: &FlistPath) -> bool {
    a == b || a.is_beneath(b) || b.is_beneath(a)
}
