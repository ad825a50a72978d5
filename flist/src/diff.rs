//! What differs between two trees. Pure.

use std::collections::BTreeSet;
use std::convert::Infallible;

use serde::Serialize;

use crate::path::FlistPath;
use crate::tree::{Block, Content, Entry, Kind, Tree};

/// How an entry differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// Only the second tree has it.
    Added,
    /// Only the first tree has it.
    Removed,
    /// Both have it, with these differences.
    Changed {
        /// What differs: `kind`, `content`, `target`, `device`, `mode`, `owner`, `mtime`, `xattrs`.
        what: Vec<&'static str>,
    },
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The entry; empty for the root.
    pub path: FlistPath,
    /// How it differs.
    #[serde(flatten)]
    pub change: Change,
    /// Length in bytes of the file that the first tree has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_bytes: Option<u64>,
    /// Length in bytes of the file that the second tree has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
}

/// Bytes of the files of two trees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// All of the first tree.
    pub old: u64,
    /// All of the second tree.
    pub new: u64,
    /// Those that only the second tree has.
    pub added: u64,
    /// Those that only the first tree has.
    pub removed: u64,
    /// As the first tree has them, those whose content, or kind, is another one in the second.
    pub changed_from: u64,
    /// As the second tree has them.
    pub changed_to: u64,
}

/// The services whose units differ, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Services {
    /// Only the second tree has a unit.
    pub added: Vec<String>,
    /// Only the first tree has one.
    pub removed: Vec<String>,
    /// The text of the unit differs.
    pub changed: Vec<String>,
}

impl Difference {
    /// Whether what is read there is another one, and not just its mode, owner or time.
    fn is_of_content(&self) -> bool {
        match &self.change {
            Change::Added | Change::Removed => true,
            Change::Changed { what } => {
                what.iter().any(|what| ["kind", "content", "target", "device"].contains(what))
            }
        }
    }
}

/// The bytes of two trees with these differences.
pub fn sizes(a: &Tree, b: &Tree, differences: &[Difference]) -> Sizes {
    let mut sizes = Sizes { old: a.total_bytes(), new: b.total_bytes(), ..Sizes::default() };
    for difference in differences.iter().filter(|difference| difference.is_of_content()) {
        let (old, new) = (difference.old_bytes.unwrap_or(0), difference.new_bytes.unwrap_or(0));
        let (from, to) = match difference.change {
            Change::Added | Change::Removed => (&mut sizes.removed, &mut sizes.added),
            Change::Changed { .. } => (&mut sizes.changed_from, &mut sizes.changed_to),
        };
        *from = from.saturating_add(old);
        *to = to.saturating_add(new);
    }
    sizes
}

/// The services that these differences are about.
pub fn services(differences: &[Difference]) -> Services {
    let mut services = Services::default();
    for difference in differences.iter().filter(|difference| difference.is_of_content()) {
        let Some(name) = service_of(&difference.path) else { continue };
        match difference.change {
            Change::Added => services.added.push(name),
            Change::Removed => services.removed.push(name),
            Change::Changed { .. } => services.changed.push(name),
        }
    }
    services
}

