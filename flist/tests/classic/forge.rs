//! Makes classic flists that are wrong in any way.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rusqlite::Connection;
use tar::{Archive, Builder, Header};

/// The SQLite file in a classic flist.
pub(crate) fn database_of(flist: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new(GzDecoder::new(flist));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("flistdb.sqlite3") {
            let mut database = Vec::new();
            entry.read_to_end(&mut database).unwrap();
            return database;
        }
    }
    panic!("it has no database");
}

/// A classic flist with these files.
pub(crate) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in members {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// A classic flist with this SQLite file.
pub(crate) fn with_database(database: &[u8]) -> Vec<u8> {
    archive(&[("./flistdb.sqlite3", database)])
}

/// A classic flist, changed by `sql`.
pub(crate) fn changed(flist: &[u8], sql: &str) -> Vec<u8> {
    let mut database = Connection::open_in_memory().unwrap();
    let bytes = database_of(flist);
    database.deserialize_read_exact("main", bytes.as_slice(), bytes.len(), false).unwrap();
    database.execute_batch(sql).unwrap_or_else(|error| panic!("{error} in {sql}"));
    with_database(&database.serialize("main").unwrap())
}

/// So many zeros, gzip'd.
pub(crate) fn zeros(count: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let piece = vec![0; 1 << 20];
    for at in (0..count).step_by(piece.len()) {
        encoder.write_all(&piece[..piece.len().min(count - at)]).unwrap();
    }
    encoder.finish().unwrap()
}
