//! Reading: archive → rows → messages → a tree built from the root down.

use std::collections::{HashMap, HashSet};

use super::access::{self, Owners};
use super::message::{self, Access, BLOCK_UNIT, Directory, Inode, MAX_KEY, Room, UNITS_PER_BLOCK, What};
use super::{ClassicError, archive, directory_key, notes, router};
use crate::block::BLOCK_SIZE;
use crate::format::rows::Database;
use crate::path::FlistPath;
use crate::tree::{Content, Entry, Kind, Limits, Meta, Tree, TreeError};

/// Reads a classic flist from memory.
///
/// # Errors
/// [`ClassicError`] naming the entry that is wrong. No partial tree is returned.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Tree, ClassicError> {
    let members = archive::read(bytes, limits.flist_bytes)?;
    let database = Database::open(&members.database)?;
    drop(members.database);
    let mut tree = Walk::new(&database, limits)?.tree()?;
    let notes = notes::read(&database, limits)?;
    // As 0-fs has it, what is in the router counts.
    tree.routes = match &members.router {
        Some(router) => router::read(router, limits.routes)?,
        None => notes.routes,
    };
    tree.tags = notes.tags;
    Ok(tree)
}

/// A directory that is still to be read.
struct Pending {
    path: FlistPath,
    depth: u64,
    directory: Directory,
}

struct Walk<'d> {
    database: &'d Database,
    limits: &'d Limits,
    /// Rows of table `entries` by their key.
    rows: HashMap<String, i64>,
    owners: Owners,
    /// Kinds of access that were read.
    known: HashMap<String, Option<Access>>,
    /// Keys of the directories that were read.
    seen: HashSet<String>,
    /// Entries and blocks of all directories that were read, in the tree or not yet.
    entries: usize,
    blocks: usize,
    path_bytes: u64,
    skipped: Skipped,
}

/// What a tree does not tell.
#[derive(Default)]
struct Skipped {
    specials: usize,
    without_access: usize,
}

impl<'d> Walk<'d> {
    fn new(database: &'d Database, limits: &'d Limits) -> Result<Self, ClassicError> {
        let mut rows = HashMap::new();
        // As many kinds of access as entries, and the root.
        let most = 2 * limits.entries + 1;
        database.for_each_row("entries", "rowid, key", |field| {
            if rows.len() >= most {
                return Err(ClassicError::TooMany { what: "rows in table entries", limit: most });
            }
            match rows.insert(field.text(1, "key", MAX_KEY)?, field.integer(0, "rowid")?) {
                Some(_) => Err(ClassicError::DuplicateKey(field.text(1, "key", MAX_KEY)?)),
                None => Ok(()),
            }
        })?;
        Ok(Self {
            database,
            limits,
            rows,
            owners: Owners::default(),
            known: HashMap::new(),
            seen: HashSet::new(),
            entries: 0,
            blocks: 0,
            path_bytes: 0,
            skipped: Skipped::default(),
        })
    }

    fn tree(mut self) -> Result<Tree, ClassicError> {
        let root = FlistPath::root();
        let directory = self.directory(directory_key(&root), &root)?;
        let mut tree = Tree::new(self.meta(&directory.access, directory.mtime, &root)?);
        let mut stack = vec![Pending { path: root, depth: 0, directory }];
        while let Some(Pending { path: parent, depth, directory }) = stack.pop() {
            for inode in directory.contents {
                let path = parent
                    .join(&inode.name)
                    .map_err(|source| ClassicError::Name { parent: parent.clone(), source })?;
                self.count(&path, depth + 1)?;
                let Some((entry, below)) = self.entry(&path, inode)? else { continue };
                tree.insert(path.clone(), entry).map_err(ClassicError::Tree)?;
                stack.extend(below.map(|directory| Pending { path, depth: depth + 1, directory }));
            }
        }
        self.tell_what_was_skipped();
        Ok(tree)
    }

