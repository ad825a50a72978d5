//! How much space an installation takes, and where. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Files take whole pages.
const PAGE: u64 = 4096;

/// Left free on every file system, for whoever else writes to it meanwhile.
const MARGIN: u64 = 1 << 20;

/// What one file system has to take, and can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// A directory in it, for people.
    pub at: String,
    /// Bytes that will be written to it.
    pub need: u64,
    /// Bytes that can be; `None` where there is no limit to be known.
    pub have: Option<u64>,
    /// It lies in RAM.
    pub in_ram: bool,
}

impl Space {
    /// Whether it is enough, with something left for others.
    pub fn suffices(&self) -> bool {
        let with_margin = self.need.checked_add(MARGIN);
        self.have.is_none_or(|have| self.need == 0 || with_margin.is_some_and(|need| need <= have))
    }
}

/// Adds up what goes where.
#[derive(Debug, Default)]
pub struct SpaceSum {
    by_device: BTreeMap<u64, Space>,
}

impl SpaceSum {
    /// Counts one file of so many bytes on a file system that is described by `space` (its `need` does not
    /// count) and identified by `device`.
    pub fn add(&mut self, device: u64, space: impl FnOnce() -> Space, bytes: u64) {
        let sum = self.by_device.entry(device).or_insert_with(|| Space { need: 0, ..space() });
        sum.need = sum.need.saturating_add(bytes.saturating_add(PAGE - 1) / PAGE * PAGE);
    }

    /// One entry for each file system.
    pub fn finish(self) -> Vec<Space> {
        self.by_device.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(at: &str, have: Option<u64>) -> Space {
        Space { at: at.to_owned(), need: 77, have, in_ram: false }
    }

    #[test]
    fn files_are_counted_in_pages_per_file_system() {
        let mut sum = SpaceSum::default();
        sum.add(1, || space("/", Some(2 << 20)), 1);
        sum.add(2, || space("/var", None), 5000);
        sum.add(1, || space("/usr", None), 4096);
        let spaces = sum.finish();
        assert_eq!(spaces.iter().map(|space| space.need).collect::<Vec<_>>(), [8192, 8192]);
        assert_eq!((spaces[0].at.as_str(), spaces[0].have), ("/", Some(2 << 20)));
        assert!(spaces.iter().all(Space::suffices));
    }

    #[test]
    fn the_last_byte_is_left_to_others() {
        let of = |need, have| Space { need, ..space("/", Some(have)) };
        assert!(of(10, 10 + MARGIN).suffices());
        assert!(!of(11, 10 + MARGIN).suffices());
        assert!(!of(u64::MAX, u64::MAX).suffices());
        assert!(of(0, 0).suffices(), "who needs nothing needs no margin");
    }
}
