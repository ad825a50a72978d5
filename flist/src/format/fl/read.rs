//! Reading: rows → typed rows → a tree built from the root down.

use std::collections::{BTreeMap, HashMap};

use super::super::MAX_TEXT;
use super::super::rows::{Database, RowsError};
use super::{FlError, ROOT_INO};
use crate::block::{BlockId, BlockKey};
use crate::path::{FlistPath, MAX_NAME};
use crate::tree::{Block, Content, Entry, Kind, Limits, Meta, Route, Tree, TreeError};
use crate::xattr::{MAX_VALUE, MAX_XATTR_NAME, Xattrs, is_kept};

const S_IFMT: u32 = 0o170_000;

/// Reads an fl flist from memory.
///
/// # Errors
/// [`FlError`] naming the entry that is wrong. No partial tree is returned.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Tree, FlError> {
    let database = Database::open(bytes)?;
    let mut inodes = read_inodes(&database, limits)?;
    let mut blocks = read_blocks(&database, limits)?;
    let targets = read_targets(&database, limits)?;
    let mut xattrs = read_xattrs(&database, limits)?;
    let root = match inodes.rows.remove(&ROOT_INO) {
        Some(root) if root.parent == 0 && root.mode & S_IFMT == file_type::DIRECTORY => root,
        _ => return Err(FlError::NoRoot),
    };
    let mut tree = Tree::new(root.meta());
    let of_root = xattrs.remove(&ROOT_INO).unwrap_or_default();
    tree.set_xattrs(FlistPath::root(), of_root).map_err(FlError::Tree)?;
    let mut stack = vec![(ROOT_INO, FlistPath::root(), 0)];
    let mut path_bytes = 0;
    while let Some((directory, path, depth)) = stack.pop() {
        for ino in inodes.children.remove(&directory).unwrap_or_default() {
            let Some(inode) = inodes.rows.remove(&ino) else { continue };
            let path = path.join(&inode.name).map_err(|source| FlError::Name {
                ino,
                parent: path.clone(),
                source,
            })?;
            path_bytes += path.as_bytes().len() as u64;
            check(depth + 1, limits.depth as u64, || format!("the depth of '{path}'"))?;
            check(path_bytes, limits.path_bytes as u64, || {
                format!("the length of all paths up to '{path}'")
            })?;
            let kind = inode.kind(&path, &mut blocks, &targets, limits)?;
            // Only directories are descended into, so what claims any other parent stays unconnected,
            // except beneath symlinks and files, which deserve the clearer error of `Tree::insert`.
            stack.push((ino, path.clone(), depth + 1));
            tree.insert(path.clone(), Entry { meta: inode.meta(), kind }).map_err(FlError::Tree)?;
            if let Some(xattrs) = xattrs.remove(&ino) {
                tree.set_xattrs(path, xattrs).map_err(FlError::Tree)?;
            }
        }
    }
    if let Some((ino, inode)) = inodes.rows.iter().min_by_key(|(ino, _)| **ino) {
        let name = inode.name.escape_ascii().to_string();
        return Err(FlError::Unconnected { ino: *ino, name, count: inodes.rows.len() });
    }
    if let Some(ino) = blocks.keys().min() {
        return Err(FlError::StrayBlock { ino: *ino });
    }
    if let Some(ino) = xattrs.keys().min() {
        return Err(FlError::StrayXattr { ino: *ino });
    }
    tree.routes = read_routes(&database, limits)?;
    tree.tags = read_tags(&database, limits)?;
    Ok(tree)
}

/// The file types of `st_mode`, as fl stores them.
mod file_type {
    pub(super) const FIFO: u32 = 0o010_000;
    pub(super) const CHARACTER: u32 = 0o020_000;
    pub(super) const DIRECTORY: u32 = 0o040_000;
    pub(super) const BLOCK: u32 = 0o060_000;
    pub(super) const REGULAR: u32 = 0o100_000;
    pub(super) const SYMLINK: u32 = 0o120_000;
    pub(super) const SOCKET: u32 = 0o140_000;
}

struct InodeRow {
    ino: i64,
    parent: i64,
    name: Vec<u8>,
    size: u64,
    uid: u32,
    gid: u32,
    mode: u32,
    rdev: u64,
    mtime: i64,
}

