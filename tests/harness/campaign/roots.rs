//! The root file systems of the nodes of a campaign.

use std::collections::BTreeMap;

use crate::RootKind;

/// What the nodes of a campaign have as their roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Roots {
    /// All of them a tmpfs
    Tmpfs,
    /// All of them an ext4 on a loop device
    Ext4,
    /// All of them an overlayfs, with a base that cannot be written
    Overlay,
    /// One after the other a tmpfs, an ext4, an overlayfs
    Mixed,
}

impl Roots {
    /// That of the node with this number.
    pub(super) fn of(self, node: u64) -> RootKind {
        match self {
            Self::Tmpfs => RootKind::Tmpfs,
            Self::Ext4 => RootKind::Ext4,
            Self::Overlay => RootKind::Overlay,
            Self::Mixed => RootKind::ALL[(node % RootKind::ALL.len() as u64) as usize],
        }
    }

    /// Those of so many nodes, each kind once.
    pub fn among(self, nodes: usize) -> Vec<RootKind> {
        let mut kinds: Vec<_> = (0..nodes as u64).map(|node| self.of(node)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

/// How often something was seen, by the root of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByRoot(BTreeMap<RootKind, usize>);

impl ByRoot {
    /// On nodes with such a root.
    pub fn on(&self, root: RootKind) -> usize {
        self.0.get(&root).copied().unwrap_or_default()
    }

    /// On all of them.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    pub(super) fn note(&mut self, root: RootKind) {
        *self.0.entry(root).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (root, count) in &other.0 {
            *self.0.entry(*root).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_every_kind_of_root_in_turn() {
        let kinds: Vec<_> = (0..4).map(|node| Roots::Mixed.of(node)).collect();
        assert_eq!(kinds, [RootKind::Tmpfs, RootKind::Ext4, RootKind::Overlay, RootKind::Tmpfs]);
        assert_eq!(Roots::Mixed.among(2), [RootKind::Tmpfs, RootKind::Ext4]);
        assert_eq!(Roots::Overlay.among(8), [RootKind::Overlay]);
    }

    #[test]
    fn what_was_seen_is_counted_by_root() {
        let (mut one, mut other) = (ByRoot::default(), ByRoot::default());
        one.note(RootKind::Ext4);
        other.note(RootKind::Ext4);
        other.note(RootKind::Overlay);
        one.add(&other);
        assert_eq!(RootKind::ALL.map(|root| one.on(root)), [0, 2, 1]);
        assert_eq!(one.total(), 3);
    }
}
