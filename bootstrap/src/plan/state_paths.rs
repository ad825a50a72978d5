//! Which paths are state, that no release replaces or removes. Pure.

use std::collections::BTreeSet;

use flist::path::FlistPath;

/// Where services and people keep what is theirs: `/var`, `/home`, `/root`, and what packages declare as their state. A
/// release puts there what is missing, and never replaces or removes anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatePaths {
    declared: BTreeSet<FlistPath>,
    /// Where links lead from one of them, path by path.
    led_to: BTreeSet<FlistPath>,
}

impl StatePaths {
    /// With these that packages declare.
    pub fn with(declared: impl IntoIterator<Item = FlistPath>) -> Self {
        Self { declared: declared.into_iter().collect(), led_to: BTreeSet::new() }
    }

    /// Remembers where the root really has what a release calls by `name`: state on another disk is state.
    pub fn note(&mut self, name: &FlistPath, path: &FlistPath) {
        if name != path && self.has(name) {
            self.led_to.insert(path.clone());
        }
    }

    /// Whether a path is one of them, or beneath one.
    pub fn has(&self, path: &FlistPath) -> bool {
        let top = path.components().next();
        top.is_some_and(|top| [&b"var"[..], b"home", b"root"].contains(&top))
            || self.led_to.contains(path)
            || self.declared.iter().any(|state| path == state || path.is_beneath(state))
    }
}
