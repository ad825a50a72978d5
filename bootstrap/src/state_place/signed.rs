//! What was accepted of signatures moves with the rest of the state: versions must not fall because a disk fails.

use serde_json::Value;

use crate::offers::{DIRECTOR, TRUST};

/// The directory with earlier roots of one repository, in its own.
const ROOTS: &str = "root_history";

/// The directories in the state directory that hold it, each after the one that it is in.
pub(super) fn directories() -> Vec<String> {
    [TRUST, DIRECTOR].iter().flat_map(|top| [(*top).to_owned(), format!("{top}/{ROOTS}")]).collect()
}

/// Whether a file of the state is of it.
pub(super) fn is_signed(name: &str) -> bool {
    name.split_once('/').is_some_and(|(top, _)| [TRUST, DIRECTOR].contains(&top))
}

/// What counts of one file where the disk and RAM went on without each other: the higher version, or the later time. None
/// of it is believed unless it is checked again, so the other one is no loss. Pure.
pub(super) fn later<'b>(old: &'b [u8], new: &'b [u8]) -> &'b [u8] {
    match (progress(old), progress(new)) {
        (Some(old_progress), new_progress) if Some(old_progress) > new_progress => old,
        _ => new,
    }
}

/// The version of a role's file, or the time of the clock's.
fn progress(file: &[u8]) -> Option<i64> {
    let file: Value = serde_json::from_slice(file).ok()?;
    file["signed"]["version"].as_i64().or_else(|| file["floor"].as_i64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_version_nor_the_time_falls() {
        let role = |version: i64| format!(r#"{{"signed":{{"version":{version}}},"signatures":[]}}"#);
        let clock = |floor: i64| format!(r#"{{"floor":{floor},"uptime":1}}"#);
        for (low, high) in [(role(9), role(10)), (clock(1_700_000_000), clock(1_800_000_000))] {
            for (old, new) in [(&low, &high), (&high, &low), (&high, &"damaged".to_owned())] {
                let expected = if new == "damaged" { old } else { &high };
                assert_eq!(later(old.as_bytes(), new.as_bytes()), expected.as_bytes());
            }
            assert_eq!(later(b"damaged", low.as_bytes()), low.as_bytes());
        }
    }

    #[test]
    fn its_files_are_known_by_their_directories() {
        for name in ["trust/clock", "trust/root_history/1.root.json", "director/timestamp.json"] {
            assert!(is_signed(name), "{name}");
        }
        for name in ["trust", "generations/1.json", "releases.json"] {
            assert!(!is_signed(name), "{name}");
        }
    }
}
