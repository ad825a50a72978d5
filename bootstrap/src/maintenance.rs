//! Maintenance windows: when upgrades may begin by themselves. Pure, but for the search of a time zone.
//!
//! ```yaml
//! maintenance:
//!   timezone: Europe/Brussels            # or a POSIX TZ string: CET-1CEST,M3.5.0,M10.5.0/3
//!   windows: ["Sat,Sun 02:00-05:00", "Mon-Fri 23:30-00:30", "12:00-12:30"]
//! ```
//! The day is the one on which the window opens; without days it opens every day. Times are the clock's on
//! the wall: where it is set forward, a time that is skipped counts as the moment it is set; where it is
//! set back, a time that comes twice counts when it comes first.

use std::path::Path;

use jiff::Timestamp as Instant;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::settings::Maintenance;

/// Where time zones are in a root that has some.
pub const ZONEINFO: &str = "usr/share/zoneinfo";

/// Most windows.
const MOST_WINDOWS: usize = 64;

/// Longest text of a window or of a time zone, in bytes.
const LONGEST_TEXT: usize = 128;

/// So many days are looked ahead: every window opens at least once in a week.
const DAYS_AHEAD: i64 = 8;

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// Why the windows are not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaintenanceError {
    /// Nobody knows the time zone.
    #[error(
        "maintenance: the time zone '{0}' is known neither to /usr/share/zoneinfo nor to this program; use a name like Europe/Brussels, or a POSIX TZ string like CET-1CEST,M3.5.0,M10.5.0/3"
    )]
    Zone(String),
    /// A window cannot be understood.
    #[error(
        "maintenance: the window '{window}' is not usable: {reason}; write it like 'Sat,Sun 02:00-05:00' or '23:30-00:30'"
    )]
    Window {
        /// What was given.
        window: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There would never be a window.
    #[error(
        "maintenance: there are no windows, so nothing would ever be upgraded; leave `maintenance` out to upgrade at any time, or use `identityd hold` to upgrade never"
    )]
    None,
    /// More than anybody needs.
    #[error("maintenance: there are {0} windows; at most {MOST_WINDOWS} are allowed")]
    TooMany(usize),
}

/// The windows of one node.
#[derive(Debug, Clone)]
pub struct Windows {
    name: String,
    zone: TimeZone,
    windows: Vec<Window>,
}

/// Whether a window is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether one is open.
    pub open: bool,
    /// When that changes, in seconds since 1970; `None`: not in the next week.
    pub changes: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    text: String,
    days: Vec<Weekday>,
    /// Minutes after midnight.
    from: u16,
    /// Minutes after the same midnight; more than a day for a window over midnight.
    to: u16,
}

impl Windows {
    /// Understands the windows. A time zone is looked up in the `zoneinfo` directory, then among those that
    /// this program brings along.
    ///
    /// # Errors
    /// [`MaintenanceError`].
    pub fn new(maintenance: &Maintenance, zoneinfo: &Path) -> Result<Self, MaintenanceError> {
        let Maintenance { timezone, windows } = maintenance;
        if windows.is_empty() {
            return Err(MaintenanceError::None);
        }
        if windows.len() > MOST_WINDOWS {
            return Err(MaintenanceError::TooMany(windows.len()));
        }
        let zone =
            find_zone(timezone, zoneinfo).ok_or_else(|| MaintenanceError::Zone(shortened(timezone)))?;
        let windows = windows.iter().map(|window| parse(window)).collect::<Result<_, _>>()?;
        Ok(Self { name: timezone.clone(), zone, windows })
    }

    /// The time zone, as it was given.
    pub fn zone(&self) -> &str {
        &self.name
    }

    /// The windows, as they were given.
    pub fn texts(&self) -> Vec<&str> {
        self.windows.iter().map(|window| window.text.as_str()).collect()
    }

    /// Whether a window is open at this time, in seconds since 1970. A time that no calendar has is in none.
    pub fn at(&self, now: i64) -> Standing {
        let Ok(instant) = Instant::from_second(now) else { return Standing { open: false, changes: None } };
        let today = self.zone.to_datetime(instant).date();
        let mut spans = Vec::new();
        // A window of the day before yesterday can reach into today where a day was skipped.
        for offset in -2..=DAYS_AHEAD {
            let Ok(date) = today.checked_add(jiff::Span::new().days(offset)) else { continue };
            let open = self.windows.iter().filter(|window| window.days.contains(&date.weekday()));
            spans.extend(open.filter_map(|window| window.span(date, &self.zone)));
        }
        spans.sort_unstable();
        let mut until = None;
        for (from, to) in &spans {
            match until {
                None if (*from..*to).contains(&now) => until = Some(*to),
                Some(end) if *from <= end => until = Some(end.max(*to)),
                _ => {}
            }
        }
        match until {
            Some(end) => {
                let horizon = now + (DAYS_AHEAD - 1) * i64::from(DAY) * 60;
                Standing { open: true, changes: (end < horizon).then_some(end) }
            }
            None => {
                let next = spans.iter().map(|(from, _)| *from).find(|from| *from > now);
                Standing { open: false, changes: next }
            }
        }
    }
}