impl InodeRow {
    fn meta(&self) -> Meta {
        Meta { mode: self.mode & 0o7777, uid: self.uid, gid: self.gid, mtime: self.mtime }
    }

    fn kind(
        &self,
        path: &FlistPath,
        blocks: &mut HashMap<i64, Vec<Block>>,
        targets: &HashMap<i64, Vec<u8>>,
        limits: &Limits,
    ) -> Result<Kind, FlError> {
        Ok(match self.mode & S_IFMT {
            file_type::DIRECTORY => Kind::Directory,
            file_type::REGULAR => {
                check(self.size, limits.file_bytes, || format!("the size of '{path}'"))?;
                Kind::File(Content { size: self.size, blocks: blocks.remove(&self.ino).unwrap_or_default() })
            }
            file_type::SYMLINK => Kind::Symlink(target(path, targets.get(&self.ino))?),
            file_type::CHARACTER => Kind::CharDevice(self.rdev),
            file_type::BLOCK => Kind::BlockDevice(self.rdev),
            file_type::FIFO => Kind::Fifo,
            file_type::SOCKET => Kind::Socket,
            other => {
                return Err(FlError::Rows(RowsError::Column {
                    table: "inode",
                    entry: format!("entry '{path}'"),
                    column: "mode",
                    problem: format!("has the unknown file type {other:#o}"),
                }));
            }
        })
    }
}

fn target(path: &FlistPath, data: Option<&Vec<u8>>) -> Result<Vec<u8>, FlError> {
    let refuse = |problem| Err(FlError::Target { path: path.clone(), problem });
    match data {
        None => refuse("is missing"),
        Some(data) if data.is_empty() => refuse("is empty"),
        Some(data) if data.contains(&0) => refuse("holds a NUL byte"),
        Some(data) => Ok(data.clone()),
    }
}

fn check(found: u64, limit: u64, what: impl FnOnce() -> String) -> Result<(), FlError> {
    if found <= limit { Ok(()) } else { Err(FlError::Tree(TreeError::Limit { what: what(), found, limit })) }
}

struct Inodes {
    rows: HashMap<i64, InodeRow>,
    children: HashMap<i64, Vec<i64>>,
}

fn read_inodes(database: &Database, limits: &Limits) -> Result<Inodes, FlError> {
    let mut inodes = Inodes { rows: HashMap::new(), children: HashMap::new() };
    let columns = "ino, parent, name, size, uid, gid, mode, rdev, mtime";
    database.for_each_row("inode", columns, |field| {
        if inodes.rows.len() >= limits.entries {
            return Err(FlError::TooMany { what: "entries", limit: limits.entries });
        }
        let ino = field.integer(0, "ino")?;
        let field = field.of_inode(ino);
        let inode = InodeRow {
            ino,
            parent: field.integer(1, "parent")?,
            name: field.bytes(2, "name", MAX_NAME)?.to_vec(),
            size: field.unsigned(3, "size")?,
            uid: field.owner(4, "uid")?,
            gid: field.owner(5, "gid")?,
            mode: field.unsigned(6, "mode")?,
            rdev: field.unsigned(7, "rdev")?,
            mtime: field.integer(8, "mtime")?,
        };
        if ino != ROOT_INO {
            inodes.children.entry(inode.parent).or_default().push(ino);
        }
        match inodes.rows.insert(ino, inode) {
            Some(_) => Err(FlError::DuplicateInode { table: "inode", ino }),
            None => Ok(()),
        }
    })?;
    Ok(inodes)
}