    /// An entry and, of a directory, what is in it; `None` for what is passed over.
    fn entry(
        &mut self,
        path: &FlistPath,
        inode: Inode,
    ) -> Result<Option<(Entry, Option<Directory>)>, ClassicError> {
        let refuse = |problem: String| Err(ClassicError::Entry { path: path.clone(), problem });
        let (mut access, mut mtime, mut below) = (inode.access, inode.mtime, None);
        let kind = match inode.what {
            What::Directory(key) => {
                let mut directory = self.directory(key, path)?;
                // What the directory says of itself counts, as it does for 0-fs.
                if !directory.access.is_empty() {
                    access = std::mem::take(&mut directory.access);
                }
                mtime = directory.mtime;
                below = Some(directory);
                Kind::Directory
            }
            What::File { units, blocks } => {
                let size = inode.size;
                check(size, self.limits.file_bytes, || format!("the size of '{path}'"))?;
                if blocks.len() > 1 && units != UNITS_PER_BLOCK {
                    let bytes = u64::from(units) * BLOCK_UNIT;
                    return refuse(format!("has blocks of {bytes} bytes, expected {BLOCK_SIZE}"));
                }
                Kind::File(Content { size, blocks })
            }
            What::Symlink(target) => match target.as_slice() {
                [] => return refuse("is a symlink without a target".to_owned()),
                target if target.contains(&0) => {
                    return refuse("is a symlink with a NUL byte in its target".to_owned());
                }
                target if target.len() > self.limits.target_bytes => {
                    let (length, limit) = (target.len(), self.limits.target_bytes);
                    return refuse(format!(
                        "is a symlink with a target of {length} bytes, the limit is {limit}"
                    ));
                }
                _ => Kind::Symlink(target),
            },
            What::Special => {
                tracing::debug!(%path, "a device, fifo or socket is left out");
                self.skipped.specials += 1;
                return Ok(None);
            }
            What::Unknown => return refuse("is of a kind that is not known".to_owned()),
            What::BadBlock => return refuse("has a block whose id or key is not 16 bytes long".to_owned()),
        };
        let meta = self.meta(&access, mtime, path)?;
        Ok(Some((Entry { meta, kind }, below)))
    }

    /// Each is read once: a second time it would be in itself, or in two directories.
    fn directory(&mut self, key: String, path: &FlistPath) -> Result<Directory, ClassicError> {
        let Some(rowid) = self.rows.get(&key) else {
            return Err(ClassicError::NoDirectory {
                path: path.clone(),
                key: key.escape_debug().to_string(),
            });
        };
        if self.seen.contains(&key) {
            return Err(ClassicError::SharedDirectory { path: path.clone(), key });
        }
        let bytes = self.database.bytes_at("entries", "value", *rowid)?;
        self.seen.insert(key);
        let room = |what, limit, taken| Room { what, left: limit - taken, limit };
        let for_entries = room("entries", self.limits.entries, self.entries);
        let for_blocks = room("blocks", self.limits.blocks, self.blocks);
        let what = || format!("directory '{path}'");
        let directory = message::directory(&bytes, what, for_entries, for_blocks)?;
        self.entries += directory.contents.len();
        self.blocks += directory.blocks;
        Ok(directory)
    }

    fn meta(&mut self, key: &str, mtime: u32, path: &FlistPath) -> Result<Meta, ClassicError> {
        if !self.known.contains_key(key) {
            let access = match self.rows.get(key) {
                Some(rowid) => {
                    Some(message::access(&self.database.bytes_at("entries", "value", *rowid)?, key)?)
                }
                None => None,
            };
            self.known.insert(key.to_owned(), access);
        }
        let Some(access) = self.known.get(key).and_then(Option::as_ref) else {
            self.skipped.without_access += 1;
            return Ok(access::unknown(mtime));
        };
        self.owners.meta(access, mtime).ok_or_else(|| {
            let problem = format!("has the owner {}:{}, which is out of range", access.uid, access.gid);
            ClassicError::Entry { path: path.clone(), problem }
        })
    }

    fn count(&mut self, path: &FlistPath, depth: u64) -> Result<(), ClassicError> {
        self.path_bytes += path.as_bytes().len() as u64;
        check(depth, self.limits.depth as u64, || format!("the depth of '{path}'"))?;
        check(self.path_bytes, self.limits.path_bytes as u64, || {
            format!("the length of all paths up to '{path}'")
        })
    }

    fn tell_what_was_skipped(&self) {
        let Skipped { specials, without_access } = self.skipped;
        if specials > 0 {
            tracing::warn!(specials, "devices, fifos and sockets of a classic flist are left out");
        }
        if without_access > 0 {
            tracing::warn!(
                entries = without_access,
                "a classic flist does not say who may do what with these entries: they get mode 0400 and owner 1000"
            );
        }
    }
}

fn check(found: u64, limit: u64, what: impl FnOnce() -> String) -> Result<(), ClassicError> {
    if found <= limit {
        return Ok(());
    }
    Err(ClassicError::Tree(TreeError::Limit { what: what(), found, limit }))
}
