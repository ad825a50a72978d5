//! Reading: rows → typed rows → a tree built from the root down.

use std::collections::{BTreeMap, HashMap};

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Row};

use super::{FlError, ROOT_INO};
use crate::block::{BlockId, BlockKey};
use crate::path::FlistPath;
use crate::tree::{Block, Content, Entry, Kind, Limits, Meta, Route, Tree};

const S_IFMT: u32 = 0o170_000;

/// Reads an fl flist from memory.
///
/// # Errors
/// [`FlError`] naming the entry that is wrong. No partial tree is returned.
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Tree, FlError> {
    let database = open(bytes)?;
    let mut inodes = read_inodes(&database, limits)?;
    let mut blocks = read_blocks(&database, limits)?;
    let targets = read_targets(&database, limits)?;
    let root = match inodes.rows.remove(&ROOT_INO) {
        Some(root) if root.parent == 0 && root.mode & S_IFMT == file_type::DIRECTORY => root,
        _ => return Err(FlError::NoRoot),
    };
    let mut tree = Tree::new(root.meta());
    let mut stack = vec![(ROOT_INO, FlistPath::root(), 0)];
    while let Some((directory, path, depth)) = stack.pop() {
        for ino in inodes.children.remove(&directory).unwrap_or_default() {
            let Some(inode) = inodes.rows.remove(&ino) else { continue };
            let path = path.join(&inode.name).map_err(|source| FlError::Name {
                ino,
                parent: path.clone(),
                source,
            })?;
            if depth >= limits.depth {
                return Err(FlError::TooMany { what: "levels of directories", limit: limits.depth });
            }
            let kind = inode.kind(&path, &mut blocks, &targets, limits)?;
            // Only directories are descended into, so what claims any other parent stays unconnected,
            // except beneath symlinks and files, which deserve the clearer error of `Tree::insert`.
            stack.push((ino, path.clone(), depth + 1));
            tree.insert(path, Entry { meta: inode.meta(), kind }).map_err(FlError::Tree)?;
        }
    }
    if let Some((ino, inode)) = inodes.rows.iter().min_by_key(|(ino, _)| **ino) {
        let name = inode.name.escape_ascii().to_string();
        return Err(FlError::Unconnected { ino: *ino, name, count: inodes.rows.len() });
    }
    if let Some(ino) = blocks.keys().min() {
        return Err(FlError::StrayBlock { ino: *ino });
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
                if self.size > limits.file_bytes {
                    return Err(FlError::Tree(crate::tree::TreeError::Limit {
                        what: format!("the size of '{path}'"),
                        found: self.size,
                        limit: limits.file_bytes,
                    }));
                }
                Kind::File(Content { size: self.size, blocks: blocks.remove(&self.ino).unwrap_or_default() })
            }
            file_type::SYMLINK => Kind::Symlink(target(path, targets.get(&self.ino), limits)?),
            file_type::CHARACTER => Kind::CharDevice(self.rdev),
            file_type::BLOCK => Kind::BlockDevice(self.rdev),
            file_type::FIFO => Kind::Fifo,
            file_type::SOCKET => Kind::Socket,
            other => {
                return Err(FlError::Column {
                    table: "inode",
                    entry: format!("entry '{path}'"),
                    column: "mode",
                    problem: format!("has the unknown file type {other:#o}"),
                });
            }
        })
    }
}

fn target(path: &FlistPath, data: Option<&Vec<u8>>, limits: &Limits) -> Result<Vec<u8>, FlError> {
    let refuse = |problem| Err(FlError::Target { path: path.clone(), problem });
    match data {
        None => refuse("is missing"),
        Some(data) if data.is_empty() => refuse("is empty"),
        Some(data) if data.contains(&0) => refuse("holds a NUL byte"),
        Some(data) if data.len() > limits.target_bytes => refuse("is too long"),
        Some(data) => Ok(data.clone()),
    }
}

struct Inodes {
    rows: HashMap<i64, InodeRow>,
    children: HashMap<i64, Vec<i64>>,
}

fn open(bytes: &[u8]) -> Result<Connection, FlError> {
    let failed = |source| FlError::Sqlite { action: "open it", source };
    let mut database = Connection::open_in_memory().map_err(failed)?;
    database.deserialize_read_exact("main", bytes, bytes.len(), true).map_err(failed)?;
    // A flist is data: no view or trigger of its schema may run anything.
    database
        .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)
        .and_then(|_| database.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false))
        .map_err(failed)?;
    Ok(database)
}

fn read_inodes(database: &Connection, limits: &Limits) -> Result<Inodes, FlError> {
    let mut inodes = Inodes { rows: HashMap::new(), children: HashMap::new() };
    let sql = "SELECT ino, parent, name, size, uid, gid, mode, rdev, mtime FROM inode ORDER BY ino";
    for_each_row(database, "read table inode", sql, |row| {
        if inodes.rows.len() >= limits.entries {
            return Err(FlError::TooMany { what: "entries", limit: limits.entries });
        }
        let ino = Field { table: "inode", row, ino: None }.integer(0, "ino")?;
        let field = Field { table: "inode", row, ino: Some(ino) };
        let inode = InodeRow {
            ino,
            parent: field.integer(1, "parent")?,
            name: field.bytes(2, "name")?.to_vec(),
            size: field.unsigned(3, "size")?,
            uid: field.unsigned(4, "uid")?,
            gid: field.unsigned(5, "gid")?,
            mode: field.unsigned(6, "mode")?,
            rdev: field.unsigned(7, "rdev")?,
            mtime: field.integer(8, "mtime")?,
        };
        if ino != ROOT_INO {
            inodes.children.entry(inode.parent).or_default().push(ino);
        }
        inodes.rows.insert(ino, inode);
        Ok(())
    })?;
    Ok(inodes)
}

