//! From text to a package. Everything that is wrong is told with its place.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{
    Command, DIRECTORY, Hook, HookName, Migration, NameError, NodePath, Package, PackageName, Requires,
    State, When, overlap,
};
use crate::path::FlistPath;

/// Largest description, in bytes.
pub const MAX_DESCRIPTION: usize = 64 << 10;

/// Most packages of one release.
pub const MAX_PACKAGES: usize = 256;

/// Most entries of each list of a description.
const MAX_ENTRIES: usize = 64;

/// Longest times, in seconds, and those that hold when nothing is said.
const MAX_HOOK_SECONDS: u64 = 600;
const MAX_MIGRATION_SECONDS: u64 = 3600;
const HOOK_SECONDS: u64 = 30;
const MIGRATION_SECONDS: u64 = 300;

/// Most state that is copied, in MiB, and what is when nothing is said.
const MAX_LIMIT_MIB: u64 = 64 << 10;
const LIMIT_MIB: u64 = 64;

/// Longest glob or name of a service, in bytes.
const MAX_TEXT: usize = 256;

/// Why a description is not usable.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It is too long.
    #[error("it has {bytes} bytes; at most {MAX_DESCRIPTION} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// There is something else than a file.
    #[error("it is no regular file")]
    NoFile,
    /// It is no UTF-8.
    #[error("it is no UTF-8 text")]
    Text,
    /// It is no YAML, has a key that is not known, or a value of the wrong kind.
    #[error("it is not valid")]
    Yaml(#[source] serde_yaml::Error),
    /// A value is out of range.
    #[error("{key} is {value}; expected {expected}")]
    Range {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// A path is not usable for what it is meant for.
    #[error("{key} is not usable")]
    Name {
        /// The key.
        key: String,
        /// The reason.
        #[source]
        source: NameError,
    },
    /// Something is there twice.
    #[error("{key} is there twice: {value}")]
    Twice {
        /// The key.
        key: &'static str,
        /// What.
        value: String,
    },
    /// Two packages claim the same state.
    #[error("the state {path} overlaps with that of package {other}")]
    SharedState {
        /// The path.
        path: NodePath,
        /// The other package.
        other: PackageName,
    },
    /// The release has too many packages.
    #[error("the release has more than {MAX_PACKAGES} package descriptions")]
    TooMany,
}

/// The file's own shape.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PackageFile {
    requires: Requires,
    hooks: Vec<HookFile>,
    state: Option<StateFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HookFile {
    name: HookName,
    when: When,
    run: Command,
    /// `[]` says that there is nothing to take back: forgetting it must not pass for that.
    undo: Vec<String>,
    timeout: Option<u64>,
    #[serde(default)]
    changes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    schema: u32,
    floor: Option<u32>,
    #[serde(default)]
    paths: Vec<NodePath>,
    #[serde(default)]
    services: Vec<String>,
    limit_mib: Option<u64>,
    #[serde(default)]
    migrations: Vec<MigrationFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrationFile {
    to: u32,
    run: Command,
    undo: Option<Command>,
    timeout: Option<u64>,
}

/// The package whose description is at a path of a release.
pub fn package_at(path: &FlistPath) -> Option<PackageName> {
    let file = path.as_bytes().strip_prefix(DIRECTORY.as_bytes())?.strip_prefix(b"/")?;
    std::str::from_utf8(file).ok()?.strip_suffix(".yaml")?.parse().ok()
}

/// Parses a description.
///
/// # Errors
/// [`PackageError`]; what is wrong in the text has its line and column.
pub fn parse(bytes: &[u8]) -> Result<Package, PackageError> {
    if bytes.len() > MAX_DESCRIPTION {
        return Err(PackageError::TooLong { bytes: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| PackageError::Text)?;
    let file: PackageFile = serde_yaml::from_str(text).map_err(PackageError::Yaml)?;
    file.requires.check()?;
    count("hooks", file.hooks.len())?;
    let hooks = file.hooks.into_iter().map(hook).collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    if let Some(again) = hooks.iter().find(|hook| !names.insert(&hook.name)) {
        return Err(PackageError::Twice { key: "the hook", value: again.name.to_string() });
    }
    Ok(Package { requires: file.requires, hooks, state: file.state.map(state).transpose()? })
}

/// Whether packages can be in one release.
///
/// # Errors
/// [`PackageError::TooMany`], [`PackageError::SharedState`] with the package that it is about.
pub fn in_one_release(
    packages: &BTreeMap<PackageName, Package>,
) -> Result<(), (Option<PackageName>, PackageError)> {
    if packages.len() > MAX_PACKAGES {
        return Err((None, PackageError::TooMany));
    }
    let paths = |package: &Package| package.state.iter().flat_map(|state| state.paths.clone()).collect();
    let mut seen: Vec<(&PackageName, Vec<NodePath>)> = Vec::new();
    for (name, package) in packages {
        let own: Vec<NodePath> = paths(package);
        for path in &own {
            let shared = |(_, others): &&(&PackageName, Vec<NodePath>)| {
                others.iter().any(|other| overlap(path.inside(), other.inside()))
            };
            if let Some((other, _)) = seen.iter().find(shared) {
                let error = PackageError::SharedState { path: path.clone(), other: (*other).clone() };
                return Err((Some(name.clone()), error));
            }
        }
        seen.push((name, own));
    }
    Ok(())
}

fn hook(file: HookFile) -> Result<Hook, PackageError> {
    let HookFile { name, when, run, undo, timeout, changes } = file;
    let undo = match undo.is_empty() {
        true => None,
        false => Some(
            Command::try_from(undo)
                .map_err(|source| PackageError::Name { key: format!("undo of hook {name}"), source })?,
        ),
    };
    let timeout = timeout.unwrap_or(HOOK_SECONDS);
    within(&format!("timeout of hook {name}"), timeout, 1, MAX_HOOK_SECONDS)?;
    count("changes", changes.len())?;
    changes.iter().try_for_each(|glob| short("changes", glob))?;
    Ok(Hook { name, when, run, undo, timeout, changes })
}

fn state(file: StateFile) -> Result<State, PackageError> {
    let StateFile { schema, floor, paths, services, limit_mib, migrations } = file;
    let floor = floor.unwrap_or(schema);
    within("floor", u64::from(floor), 0, u64::from(schema))?;
    let limit_mib = limit_mib.unwrap_or(LIMIT_MIB);
    within("limit_mib", limit_mib, 1, MAX_LIMIT_MIB)?;
    count("paths", paths.len())?;
    count("services", services.len())?;
    count("migrations", migrations.len())?;
    services.iter().try_for_each(|name| short("services", name))?;
    for (at, path) in paths.iter().enumerate() {
        path.check_state().map_err(|source| PackageError::Name { key: format!("paths: {path}"), source })?;
        if paths[..at].iter().any(|other| overlap(other.inside(), path.inside())) {
            return Err(PackageError::Twice { key: "a path of the state", value: path.to_string() });
        }
    }
    if paths.is_empty() && !migrations.is_empty() {
        return Err(PackageError::Range {
            key: "paths".to_owned(),
            value: "empty".to_owned(),
            expected: "the directories of the state, because migrations work on a copy of them".to_owned(),
        });
    }
    let mut migrations = migrations.into_iter().map(migration).collect::<Result<Vec<_>, _>>()?;
    migrations.sort_by_key(|migration| migration.to);
    if let Some(pair) = migrations.windows(2).find(|pair| pair[0].to == pair[1].to) {
        return Err(PackageError::Twice { key: "the migration", value: pair[0].to.to_string() });
    }
    for Migration { to, .. } in &migrations {
        within("to of a migration", u64::from(*to), 1, u64::from(schema))?;
    }
    Ok(State { schema, floor, paths, services, limit: limit_mib << 20, migrations })
}

fn migration(file: MigrationFile) -> Result<Migration, PackageError> {
    let MigrationFile { to, run, undo, timeout } = file;
    let timeout = timeout.unwrap_or(MIGRATION_SECONDS);
    within(&format!("timeout of migration {to}"), timeout, 1, MAX_MIGRATION_SECONDS)?;
    Ok(Migration { to, run, undo, timeout })
}

pub(super) fn within(key: &str, value: u64, least: u64, most: u64) -> Result<(), PackageError> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(PackageError::Range {
            key: key.to_owned(),
            value: value.to_string(),
            expected: format!("{least} to {most}"),
        }),
    }
}

pub(super) fn count(key: &str, entries: usize) -> Result<(), PackageError> {
    within(&format!("the number of {key}"), entries as u64, 0, MAX_ENTRIES as u64)
}

pub(super) fn short(key: &str, text: &str) -> Result<(), PackageError> {
    match !text.is_empty() && text.len() <= MAX_TEXT && !text.contains('\0') {
        true => Ok(()),
        false => Err(PackageError::Range {
            key: key.to_owned(),
            value: format!("'{}'", text.chars().take(MAX_TEXT).collect::<String>()),
            expected: format!("a text of 1 to {MAX_TEXT} bytes"),
        }),
    }
}

#[cfg(test)]
mod tests;
