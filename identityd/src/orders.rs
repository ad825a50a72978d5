//! What people have ordered: releases that are held back, a pause, a rollback. Kept in one file of the state directory.
//!
//! The file is read by other versions of this program too: what one does not know is kept when it is
//! written again, and a higher schema number is no obstacle.

mod rollback;

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use bootstrap::{durable, held};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::Candidate;
use crate::timestamp::Timestamp;

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
        Self { schema: SCHEMA, holds: Vec::new(), pause: None, rollback: None, unknown: Map::new() }
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
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Hold {
    /// A hold.
    pub fn new(release: Option<String>, since: Timestamp, by: u32, reason: Option<String>) -> Self {
        Self { release, since, by, reason, unknown: Map::new() }
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
    /// The hold on this release; one on everything counts too.
    pub fn held(&self, candidate: &Candidate) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.covers(candidate))
    }

    /// The hold on everything.
    pub fn all_held(&self) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.release.is_none())
    }

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
    path: PathBuf,
}

impl OrdersFile {
    /// In this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What has been ordered; nothing without a file.
    ///
    /// # Errors
    /// [`OrdersError::Damaged`], [`OrdersError::Read`]: nobody knows what is held then.
    pub fn load(&self) -> Result<Orders, OrdersError> {
        let failed = |source| OrdersError::Read { path: self.path.clone(), source };
        let damaged = |reason: String| OrdersError::Damaged { path: self.path.clone(), reason };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Orders::default()),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(damaged(format!("it is larger than {LARGEST_FILE} bytes")));
        }
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// [`OrdersError::Write`].
    pub fn save(&self, orders: &Orders) -> Result<(), OrdersError> {
        let failed = |source| OrdersError::Write { path: self.path.clone(), source };
        let mut json = serde_json::to_vec_pretty(orders).map_err(|error| failed(error.into()))?;
        json.push(b'\n');
        durable::replace(&self.path, &json, 0o600).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(release: Option<&str>) -> Hold {
        Hold::new(release.map(str::to_owned), Timestamp::from_unix(7), 0, None)
    }

    fn candidate() -> Candidate {
        Candidate {
            channel: "r/c.flist".into(),
            version: "2.0.0".into(),
            release: "0123456789abcdef".repeat(4),
        }
    }

    #[test]
    fn a_hold_names_a_version_the_beginning_of_an_id_or_everything() {
        for (release, covered) in [
            (None, true),
            (Some("2.0.0"), true),
            (Some("01234567"), true),
            (Some("0123456789ABCDEF"), true),
            (Some("0123456"), false),
            (Some("2.0"), false),
            (Some("12345678"), false),
            (Some(""), false),
        ] {
            assert_eq!(hold(release).covers(&candidate()), covered, "{release:?}");
        }
    }

    #[test]
    fn orders_outlive_the_program_and_a_second_hold_replaces_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = OrdersFile::new(directory.path());
        assert_eq!(file.load().unwrap(), Orders::default());
        let mut orders = Orders::default();
        orders.hold(hold(Some("2.0.0"))).unwrap();
        orders.hold(Hold { by: 1000, ..hold(Some("2.0.0")) }).unwrap();
        orders.hold(hold(Some("3.0.0"))).unwrap();
        orders.pause = Some(Pause::new(Timestamp::from_unix(8), 0, Some("holiday".into())));
        file.save(&orders).unwrap();
        let mut again = file.load().unwrap();
        assert_eq!(again, orders);
        assert_eq!(again.held(&candidate()).unwrap().by, 1000);
        assert!(again.all_held().is_none());
        assert_eq!(again.unhold(|hold| hold.covers(&candidate())).len(), 1);
        assert_eq!((again.holds.len(), again.held(&candidate())), (1, None));
    }

    #[test]
    fn holds_are_limited() {
        let mut orders = Orders::default();
        for number in 0..MOST_HOLDS {
            orders.hold(hold(Some(&number.to_string()))).unwrap();
        }
        assert!(matches!(orders.hold(hold(None)), Err(OrdersError::TooMany)));
        orders.hold(hold(Some("5"))).unwrap();
    }

    #[test]
    fn what_a_newer_version_wrote_is_understood_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = OrdersFile::new(directory.path());
        let newer = serde_json::json!({
            "schema": 7, "floor": "1.2.0",
            "holds": [{"release": null, "since": Timestamp::from_unix(1), "by": 3, "until": 99}],
            "pause": {"since": Timestamp::from_unix(2), "by": 4, "soft": true},
        });
        std::fs::write(file.path(), newer.to_string()).unwrap();
        let mut orders = file.load().unwrap();
        assert_eq!((orders.holds[0].by, orders.pause.as_ref().unwrap().by), (3, 4));
        orders.hold(hold(Some("2.0.0"))).unwrap();
        file.save(&orders).unwrap();
        let written: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
        assert_eq!((&written["schema"], &written["floor"]), (&7.into(), &"1.2.0".into()));
        assert_eq!((&written["holds"][0]["until"], &written["pause"]["soft"]), (&99.into(), &true.into()));
    }

    #[test]
    fn a_damaged_file_is_no_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = OrdersFile::new(directory.path());
        let mut orders = Orders::default();
        orders.hold(hold(None)).unwrap();
        file.save(&orders).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        for length in 0..whole.len() - 2 {
            std::fs::write(file.path(), &whole[..length]).unwrap();
            let error = file.load().unwrap_err();
            assert!(matches!(error, OrdersError::Damaged { .. }), "{length}: {error}");
            assert!(error.to_string().contains("identityd doctor --fix"), "{error}");
        }
        std::fs::write(file.path(), vec![b' '; (LARGEST_FILE + 1) as usize]).unwrap();
        assert!(file.load().unwrap_err().to_string().contains("larger"));
    }

    #[test]
    fn texts_are_one_line_and_not_too_long() {
        assert!(check_text("reason", "we are away, naïvely", LONGEST_REASON).is_ok());
        for text in ["", "two\nlines", "\u{1b}[2J", &"x".repeat(LONGEST_REASON + 1)] {
            assert!(
                matches!(check_text("reason", text, LONGEST_REASON), Err(OrdersError::Text { .. })),
                "{text}"
            );
        }
    }
}
