//! Releases that people hold back, as far as a boot has to know of them. identityd writes the file.

use std::path::Path;

use serde::Deserialize;

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
}

#[derive(Deserialize)]
struct Hold {
    release: Option<String>,
    reason: Option<String>,
}

/// Whether a text names the release with this version and this id: by the version, or by the beginning of the
/// id.
pub fn names(text: &str, version: &str, id: &str) -> bool {
    let by_id = text.len() >= SHORTEST_ID && id.starts_with(&text.to_ascii_lowercase());
    text == version || text == id || by_id
}

/// Why this release is held back, for people; `None` when it is not, and when nobody can tell.
pub fn why_held(state_dir: &Path, version: &str, id: &str) -> Option<String> {
    let orders = match read(&state_dir.join(FILE)) {
        Ok(orders) => orders?,
        Err(error) => {
            tracing::error!(%error, "{FILE} is damaged");
            read(&state_dir.join(COPY)).ok().flatten()?
        }
    };
    let covers = |hold: &&Hold| hold.release.as_ref().is_none_or(|text| names(text, version, id));
    let hold = orders.holds.iter().find(covers)?;
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

    #[test]
    fn a_hold_names_a_version_the_beginning_of_an_id_or_everything() {
        let dir = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef".repeat(4);
        let held = |orders: &str| {
            std::fs::write(dir.path().join(FILE), orders).unwrap();
            why_held(dir.path(), "2.0.0", &id)
        };
        assert_eq!(why_held(dir.path(), "2.0.0", &id), None);
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
        assert!(why_held(dir.path(), "2.0.0", &id).is_some());
    }
}
