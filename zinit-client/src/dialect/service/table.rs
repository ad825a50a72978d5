//! The table of zinit 0.3, and what a deletion does to others in it. Pure.

use std::collections::BTreeSet;

use super::unit::Loaded;
use crate::error::Hazard;

/// A row of the supervisor's table, in its order.
pub(super) struct Row {
    pub(super) name: String,
    /// Whether it has a process, or is about to be started: then it must not be moved.
    pub(super) is_tracked: bool,
    /// Services and targets that it waits for.
    pub(super) waits_for: BTreeSet<String>,
    /// Its unit; `None` of a target.
    pub(super) loaded: Option<Loaded>,
}

/// What would happen to others than those of `together` if this service were deleted; `None` when nothing would.
pub(super) fn hazard(table: &[Row], name: &str, together: &BTreeSet<&str>) -> Option<Hazard> {
    // Nothing is deleted then.
    if !table.iter().any(|row| row.name == name) {
        return None;
    }
    let mut deleted = BTreeSet::from([name]);
    // Whatever depends on what is deleted is deleted too, and so on.
    while let Some(row) = table.iter().find(|row| {
        !deleted.contains(row.name.as_str()) && row.waits_for.iter().any(|dep| deleted.contains(dep.as_str()))
    }) {
        if row.is_tracked || !together.contains(row.name.as_str()) {
            return Some(Hazard::Deletes { dependant: row.name.clone() });
        }
        deleted.insert(&row.name);
    }
    // Each deletion moves whoever is last then: none of those may be lost.
    let kept = table.len().saturating_sub(deleted.len());
    let moved = table.iter().skip(kept).find(|row| row.is_tracked && !deleted.contains(row.name.as_str()));
    moved.map(|row| Hazard::LosesTrack { service: row.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, is_tracked: bool, waits_for: &[&str]) -> Row {
        let waits_for = waits_for.iter().map(|name| (*name).to_owned()).collect();
        Row { name: name.to_owned(), is_tracked, waits_for, loaded: None }
    }

    fn deletes(name: &str) -> Option<Hazard> {
        Some(Hazard::Deletes { dependant: name.to_owned() })
    }

    fn loses(name: &str) -> Option<Hazard> {
        Some(Hazard::LosesTrack { service: name.to_owned() })
    }

    #[test]
    fn a_deletion_that_hits_others_is_known_beforehand() {
        let table = |tracked: [bool; 4]| {
            vec![
                row("redis", tracked[0], &[]),
                row("web", tracked[1], &["redis"]),
                row("page", tracked[2], &["web"]),
                row("log", tracked[3], &[]),
            ]
        };
        let all = BTreeSet::from(["redis", "web", "page", "log"]);
        let hazard = |tracked, name| hazard(&table(tracked), name, &all);
        // The last one can always go.
        assert_eq!(hazard([true, true, true, false], "log"), None);
        assert_eq!(hazard([false, true, true, true], "redis"), deletes("web"));
        assert_eq!(hazard([false, false, true, true], "redis"), deletes("page"));
        // Three rows go, and the last one would be moved.
        assert_eq!(hazard([false, false, false, true], "redis"), loses("log"));
        assert_eq!(hazard([false, false, false, false], "redis"), None);
        assert_eq!(hazard([true, true, false, true], "page"), loses("log"));
    }

    #[test]
    fn nobody_is_deleted_who_shall_not_be_although_he_is_down() {
        let table = [row("redis", false, &[]), row("web", false, &["redis"]), row("basic", false, &["web"])];
        assert_eq!(hazard(&table, "redis", &["redis"].into()), deletes("web"));
        assert_eq!(hazard(&table, "redis", &["redis", "web"].into()), deletes("basic"));
        assert_eq!(hazard(&table, "redis", &["redis", "web", "basic"].into()), None);
    }

    #[test]
    fn what_is_not_there_hits_nobody() {
        assert_eq!(hazard(&[], "nosuch", &BTreeSet::new()), None);
        assert_eq!(hazard(&[row("redis", true, &["nosuch"])], "nosuch", &BTreeSet::new()), None);
    }
}
