//! Writing: a tree → messages → rows → an archive, the same bytes for the same tree.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use super::encode::{self, Directory, Inode};
use super::message::Access;
use super::{ClassicError, access, access_key, archive, directory_key, notes, router};
use crate::block::Codec;
use crate::format::rows::RowsError;
use crate::path::FlistPath;
use crate::tree::{Kind, Meta, Tree};

/// Table and column names and types are those 0-flist makes.
const SCHEMA: &str = "
PRAGMA page_size = 4096;
CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB);
CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT);
";

/// The classic flist of a tree. It cannot have extended attributes, nor times before 1970 or after 2106, which is
/// told; devices, fifos and sockets are in it, but its readers pass them over.
///
/// # Errors
/// [`ClassicError::Codec`] when the blocks are not of this format; others only for what no reader could take either.
pub fn to_bytes(tree: &Tree) -> Result<Vec<u8>, ClassicError> {
    if let Some(path) = tree.other_than(Codec::Classic) {
        return Err(ClassicError::Codec(path.clone()));
    }
    tell_what_is_lost(tree);
    let router = router::write(&tree.routes);
    let mut metadata: Vec<_> = tree.tags.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    if router.is_none() && !tree.routes.is_empty() {
        metadata.extend(notes::routes_row(&tree.routes));
    }
    let database = database(&entries(tree)?, &metadata)
        .map_err(|source| RowsError::Sqlite { action: "write the flist", source })?;
    archive::write(&archive::Members { database, router })
}

/// Rows of table `entries`: directories by their paths, then kinds of access by their keys.
fn entries(tree: &Tree) -> Result<Vec<(String, Vec<u8>)>, ClassicError> {
    let mut kinds = BTreeMap::new();
    let mut access = |meta: &Meta| {
        let access = access_of(meta);
        let key = access_key(&access);
        kinds.insert(key.clone(), access);
        key
    };
    let root = FlistPath::root();
    let directory =
        |path, access, meta: &Meta| Directory { path, access, mtime: mtime(meta), contents: vec![] };
    let mut directories = BTreeMap::from([(&root, directory(&root, access(tree.root()), tree.root()))]);
    for (path, entry) in tree.iter() {
        let (key, mtime) = (access(&entry.meta), mtime(&entry.meta));
        if entry.kind == Kind::Directory {
            directories.insert(path, directory(path, key.clone(), &entry.meta));
        }
        // A tree has the directory of every entry, and before it.
        if let Some(parent) = path.parent().and_then(|parent| directories.get_mut(&parent)) {
            parent.contents.push(Inode { path, kind: &entry.kind, access: key, mtime });
        }
    }
    let mut rows = Vec::with_capacity(directories.len() + kinds.len());
    for (path, directory) in &directories {
        rows.push((directory_key(path), encode::directory(directory)?));
    }
    for (key, access) in &kinds {
        rows.push((key.clone(), encode::access(access)?));
    }
    Ok(rows)
}

fn database(entries: &[(String, Vec<u8>)], metadata: &[(&str, String)]) -> rusqlite::Result<Vec<u8>> {
    let mut database = Connection::open_in_memory()?;
    database.execute_batch(SCHEMA)?;
    let transaction = database.transaction()?;
    {
        let mut insert = transaction.prepare("INSERT INTO entries (key, value) VALUES (?, ?)")?;
        for (key, value) in entries {
            insert.execute(params![key, value])?;
        }
        let mut insert = transaction.prepare("INSERT INTO metadata (key, value) VALUES (?, ?)")?;
        for (key, value) in metadata {
            insert.execute(params![key, value])?;
        }
    }
    transaction.commit()?;
    Ok(database.serialize("main")?.to_vec())
}

fn access_of(meta: &Meta) -> Access {
    Access {
        user: access::name_of(meta.uid),
        group: access::name_of(meta.gid),
        mode: (meta.mode & 0o7777) as u16,
        uid: i64::from(meta.uid),
        gid: i64::from(meta.gid),
    }
}

fn mtime(meta: &Meta) -> u32 {
    meta.mtime.clamp(0, i64::from(u32::MAX)) as u32
}

fn tell_what_is_lost(tree: &Tree) {
    let metas = || std::iter::once(tree.root()).chain(tree.iter().map(|(_, entry)| &entry.meta));
    let times = metas().filter(|meta| i64::from(mtime(meta)) != meta.mtime).count();
    if times > 0 {
        tracing::warn!(entries = times, "times before 1970 or after 2106 cannot be in a classic flist");
    }
    let root = FlistPath::root();
    let paths = std::iter::once(&root).chain(tree.iter().map(|(path, _)| path));
    let xattrs = paths.filter(|path| tree.xattrs(path).is_some()).count();
    if xattrs > 0 {
        tracing::warn!(
            entries = xattrs,
            "extended attributes, such as capabilities, cannot be in a classic flist"
        );
    }
    let special = |kind: &Kind| !matches!(kind, Kind::Directory | Kind::File(_) | Kind::Symlink(_));
    let specials = tree.iter().filter(|(_, entry)| special(&entry.kind)).count();
    if specials > 0 {
        tracing::warn!(
            specials,
            "devices, fifos and sockets of a classic flist are passed over by its readers"
        );
    }
}
