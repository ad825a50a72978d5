//! What kills come to.

use std::collections::BTreeMap;
use std::fmt;

use super::ByRoot;
use crate::RootKind;

/// What a kill found, and what recovery made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// No transaction had begun.
    NotBegun,
    /// One had begun, and recovery put back what was before it.
    Undone,
    /// One had been committed, and recovery finished it.
    Finished,
    /// None was under way any more: all that was begun was complete.
    Completed,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NotBegun, Self::Undone, Self::Finished, Self::Completed];
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotBegun => "not begun",
            Self::Undone => "undone",
            Self::Finished => "finished by recovery",
            Self::Completed => "completed",
        })
    }
}

/// What came of the kills.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How often each ending was seen.
    pub endings: BTreeMap<Ending, ByRoot>,
    /// How often identityd was in each stage, as far as its status told at the moment of the kill.
    pub stages: BTreeMap<String, usize>,
    /// What went wrong.
    pub problems: Vec<String>,
}

impl Tally {
    /// Kills in all.
    pub fn kills(&self) -> usize {
        self.endings.values().map(ByRoot::total).sum::<usize>() + self.problems.len()
    }

    /// Which of these endings, that have to be there, are not: the kills did not bite.
    pub fn missing(&self, wanted: &[Ending]) -> Vec<Ending> {
        wanted.iter().filter(|ending| !self.endings.contains_key(ending)).copied().collect()
    }

    pub(super) fn note(&mut self, ending: Ending, stage: String, root: RootKind) {
        self.endings.entry(ending).or_default().note(root);
        *self.stages.entry(stage).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: Self) {
        for (ending, count) in other.endings {
            self.endings.entry(ending).or_default().add(&count);
        }
        for (stage, count) in other.stages {
            *self.stages.entry(stage).or_default() += count;
        }
        self.problems.extend(other.problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_that_did_not_bite_are_told() {
        let mut tally = Tally::default();
        tally.note(Ending::Undone, "Swapping".to_owned(), RootKind::Tmpfs);
        tally.note(Ending::Undone, "Swapping".to_owned(), RootKind::Ext4);
        tally.note(Ending::Completed, "Idle".to_owned(), RootKind::Ext4);
        assert_eq!(
            (tally.kills(), tally.missing(&Ending::ALL)),
            (3, vec![Ending::NotBegun, Ending::Finished])
        );
        assert_eq!(tally.stages["Swapping"], 2);
    }
}
