//! Removing the blocks that no flist of a hub needs.
//!
//! What is needed is what any flist beneath the repos refers to, whether a link leads to it or not. When one of
//! them cannot be read nothing is removed, because nobody knows what it needs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::ServerError;
use super::layout::Layout;
use super::root_lock::RootLock;
use crate::block::BlockId;
use crate::format::{self, FormatError};
use crate::tree::Limits;

/// Why blocks were not collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The directories of the hub cannot be used.
    #[error("cannot collect blocks")]
    Hub(#[source] ServerError),
    /// Something could not be read or removed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A flist cannot be read, so what it needs is not known.
    #[error("no block was removed, because a flist cannot be read; remove or repair it first")]
    Flist(#[source] FormatError),
    /// Some blocks were removed before something failed.
    #[error("{removed} blocks with {removed_bytes} bytes were removed, but not all")]
    Partly {
        /// Blocks that were removed.
        removed: usize,
        /// Their bytes.
        removed_bytes: u64,
        /// What failed.
        #[source]
        source: Box<CollectError>,
    },
}

/// What was found and done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Flists that were read.
    pub flists: usize,
    /// Blocks that flists need, each counted once, whether they are here or not.
    pub needed: usize,
    /// Blocks that no flist needs, but that are too young to be removed.
    pub young: usize,
    /// Blocks that were removed, or would be.
    pub removed: usize,
    /// Their bytes.
    pub removed_bytes: u64,
}

/// A block of the store.
struct Stored {
    id: BlockId,
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// Removes the blocks of the hub in `root` that none of its flists needs and that were written at least
/// `older_than` before `now`: a publisher sends blocks before their flist. With `dry_run` it only counts them.
///
/// # Errors
/// [`CollectError`]; nothing is removed unless every flist was read.
pub fn collect(
    root: &Path,
    older_than: Duration,
    now: SystemTime,
    dry_run: bool,
) -> Result<Collected, CollectError> {
    // It would be made otherwise, and a mistyped one be found clean.
    fs::read_dir(root).map_err(failed("list", root))?;
    let _lock = RootLock::take(root).map_err(CollectError::Hub)?;
    let layout = Layout::open(root).map_err(CollectError::Hub)?;
    let mut collected = Collected::default();
    let needed = needed(layout.users_path(), &mut collected)?;
    collected.needed = needed.len();
    // When there is no such time, no block is that old.
    let limit = now.checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
    remove(stored(layout.store_path())?, &needed, limit, dry_run, &mut collected)?;
    Ok(collected)
}

fn remove(
    blocks: Vec<Stored>,
    needed: &HashSet<BlockId>,
    limit: SystemTime,
    dry_run: bool,
    collected: &mut Collected,
) -> Result<(), CollectError> {
    for block in blocks {
        if needed.contains(&block.id) {
            continue;
        }
        if block.modified > limit {
            collected.young += 1;
            continue;
        }
        if !dry_run {
            let removed = fs::remove_file(&block.path).map_err(failed("remove", &block.path));
            let Collected { removed: before, removed_bytes, .. } = *collected;
            removed.map_err(|error| match before {
                0 => error,
                _ => CollectError::Partly { removed: before, removed_bytes, source: Box::new(error) },
            })?;
        }
        collected.removed += 1;
        collected.removed_bytes += block.bytes;
    }
    Ok(())
}

/// The blocks that the flists beneath a directory refer to.
fn needed(users: &Path, collected: &mut Collected) -> Result<HashSet<BlockId>, CollectError> {
    let (mut needed, mut directories) = (HashSet::new(), vec![users.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(failed("list", &directory))? {
            let entry = entry.map_err(failed("list", &directory))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(failed("look at", &directory))?);
            // Links lead to what is met anyway, or out of the hub, where nobody follows them.
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "flist") {
                let tree = format::read(&path, &Limits::default()).map_err(CollectError::Flist)?;
                collected.flists += 1;
                needed.extend(tree.files().flat_map(|(_, _, content)| &content.blocks).map(|block| block.id));
            }
        }
    }
    Ok(needed)
}

