//! What of a file system is on its medium, and what a power cut makes of the rest.
//!
//! A change of names is one transaction of the file system: all of it reaches the medium, or nothing. It does so when
//! one of its directories is synced, or the whole file system. Until then nobody knows: it may be there after a power
//! cut although an earlier one is not, unless it makes no sense without that one.

use std::collections::BTreeMap;

use flist::path::FlistPath;
use nix::errno::Errno;

use super::{Answer, Files, Inode, Node, Place};

/// Which changes of names that were not synced are there after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kept {
    /// All, with owners and modes as they were last.
    All,
    /// None.
    Nothing,
    /// Only the last one, with what it needs.
    Last,
    /// All but the first one, and what needs that.
    ButFirst,
}

/// A change of names that is not on the medium yet.
#[derive(Debug, Clone)]
pub(super) struct Change(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    directory: u64,
    name: Vec<u8>,
    before: Option<u64>,
    after: Option<u64>,
}

impl Kept {
    /// The simplest that keeps the same of so many changes.
    #[must_use]
    pub fn of(self, unsynced: usize) -> Self {
        match (self, unsynced) {
            (_, 0) | (Self::ButFirst, 1) => Self::Nothing,
            (Self::Last, 1) => Self::All,
            (kept, _) => kept,
        }
    }
}

impl Entry {
    fn is_about(&self, number: u64) -> bool {
        self.before == Some(number) || self.after == Some(number)
    }
}

impl Change {
    fn touches(&self, directory: u64) -> bool {
        self.0.iter().any(|entry| entry.directory == directory)
    }

    /// Something goes from one directory to another one.
    fn crosses(&self) -> bool {
        self.0.iter().any(|entry| !self.0.iter().all(|other| other.directory == entry.directory))
    }

    fn removes(&self, number: u64) -> bool {
        self.0.iter().any(|entry| entry.before == Some(number))
            && self.0.iter().all(|entry| entry.after != Some(number))
    }

    /// The inodes that it gives names to.
    pub(super) fn named(&self) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|entry| [Some(entry.directory), entry.after]).flatten()
    }

    /// Whether it makes no sense without an earlier one: they are about the same name or the same thing, it removes
    /// the directory that the other one has taken something out of, or it takes something into the directory
    /// that the other one has made.
    fn needs(&self, earlier: &Self) -> bool {
        let pairs = self.0.iter().flat_map(|entry| earlier.0.iter().map(move |before| (entry, before)));
        pairs.into_iter().any(|(entry, before)| {
            (entry.directory, &entry.name) == (before.directory, &before.name)
                || [before.before, before.after].into_iter().flatten().any(|number| entry.is_about(number))
                || self.removes(before.directory)
                || (self.crosses() && before.after == Some(entry.directory))
        })
    }
}

/// Adds what these changes need.
fn with_needs(changes: &[Change], mut wanted: Vec<bool>) -> Vec<bool> {
    for at in (0..changes.len()).rev() {
        let needed =
            || (at + 1..changes.len()).any(|later| wanted[later] && changes[later].needs(&changes[at]));
        wanted[at] = wanted[at] || needed();
    }
    wanted
}

/// Which of these changes a power cut leaves.
fn left_by(changes: &[Change], kept: Kept) -> Vec<bool> {
    match kept {
        Kept::All => vec![true; changes.len()],
        Kept::Nothing => vec![false; changes.len()],
        Kept::Last => {
            with_needs(changes, (1..=changes.len()).map(|number| number == changes.len()).collect())
        }
        Kept::ButFirst => {
            let mut left: Vec<bool> = Vec::new();
            for (at, change) in changes.iter().enumerate() {
                let lacks = |before: usize| !left[before] && change.needs(&changes[before]);
                left.push(at > 0 && !(0..at).any(lacks));
            }
            left
        }
    }
}

