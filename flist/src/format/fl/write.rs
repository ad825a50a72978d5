//! Writing: a tree → an SQLite file, the same bytes for the same tree.

use std::collections::HashMap;

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::super::rows::RowsError;
use super::{FlError, ROOT_INO};
use crate::block::Codec;
use crate::path::FlistPath;
use crate::tree::{Entry, Kind, Meta, Tree};

/// Table and column names and types are those rfs expects.
const SCHEMA: &str = "
CREATE TABLE inode (
    ino INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER, name VARCHAR(255), size INTEGER, uid INTEGER, gid INTEGER,
    mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER
);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));
CREATE INDEX parents ON inode (parent);
CREATE INDEX names ON inode (name);
CREATE INDEX block_ino ON block (ino);
";

/// Our own extension, which rfs does not look at.
const XATTR_SCHEMA: &str = "CREATE TABLE xattr (ino INTEGER, name VARCHAR(255), value BLOB);";

/// A directory's size, as ext4 and rfs report it.
const DIRECTORY_SIZE: i64 = 4096;

/// The fl file of a tree. Entries are numbered in the order of their paths, `ctime` is `mtime`.
///
/// # Errors
/// [`FlError::Rows`], [`FlError::Codec`].
pub fn to_bytes(tree: &Tree) -> Result<Vec<u8>, FlError> {
    if let Some(path) = tree.other_than(Codec::Fl) {
        return Err(FlError::Codec(path.clone()));
    }
    let failed = |source| FlError::Rows(RowsError::Sqlite { action: "write the flist", source });
    let mut database = Connection::open_in_memory().map_err(failed)?;
    fill(&mut database, tree).map_err(failed)?;
    Ok(database.serialize("main").map_err(failed)?.to_vec())
}

fn fill(database: &mut Connection, tree: &Tree) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    {
        let mut writer =
            Writer { database: &transaction, inos: HashMap::from([(FlistPath::root(), ROOT_INO)]) };
        let root = Entry { meta: *tree.root(), kind: Kind::Directory };
        writer.inode(ROOT_INO, 0, Value::Text("/".to_owned()), &root)?;
        for ((path, entry), ino) in tree.iter().zip(ROOT_INO + 1..) {
            writer.entry(ino, path, entry)?;
        }
        writer.xattrs(tree)?;
        for route in &tree.routes {
            transaction.execute(
                "INSERT INTO route (start, end, url) VALUES (?, ?, ?)",
                params![route.first, route.last, route.url],
            )?;
        }
        for (key, value) in &tree.tags {
            transaction.execute("INSERT INTO tag (key, value) VALUES (?, ?)", params![key, value])?;
        }
    }
    transaction.commit()
}

struct Writer<'d> {
    database: &'d Connection,
    /// Numbers of the directories seen so far.
    inos: HashMap<FlistPath, i64>,
}

impl Writer<'_> {
    fn xattrs(&self, tree: &Tree) -> rusqlite::Result<()> {
        let root = FlistPath::root();
        let numbered = std::iter::once(&root).chain(tree.iter().map(|(path, _)| path)).zip(ROOT_INO..);
        let mut with_any = numbered.filter_map(|(path, ino)| Some((ino, tree.xattrs(path)?))).peekable();
        if with_any.peek().is_some() {
            self.database.execute_batch(XATTR_SCHEMA)?;
        }
        for (ino, xattrs) in with_any {
            for (name, value) in xattrs {
                self.database.execute(
                    "INSERT INTO xattr (ino, name, value) VALUES (?, ?, ?)",
                    params![ino, text_or_blob(name), value],
                )?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, ino: i64, path: &FlistPath, entry: &Entry) -> rusqlite::Result<()> {
        let parent = path.parent().and_then(|parent| self.inos.get(&parent)).copied().unwrap_or(ROOT_INO);
        self.inode(ino, parent, text_or_blob(path.name()), entry)?;
        match &entry.kind {
            Kind::Directory => {
                self.inos.insert(path.clone(), ino);
            }
            Kind::Symlink(target) => {
                let mut extra =
                    self.database.prepare_cached("INSERT INTO extra (ino, data) VALUES (?, ?)")?;
                extra.execute(params![ino, target])?;
            }
            Kind::File(content) => {
                let mut insert =
                    self.database.prepare_cached("INSERT INTO block (ino, id, key) VALUES (?, ?, ?)")?;
                for block in &content.blocks {
                    insert.execute(params![ino, block.id.as_bytes(), block.key.as_bytes()])?;
                }
            }
            Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo | Kind::Socket => {}
        }
        Ok(())
    }

    fn inode(&self, ino: i64, parent: i64, name: Value, entry: &Entry) -> rusqlite::Result<()> {
        let Meta { mode, uid, gid, mtime } = entry.meta;
        let (file_type, size, rdev) = match &entry.kind {
            Kind::Fifo => (0o010_000, 0, 0),
            Kind::CharDevice(rdev) => (0o020_000, 0, *rdev),
            Kind::Directory => (0o040_000, DIRECTORY_SIZE, 0),
            Kind::BlockDevice(rdev) => (0o060_000, 0, *rdev),
            Kind::File(content) => (0o100_000, content.size.cast_signed(), 0),
            Kind::Symlink(target) => (0o120_000, target.len().cast_signed() as i64, 0),
            Kind::Socket => (0o140_000, 0, 0),
        };
        let mut insert = self.database.prepare_cached(
            "INSERT INTO inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)",
        )?;
        let mode = file_type | mode;
        insert.execute(params![ino, parent, name, size, uid, gid, mode, rdev.cast_signed(), mtime])?;
        Ok(())
    }
}

/// rfs reads names as text; bytes that are no UTF-8 can only be kept as a blob.
fn text_or_blob(name: &[u8]) -> Value {
    match std::str::from_utf8(name) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Blob(name.to_vec()),
    }
}
