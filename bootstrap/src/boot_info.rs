//! `/tmp/flist.name` and `/tmp/flist.info`: what the node was booted from.
//!
//! They are kept for tools that know the ancestor. The name decides what root installs and lies in a
//! directory that anyone can write to, so it counts only as a regular file of root that nobody else could
//! have written, and only together with the generation that is kept elsewhere.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flist::hub::{Channel, ChannelNameError};
use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use crate::disk::{self, Replacement};
use crate::root::Root;

const NAME: &str = "tmp/flist.name";
const INFO: &str = "tmp/flist.info";

/// Permission bits of both.
const MODE: u32 = 0o644;

/// Longest name file, in bytes: two components and some white space.
const MAX_NAME: u64 = 1024;

/// Why boot information could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BootInfoError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have written the file.
    #[error("{path} is not trusted: {reason}; remove it and boot again")]
    NotTrusted {
        /// The file.
        path: PathBuf,
        /// What is suspicious.
        reason: &'static str,
    },
    /// The file holds no name.
    #[error("{path} does not name what the node follows")]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ChannelNameError,
    },
}

/// Writes both files, each all or nothing.
///
/// # Errors
/// [`BootInfoError::File`].
pub fn write(root: &Root, channel: &Channel, info: &str) -> Result<(), BootInfoError> {
    replace(root, "write", INFO, info.as_bytes())?;
    replace(root, "write", NAME, format!("{channel}\n").as_bytes())
}

/// Both files to be, written beside those that are there.
#[derive(Debug)]
pub struct ToBe([Replacement; 2]);

impl ToBe {
    /// Writes them, so that [`ToBe::put`] takes no more space; `None` while there is no directory for them, which may
    /// be one that the release brings.
    ///
    /// # Errors
    /// [`BootInfoError::File`].
    pub fn prepare(root: &Root, channel: &Channel, info: &str) -> Result<Option<Self>, BootInfoError> {
        let prepare = |name: &str, bytes: &[u8]| {
            let failed = |source| failed(root, "prepare", name, source);
            let path: FlistPath = name.parse().map_err(|error| failed(io::Error::other(error)))?;
            let directory = root.disk().real_directory(&path.parent().unwrap_or_default()).map_err(failed)?;
            let prepared = directory.map(|_| Replacement::prepare(root.disk(), &path, bytes, MODE));
            prepared.transpose().map_err(failed)
        };
        let Some(info) = prepare(INFO, info.as_bytes())? else { return Ok(None) };
        let name = prepare(NAME, format!("{channel}\n").as_bytes())?;
        Ok(name.map(|name| Self([info, name])))
    }

    /// Puts them in place, each all or nothing.
    ///
    /// # Errors
    /// [`BootInfoError::File`].
    pub fn put(&self, root: &Root) -> Result<(), BootInfoError> {
        let [info, name] = &self.0;
        info.put(root.disk()).map_err(|source| failed(root, "write", INFO, source))?;
        name.put(root.disk()).map_err(|source| failed(root, "write", NAME, source))
    }

    /// Takes them away again.
    pub fn discard(&self, root: &Root) {
        self.0.iter().for_each(|file| file.discard(root.disk()));
    }
}

/// The two files as they were, to put them back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootInfo {
    #[serde(default, with = "as_hex", skip_serializing_if = "Option::is_none")]
    name: Option<Vec<u8>>,
    #[serde(default, with = "as_hex", skip_serializing_if = "Option::is_none")]
    info: Option<Vec<u8>>,
}

/// Bytes of files that somebody else may have written, in JSON.
mod as_hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&hex::encode(bytes.as_deref().unwrap_or_default()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(text).map(Some).map_err(serde::de::Error::custom)
    }
}

/// Longest info file that is remembered, in bytes.
const MAX_INFO: usize = 1 << 20;