fn read_blocks(database: &Connection, limits: &Limits) -> Result<HashMap<i64, Vec<Block>>, FlError> {
    let mut blocks: HashMap<i64, Vec<Block>> = HashMap::new();
    let mut count = 0;
    for_each_row(database, "read table block", "SELECT ino, id, key FROM block ORDER BY rowid", |row| {
        count += 1;
        if count > limits.blocks {
            return Err(FlError::TooMany { what: "blocks", limit: limits.blocks });
        }
        let ino = Field { table: "block", row, ino: None }.integer(0, "ino")?;
        let field = Field { table: "block", row, ino: Some(ino) };
        let id = BlockId::from_bytes(field.digest(1, "id")?);
        let key = BlockKey::from_bytes(field.digest(2, "key")?);
        blocks.entry(ino).or_default().push(Block { id, key });
        Ok(())
    })?;
    Ok(blocks)
}

fn read_targets(database: &Connection, limits: &Limits) -> Result<HashMap<i64, Vec<u8>>, FlError> {
    let mut targets = HashMap::new();
    for_each_row(database, "read table extra", "SELECT ino, data FROM extra", |row| {
        if targets.len() >= limits.entries {
            return Err(FlError::TooMany { what: "link targets", limit: limits.entries });
        }
        let ino = Field { table: "extra", row, ino: None }.integer(0, "ino")?;
        let field = Field { table: "extra", row, ino: Some(ino) };
        targets.insert(ino, field.bytes(1, "data")?.to_vec());
        Ok(())
    })?;
    Ok(targets)
}

fn read_routes(database: &Connection, limits: &Limits) -> Result<Vec<Route>, FlError> {
    let mut routes = Vec::new();
    for_each_row(database, "read table route", "SELECT start, end, url FROM route ORDER BY rowid", |row| {
        if routes.len() >= limits.routes {
            return Err(FlError::TooMany { what: "routes", limit: limits.routes });
        }
        let field = Field { table: "route", row, ino: None };
        routes.push(Route {
            first: field.unsigned(0, "start")?,
            last: field.unsigned(1, "end")?,
            url: field.text(2, "url")?,
        });
        Ok(())
    })?;
    Ok(routes)
}

fn read_tags(database: &Connection, limits: &Limits) -> Result<BTreeMap<String, String>, FlError> {
    let mut tags = BTreeMap::new();
    for_each_row(database, "read table tag", "SELECT key, value FROM tag", |row| {
        if tags.len() >= limits.routes {
            return Err(FlError::TooMany { what: "tags", limit: limits.routes });
        }
        let field = Field { table: "tag", row, ino: None };
        tags.insert(field.text(0, "key")?, field.text(1, "value")?);
        Ok(())
    })?;
    Ok(tags)
}

fn for_each_row(
    database: &Connection,
    action: &'static str,
    sql: &str,
    mut each: impl FnMut(&Row<'_>) -> Result<(), FlError>,
) -> Result<(), FlError> {
    let failed = |source| FlError::Sqlite { action, source };
    let mut statement = database.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        each(row)?;
    }
    Ok(())
}

/// One row of a table; reads its columns and names it in errors.
struct Field<'r, 's> {
    table: &'static str,
    row: &'r Row<'s>,
    ino: Option<i64>,
}

impl Field<'_, '_> {
    fn value(&self, index: usize, column: &'static str) -> Result<ValueRef<'_>, FlError> {
        self.row.get_ref(index).map_err(|source| self.refuse(column, source.to_string()))
    }

    fn integer(&self, index: usize, column: &'static str) -> Result<i64, FlError> {
        match self.value(index, column)? {
            ValueRef::Integer(value) => Ok(value),
            other => Err(self.wrong_type(column, other.data_type())),
        }
    }

    fn unsigned<T: TryFrom<i64>>(&self, index: usize, column: &'static str) -> Result<T, FlError> {
        let value = self.integer(index, column)?;
        T::try_from(value).map_err(|_| self.refuse(column, format!("is out of range: {value}")))
    }

    fn bytes(&self, index: usize, column: &'static str) -> Result<&[u8], FlError> {
        match self.value(index, column)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes),
            other => Err(self.wrong_type(column, other.data_type())),
        }
    }

    fn text(&self, index: usize, column: &'static str) -> Result<String, FlError> {
        let bytes = self.bytes(index, column)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.refuse(column, "is not UTF-8".to_owned()))
    }

    fn digest(&self, index: usize, column: &'static str) -> Result<[u8; 32], FlError> {
        let bytes = self.bytes(index, column)?;
        bytes.try_into().map_err(|_| self.refuse(column, format!("has {} bytes, expected 32", bytes.len())))
    }

    fn wrong_type(&self, column: &'static str, found: Type) -> FlError {
        self.refuse(column, format!("holds a value of type {found}"))
    }

    fn refuse(&self, column: &'static str, problem: String) -> FlError {
        let entry = self.ino.map_or_else(|| "a row".to_owned(), |ino| format!("inode {ino}"));
        FlError::Column { table: self.table, entry, column, problem }
    }
}
