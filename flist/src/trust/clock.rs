//! What time it may be, at the earliest. Pure, except for [`Clocks::read`].
//!
//! Expiry is the only check that needs a clock, and a minimal node may have none that works. Time cannot be
//! earlier than when this program was built, than when the newest timestamp that this node has accepted was
//! signed, or than any of these plus the time that the kernel has counted since. The node's own clock never
//! raises the floor: one moment in 2050 would otherwise make every later signature look expired.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// When this program was built, in seconds since 1970; 0 where nobody has said.
pub const BUILT: i64 = seconds(env!("MOLT_BUILT"));

const fn seconds(digits: &str) -> i64 {
    let (bytes, mut at, mut seconds) = (digits.as_bytes(), 0, 0);
    while at < bytes.len() {
        seconds = seconds * 10 + (bytes[at] - b'0') as i64;
        at += 1;
    }
    seconds
}

/// What the clocks of a node show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// The clock on the wall.
    pub wall: Timestamp,
    /// What the kernel has counted.
    pub uptime: Uptime,
    /// When this program was built, in seconds since 1970.
    pub built: i64,
}

impl Clocks {
    /// Looks at the clocks of this machine.
    pub fn read() -> Self {
        let seconds = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        // Without an id, counts are taken to be of one boot, and never go back all the same.
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let uptime =
            Uptime { boot_id: boot_id.trim().to_owned(), seconds: seconds.map_or(0, |at| at.tv_sec()) };
        Self { wall: Timestamp::now(), uptime, built: BUILT }
    }
}

/// What the kernel counts since the machine was started, sleep included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    /// The boot that is counted from; the counts of two boots cannot be compared.
    pub boot_id: String,
    /// Seconds since then.
    pub seconds: i64,
}

/// A floor, and when it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The floor, in seconds since 1970.
    pub floor: i64,
    /// The kernel's count at that moment.
    pub uptime: Uptime,
    /// The ids of the keys of the timestamp, sorted: with other ones it counts no more, because whoever had stolen
    /// the old ones can have signed any time with them. Empty where an earlier version wrote it.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// Seconds of the kernel's count after which progress is worth keeping that is nothing but that.
const WORTH_KEEPING: i64 = 600;

impl Progress {
    /// Whether this has to be kept instead of what was found `before`.
    pub(super) fn is_news(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| {
            let counted = self.uptime.seconds.saturating_sub(before.uptime.seconds);
            let same = self.uptime.boot_id == before.uptime.boot_id && self.keys == before.keys;
            let grown = self.floor.saturating_sub(before.floor);
            !same || grown > counted || !(0..WORTH_KEEPING).contains(&counted) || grown < 0
        })
    }
}

/// The earliest time that it can be, in seconds since 1970: the largest of when the program was `built`, when
/// the newest accepted timestamp was `signed`, and what was found before plus the time since.
pub fn floor(built: i64, signed: Option<i64>, before: Option<&Progress>, uptime: &Uptime) -> i64 {
    let grown = before.map(|before| match before.uptime.boot_id == uptime.boot_id {
        true => before.floor.saturating_add(uptime.seconds.saturating_sub(before.uptime.seconds).max(0)),
        // How long the machine was off is not known.
        false => before.floor,
    });
    built.max(signed.unwrap_or(built)).max(grown.unwrap_or(built))
}

/// The time that expiry is judged by: the node's clock, unless that is before the floor.
pub fn floored(clock: Timestamp, floor: i64) -> Timestamp {
    clock.max(Timestamp::from_second(floor).unwrap_or(Timestamp::MAX))
}

/// Whether something that has expired by the node's clock may be fresh all the same, because the clock is
/// further ahead of everything signed than metadata ever lives.
pub fn may_be_ahead(clock: Timestamp, floor: i64, longest_life: i64) -> bool {
    clock.as_second().saturating_sub(floor) > longest_life
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_824_000;

    fn uptime(boot: &str, seconds: i64) -> Uptime {
        Uptime { boot_id: boot.to_owned(), seconds }
    }

    fn found(floor: i64, boot: &str, seconds: i64) -> Progress {
        Progress { floor, uptime: uptime(boot, seconds), keys: Vec::new() }
    }

    #[test]
    fn the_largest_of_the_three_counts() {
        let now = uptime("a", 500);
        assert_eq!(floor(100, None, None, &now), 100);
        assert_eq!(floor(100, Some(300), None, &now), 300);
        assert_eq!(floor(100, Some(50), None, &now), 100);
        assert_eq!(floor(100, Some(300), Some(&found(300, "a", 100)), &now), 700);
        // Another boot, or a count that went back: no progress, and no loss.
        assert_eq!(floor(100, None, Some(&found(300, "b", 100)), &now), 300);
        assert_eq!(floor(100, None, Some(&found(300, "a", 900)), &now), 300);
        assert_eq!(floor(100, None, Some(&found(i64::MAX, "a", 1)), &now), i64::MAX);
    }

    #[test]
    fn a_clock_in_1970_is_lifted_and_one_in_2050_is_left() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(floored(at(5), NOW), at(NOW));
        assert_eq!(floored(at(2_524_608_000), NOW), at(2_524_608_000));
        assert_eq!(floored(at(5), i64::MAX), Timestamp::MAX);
        assert!(may_be_ahead(at(2_524_608_000), NOW, 366 * 86400));
        assert!(!may_be_ahead(at(NOW + 86400), NOW, 366 * 86400));
    }
}