impl Inode {
    /// What is on the medium of something that is there only because a name of it is.
    fn without_content(&self) -> Self {
        let node = match &self.node {
            Node::Directory(_) => Node::Directory(BTreeMap::new()),
            Node::File(_) => Node::File(Vec::new()),
            other => other.clone(),
        };
        Self { node, xattrs: self.xattrs.clone(), ..*self }
    }
}

impl Files {
    /// Changes names, all at once; `None` takes one away.
    pub(super) fn enter(&mut self, names: impl IntoIterator<Item = (Place, Option<u64>)>) -> Answer<()> {
        let mut change = Vec::new();
        for (Place { directory, name }, after) in names {
            let there = self.names_mut(directory)?;
            let before = match after {
                Some(number) => there.insert(name.clone(), number),
                None => there.remove(&name),
            };
            change.push(Entry { directory, name, before, after });
        }
        self.unsynced.push(Change(change));
        Ok(())
    }

    /// How many changes of names are not on the medium.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// What is on the medium when the power goes: content as far as it was synced, and these names. Where names are
    /// lost, owners and modes are too that were not synced.
    #[must_use]
    pub fn after_power_cut(mut self, kept: Kept) -> Self {
        let changes = std::mem::take(&mut self.unsynced);
        if kept == Kept::All {
            for (number, inode) in &mut self.inodes {
                if let Node::File(content) = &mut inode.node {
                    *content = match self.medium.get(number).map(|inode| &inode.node) {
                        Some(Node::File(synced)) => synced.clone(),
                        _ => Vec::new(),
                    };
                }
            }
        } else {
            let left = left_by(&changes, kept);
            for (change, _) in changes.iter().zip(left).filter(|(_, left)| *left) {
                self.reach_medium(change);
            }
            self.inodes = std::mem::take(&mut self.medium);
        }
        self.collect();
        self.medium.clone_from(&self.inodes);
        self
    }

    fn reach_medium(&mut self, change: &Change) {
        for number in change.named() {
            if let Some(inode) = self.inodes.get(&number) {
                self.medium.entry(number).or_insert_with(|| inode.without_content());
            }
        }
        for Entry { directory, name, after, .. } in &change.0 {
            let Some(Node::Directory(names)) = self.medium.get_mut(directory).map(|inode| &mut inode.node)
            else {
                continue;
            };
            match after {
                Some(number) => names.insert(name.clone(), *number),
                None => names.remove(name),
            };
        }
    }

    /// What a layer below has of a file is on the medium whatever its number is now.
    pub(super) fn keep_on_medium(&mut self, number: u64, new: u64) {
        if let Some(inode) = self.medium.get(&number).cloned() {
            self.medium.insert(new, inode);
        }
    }

