//! Releases that people hold back, as far as a boot has to know of them. identityd writes the file.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::offers;
use crate::state_place::StatePlace;

/// Name of the file in the state directory.
pub const FILE: &str = "orders.json";

/// Name of the file with a copy of it, for when it is damaged.
pub const COPY: &str = "orders.last.json";

/// Fewest digits by which an id can be named.
const SHORTEST_ID: usize = 8;

/// Larger files are not identityd's, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

#[derive(Deserialize)]
struct Orders {
    #[serde(default)]
    holds: Vec<Hold>,
    #[serde(default)]
    postponed: Vec<Postponed>,
}

#[derive(Deserialize)]
struct Hold {
    release: Option<String>,
    reason: Option<String>,
    until: Option<Moment>,
}

/// When a release was postponed first.
#[derive(Deserialize)]
struct Postponed {
    release: String,
    first: Moment,
}

/// A moment, in seconds since 1970.
#[derive(Deserialize)]
struct Moment {
    unix: u64,
}

/// What a hold that ends by itself is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The time, in seconds since 1970: what the clock says, or the earliest that it can be, if that is later.
    pub now: u64,
    /// How long a release may be postponed in all.
    pub longest: Duration,
}

impl Patience {
    /// By the clock of this machine, as far as the state at this place lets it be believed.
    pub fn read(place: &StatePlace, longest: Duration) -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { now: clock.max(offers::earliest(place).try_into().unwrap_or(0)), longest }
    }

    /// When a hold ends that was ordered `until` then, for a release that was postponed `first` then: at its own end, or
    /// when the release has been postponed for long enough. In seconds since 1970.
    pub fn end(&self, until: u64, first: Option<u64>) -> u64 {
        let last = first.map(|first| first.saturating_add(self.longest.as_secs()));
        last.map_or(until, |last| until.min(last))
    }

    /// Whether that end has come; never, where there is none.
    pub fn is_over(&self, until: Option<u64>, first: Option<u64>) -> bool {
        until.is_some_and(|until| self.end(until, first) <= self.now)
    }
}

/// Whether a text names the release with this version and this id: by the version, or by the beginning of the
/// id.
pub fn names(text: &str, version: &str, id: &str) -> bool {
    let by_id = text.len() >= SHORTEST_ID && id.starts_with(&text.to_ascii_lowercase());
    text == version || text == id || by_id
}

/// Why this release is held back, for people; `None` when it is not, and when nobody can tell.
pub fn why_held(state_dir: &Path, version: &str, id: &str, patience: &Patience) -> Option<String> {
    let orders = match read(&state_dir.join(FILE)) {
        Ok(orders) => orders?,
        Err(error) => {
            tracing::error!(%error, "{FILE} is damaged");
            read(&state_dir.join(COPY)).ok().flatten()?
        }
    };
    let first = orders.postponed.iter().find(|postponed| postponed.release == id);
    let first = first.map(|postponed| postponed.first.unix);
    let holds = |hold: &&Hold| {
        let until = hold.until.as_ref().map(|until| until.unix);
        hold.release.as_ref().is_none_or(|text| names(text, version, id)) && !patience.is_over(until, first)
    };
    let hold = orders.holds.iter().find(holds)?;
    Some(hold.reason.clone().unwrap_or_else(|| "somebody holds it".to_owned()))
}

/// What is ordered; `None` without a file.
fn read(path: &Path) -> std::io::Result<Option<Orders>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > LARGEST_FILE => {
            return Err(std::io::Error::other("it is too large"));
        }
        Ok(_) => {}
    }
    serde_json::from_slice(&std::fs::read(path)?).map(Some).map_err(std::io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn at(now: u64) -> Patience {
        Patience { now, longest: Duration::from_secs(14 * DAY) }
    }

    #[test]
    fn a_hold_names_a_version_the_beginning_of_an_id_or_everything() {
        let dir = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef".repeat(4);
        let why = || why_held(dir.path(), "2.0.0", &id, &at(0));
        let held = |orders: &str| {
            std::fs::write(dir.path().join(FILE), orders).unwrap();
            why()
        };
        assert_eq!(why(), None);
        let orders = r#"{"schema": 1, "holds": [{"release": "01234567", "by": 0, "reason": "rolled back"}]}"#;
        assert_eq!(held(orders).as_deref(), Some("rolled back"));
        assert_eq!(held(r#"{"holds": [{"release": "2.0.0"}]}"#).as_deref(), Some("somebody holds it"));
        assert!(held(r#"{"holds": [{"release": null}]}"#).is_some());
        for other in [r#"{"holds": [{"release": "0123456"}, {"release": "2.0"}]}"#, "{}", "{", ""] {
            assert_eq!(held(other), None, "{other}");
        }
        // Damage does not take holds away that a copy has.
        std::fs::write(dir.path().join(COPY), r#"{"holds": [{"release": "2.0.0"}]}"#).unwrap();
        assert!(held("{").is_some());
        assert_eq!(held("{}"), None);
        // Nor does a file that cannot be read: EISDIR.
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        assert!(why().is_some());
    }

    #[test]
    fn a_hold_that_has_run_out_holds_no_boot() {
        let dir = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef".repeat(4);
        let held = |orders: &str, now| {
            std::fs::write(dir.path().join(FILE), orders).unwrap();
            why_held(dir.path(), "2.0.0", &id, &at(now)).is_some()
        };
        let until = r#"{"holds": [{"release": null, "until": {"at": "", "unix": 100}}]}"#;
        assert_eq!((held(until, 99), held(until, 100)), (true, false));
        let with_a_plain_one =
            r#"{"holds": [{"release": "2.0.0", "until": {"unix": 100}}, {"release": "2.0.0"}]}"#;
        assert!(held(with_a_plain_one, 100));
        // The whole time that a release may be postponed counts from the first time, whatever is ordered later.
        let (first, end) = (5 * DAY, 19 * DAY);
        let again = format!(
            r#"{{"holds": [{{"release": "2.0.0", "until": {{"unix": {}}}}}],
                "postponed": [{{"release": "{id}", "first": {{"at": "", "unix": {first}}}, "by": 0}}]}}"#,
            30 * DAY
        );
        assert_eq!((held(&again, end - 1), held(&again, end)), (true, false));
    }
}
