//! What people have ordered: releases that are held back, a pause, a rollback. Kept in one file of the state
//! directory, with a copy beside it for when that file is damaged.
//!
//! The file is read by other versions of this program too: what one does not know is kept when it is
//! written again, and a higher schema number is no obstacle.

mod postponement;
mod rollback;

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use bootstrap::state_place::StatePlace;
use bootstrap::{durable, held};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::Candidate;
use crate::timestamp::Timestamp;

pub use postponement::{Holding, MOST_POSTPONED, Postponed};
pub use rollback::{MOST_BEGINNINGS, Rollback};

/// Name of the file in the state directory.
pub const FILE: &str = held::FILE;

/// The version of the layout that this program writes. Additions do not change it.
const SCHEMA: u32 = 1;

/// Larger files are not ours.
const LARGEST_FILE: u64 = 1 << 20;

/// Most releases that can be held at a time.
pub const MOST_HOLDS: usize = 64;

/// Longest reason, in characters.
pub const LONGEST_REASON: usize = 500;

/// Longest version or id of a release, in characters.
pub const LONGEST_RELEASE: usize = 128;

/// Why an order cannot be taken or remembered.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// The file is not what was written.
    #[error(
        "{} is damaged ({reason}), so nobody knows what is held; `identityd doctor --fix` sets it aside",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("could not write {}; the order does not hold", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too many holds.
    #[error("{MOST_HOLDS} releases are held already; `identityd unhold` some first, or hold everything")]
    TooMany,
    /// Somebody has declined it.
    #[error("{what} is held already, without an end; to postpone it instead, first: {lets_go}")]
    HeldForGood {
        /// Which.
        what: String,
        /// The command that takes that back.
        lets_go: String,
    },
    /// A release would be postponed for longer than it may.
    #[error(
        "{what} cannot be postponed until {until}: {first}longest_postponement in the configuration file allows {longest} in all, until {last}; postpone it for less, or hold it without --for until somebody lets it go"
    )]
    TooLong {
        /// Which.
        what: String,
        /// Until when it was to be.
        until: String,
        /// Since when it is postponed, and by whom; empty where it is not.
        first: String,
        /// How long it may be in all.
        longest: String,
        /// Until when it may be.
        last: String,
    },
    /// A text is not usable.
    #[error("the {what} is not usable: {problem}")]
    Text {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Everything that has been ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    schema: u32,
    /// What is held back.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// Releases that were postponed, the first ones first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    postponed: Vec<Postponed>,
    /// The pause, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// The rollback that is wanted and has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            holds: Vec::new(),
            postponed: Vec::new(),
            pause: None,
            rollback: None,
            unknown: Map::new(),
        }
    }
}

/// A release that is held back, or everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The version, or the beginning of the id; `None` for every release.
    pub release: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// The user who ordered it.
    pub by: u32,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ends by itself; to a version that does not know this, it is a hold like others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Hold {
    /// A hold that does not end by itself.
    pub fn new(release: Option<String>, since: Timestamp, by: u32, reason: Option<String>) -> Self {
        Self { release, since, by, reason, until: None, unknown: Map::new() }
    }

    /// The same one, which ends by itself.
    #[must_use]
    pub fn ending(self, since: Timestamp, until: Timestamp) -> Self {
        Self { since, until: Some(until), ..self }
    }

    /// What it holds back, for people.
    pub fn what(&self) -> String {
        self.release.as_ref().map_or("every release".to_owned(), |release| format!("release {release}"))
    }

    /// The command that lets it go, and nothing else.
    pub fn lets_go(&self) -> String {
        self.release
            .as_ref()
            .map_or("identityd unhold".to_owned(), |release| format!("identityd unhold {release}"))
    }

    pub(crate) fn until_unix(&self) -> Option<u64> {
        self.until.as_ref().map(|until| until.unix)
    }

    /// Whether it holds this release back.
    pub fn covers(&self, candidate: &Candidate) -> bool {
        self.release.as_ref().is_none_or(|named| names(named, candidate))
    }
}

/// Upgrades stop before the swap and do not begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// The user who ordered it.
    pub by: u32,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Pause {
    /// A pause.
    pub fn new(since: Timestamp, by: u32, reason: Option<String>) -> Self {
        Self { since, by, reason, unknown: Map::new() }
    }
}

/// Whether a text names this release: by its version, or by the beginning of its id.
pub fn names(text: &str, candidate: &Candidate) -> bool {
    held::names(text, &candidate.version, &candidate.release)
}

