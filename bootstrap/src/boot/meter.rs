//! How far the installation is: a line now and then, for a console that scrolls. Deciding what to say is pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flist::path::FlistPath;
use flist::tree::Content;

use crate::item::What;
use crate::plan::Plan;
use crate::source::{ContentSource, SourceError};

/// No two lines about progress are closer to each other.
const NOT_BEFORE: Duration = Duration::from_secs(5);

/// Something is said at least as often, also if it is that nothing has come.
const NOT_AFTER: Duration = Duration::from_secs(60);

/// A part of the whole that is worth a line, in percent.
const WORTH: u64 = 10;

/// Content that counts what was read of it.
pub(super) struct Counted {
    source: Arc<dyn ContentSource>,
    bytes: AtomicU64,
}

impl Counted {
    /// Counts what is read from `source`.
    pub(super) fn new(source: Arc<dyn ContentSource>) -> Self {
        Self { source, bytes: AtomicU64::new(0) }
    }

    /// Plain bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl ContentSource for Counted {
    fn block(&self, path: &FlistPath, content: &Content, index: usize) -> Result<Vec<u8>, SourceError> {
        let plain = self.source.block(path, content, index)?;
        self.bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
        Ok(plain)
    }
}

/// Bytes of all files that a plan stages.
pub(super) fn to_stage(plan: &Plan) -> u64 {
    let sizes = plan.files.changes.iter().filter_map(|change| match change.staged()?.1.what {
        What::File { size, .. } => Some(size),
        _ => None,
    });
    sizes.fold(0, u64::saturating_add)
}

/// Decides what is said, and when.
#[derive(Debug)]
pub(super) struct Meter {
    total: u64,
    /// When something was said last, and how much there was then.
    told: (Duration, u64),
}

impl Meter {
    /// For so many bytes in all.
    pub(super) fn new(total: u64) -> Self {
        Self { total, told: (Duration::ZERO, 0) }
    }

    /// What is to be said when `bytes` are there so long after the begin.
    pub(super) fn look(&mut self, at: Duration, bytes: u64) -> Option<String> {
        let (before, had) = self.told;
        let silent = at.saturating_sub(before);
        let step = (self.total / 100 * WORTH).max(1);
        let is_over = bytes >= self.total;
        let worth = silent >= NOT_BEFORE && bytes / step > had / step && !is_over;
        // What comes after the last byte has lines of its own.
        if !worth && (silent < NOT_AFTER || is_over) {
            return None;
        }
        self.told = (at, bytes);
        Some(self.line(at, silent, (had, bytes)))
    }

    fn line(&self, at: Duration, silent: Duration, (had, bytes): (u64, u64)) -> String {
        let percent = bytes.saturating_mul(100) / self.total.max(1);
        let so_far = format!("{percent} %, {} of {} MiB", mebibytes(bytes), mebibytes(self.total));
        if bytes == had {
            return format!("{so_far}; nothing has come for {} s", silent.as_secs());
        }
        // The rate of late, not of all: it is what tells whether something is wrong now.
        let rate = (bytes - had) as f64 / silent.as_secs_f64().max(0.001);
        let left = Duration::from_secs_f64((self.total - bytes) as f64 / rate.max(1.0));
        format!("{so_far}, {}/s, about {} left", of_rate(rate), rounded(left.min(at * 1000)))
    }

    /// The last line.
    pub(super) fn end(at: Duration, bytes: u64) -> String {
        let rate = bytes as f64 / at.as_secs_f64().max(0.001);
        format!("{} MiB in {:.1} s, {}/s", mebibytes(bytes), at.as_secs_f64(), of_rate(rate))
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn of_rate(bytes: f64) -> String {
    match bytes / f64::from(1 << 20) {
        rate if rate >= 1.0 => format!("{rate:.1} MiB"),
        rate => format!("{:.0} KiB", rate * 1024.0),
    }
}

fn rounded(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn told(rate: impl Fn(u64) -> u64, seconds: u64) -> Vec<String> {
        let mut meter = Meter::new(200 * MIB);
        let looks = (1..=seconds).filter_map(|second| meter.look(Duration::from_secs(second), rate(second)));
        looks.collect()
    }

    #[test]
    fn two_hundred_mebibytes_make_few_lines_however_fast_they_come() {
        assert_eq!(told(|_| 200 * MIB, 60), [""; 0]);
        let lines = told(|second| (second * 10 * MIB).min(200 * MIB), 60);
        assert_eq!(
            lines,
            [
                "25 %, 50.0 of 200.0 MiB, 10.0 MiB/s, about 15 s left",
                "50 %, 100.0 of 200.0 MiB, 10.0 MiB/s, about 10 s left",
                "75 %, 150.0 of 200.0 MiB, 10.0 MiB/s, about 5 s left"
            ]
        );
        // An hour of 57 KiB/s: a line for each minute, or for each tenth.
        let slow = told(|second| (second * 57 * 1024).min(200 * MIB), 3600);
        assert!((50..=70).contains(&slow.len()), "{}", slow.len());
        assert_eq!(slow[1], "3 %, 6.7 of 200.0 MiB, 57 KiB/s, about 57 min left");
    }

    #[test]
    fn what_does_not_come_is_told_without_flooding() {
        let lines = told(|second| second.min(3) * MIB, 185);
        let nothing = "1 %, 3.0 of 200.0 MiB; nothing has come for 60 s";
        assert_eq!(lines, ["1 %, 3.0 of 200.0 MiB, 51 KiB/s, about 65 min left", nothing, nothing]);
        assert_eq!(Meter::new(0).look(Duration::from_secs(60), 0), None);
    }
}