/// All blocks, where the hub keeps them; anything else in the store is left out.
fn stored(store: &Path) -> Result<Vec<Stored>, CollectError> {
    let mut blocks = Vec::new();
    for directory in fs::read_dir(store).map_err(failed("list", store))? {
        let directory = directory.map_err(failed("list", store))?;
        if !directory.file_type().map_err(failed("look at", store))?.is_dir() {
            continue;
        }
        let path = directory.path();
        for file in fs::read_dir(&path).map_err(failed("list", &path))? {
            let file = file.map_err(failed("list", &path))?;
            let name = file.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<BlockId>().ok()) else { continue };
            let metadata = file.metadata().map_err(failed("look at", &file.path()))?;
            if metadata.is_file() {
                let modified = metadata.modified().map_err(failed("look at", &file.path()))?;
                blocks.push(Stored { id, path: file.path(), bytes: metadata.len(), modified });
            }
        }
    }
    Ok(blocks)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CollectError {
    let path = path.to_owned();
    move |source| CollectError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::block::{Sealed, seal};
    use crate::format::fl;
    use crate::tree::{Block, Content, Entry, Kind, Meta, Tree};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Random numbers, the same every time.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % sides
        }
    }

    fn put(root: &Path, sealed: &Sealed, modified: SystemTime) {
        let name = sealed.id.to_string();
        let path = root.join("store").join(&name[..2]).join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &sealed.stored).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }

    fn flist<'a>(blocks: impl Iterator<Item = &'a Sealed>) -> Vec<u8> {
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
        let mut tree = Tree::new(Meta { mode: 0o755, ..meta });
        for (number, sealed) in blocks.enumerate() {
            let content = Content { size: 8, blocks: vec![Block { id: sealed.id, key: sealed.key }] };
            tree.insert(number.to_string().parse().unwrap(), Entry { meta, kind: Kind::File(content) })
                .unwrap();
        }
        fl::to_bytes(&tree).unwrap()
    }

    fn left(root: &Path) -> BTreeSet<String> {
        stored(&root.join("store")).unwrap().iter().map(|block| block.id.to_string()).collect()
    }

    #[test]
    fn exactly_what_is_neither_needed_nor_young_goes() {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        for seed in 1..=150 {
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("store")).unwrap();
            let blocks: Vec<_> = (0..dice.roll(12)).map(|n: u64| seal(&n.to_le_bytes()).unwrap()).collect();
            let mut kept = BTreeSet::new();
            for sealed in &blocks {
                let age = DAY * u32::try_from(dice.roll(4)).unwrap();
                put(root.path(), sealed, now - age);
                if age < 2 * DAY {
                    kept.insert(sealed.id.to_string());
                }
            }
            for number in 0..dice.roll(4) {
                let repo =
                    root.path().join("public/users").join(["a", "b", ".hidden"][dice.roll(3) as usize]);
                fs::create_dir_all(&repo).unwrap();
                let referred: Vec<_> = blocks.iter().filter(|_| dice.roll(3) == 0).collect();
                fs::write(repo.join(format!("{number}.flist")), flist(referred.iter().copied())).unwrap();
                symlink("nowhere.flist", repo.join(format!("link-{number}.flist"))).unwrap();
                kept.extend(referred.iter().map(|sealed| sealed.id.to_string()));
            }
            let before = left(root.path());
            let would = collect(root.path(), 2 * DAY, now, true).unwrap();
            assert_eq!(left(root.path()), before, "seed {seed}: nothing was to be removed");
            assert_eq!(collect(root.path(), 2 * DAY, now, false).unwrap(), would, "seed {seed}");
            assert_eq!(left(root.path()), kept, "seed {seed}");
            assert_eq!(would.removed, before.len() - kept.len(), "seed {seed}");
        }
    }

    #[test]
    fn a_failure_says_what_was_removed_before() {
        let root = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        [&b"a"[..], b"b"].iter().for_each(|plain| put(root.path(), &seal(plain).unwrap(), now));
        let mut blocks = stored(&root.path().join("store")).unwrap();
        fs::remove_file(&blocks[1].path).unwrap();
        fs::create_dir(&blocks[1].path).unwrap();
        blocks.iter_mut().for_each(|block| block.bytes = 7);
        let error = remove(blocks, &HashSet::new(), now, false, &mut Collected::default()).unwrap_err();
        assert!(matches!(error, CollectError::Partly { removed: 1, removed_bytes: 7, .. }), "{error:?}");
    }

    #[test]
    fn nothing_goes_when_it_is_not_known_what_is_needed() {
        let root = tempfile::tempdir().unwrap();
        let (old, now) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + 1000 * DAY);
        put(root.path(), &seal(b"block").unwrap(), old);
        let repo = root.path().join("public/users/a");
        fs::create_dir_all(&repo).unwrap();
        for broken in [&b"SQLite format 3\0"[..], b"\x1f\x8brest"] {
            fs::write(repo.join("broken.flist"), broken).unwrap();
            let error = crate::report(&collect(root.path(), DAY, now, false).unwrap_err());
            assert!(error.contains("broken.flist") && error.contains("no block was removed"), "{error}");
            assert_eq!(left(root.path()).len(), 1);
        }
        fs::remove_file(repo.join("broken.flist")).unwrap();

        let held = RootLock::take(root.path()).unwrap();
        assert!(matches!(
            collect(root.path(), DAY, now, false),
            Err(CollectError::Hub(ServerError::Taken { .. }))
        ));
        assert_eq!(left(root.path()).len(), 1);
        drop(held);
        let collected = collect(root.path(), DAY, now, false).unwrap();
        assert_eq!(collected.removed, 1);

        let mistyped = root.path().join("mistyped");
        assert!(matches!(collect(&mistyped, DAY, now, false), Err(CollectError::File { .. })));
        assert!(!mistyped.exists());
    }
}
