//! Generations: what is installed, numbered.
//!
//! ```text
//! /var/lib/molt                 0700
//! ├── current                   the number of the current generation
//! ├── generations/<n>.json      what it consists of
//! ├── journal                   only while a transaction is under way
//! └── releases.json             attempts, and releases that failed
//! ```

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use flist::hub::{FlistName, ReleaseId, ReleaseVersion};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::item::Items;
use crate::root::Root;

/// Generations kept besides the current one.
const PREVIOUS_KEPT: u64 = 1;

/// Version of the file's layout.
const SCHEMA: u32 = 1;

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
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
    /// A generation could not be put into words.
    #[error("cannot write generation {number}")]
    Encode {
        /// Its number.
        number: u64,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// The identity of the root file system could not be found out.
    #[error("cannot identify the root file system")]
    Identity(#[source] io::Error),
}

/// What a generation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The first boot.
    FirstBoot,
    /// identityd replaced itself; everything else is of the release before.
    SelfUpdate,
    /// A release was installed.
    Release,
}

/// One generation: a complete installed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Version of this layout.
    pub schema: u32,
    /// Its number; each is one more than the last.
    pub number: u64,
    /// What it came from.
    pub cause: Cause,
    /// The channel that offered it.
    pub channel: FlistName,
    /// The release's version, for people.
    pub version: ReleaseVersion,
    /// The release it consists of; after a self-update, the one before.
    pub release: ReleaseId,
    /// The root file system it was installed into.
    pub root: RootIdentity,
    /// Everything that was installed, at its path without symlinks.
    pub items: Items,
}

/// Tells whether a root file system is the one that something was installed into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootIdentity {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Device number of the root.
    pub device: u64,
    /// It lies in RAM (tmpfs or ramfs) and is gone after a reboot.
    pub volatile: bool,
}

impl RootIdentity {
    /// The identity of a root file system now.
    ///
    /// # Errors
    /// [`GenerationError::Identity`].
    pub fn of(root: &Root) -> Result<Self, GenerationError> {
        let errno = |errno: nix::Error| GenerationError::Identity(errno.into());
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Ok(Self {
            boot_id: boot_id.map_err(GenerationError::Identity)?.trim().to_owned(),
            device: nix::sys::stat::fstat(root.fd()).map_err(errno)?.st_dev,
            volatile: is_in_ram(fstatfs(root.fd()).map_err(errno)?.filesystem_type()),
        })
    }

    /// Whether what was installed into `self` can still be there in `now`.
    pub fn survives_in(&self, now: &Self) -> bool {
        if self.volatile || now.volatile { self == now } else { true }
    }
}

/// `RAMFS_MAGIC` of linux/magic.h, which nix does not name.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

fn is_in_ram(kind: FsType) -> bool {
    kind == TMPFS_MAGIC || kind == RAMFS_MAGIC
}

