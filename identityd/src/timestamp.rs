//! Moments in UTC, as seconds and as RFC 3339 text.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const DAY: u64 = 24 * 60 * 60;
/// The first second of the year 10000, which RFC 3339 cannot say.
const END: u64 = 253_402_300_800;

/// A moment, to the second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// RFC 3339, UTC: `2026-11-20T19:01:36Z`.
    pub at: String,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub unix: u64,
}

impl Timestamp {
    /// This many seconds after 1970-01-01T00:00:00Z; what is beyond the year 9999 is its last second.
    pub fn from_unix(seconds: u64) -> Self {
        let unix = seconds.min(END - 1);
        let (year, month, day) = civil_from_days(unix / DAY);
        let second = unix % DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        Self { at: format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"), unix }
    }
}

impl From<SystemTime> for Timestamp {
    /// A clock that stands before 1970 counts as 1970.
    fn from(time: SystemTime) -> Self {
        Self::from_unix(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

/// Year, month (1 to 12) and day (1 to 31) of the day this many days after 1970-01-01, in the
/// Gregorian calendar. Years are counted from 1 March, so that the leap day comes last.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const FOUR_CENTURIES: u64 = 146_097;
    // 0000-03-01 lies 719468 days before 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / FOUR_CENTURIES, days % FOUR_CENTURIES);
    // Every 4 years one day too many, every 100 one too few, and the last day of the era its own.
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months have 31, 30, 31, 30, 31 days, and again.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (unix, at) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_194_279, "2026-11-20T17:04:39Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (END - 1, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp::from_unix(unix), Timestamp { at: at.to_owned(), unix });
        }
        assert_eq!(Timestamp::from_unix(u64::MAX).at, "9999-12-31T23:59:59Z");
    }

    #[test]
    fn every_day_of_nine_centuries_follows_the_one_before() {
        let lengths = |year: u64| {
            let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..900 * 366 {
            assert_eq!(civil_from_days(days), (year, month, day), "day {days}");
            day += 1;
            if day > lengths(year)[usize::try_from(month).unwrap() - 1] {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
