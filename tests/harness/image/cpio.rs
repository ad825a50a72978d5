//! Archives that the kernel unpacks as its first root file system: cpio's "new ASCII" layout, as told in
//! Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Pure.

/// Kinds of files, as in the mode of stat(2).
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Name of the entry behind the last one.
const TRAILER: &str = "TRAILER!!!";

/// An archive under construction. Everything in it belongs to root and has no time, so that the same entries
/// make the same bytes.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory; those above it have to be there already.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, DIRECTORY | mode, &[]);
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let (links, length) = (if mode & DIRECTORY == DIRECTORY { 2 } else { 1 }, content.len());
        self.entries += 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let numbers =
            [self.entries as usize, mode as usize, 0, 0, links, 0, length, 0, 0, 0, 0, path.len() + 1, 0];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08X}").bytes());
        }
        self.bytes.extend(path.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Everything begins at a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_wants_it() {
        let mut archive = Archive::default();
        archive.file("ab", 0o755, b"12345");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let header = "07070100000001000081ED000000000000000000000001000000000000000500000000000000000000\
                      0000000000000000000300000000ab\0";
        assert!(text.starts_with(header), "{text:?}");
        // 110 bytes of header and three of name, filled up.
        assert_eq!(&bytes[113..124], b"\0\0\x0012345\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.contains("TRAILER!!!\0"));
    }
}