fn read_blocks(database: &Database, limits: &Limits) -> Result<HashMap<i64, Vec<Block>>, FlError> {
    let mut rows = Vec::new();
    database.for_each_row("block", "rowid, ino, id, key", |field| {
        if rows.len() >= limits.blocks {
            return Err(FlError::TooMany { what: "blocks", limit: limits.blocks });
        }
        let (rowid, ino) = (field.integer(0, "rowid")?, field.integer(1, "ino")?);
        let field = field.of_inode(ino);
        let id = BlockId::from_bytes(field.digest(2, "id")?);
        let key = BlockKey::from_bytes(field.digest(3, "key")?);
        rows.push((rowid, ino, Block { id, key }));
        Ok(())
    })?;
    // The order of the rows is that of the file's pieces; SQLite may have read another one from an index.
    rows.sort_by_key(|(rowid, _, _)| *rowid);
    let mut blocks: HashMap<i64, Vec<Block>> = HashMap::new();
    for (_, ino, block) in rows {
        blocks.entry(ino).or_default().push(block);
    }
    Ok(blocks)
}

fn read_targets(database: &Database, limits: &Limits) -> Result<HashMap<i64, Vec<u8>>, FlError> {
    let mut targets = HashMap::new();
    database.for_each_row("extra", "ino, data", |field| {
        if targets.len() >= limits.entries {
            return Err(FlError::TooMany { what: "link targets", limit: limits.entries });
        }
        let ino = field.integer(0, "ino")?;
        let target = field.of_inode(ino).bytes(1, "data", limits.target_bytes)?.to_vec();
        match targets.insert(ino, target) {
            Some(_) => Err(FlError::DuplicateInode { table: "extra", ino }),
            None => Ok(()),
        }
    })?;
    Ok(targets)
}

fn read_xattrs(database: &Database, limits: &Limits) -> Result<HashMap<i64, Xattrs>, FlError> {
    let mut xattrs: HashMap<i64, Xattrs> = HashMap::new();
    if !database.has("xattr")? {
        return Ok(xattrs);
    }
    let mut bytes = 0;
    database.for_each_row("xattr", "ino, name, value", |field| {
        let ino = field.integer(0, "ino")?;
        let field = field.of_inode(ino);
        let name = field.bytes(1, "name", MAX_XATTR_NAME)?;
        let value = field.bytes(2, "value", MAX_VALUE)?;
        // Others would be refused by the system, or belong to another machine.
        if !is_kept(name) || name.contains(&0) {
            let problem = format!("'{}' is not one that a flist keeps", name.escape_ascii());
            return Err(field.refuse("name", problem).into());
        }
        bytes += name.len() + value.len();
        if bytes > limits.xattr_bytes {
            return Err(FlError::TooMany { what: "bytes of extended attributes", limit: limits.xattr_bytes });
        }
        match xattrs.entry(ino).or_default().insert(name.to_vec(), value.to_vec()) {
            Some(_) => Err(field.refuse("name", format!("'{}' is there twice", name.escape_ascii())).into()),
            None => Ok(()),
        }
    })?;
    Ok(xattrs)
}

fn read_routes(database: &Database, limits: &Limits) -> Result<Vec<Route>, FlError> {
    let mut routes = Vec::new();
    database.for_each_row("route", "rowid, start, end, url", |field| {
        if routes.len() >= limits.routes {
            return Err(FlError::TooMany { what: "routes", limit: limits.routes });
        }
        let url = field.text(3, "url", MAX_TEXT)?;
        if url.contains(char::is_control) {
            let problem = format!("holds control characters: {}", url.escape_debug());
            return Err(field.refuse("url", problem).into());
        }
        let route = Route { first: field.unsigned(1, "start")?, last: field.unsigned(2, "end")?, url };
        routes.push((field.integer(0, "rowid")?, route));
        Ok(())
    })?;
    routes.sort_by_key(|(rowid, _)| *rowid);
    Ok(routes.into_iter().map(|(_, route)| route).collect())
}

fn read_tags(database: &Database, limits: &Limits) -> Result<BTreeMap<String, String>, FlError> {
    let mut tags = BTreeMap::new();
    database.for_each_row("tag", "key, value", |field| {
        if tags.len() >= limits.routes {
            return Err(FlError::TooMany { what: "tags", limit: limits.routes });
        }
        // Nobody but a forger has a key twice: pages that lead to each other have rows without end.
        match tags.insert(field.text(0, "key", MAX_TEXT)?, field.text(1, "value", MAX_TEXT)?) {
            Some(_) => Err(field.refuse("key", "is there twice".to_owned()).into()),
            None => Ok(()),
        }
    })?;
    Ok(tags)
}