impl Window {
    /// Beginning and end, in seconds since 1970, of the window that opens on this day.
    fn span(&self, date: Date, zone: &TimeZone) -> Option<(i64, i64)> {
        let second = |minutes: u16| {
            let date = date.checked_add(jiff::Span::new().days(i64::from(minutes / DAY))).ok()?;
            let time =
                Time::new(i8::try_from(minutes % DAY / 60).ok()?, i8::try_from(minutes % 60).ok()?, 0, 0);
            instant(date, time.ok()?, zone)
        };
        let (from, to) = (second(self.from)?, second(self.to)?);
        (from < to).then_some((from, to))
    }
}

/// The second at which a clock on the wall shows this.
fn instant(date: Date, time: Time, zone: &TimeZone) -> Option<i64> {
    use jiff::tz::AmbiguousOffset;
    let ambiguous = zone.to_ambiguous_timestamp(date.to_datetime(time));
    match ambiguous.offset() {
        // The moment at which the clock is set forward lies between the two readings.
        AmbiguousOffset::Gap { .. } => {
            let before = ambiguous.earlier().ok()?;
            zone.following(before).next().map(|transition| transition.timestamp().as_second())
        }
        _ => ambiguous.earlier().ok().map(Instant::as_second),
    }
}

fn find_zone(name: &str, zoneinfo: &Path) -> Option<TimeZone> {
    if name.is_empty() || name.len() > LONGEST_TEXT {
        return None;
    }
    let installed = TimeZoneDatabase::from_dir(zoneinfo).ok().and_then(|database| database.get(name).ok());
    installed.or_else(|| TimeZoneDatabase::bundled().get(name).ok()).or_else(|| TimeZone::posix(name).ok())
}

fn parse(text: &str) -> Result<Window, MaintenanceError> {
    let failed = |reason: String| MaintenanceError::Window { window: shortened(text), reason };
    if text.len() > LONGEST_TEXT {
        return Err(failed(format!("it is longer than {LONGEST_TEXT} bytes")));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, times) = match words.as_slice() {
        [times] => (ALL_DAYS.to_vec(), *times),
        [days, times] => (parse_days(days).map_err(failed)?, *times),
        _ => return Err(failed("it is not days and times".to_owned())),
    };
    let (from, to) = times.split_once('-').ok_or_else(|| failed(format!("'{times}' is no span of time")))?;
    let (from, to) = (minutes(from).map_err(failed)?, minutes(to).map_err(failed)?);
    if from == to {
        return Err(failed("it ends when it begins; a whole day is 00:00-24:00".to_owned()));
    }
    if from == DAY {
        return Err(failed("it cannot begin at 24:00; that is 00:00 of the next day".to_owned()));
    }
    let to = if to < from { to + DAY } else { to };
    Ok(Window { text: text.to_owned(), days, from, to })
}

const ALL_DAYS: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

/// `Sat,Sun`, `Mon-Fri`, `Fri-Mon,Wed`.
fn parse_days(text: &str) -> Result<Vec<Weekday>, String> {
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (weekday(first)?, weekday(last)?);
        let mut day = first;
        days.push(day);
        while day != last {
            day = day.next();
            days.push(day);
        }
    }
    Ok(days)
}

fn weekday(text: &str) -> Result<Weekday, String> {
    const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let name = text.to_ascii_lowercase();
    let found = NAMES.iter().position(|known| *known == name);
    found.map(|index| ALL_DAYS[index]).ok_or_else(|| format!("'{text}' is no day; days are Mon to Sun"))
}

/// `HH:MM` as minutes after midnight; 24:00 is the end of the day.
fn minutes(text: &str) -> Result<u16, String> {
    let wrong = || format!("'{text}' is no time between 00:00 and 24:00");
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let all = hours * 60 + minutes;
    if minutes < 60 && all <= DAY { Ok(all) } else { Err(wrong()) }
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests;