    pub(crate) fn sync_file(&mut self, path: &FlistPath) -> Answer<()> {
        let number = self.inode(path)?;
        match self.inodes.get(&number) {
            Some(inode) if matches!(inode.node, Node::File(_)) => {
                self.medium.insert(number, inode.clone());
            }
            Some(Inode { node: Node::Symlink(_), .. }) => return Err(Errno::ELOOP),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn sync_directory(&mut self, path: &FlistPath) -> Answer<()> {
        let directory = self.directory(path)?;
        let changes = std::mem::take(&mut self.unsynced);
        let touch = changes.iter().map(|change| change.touches(directory)).collect();
        for (change, reaches) in changes.iter().zip(with_needs(&changes, touch)) {
            match reaches {
                true => self.reach_medium(change),
                false => self.unsynced.push(change.clone()),
            }
        }
        let inode = &self.inodes[&directory];
        let there = self.medium.entry(directory).or_insert_with(|| inode.without_content());
        *there = Inode { node: there.node.clone(), xattrs: inode.xattrs.clone(), ..*inode };
        Ok(())
    }

    pub(crate) fn sync_filesystem(&mut self, path: &FlistPath) -> Answer<()> {
        self.directory(path)?;
        self.unsynced.clear();
        self.collect();
        self.medium.clone_from(&self.inodes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bootstrap::disk::Rename;

    use super::*;

    fn path(text: &str) -> FlistPath {
        text.parse().unwrap()
    }

    fn left(files: &Files, kept: Kept) -> Vec<String> {
        files.clone().after_power_cut(kept).listing().into_keys().map(|path| path.to_string()).collect()
    }

    #[test]
    fn a_name_is_there_once_its_directory_is_synced() {
        let mut files = Files::new(1);
        files.make_directory(&path("a")).unwrap();
        files.create(&path("a/x")).unwrap();
        files.append(&path("a/x"), b"content").unwrap();
        files.sync_file(&path("a/x")).unwrap();
        files.sync_directory(&path("a")).unwrap();
        assert_eq!(left(&files, Kept::All), ["a", "a/x"]);
        assert_eq!(left(&files, Kept::Nothing), [""; 0], "nobody has synced the directory above");
        files.sync_directory(&path("")).unwrap();
        assert_eq!(left(&files, Kept::Nothing), ["a", "a/x"]);
        let synced = files.clone().after_power_cut(Kept::Nothing);
        assert_eq!(synced.content(&path("a/x")), Some(&b"content"[..]));
        files.append(&path("a/x"), b" and more").unwrap();
        let synced = files.clone().after_power_cut(Kept::All);
        assert_eq!(synced.content(&path("a/x")), Some(&b"content"[..]));
        files.sync_filesystem(&path("")).unwrap();
        let synced = files.after_power_cut(Kept::Nothing);
        assert_eq!(synced.content(&path("a/x")), Some(&b"content and more"[..]));
    }

    #[test]
    fn a_rename_reaches_the_medium_as_a_whole_with_what_it_needs() {
        let mut files = Files::new(1);
        for name in ["a", "b"] {
            files.make_directory(&path(name)).unwrap();
            files.create(&path(&format!("{name}/x"))).unwrap();
        }
        files.sync_filesystem(&path("")).unwrap();
        files.remove(&path("a/x")).unwrap();
        files.create(&path("a/y")).unwrap();
        files.rename(&path("a/y"), &path("b/x"), Rename::Exchange).unwrap();
        files.create(&path("b/z")).unwrap();
        assert_eq!(files.unsynced(), 4);
        assert_eq!(left(&files, Kept::Nothing), ["a", "a/x", "b", "b/x"]);
        assert_eq!(left(&files, Kept::Last), ["a", "a/x", "b", "b/x", "b/z"]);
        assert_eq!(left(&files, Kept::ButFirst), ["a", "a/x", "a/y", "b", "b/x", "b/z"]);
        files.sync_directory(&path("b")).unwrap();
        // The exchange brings the creation of what was exchanged along, but nothing else.
        assert_eq!(files.unsynced(), 1);
        assert_eq!(left(&files, Kept::Nothing), ["a", "a/x", "a/y", "b", "b/x", "b/z"]);
        assert_eq!(left(&files, Kept::Last), ["a", "a/y", "b", "b/x", "b/z"]);
    }

    #[test]
    fn what_was_taken_out_of_a_directory_is_not_lost_with_it() {
        let mut files = Files::new(1);
        for name in ["a", "a/old", "b"] {
            files.make_directory(&path(name)).unwrap();
        }
        files.create(&path("a/old/x")).unwrap();
        files.sync_filesystem(&path("")).unwrap();
        files.make_directory(&path("b/new")).unwrap();
        files.rename(&path("a/old/x"), &path("b/new/x"), Rename::NoReplace).unwrap();
        files.remove_directory(&path("a/old")).unwrap();
        for kept in [Kept::All, Kept::Last] {
            assert_eq!(left(&files, kept), ["a", "b", "b/new", "b/new/x"]);
        }
        for kept in [Kept::Nothing, Kept::ButFirst] {
            assert_eq!(left(&files, kept), ["a", "a/old", "a/old/x", "b"]);
        }
        files.sync_directory(&path("a")).unwrap();
        assert_eq!(left(&files, Kept::Nothing), ["a", "b", "b/new", "b/new/x"]);
    }
}