impl BootInfo {
    /// Remembers both files. Something that is no file, or is too long to be ours, counts as not there.
    ///
    /// # Errors
    /// [`BootInfoError::File`]: what cannot be read could not be put back.
    pub fn read(root: &Root) -> Result<Self, BootInfoError> {
        let read = |name: &str| {
            let failed = |source| failed(root, "read", name, source);
            let path = name.parse().map_err(|error| failed(io::Error::other(error)))?;
            match disk::read_small(root.disk(), &path, MAX_INFO, false) {
                Err(error) if disk::is_no_plain_file(&error) => Ok(None),
                other => other.map_err(failed),
            }
        };
        Ok(Self { name: read(NAME)?, info: read(INFO)? })
    }

    /// Puts both files back, if they are not as they were.
    ///
    /// # Errors
    /// [`BootInfoError::File`].
    pub fn restore(&self, root: &Root) -> Result<(), BootInfoError> {
        if Self::read(root)? == *self {
            return Ok(());
        }
        for (name, bytes) in [(INFO, &self.info), (NAME, &self.name)] {
            match bytes {
                Some(bytes) => replace(root, "restore", name, bytes)?,
                None => {
                    let failed = |source| failed(root, "restore", name, source);
                    let path = name.parse().map_err(|error| failed(io::Error::other(error)))?;
                    match root.disk().remove(&path) {
                        Err(error) if !disk::is_absent(&error) => return Err(failed(error)),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// The channel that the node was booted from; `None` when no file names one.
///
/// # Errors
/// [`BootInfoError`] for a file that is there and cannot be accepted.
pub fn read_name(root: &Path) -> Result<Option<Channel>, BootInfoError> {
    let path = root.join(NAME);
    let failed = |source| BootInfoError::File { action: "read", path: path.clone(), source };
    let distrust = |reason| Err(BootInfoError::NotTrusted { path: path.clone(), reason });
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return distrust("it is a symlink"),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return distrust("it is not a regular file");
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return distrust("it belongs to another user");
    }
    if metadata.mode() & 0o022 != 0 {
        return distrust("group or others may write it");
    }
    let mut bytes = Vec::new();
    file.take(MAX_NAME).read_to_end(&mut bytes).map_err(failed)?;
    // What is no text names nothing, as an empty file does.
    let text = String::from_utf8(bytes).unwrap_or_default();
    let name = text.trim().parse().map_err(|source| BootInfoError::Name { path: path.clone(), source })?;
    Ok(Some(name))
}

fn replace(root: &Root, action: &'static str, name: &str, bytes: &[u8]) -> Result<(), BootInfoError> {
    let failed = |source| failed(root, action, name, source);
    let path: FlistPath = name.parse().map_err(|error| failed(io::Error::other(error)))?;
    let directory = path.parent().unwrap_or_default();
    if root.disk().real_directory(&directory).map_err(failed)?.is_none() {
        root.disk().make_directory(&directory).map_err(failed)?;
        root.disk().set_mode(&directory, 0o1777).map_err(failed)?;
    }
    disk::replace(root.disk(), &path, bytes, MODE).map_err(failed)
}

fn failed(root: &Root, action: &'static str, name: &str, source: io::Error) -> BootInfoError {
    BootInfoError::File { action, path: root.path().join(name), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_file_that_nobody_else_could_write_counts() {
        let dir = tempfile::tempdir().unwrap();
        let name: Channel = "tf-zos/zos:development:latest.flist".parse().unwrap();
        assert!(read_name(dir.path()).unwrap().is_none());
        write(&Root::open(dir.path()).unwrap(), &name, "{}").unwrap();
        assert_eq!(read_name(dir.path()).unwrap(), Some(name.clone()));

        let path = dir.path().join(NAME);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(read_name(dir.path()), Err(BootInfoError::NotTrusted { .. })));
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(read_name(dir.path()), Err(BootInfoError::NotTrusted { .. })));
        write(&Root::open(dir.path()).unwrap(), &name, "{}").unwrap();
        assert_eq!(read_name(dir.path()).unwrap(), Some(name));
        std::fs::write(&path, "../../x").unwrap();
        assert!(matches!(read_name(dir.path()), Err(BootInfoError::Name { .. })));
    }
}
