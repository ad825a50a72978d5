//! Makes fl flists with SQL, so that they can be wrong in any way.

use rusqlite::Connection;

/// The tables as rfs makes them, and the root directory.
const SOUND: &str = "
CREATE TABLE inode (ino INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name VARCHAR(255), size INTEGER,
    uid INTEGER, gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));
CREATE INDEX parents ON inode (parent);
CREATE INDEX names ON inode (name);
CREATE INDEX block_ino ON block (ino);
";

pub(crate) const DIRECTORY: u32 = 0o040_755;
pub(crate) const FILE: u32 = 0o100_644;
pub(crate) const SYMLINK: u32 = 0o120_777;

/// A sound flist with nothing but its root, changed by `sql`.
pub(crate) fn forge(sql: &str) -> Vec<u8> {
    let root = inode(1, 0, "'/'", DIRECTORY);
    forge_without_tables(&format!("{SOUND}{root}{sql}"))
}

/// An SQLite file that holds what `sql` makes.
pub(crate) fn forge_without_tables(sql: &str) -> Vec<u8> {
    let mut database = Connection::open_in_memory().unwrap();
    database.execute_batch(sql).unwrap_or_else(|error| panic!("{error} in {sql}"));
    database.serialize("main").unwrap().to_vec()
}

/// A row of table `inode`; `name` is an SQL expression. The file, if it is one, is empty.
pub(crate) fn inode(ino: i64, parent: i64, name: &str, mode: u32) -> String {
    inode_with_size(ino, parent, name, mode, "0")
}

/// As [`inode`]; `size` is an SQL expression.
pub(crate) fn inode_with_size(ino: i64, parent: i64, name: &str, mode: u32, size: &str) -> String {
    format!(
        "INSERT INTO inode (ino, parent, name, size, uid, gid, mode, rdev, ctime, mtime)
         VALUES ({ino}, {parent}, {name}, {size}, 0, 0, {mode}, 0, 0, 0);"
    )
}

/// A row of table `block` with an id and a key of these lengths.
pub(crate) fn block(ino: i64, id_length: usize, key_length: usize) -> String {
    format!("INSERT INTO block (ino, id, key) VALUES ({ino}, zeroblob({id_length}), zeroblob({key_length}));")
}
