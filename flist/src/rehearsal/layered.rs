//! One root file system over another, as an installation lays it.

use std::collections::{BTreeMap, BTreeSet};

use super::root::{FutureRoot, Node, Resolved, RootError, resolve};
use crate::path::FlistPath;

/// Most entries of a layer, and most directories within each other.
const MAX_ENTRIES: usize = 2_000_000;
const MAX_DEPTH: usize = 128;

/// A root file system with nothing in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl FutureRoot for Nothing {
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError> {
        Ok(path.is_root().then_some(Node::Directory))
    }

    fn read(&self, _: &FlistPath, _: u64, _: usize) -> Result<Vec<u8>, RootError> {
        Ok(Vec::new())
    }

    fn list(&self, _: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
        Ok(Vec::new())
    }
}

/// Why a layer does not fit over what is below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// Two entries of the layer are one file, because a directory of theirs is a symbolic link below.
    TwoNames {
        /// The file.
        path: FlistPath,
        /// The first entry; it wins.
        first: FlistPath,
        /// The second one.
        second: FlistPath,
    },
    /// The layer has a directory where something else is.
    BeneathNonDirectory {
        /// The directory of the layer.
        entry: FlistPath,
    },
    /// The layer has something else where a directory is.
    InTheWay {
        /// The entry of the layer.
        entry: FlistPath,
    },
}

/// One root file system over another. Directories are merged; directories and symbolic links to directories
/// below are followed and stay; all other entries replace what is below.
pub struct Layered<'a> {
    below: Box<dyn FutureRoot + 'a>,
    above: Box<dyn FutureRoot + 'a>,
    removed: BTreeSet<FlistPath>,
    /// Where entries of the layer are, with their path in the layer.
    placed: BTreeMap<FlistPath, (FlistPath, Node)>,
    conflicts: BTreeSet<Conflict>,
}

impl<'a> Layered<'a> {
    /// Lays `above` over `below`, of which the entries `removed` (paths without symlinks) and everything
    /// beneath them are taken away first. All of `above` is listed, nothing is read.
    ///
    /// # Errors
    /// Those of the two roots, and when `above` has more than two million entries or is more than 128
    /// directories deep.
    pub fn new(
        below: Box<dyn FutureRoot + 'a>,
        above: Box<dyn FutureRoot + 'a>,
        removed: BTreeSet<FlistPath>,
    ) -> Result<Self, RootError> {
        let mut layered = Self { below, above, removed, placed: BTreeMap::new(), conflicts: BTreeSet::new() };
        layered.place_all()?;
        Ok(layered)
    }

    /// What came from the layer above, at the paths where it is.
    pub fn placed(&self) -> impl Iterator<Item = (&FlistPath, &Node)> {
        self.placed.iter().map(|(path, (_, node))| (path, node))
    }

    /// What does not fit.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.iter()
    }

    fn place_all(&mut self) -> Result<(), RootError> {
        // Directories of the layer, with the place where they are; the next one last.
        let mut todo = vec![(FlistPath::root(), FlistPath::root())];
        let mut entries = 0;
        while let Some((directory, place)) = todo.pop() {
            if directory.components().count() >= MAX_DEPTH {
                return Err(refused(&directory, "it is more than 128 directories deep"));
            }
            for name in self.above.list(&directory)? {
                entries += 1;
                if entries > MAX_ENTRIES {
                    return Err(refused(&directory, "the tree has more than 2000000 entries"));
                }
                let named = |source| RootError { action: "list", path: directory.clone(), source };
                let entry = directory.join(&name).map_err(|error| named(Box::new(error)))?;
                let target = place.join(&name).map_err(|error| named(Box::new(error)))?;
                let Some(node) = self.above.look(&entry)? else { continue };
                if let Some(place) = self.place(&entry, target, node)? {
                    todo.push((entry, place));
                }
            }
        }
        Ok(())
    }

    /// Puts one entry at its place; returns where a directory went.
    fn place(
        &mut self,
        entry: &FlistPath,
        target: FlistPath,
        node: Node,
    ) -> Result<Option<FlistPath>, RootError> {
        if node == Node::Directory {
            match self.look(&target)? {
                Some(Node::Directory) => return Ok(Some(target)),
                Some(_) => match resolve(&*self, target.as_bytes())? {
                    Resolved::Found(real, Node::Directory) => return Ok(Some(real)),
                    _ => drop(self.conflicts.insert(Conflict::BeneathNonDirectory { entry: entry.clone() })),
                },
                None => {}
            }
        } else if self.look(&target)? == Some(Node::Directory) {
            self.conflicts.insert(Conflict::InTheWay { entry: entry.clone() });
        }
        let directory = (node == Node::Directory).then(|| target.clone());
        if let Some((first, _)) = self.placed.get(&target) {
            let (first, second) = (first.clone(), entry.clone());
            self.conflicts.insert(Conflict::TwoNames { path: target, first, second });
        } else {
            self.placed.insert(target, (entry.clone(), node));
        }
        Ok(directory)
    }

    fn is_removed(&self, path: &FlistPath) -> bool {
        !self.removed.is_empty()
            && std::iter::successors(Some(path.clone()), FlistPath::parent)
                .any(|path| self.removed.contains(&path))
    }
}

fn refused(path: &FlistPath, why: &str) -> RootError {
    RootError { action: "list", path: path.clone(), source: why.into() }
}

impl FutureRoot for Layered<'_> {
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError> {
        match self.placed.get(path) {
            Some((_, node)) => Ok(Some(node.clone())),
            None if self.is_removed(path) => Ok(None),
            None => self.below.look(path),
        }
    }

    fn read(&self, path: &FlistPath, offset: u64, length: usize) -> Result<Vec<u8>, RootError> {
        match self.placed.get(path) {
            Some((entry, _)) => self.above.read(entry, offset, length),
            None => self.below.read(path, offset, length),
        }
    }

    fn list(&self, path: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
        let mut names = BTreeSet::new();
        if !self.is_removed(path) && self.below.look(path)? == Some(Node::Directory) {
            for name in self.below.list(path)? {
                if path.join(&name).is_ok_and(|entry| !self.removed.contains(&entry)) {
                    names.insert(name);
                }
            }
        }
        let beneath = self.placed.range(path.clone()..).skip_while(|(entry, _)| *entry == path);
        // Names that begin like the directory's own may come first: `a-b` is before `a/b`.
        let candidates = beneath.take_while(|(entry, _)| entry.as_bytes().starts_with(path.as_bytes()));
        let children = candidates.filter(|(entry, _)| entry.parent().as_ref() == Some(path));
        names.extend(children.map(|(entry, _)| entry.name().to_vec()));
        Ok(names.into_iter().collect())
    }
}
