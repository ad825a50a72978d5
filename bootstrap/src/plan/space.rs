//! How much space an installation takes, and where. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// Files take whole pages.
const PAGE: u64 = 4096;

/// Left free on every file system, for whoever else writes to it meanwhile.
const MARGIN: u64 = 1 << 20;

/// Where space is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On the file system of this directory.
    Directory(PathBuf),
    /// In the memory, by all file systems in RAM together: by those of these directories.
    Memory(Vec<PathBuf>),
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => directory.display().fmt(f),
            Self::Memory(directories) => {
                let directories: Vec<_> = directories.iter().map(|at| at.display().to_string()).collect();
                write!(f, "the memory (for {})", directories.join(", "))
            }
        }
    }
}

impl Serialize for Place {
    /// As it is displayed.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What one file system has to take, and can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Which one.
    pub at: Place,
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

    /// Bytes that are missing, with something left for others; 0 where it is enough.
    pub fn lacking(&self) -> u64 {
        match self.have {
            Some(have) if !self.suffices() => self.need.saturating_add(MARGIN).saturating_sub(have),
            _ => 0,
        }
    }
}

/// Bytes that may be taken beside what is needed, with something left for others.
pub fn left_beside(need: u64, have: Option<u64>) -> u64 {
    have.map_or(u64::MAX, |have| have.saturating_sub(need).saturating_sub(MARGIN))
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

    /// What one file system has to take, in bytes.
    pub fn need_on(&self, device: u64) -> u64 {
        self.by_device.get(&device).map_or(0, |space| space.need)
    }

    /// What all that lie in RAM have to take together, of the memory that is available for all of them: each for itself
    /// may have it, but not two at once.
    pub fn in_memory(&self, have: Option<u64>) -> Space {
        let in_ram = || self.by_device.values().filter(|space| space.in_ram && space.need > 0);
        let directory = |space: &Space| match &space.at {
            Place::Directory(directory) => Some(directory.clone()),
            Place::Memory(_) => None,
        };
        let directories = in_ram().filter_map(directory).collect();
        let need = in_ram().fold(0_u64, |sum, space| sum.saturating_add(space.need));
        Space { at: Place::Memory(directories), need, have, in_ram: true }
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
        Space { at: Place::Directory(at.into()), need: 77, have, in_ram: false }
    }

    #[test]
    fn files_are_counted_in_pages_per_file_system() {
        let mut sum = SpaceSum::default();
        sum.add(1, || space("/", Some(2 << 20)), 1);
        sum.add(2, || space("/var", None), 5000);
        sum.add(1, || space("/usr", None), 4096);
        let spaces = sum.finish();
        assert_eq!(spaces.iter().map(|space| space.need).collect::<Vec<_>>(), [8192, 8192]);
        assert_eq!((spaces[0].at.to_string().as_str(), spaces[0].have), ("/", Some(2 << 20)));
        assert!(spaces.iter().all(Space::suffices));
    }

    #[test]
    fn memory_is_there_once_for_all_that_lie_in_it() {
        let mut sum = SpaceSum::default();
        let in_ram = |at: &str| Space { in_ram: true, ..space(at, Some(10 << 20)) };
        sum.add(1, || in_ram("/"), 8 << 20);
        sum.add(2, || in_ram("/var"), 8 << 20);
        sum.add(3, || space("/disk", Some(1 << 40)), 1 << 30);
        let all = |have| sum.in_memory(Some(have));
        assert!(!all(10 << 20).suffices() && all(17 << 20).suffices());
        assert!(sum.in_memory(None).suffices());
        assert_eq!((all(1).need, all(1).at.to_string().as_str()), (16 << 20, "the memory (for /, /var)"));
        assert_eq!((sum.need_on(1), sum.need_on(9)), (8 << 20, 0));
        // Each of them alone would do.
        assert!(sum.finish().iter().all(Space::suffices));
    }

    #[test]
    fn a_place_is_one_text_in_json_too() {
        let memory = Place::Memory(vec!["/".into(), "/var".into()]);
        for (place, text) in [(Place::Directory("/usr".into()), "/usr"), (memory, "the memory (for /, /var)")]
        {
            let space = Space { at: place, ..space("/", Some(1)) };
            let json = serde_json::json!({ "at": text, "need": 77, "have": 1, "in_ram": false });
            assert_eq!(serde_json::to_value(&space).unwrap(), json);
        }
    }

    #[test]
    fn a_cache_gets_what_is_left() {
        assert_eq!(left_beside(10, None), u64::MAX);
        assert_eq!(left_beside(10, Some(15 + MARGIN)), 5);
        assert_eq!(left_beside(10, Some(9)), 0);
    }

    #[test]
    fn the_last_byte_is_left_to_others() {
        let of = |need, have| Space { need, ..space("/", Some(have)) };
        assert!(of(10, 10 + MARGIN).suffices());
        assert!(!of(11, 10 + MARGIN).suffices());
        assert!(!of(u64::MAX, u64::MAX).suffices());
        assert!(of(0, 0).suffices(), "who needs nothing needs no margin");
        let lacking = [of(10, 10 + MARGIN), of(0, 0), of(11, 10 + MARGIN), of(3, 1)].map(|of| of.lacking());
        assert_eq!(lacking, [0, 0, 1, 2 + MARGIN]);
        assert_eq!((of(u64::MAX, 5).lacking(), space("/", None).lacking()), (u64::MAX - 5, 0));
    }
}
