//! Extended attributes: file capabilities, POSIX access control lists, and what users attach.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, fsetxattr, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

/// Attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Attributes for a `serde` field: names as text, values in hexadecimal.
pub mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Xattrs;

    /// Writes them.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(xattrs: &Xattrs, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_map(xattrs.iter().map(|(name, value)| (crate::path::escape(name), hex::encode(value))))
    }

    /// Reads them.
    ///
    /// # Errors
    /// Those of the deserializer, and values that are not hexadecimal.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Xattrs, D::Error> {
        let texts = std::collections::BTreeMap::<String, String>::deserialize(deserializer)?;
        let decode = |(name, value): (String, String)| {
            Ok((crate::path::unescape(&name), hex::decode(value).map_err(serde::de::Error::custom)?))
        };
        texts.into_iter().map(decode).collect()
    }
}

/// Longest value in bytes (Linux `XATTR_SIZE_MAX`).
pub const MAX_VALUE: usize = 64 * 1024;

/// Longest name in bytes (Linux `XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME: usize = 255;

/// Longest list of names in bytes (Linux `XATTR_LIST_MAX`).
const MAX_LIST: usize = 64 * 1024;

/// What a process can do beyond its user.
const CAPABILITY: &[u8] = b"security.capability";

/// Whether a flist keeps an attribute. Labels of security modules and the kernel's own notes belong to a
/// machine and not to its files' content.
pub fn is_kept(name: &[u8]) -> bool {
    changes_rights(name) || name.starts_with(b"user.")
}

/// Whether an attribute decides what somebody may do: it must be there, or the file is not installed.
pub fn changes_rights(name: &[u8]) -> bool {
    matches!(name, CAPABILITY | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// The attributes of something on disk that a flist keeps; none where the file system has none. A symlink
/// is not followed.
///
/// # Errors
/// The system's.
pub fn read(path: &Path) -> io::Result<Xattrs> {
    let mut list = Vec::with_capacity(4096);
    let listed = loop {
        match llistxattr(path, rustix::buffer::spare_capacity(&mut list)) {
            Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
            Err(Errno::RANGE) if list.capacity() < MAX_LIST => {
                list.reserve(MAX_LIST);
            }
            other => break other?,
        }
    };
    debug_assert_eq!(listed, list.len());
    let mut xattrs = Xattrs::new();
    for name in list.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        let Ok(c_name) = CString::new(name) else { continue };
        if let Some(value) = value_of(path, &c_name)? {
            xattrs.insert(name.to_vec(), value);
        }
    }
    Ok(xattrs)
}

/// `None` when it vanished meanwhile.
fn value_of(path: &Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = Vec::with_capacity(MAX_VALUE);
    match lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => {
            value.shrink_to_fit();
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets attributes, after owner and mode: a change of owner drops capabilities. Those of users are left
/// out where the file system has none.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, xattrs: &Xattrs) -> io::Result<()> {
    set_all(xattrs, |name, value| lsetxattr(path, name, value, XattrFlags::empty()))
}

/// As [`write`], for something that is open.
///
/// # Errors
/// The system's.
pub fn write_open(fd: impl AsFd, xattrs: &Xattrs) -> io::Result<()> {
    set_all(xattrs, |name, value| fsetxattr(&fd, name, value, XattrFlags::empty()))
}

fn set_all(xattrs: &Xattrs, set: impl Fn(&CStr, &[u8]) -> rustix::io::Result<()>) -> io::Result<()> {
    for (name, value) in xattrs {
        let c_name = CString::new(name.as_slice())?;
        match set(&c_name, value) {
            Err(Errno::OPNOTSUPP) if !changes_rights(name) => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        // Capabilities work on every file system of the tests, user attributes on most.
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(read(file.path()).unwrap().is_empty());
        // cap_net_raw+ep, version 2 (capability.h).
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        let xattrs = Xattrs::from([(CAPABILITY.to_vec(), capability)]);
        if nix::unistd::geteuid().is_root() {
            write(file.path(), &xattrs).unwrap();
            assert_eq!(read(file.path()).unwrap(), xattrs);
        }
        assert!(!is_kept(b"security.selinux") && !is_kept(b"trusted.overlay.opaque"));
    }
}