/// The service whose unit of zinit is at a path.
fn service_of(path: &FlistPath) -> Option<String> {
    let file = path.as_bytes().strip_prefix(b"etc/zinit/")?;
    let name = std::str::from_utf8(file).ok()?.strip_suffix(".yaml")?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

/// All differences, by path. Files of which one has blocks of another format than the other count as different:
/// [`diff_by`] can know better.
pub fn diff(a: &Tree, b: &Tree) -> Vec<Difference> {
    let same =
        |_: &FlistPath, a: &Content, b: &Content| Ok::<_, Infallible>(a.fingerprint() == b.fingerprint());
    match diff_by(a, b, same) {
        Ok(differences) => differences,
    }
}

/// As [`diff`], with `same` to tell whether two files of the same size have the same content.
///
/// # Errors
/// Those of `same`.
pub fn diff_by<E>(
    a: &Tree,
    b: &Tree,
    mut same: impl FnMut(&FlistPath, &Content, &Content) -> Result<bool, E>,
) -> Result<Vec<Difference>, E> {
    let paths: BTreeSet<&FlistPath> = a.iter().chain(b.iter()).map(|(path, _)| path).collect();
    let root = |tree: &Tree| Entry { meta: *tree.root(), kind: Kind::Directory };
    let at_root = difference(&FlistPath::root(), Some(&root(a)), Some(&root(b)), true, &mut same)?;
    let mut differences: Vec<_> = at_root.into_iter().collect();
    for path in paths {
        let same_xattrs = a.xattrs(path) == b.xattrs(path);
        differences.extend(difference(path, a.get(path), b.get(path), same_xattrs, &mut same)?);
    }
    Ok(differences)
}

/// Stored blocks that `b` needs and `a` does not have: what a reader of `a` has to fetch for `b`.
pub fn new_blocks(a: &Tree, b: &Tree) -> BTreeSet<Block> {
    let blocks = |tree: &Tree| -> BTreeSet<Block> {
        tree.files().flat_map(|(_, _, content)| content.blocks.iter().copied()).collect()
    };
    &blocks(b) - &blocks(a)
}

fn difference<E>(
    path: &FlistPath,
    a: Option<&Entry>,
    b: Option<&Entry>,
    same_xattrs: bool,
    same: &mut impl FnMut(&FlistPath, &Content, &Content) -> Result<bool, E>,
) -> Result<Option<Difference>, E> {
    let change = match (a, b) {
        (None, Some(_)) => Change::Added,
        (Some(_), None) => Change::Removed,
        (Some(a), Some(b)) => {
            let mut what = differing(a, b, |a, b| same(path, a, b))?;
            what.extend((!same_xattrs).then_some("xattrs"));
            if what.is_empty() {
                return Ok(None);
            }
            Change::Changed { what }
        }
        (None, None) => return Ok(None),
    };
    let (old_bytes, new_bytes) = (a.and_then(length), b.and_then(length));
    Ok(Some(Difference { path: path.clone(), change, old_bytes, new_bytes }))
}

/// The length of a file.
fn length(entry: &Entry) -> Option<u64> {
    match &entry.kind {
        Kind::File(content) => Some(content.size),
        _ => None,
    }
}

fn differing<E>(
    a: &Entry,
    b: &Entry,
    same: impl FnOnce(&Content, &Content) -> Result<bool, E>,
) -> Result<Vec<&'static str>, E> {
    let kind = match (&a.kind, &b.kind) {
        (Kind::File(a), Kind::File(b)) => (a.size != b.size || !same(a, b)?).then_some("content"),
        (Kind::Symlink(a), Kind::Symlink(b)) => (a != b).then_some("target"),
        (Kind::CharDevice(a), Kind::CharDevice(b)) | (Kind::BlockDevice(a), Kind::BlockDevice(b)) => {
            (a != b).then_some("device")
        }
        (a, b) => (a != b).then_some("kind"),
    };
    let mode = (a.meta.mode != b.meta.mode).then_some("mode");
    let owner = ((a.meta.uid, a.meta.gid) != (b.meta.uid, b.meta.gid)).then_some("owner");
    let mtime = (a.meta.mtime != b.meta.mtime).then_some("mtime");
    Ok([kind, mode, owner, mtime].into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Meta;

    fn tree(entries: &[(&str, &str, u32)]) -> Tree {
        let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: 0 };
        let mut tree = Tree::new(meta(0o755));
        for (path, target, mode) in entries {
            let kind = match *target {
                "dir" => Kind::Directory,
                target => Kind::Symlink(target.as_bytes().to_vec()),
            };
            tree.insert(path.parse().unwrap(), Entry { meta: meta(*mode), kind }).unwrap();
        }
        tree
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let a =
            tree(&[("d", "dir", 0o755), ("gone", "x", 0o777), ("link", "x", 0o777), ("same", "x", 0o777)]);
        let b = tree(&[("d", "x", 0o700), ("link", "y", 0o777), ("new", "x", 0o777), ("same", "x", 0o777)]);
        let found: Vec<_> = diff(&a, &b).into_iter().map(|d| (d.path.to_string(), d.change)).collect();
        let changed =
            |path: &str, what: &[&'static str]| (path.to_owned(), Change::Changed { what: what.to_vec() });
        assert_eq!(
            found,
            [
                changed("d", &["kind", "mode"]),
                ("gone".to_owned(), Change::Removed),
                changed("link", &["target"]),
                ("new".to_owned(), Change::Added),
            ]
        );
        assert!(diff(&a, &a).is_empty());
    }
}
