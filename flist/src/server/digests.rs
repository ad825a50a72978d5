//! Digests of served files. The `ETag` of a flist is the SHA-256 of its content, so it survives copies
//! of the hub's directory and is the same on every mirror; MD5 is what the 0-hub's clients expect.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;

use aws_lc_rs::digest;
use md5::{Digest, Md5};

use super::content_cache::ContentCache;
use crate::hub::Sha256;

/// Two digests of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) md5: [u8; 16],
    pub(super) sha256: Sha256,
}

impl ContentCache<Digests> {
    /// The digests of a file, computed when they are not known. The position in the file stays.
    pub(super) fn of(&self, file: &File, metadata: &Metadata) -> io::Result<Digests> {
        self.get_or(metadata, || Digests::read(file))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(cache: &ContentCache<Digests>, path: &std::path::Path) -> Digests {
        let file = File::open(path).unwrap();
        let metadata = file.metadata().unwrap();
        cache.of(&file, &metadata).unwrap()
    }

    #[test]
    fn digests_are_the_standard_ones_and_follow_a_replaced_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join("x"), directory.path().join("next"));
        let cache = ContentCache::default();
        std::fs::write(&path, "abc").unwrap();
        let first = digests(&cache, &path);
        assert_eq!(hex::encode(first.md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(first.sha256, Sha256::of(b"abc"));
        assert_eq!(digests(&cache, &path), first);
        std::fs::write(&next, "abd").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_eq!(digests(&cache, &path).sha256, Sha256::of(b"abd"));
    }
}
