//! What keeps a kernel from being started now. Pure.

use bootstrap::maintenance::Windows;

use crate::agent::Stage;
use crate::timestamp::Timestamp;

/// Everything that may keep it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'c> {
    /// Why this kernel cannot be started.
    pub(super) unfit: Option<&'c str>,
    /// The node is in a container.
    pub(super) in_container: bool,
    /// What the agent does.
    pub(super) stage: Stage,
    /// Somebody has ordered a rollback.
    pub(super) goes_back: bool,
    /// Everything is held back, or paused.
    pub(super) held: bool,
    /// The state is in RAM.
    pub(super) forgets: bool,
    /// When upgrades may begin; `None` for always.
    pub(super) windows: Option<&'c Windows>,
    /// What the clock says, in seconds since 1970.
    pub(super) now: u64,
    /// The earliest time that it can be.
    pub(super) earliest: u64,
}

/// The first of the obstacles, in words.
pub(super) fn obstacle(circumstances: &Circumstances<'_>) -> Option<String> {
    let Circumstances { unfit, in_container, stage, goes_back, held, forgets, .. } = *circumstances;
    if let Some(why) = unfit {
        return Some(why.to_owned());
    }
    if in_container {
        return Some("this node is in a container, whose kernel is its host's".to_owned());
    }
    // A poll changes nothing; whoever wants to change something takes the lock.
    if !matches!(stage, Stage::Idle | Stage::Resolving) || goes_back {
        return Some(format!("the node is busy (stage {stage})"));
    }
    if held {
        return Some("everything is held back, or upgrades are paused".to_owned());
    }
    if forgets {
        return Some("the state is in RAM, so nobody would know afterwards what was tried".to_owned());
    }
    outside_windows(circumstances)
}

/// As the gate of the upgrades: a clock before the earliest time that it can be opens no window.
fn outside_windows(Circumstances { windows, now, earliest, .. }: &Circumstances<'_>) -> Option<String> {
    let windows = windows.as_ref()?;
    if now < earliest {
        let (now, earliest) = (Timestamp::from_unix(*now).at, Timestamp::from_unix(*earliest).at);
        return Some(format!(
            "the clock says {now}, but it is at least {earliest}, so nobody knows whether a maintenance window is open; \
             set the clock"
        ));
    }
    let standing = windows.at(i64::try_from(*now).unwrap_or(i64::MAX));
    let next = standing.changes.and_then(|at| u64::try_from(at).ok()).map(Timestamp::from_unix);
    let next = next.map(|at| format!("; the next one opens {}", at.at)).unwrap_or_default();
    (!standing.open).then(|| format!("no maintenance window is open{next}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bootstrap::settings::Maintenance;

    use super::*;

    /// 2026-11-21T00:00:00Z.
    const MIDNIGHT: u64 = 1_795_219_200;
    const HOUR: u64 = 3600;

    #[test]
    fn a_closed_window_and_a_clock_that_is_wrong_keep_a_kernel_from_being_started() {
        let maintenance = Maintenance { timezone: "UTC".to_owned(), windows: vec!["02:00-05:00".to_owned()] };
        let windows = Windows::new(&maintenance, Path::new("/nonexistent")).unwrap();
        let free = Circumstances {
            unfit: None,
            in_container: false,
            stage: Stage::Idle,
            goes_back: false,
            held: false,
            forgets: false,
            windows: Some(&windows),
            now: MIDNIGHT + 3 * HOUR,
            earliest: MIDNIGHT,
        };
        assert_eq!(obstacle(&free), None);
        let said = |circumstances| obstacle(&circumstances).unwrap();
        let closed = said(Circumstances { now: MIDNIGHT + HOUR, ..free });
        assert_eq!(closed, "no maintenance window is open; the next one opens 2026-11-21T02:00:00Z");
        // The same hour of the clock, which is known to be wrong.
        let wrong = said(Circumstances { earliest: MIDNIGHT + 3 * HOUR + 1, ..free });
        assert!(wrong.contains("it is at least 2026-11-21T03:00:01Z"), "{wrong}");
        let always = Circumstances { windows: None, earliest: u64::MAX, ..free };
        assert_eq!(obstacle(&always), None, "without windows nobody asks for the time");
        for (other, part) in [
            (Circumstances { unfit: Some("it is no bzImage"), ..free }, "bzImage"),
            (Circumstances { in_container: true, ..free }, "container"),
            (Circumstances { stage: Stage::Staging, ..free }, "busy"),
            (Circumstances { goes_back: true, ..free }, "busy"),
            (Circumstances { held: true, ..free }, "held back"),
            (Circumstances { forgets: true, ..free }, "state is in RAM"),
        ] {
            assert!(said(other).contains(part), "{part}");
        }
        assert_eq!(obstacle(&Circumstances { stage: Stage::Resolving, ..free }), None);
    }
}
