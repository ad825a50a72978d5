//! Several trees as one: the flists of a release are installed together. Pure.

use std::collections::BTreeMap;

use crate::path::FlistPath;
use crate::tree::{Entry, Kind, Limits, Meta, Tree, TreeError};
use crate::xattr::Xattrs;

/// Why trees cannot be one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MergeError {
    /// Two trees have different things at one path.
    #[error("packages {first} and {second} both have /{path}, with {difference}; take it out of one of them")]
    Conflict {
        /// The path.
        path: FlistPath,
        /// The package that came first.
        first: String,
        /// The other one.
        second: String,
        /// What is different.
        difference: &'static str,
    },
    /// A path of one tree has no place among those of the others.
    #[error("package {package} does not fit with the packages before it")]
    Place {
        /// The package.
        package: String,
        /// What is wrong.
        #[source]
        source: TreeError,
    },
}

/// Makes one tree of these packages. What several of them have must be the same thing: kind, content, mode, owner
/// and attributes; of the times, that of the first package counts. The root directory, the routes and the tags
/// are those of the last package, followed by the routes of the others.
///
/// # Errors
/// [`MergeError`] names both packages.
pub fn merge(packages: &[(&str, &Tree)], limits: &Limits) -> Result<Tree, MergeError> {
    let Some((last, others)) = packages.split_last() else {
        return Ok(Tree::new(Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 }));
    };
    let mut merged = Tree::new(*last.1.root());
    let mut owners = BTreeMap::<&FlistPath, &str>::new();
    for (package, tree) in packages {
        let place = |source| MergeError::Place { package: (*package).to_owned(), source };
        for (path, entry) in tree.iter() {
            let xattrs = tree.xattrs(path);
            if let (Some(owner), Some(there)) = (owners.get(path), merged.get(path)) {
                if let Some(difference) = difference((there, merged.xattrs(path)), (entry, xattrs)) {
                    let (first, second) = ((*owner).to_owned(), (*package).to_owned());
                    return Err(MergeError::Conflict { path: path.clone(), first, second, difference });
                }
                continue;
            }
            // A directory comes before what it contains, so what it lies beneath was compared already.
            merged.insert(path.clone(), entry.clone()).map_err(place)?;
            if let Some(xattrs) = xattrs {
                merged.set_xattrs(path.clone(), xattrs.clone()).map_err(place)?;
            }
            owners.insert(path, package);
            if merged.len() > limits.entries {
                let (found, limit) = (merged.len() as u64, limits.entries as u64);
                return Err(place(TreeError::Limit {
                    what: "entries of all packages:".to_owned(),
                    found,
                    limit,
                }));
            }
        }
    }
    merged.tags.clone_from(&last.1.tags);
    for (_, tree) in std::iter::once(last).chain(others) {
        for route in &tree.routes {
            if !merged.routes.contains(route) {
                merged.routes.push(route.clone());
            }
        }
    }
    Ok(merged)
}

const OTHER_KIND: &str = "another kind of thing in each";

