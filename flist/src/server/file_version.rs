//! What changes when a file does. Files of a hub are replaced, not rewritten, so a content never changes
//! under its inode.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Tells one version of a file, or one file, from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// Of the file that has this metadata.
    pub(super) fn of(metadata: &Metadata) -> Self {
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

    #[test]
    fn another_content_is_another_version() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join("x"), directory.path().join("next"));
        let version = || FileVersion::of(&std::fs::metadata(&path).unwrap());
        std::fs::write(&path, "abc").unwrap();
        let first = version();
        assert_eq!(version(), first);
        std::fs::write(&next, "abd").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_ne!(version(), first, "same length");
    }
}