impl Orders {
    /// Adds a hold; one on the same release is replaced.
    ///
    /// # Errors
    /// [`OrdersError::TooMany`].
    pub fn hold(&mut self, hold: Hold) -> Result<(), OrdersError> {
        self.holds.retain(|held| held.release != hold.release);
        if self.holds.len() >= MOST_HOLDS {
            return Err(OrdersError::TooMany);
        }
        self.holds.push(hold);
        Ok(())
    }

    /// Takes away the holds that `matches`; tells which.
    pub fn unhold(&mut self, matches: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        let (gone, kept) = std::mem::take(&mut self.holds).into_iter().partition(matches);
        self.holds = kept;
        gone
    }
}

/// Checks a text that a person gave: one line, not too long.
///
/// # Errors
/// [`OrdersError::Text`].
pub fn check_text(what: &'static str, text: &str, longest: usize) -> Result<(), OrdersError> {
    let failed = |problem: String| Err(OrdersError::Text { what, problem });
    match text {
        "" => failed("it is empty".to_owned()),
        _ if text.chars().count() > longest => failed(format!("it is longer than {longest} characters")),
        _ if text.chars().any(char::is_control) => {
            failed("it has line breaks or other control characters".to_owned())
        }
        _ => Ok(()),
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct OrdersFile {
    state: StatePlace,
}

impl OrdersFile {
    /// In this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self::at(StatePlace::fixed(state_dir))
    }

    /// Where the state is.
    pub fn at(state: StatePlace) -> Self {
        Self { state }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.state.directory().join(FILE)
    }

    /// What has been ordered; nothing without a file. Where the file is damaged or cannot be read, its copy counts.
    ///
    /// # Errors
    /// [`OrdersError::Damaged`], [`OrdersError::Read`]: nobody knows what is held then.
    pub fn load(&self) -> Result<Orders, OrdersError> {
        let error = match self.load_original() {
            Err(error) => error,
            loaded => return loaded,
        };
        match read(&self.copy()) {
            Ok(Some(orders)) => {
                tracing::warn!(error = flist::report(&error), "its copy counts");
                Ok(orders)
            }
            _ => Err(error),
        }
    }

    /// As [`OrdersFile::load`], without a look at the copy.
    ///
    /// # Errors
    /// As there.
    pub fn load_original(&self) -> Result<Orders, OrdersError> {
        read(&self.path()).map(Option::unwrap_or_default)
    }

    /// Where the copy is.
    pub fn copy(&self) -> PathBuf {
        self.state.directory().join(held::COPY)
    }

    /// Puts the copy in the place of a file that says nothing, if that is still so; nobody orders anything meanwhile.
    /// `keep` is given the file first, and must leave it where it is.
    ///
    /// # Errors
    /// As [`OrdersFile::load`], and [`OrdersError::Write`]; the file is as before then.
    pub fn restore(&self, keep: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), OrdersError> {
        let failed = |source| OrdersError::Write { path: self.path(), source };
        let _lock = self.state.write_lock().map_err(failed)?;
        if self.load_original().is_ok() {
            return Ok(());
        }
        let orders = self.load()?;
        keep(&self.path()).map_err(failed)?;
        self.write(&orders)
    }

    /// Changes what is ordered, in the file and its copy; nobody else changes it, and the state does not move, between
    /// reading and writing. Tells what is ordered now.
    ///
    /// # Errors
    /// As [`OrdersFile::load`], [`OrdersError::Write`], and those of `change`; nothing has changed then.
    pub fn change(
        &self,
        change: impl FnOnce(&mut Orders) -> Result<(), OrdersError>,
    ) -> Result<Orders, OrdersError> {
        let failed = |source| OrdersError::Write { path: self.path(), source };
        let _lock = self.state.write_lock().map_err(failed)?;
        let before = self.load()?;
        let mut orders = before.clone();
        change(&mut orders)?;
        if orders != before {
            self.write(&orders)?;
        }
        Ok(orders)
    }

    fn write(&self, orders: &Orders) -> Result<(), OrdersError> {
        let failed = |source| OrdersError::Write { path: self.path(), source };
        let mut json = serde_json::to_vec_pretty(orders).map_err(|error| failed(error.into()))?;
        json.push(b'\n');
        durable::replace(&self.path(), &json, 0o600).map_err(failed)?;
        if let Err(error) = durable::replace(&self.copy(), &json, 0o600) {
            tracing::warn!(%error, "there is no new copy of the orders");
        }
        Ok(())
    }
}

/// What a file says; `None` without one.
fn read(path: &Path) -> Result<Option<Orders>, OrdersError> {
    let failed = |source| OrdersError::Read { path: path.to_owned(), source };
    let damaged = |reason: String| OrdersError::Damaged { path: path.to_owned(), reason };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(damaged(format!("it is larger than {LARGEST_FILE} bytes")));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests;