/// What is different between two entries at one path, as the end of a sentence.
fn difference(
    (one, one_xattrs): (&Entry, Option<&Xattrs>),
    (other, other_xattrs): (&Entry, Option<&Xattrs>),
) -> Option<&'static str> {
    let same_content = match (&one.kind, &other.kind) {
        // Ids depend on how a block is stored; the keys identify the plain bytes.
        (Kind::File(one), Kind::File(other)) => one.fingerprint() == other.fingerprint(),
        (one, other) => one == other,
    };
    if std::mem::discriminant(&one.kind) != std::mem::discriminant(&other.kind) {
        Some(OTHER_KIND)
    } else if !same_content {
        Some("another content in each")
    } else if one.meta.mode != other.meta.mode {
        Some("another mode in each")
    } else if (one.meta.uid, one.meta.gid) != (other.meta.uid, other.meta.gid) {
        Some("another owner in each")
    } else if one_xattrs != other_xattrs {
        Some("other attributes in each")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockId, BlockKey};
    use crate::tree::{Block, Content, Route};

    const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };

    fn file(plain: &[u8]) -> Entry {
        let blocks = vec![Block { id: BlockId::of(plain), key: BlockKey::of(plain) }];
        Entry { meta: META, kind: Kind::File(Content { size: plain.len() as u64, blocks }) }
    }

    fn directory() -> Entry {
        Entry { meta: META, kind: Kind::Directory }
    }

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        let mut tree = Tree::new(META);
        for (path, entry) in entries {
            tree.insert(path.parse().unwrap(), entry.clone()).unwrap();
        }
        tree
    }

    fn merged(one: &Tree, other: &Tree) -> Result<Tree, MergeError> {
        merge(&[("net", one), ("zos", other)], &Limits::default())
    }

    #[test]
    fn what_is_the_same_in_both_is_there_once() {
        let mut one = tree(&[("etc", directory()), ("etc/net", file(b"net")), ("etc/both", file(b"both"))]);
        one.routes = vec![Route::everything("dir:///net"), Route::everything("dir:///both")];
        let mut later = file(b"both");
        later.meta.mtime = 7;
        let mut other = tree(&[("bin", directory()), ("etc", directory()), ("etc/both", later)]);
        other.routes = vec![Route::everything("dir:///both"), Route::everything("dir:///zos")];
        other.tags.insert("version".to_owned(), "1.0.0".to_owned());
        let both = merged(&one, &other).unwrap();
        let paths: Vec<_> = both.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(paths, ["bin", "etc", "etc/both", "etc/net"]);
        assert_eq!(both.get(&"etc/both".parse().unwrap()).unwrap().meta.mtime, 0);
        let urls: Vec<_> = both.routes.iter().map(|route| route.url.as_str()).collect();
        assert_eq!((urls, both.tags), (vec!["dir:///both", "dir:///zos", "dir:///net"], other.tags));
    }

    #[test]
    fn whatever_is_different_is_a_conflict_that_names_both() {
        let one = tree(&[("etc", directory()), ("etc/x", file(b"x"))]);
        let with = |change: &dyn Fn(&mut Entry)| {
            let mut entry = file(b"x");
            change(&mut entry);
            entry
        };
        let cases: [(Entry, &str); 5] = [
            (file(b"y"), "content"),
            (with(&|entry| entry.meta.mode = 0o4755), "mode"),
            (with(&|entry| entry.meta.uid = 1), "owner"),
            (with(&|entry| entry.meta.gid = 1), "owner"),
            (Entry { meta: META, kind: Kind::Symlink(b"y".to_vec()) }, "kind"),
        ];
        for (entry, what) in cases {
            let other = tree(&[("etc", directory()), ("etc/x", entry)]);
            let text = merged(&one, &other).unwrap_err().to_string();
            let expected = "packages net and zos both have /etc/x, with an";
            assert!(text.starts_with(expected) && text.contains(what), "{text}");
        }
        let mut private = directory();
        private.meta.mode = 0o700;
        let text = merged(&one, &tree(&[("etc", private)])).unwrap_err().to_string();
        assert!(text.contains("both have /etc, with another mode"), "{text}");
        let mut other = tree(&[("etc", directory()), ("etc/x", file(b"x"))]);
        let xattrs = Xattrs::from([(b"security.capability".to_vec(), vec![1])]);
        other.set_xattrs("etc/x".parse().unwrap(), xattrs).unwrap();
        assert!(matches!(merged(&one, &other), Err(MergeError::Conflict { .. })));
    }

    #[test]
    fn nothing_lies_beneath_what_is_a_directory_for_one_package_only() {
        let link = Entry { meta: META, kind: Kind::Symlink(b"usr/lib".to_vec()) };
        let (one, other) = (tree(&[("lib", link)]), tree(&[("lib", directory()), ("lib/x", file(b"x"))]));
        for (one, other) in [(&one, &other), (&other, &one)] {
            let text = merged(one, other).unwrap_err().to_string();
            assert!(text.contains("both have /lib, with another kind"), "{text}");
        }
        let limits = Limits { entries: 2, ..Limits::default() };
        let error = merge(&[("a", &one), ("b", &tree(&[("x", directory()), ("y", directory())]))], &limits);
        assert!(matches!(error, Err(MergeError::Place { .. })), "{error:?}");
    }
}
