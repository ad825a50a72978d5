//! Digests of served files. The `ETag` of a flist is the SHA-256 of its content, so it survives copies
//! of the hub's directory and is the same on every mirror; MD5 is what the 0-hub's clients expect.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use md5::{Digest, Md5};

use crate::hub::Sha256;

/// Most files whose digests are kept; beyond it the cache starts afresh.
const MAX_CACHED: usize = 4096;

/// Two digests of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) md5: [u8; 16],
    pub(super) sha256: Sha256,
}

/// Digests of files that have been asked for, by what changes when a file does. Files of a hub are
/// replaced, not rewritten, so a content never changes under its inode.
#[derive(Debug, Default)]
pub(super) struct DigestCache(Mutex<HashMap<FileKey, Digests>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileKey {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl DigestCache {
    /// The digests of a file, computed when they are not known. The position in the file stays.
    pub(super) fn of(&self, file: &File, metadata: &Metadata) -> io::Result<Digests> {
        let key = FileKey::of(metadata);
        if let Some(digests) = self.known().get(&key) {
            return Ok(*digests);
        }
        let digests = Digests::read(file)?;
        let mut known = self.known();
        if known.len() >= MAX_CACHED {
            known.clear();
        }
        known.insert(key, digests);
        Ok(digests)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<FileKey, Digests>> {
        // A panic elsewhere cannot leave a half-written entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Digests {
    fn read(file: &File) -> io::Result<Self> {
        let (mut md5, mut sha256) = (Md5::new(), digest::Context::new(&digest::SHA256));
        let mut buffer = vec![0; 128 * 1024];
        let mut offset = 0;
        loop {
            let read = match file.read_at(&mut buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                return Ok(Self { md5: md5.finalize().into(), sha256: Sha256::finished(sha256.finish()) });
            }
            md5.update(&buffer[..read]);
            sha256.update(&buffer[..read]);
            offset += read as u64;
        }
    }

    /// The strong `ETag` header.
    pub(super) fn etag(&self) -> String {
        format!("\"{}\"", self.sha256)
    }
}

impl FileKey {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(cache: &DigestCache, path: &std::path::Path) -> Digests {
        let file = File::open(path).unwrap();
        let metadata = file.metadata().unwrap();
        cache.of(&file, &metadata).unwrap()
    }

    #[test]
    fn digests_are_the_standard_ones_and_follow_a_replaced_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join("x"), directory.path().join("next"));
        let cache = DigestCache::default();
        std::fs::write(&path, "abc").unwrap();
        let first = digests(&cache, &path);
        assert_eq!(hex::encode(first.md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(first.sha256, Sha256::of(b"abc"));
        assert_eq!(digests(&cache, &path), first);
        std::fs::write(&next, "abd").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(digests(&cache, &path).sha256, Sha256::of(b"abd"));
    }

    #[test]
    fn the_cache_does_not_grow_without_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        let cache = DigestCache::default();
        let digest = digests(&cache, &path);
        let key = FileKey::of(&std::fs::metadata(&path).unwrap());
        let fill = (0..MAX_CACHED as u64).map(|inode| (FileKey { inode, device: u64::MAX, ..key }, digest));
        cache.known().extend(fill);
        std::fs::write(&path, "abcd").unwrap();
        digests(&cache, &path);
        assert_eq!(cache.known().len(), 1);
    }
}