/// The directory with everything that must survive.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens it; what is not there is made.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn open(path: &Path) -> Result<Self, GenerationError> {
        let state = Self { path: path.to_owned() };
        let failed = |source| GenerationError::File { action: "create", path: path.to_owned(), source };
        durable::private_directory(path).map_err(failed)?;
        std::fs::create_dir_all(state.generations()).map_err(failed)?;
        Ok(state)
    }

    /// Where the journal of the transaction under way is.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where attempts and failures of releases are remembered.
    pub fn releases(&self) -> PathBuf {
        self.path.join("releases.json")
    }

    fn generations(&self) -> PathBuf {
        self.path.join("generations")
    }

    fn manifest(&self, number: u64) -> PathBuf {
        self.generations().join(format!("{number}.json"))
    }

    /// The current generation, if it was installed into this root; `None` before the first boot and when
    /// the root it was installed into is gone. A damaged state counts as none: what is on disk is then
    /// compared with the release again.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn current(&self, root: &RootIdentity) -> Result<Option<Generation>, GenerationError> {
        if read(&self.path.join("current"))?.is_none() {
            return Ok(None);
        }
        let generation = match self.current_number()?.map(|number| self.manifest(number)) {
            Some(path) => read(&path)?.and_then(|bytes| serde_json::from_slice::<Generation>(&bytes).ok()),
            None => None,
        };
        let Some(generation) = generation else {
            tracing::error!(state = %self.path.display(), "the state is damaged; comparing the whole root with the release instead");
            return Ok(None);
        };
        if !generation.root.survives_in(root) {
            tracing::info!(generation = generation.number, "its root file system is gone, starting afresh");
            return Ok(None);
        }
        Ok(Some(generation))
    }

    /// The number of the current generation, without reading it; `None` when there is none or the pointer
    /// is damaged.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn current_number(&self) -> Result<Option<u64>, GenerationError> {
        let pointer = read(&self.path.join("current"))?;
        Ok(pointer.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok()))
    }

    /// The number that the next generation gets: higher than any that was ever recorded.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn next_number(&self) -> Result<u64, GenerationError> {
        Ok(self.numbers()?.into_iter().max().unwrap_or(0) + 1)
    }

    /// Writes down what a generation will consist of; it is not the current one yet.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn prepare(&self, generation: &Generation) -> Result<(), GenerationError> {
        let number = generation.number;
        let json =
            serde_json::to_vec(generation).map_err(|source| GenerationError::Encode { number, source })?;
        write(&self.manifest(number), &json)
    }

    /// Makes a prepared generation the current one.
    ///
    /// # Errors
    /// [`GenerationError::File`]; the old one is current then.
    pub fn commit(&self, number: u64) -> Result<(), GenerationError> {
        write(&self.path.join("current"), number.to_string().as_bytes())
    }

    /// Forgets generations that are neither current nor kept for going back.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn prune(&self, current: u64) -> Result<(), GenerationError> {
        for number in self.numbers()? {
            if number + PREVIOUS_KEPT < current || number > current {
                let path = self.manifest(number);
                std::fs::remove_file(&path).map_err(|source| GenerationError::File {
                    action: "remove",
                    path,
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Result<Vec<u64>, GenerationError> {
        let path = self.generations();
        let failed = |source| GenerationError::File { action: "list", path: path.clone(), source };
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::parse::<u64>);
            numbers.extend(number.and_then(Result::ok));
        }
        Ok(numbers)
    }
}

/// A new generation, not yet committed.
pub fn generation(
    number: u64,
    cause: Cause,
    (channel, version, release): (FlistName, ReleaseVersion, ReleaseId),
    root: RootIdentity,
    items: Items,
) -> Generation {
    Generation { schema: SCHEMA, number, cause, channel, version, release, root, items }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, GenerationError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(GenerationError::File { action: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), GenerationError> {
    durable::replace(path, bytes, 0o600).map_err(|source| GenerationError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64, boot_id: &str) -> Generation {
        let root = RootIdentity { boot_id: boot_id.to_owned(), device: 1, volatile: true };
        let channel: FlistName = "a/b:v1.0.0.flist".parse().unwrap();
        let version = ReleaseVersion::in_name(&channel);
        generation(number, Cause::Release, (channel, version, ReleaseId::of([])), root, Items::new())
    }

    #[test]
    fn the_last_committed_one_is_current_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("molt")).unwrap();
        let here = sample(1, "boot").root;
        assert!(state.current(&here).unwrap().is_none());
        for number in 1..=4 {
            assert_eq!(state.next_number().unwrap(), number);
            state.prepare(&sample(number, "boot")).unwrap();
            state.commit(number).unwrap();
            state.prune(number).unwrap();
        }
        assert_eq!(state.current(&here).unwrap(), Some(sample(4, "boot")));
        assert_eq!(state.numbers().unwrap().len(), 2);
        assert_eq!(state.current(&sample(1, "another boot").root).unwrap(), None);
    }

    #[test]
    fn a_damaged_state_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.prepare(&sample(1, "boot")).unwrap();
        state.commit(1).unwrap();
        let here = sample(1, "boot").root;
        for file in ["current", "generations/1.json"] {
            let path = dir.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            for length in 0..whole.len() {
                std::fs::write(&path, &whole[..length]).unwrap();
                assert_eq!(state.current(&here).unwrap(), None, "{file} cut to {length} bytes");
            }
            std::fs::write(&path, &whole).unwrap();
        }
        assert!(state.current(&here).unwrap().is_some());
    }
}
