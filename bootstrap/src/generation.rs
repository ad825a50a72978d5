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
    /// What goes into flist.info.
    #[serde(default)]
    pub info: String,
    /// Everything that was installed, at its path without symlinks.
    pub items: Items,
}

/// What the state says about a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of ours is installed in it: this is a first boot.
    Nothing,
    /// Something was installed, but the record of it is damaged.
    Damaged,
    /// This generation is installed.
    Installed(Box<Generation>),
}

impl Standing {
    /// The generation that is installed, as far as is known.
    pub fn generation(self) -> Option<Generation> {
        match self {
            Self::Installed(generation) => Some(*generation),
            Self::Nothing | Self::Damaged => None,
        }
    }
}

/// Tells whether a root file system is the one that something was installed into: a random marker is put
/// into it with the first generation. A root in RAM, a RAM layer above one, and a reformatted disk have
/// lost it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootIdentity {
    /// The content of the marker; `None` before the first generation.
    pub marker: Option<String>,
    /// The root lies in RAM (tmpfs or ramfs), so what is kept in it costs memory.
    pub volatile: bool,
}

/// The marker's name.
const MARKER: &str = ".molt-root";

/// Longest marker, in bytes.
const MAX_MARKER: usize = 64;

impl RootIdentity {
    /// The identity of a root file system now.
    ///
    /// # Errors
    /// [`GenerationError::Identity`].
    pub fn of(root: &Root) -> Result<Self, GenerationError> {
        let filesystem =
            fstatfs(root.fd()).map_err(|errno| GenerationError::Identity(errno.into()))?.filesystem_type();
        let path = MARKER.parse().map_err(|error| GenerationError::Identity(io::Error::other(error)))?;
        let marker = root.read_small(&path, MAX_MARKER);
        let marker = marker.map_err(|error| GenerationError::Identity(io::Error::other(error)))?;
        let marker = marker.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Ok(Self { marker: marker.filter(|marker| !marker.is_empty()), volatile: is_in_ram(filesystem) })
    }

    /// The identity of a root file system, which gets a marker if it has none.
    ///
    /// # Errors
    /// [`GenerationError::Identity`].
    pub fn marked(root: &Root) -> Result<Self, GenerationError> {
        let now = Self::of(root)?;
        if now.marker.is_some() {
            return Ok(now);
        }
        let marker = random_token().map_err(GenerationError::Identity)?;
        durable::replace(&root.path().join(MARKER), marker.as_bytes(), 0o600)
            .map_err(GenerationError::Identity)?;
        Ok(Self { marker: Some(marker), ..now })
    }

    /// Whether what was installed into `self` can still be there in `now`.
    pub fn survives_in(&self, now: &Self) -> bool {
        self.marker.is_some() && self.marker == now.marker
    }
}

/// A text that nobody has used before.
///
/// # Errors
/// The system's, when /proc is not there.
pub fn random_token() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
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

    /// What is installed in this root. A damaged record is told apart from none, because then what is on
    /// disk may be somebody's work.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn standing(&self, root: &RootIdentity) -> Result<Standing, GenerationError> {
        if read(&self.path.join("current"))?.is_none() {
            return Ok(Standing::Nothing);
        }
        let generation = match self.current_number()?.map(|number| self.manifest(number)) {
            Some(path) => read(&path)?.and_then(|bytes| serde_json::from_slice::<Generation>(&bytes).ok()),
            None => None,
        };
        Ok(match generation {
            Some(generation) if generation.root.survives_in(root) => {
                Standing::Installed(Box::new(generation))
            }
            Some(_) => Standing::Nothing,
            None if root.marker.is_none() => Standing::Nothing,
            None => Standing::Damaged,
        })
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
    info: String,
    items: Items,
) -> Generation {
    Generation { schema: SCHEMA, number, cause, channel, version, release, root, info, items }
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

    fn sample(number: u64, marker: &str) -> Generation {
        let root = RootIdentity { marker: Some(marker.to_owned()), volatile: true };
        let channel: FlistName = "a/b:v1.0.0.flist".parse().unwrap();
        let version = ReleaseVersion::in_name(&channel);
        let what = (channel, version, ReleaseId::of([]));
        generation(number, Cause::Release, what, root, String::new(), Items::new())
    }

    fn commit(state: &StateDir, generation: &Generation) {
        state.prepare(generation).unwrap();
        state.commit(generation.number).unwrap();
        state.prune(generation.number).unwrap();
    }

    #[test]
    fn the_last_committed_one_is_current_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("molt")).unwrap();
        let here = sample(1, "root").root;
        assert_eq!(state.standing(&here).unwrap(), Standing::Nothing);
        for number in 1..=4 {
            assert_eq!(state.next_number().unwrap(), number);
            commit(&state, &sample(number, "root"));
        }
        assert_eq!(state.standing(&here).unwrap().generation(), Some(sample(4, "root")));
        assert_eq!(state.numbers().unwrap().len(), 2);
        assert_eq!(state.standing(&sample(1, "another").root).unwrap(), Standing::Nothing);
        let unmarked = RootIdentity { marker: None, ..here };
        assert_eq!(state.standing(&unmarked).unwrap(), Standing::Nothing);
    }

    #[test]
    fn a_damaged_state_is_told_apart_from_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        commit(&state, &sample(1, "root"));
        let here = sample(1, "root").root;
        for file in ["current", "generations/1.json"] {
            let path = dir.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            for length in 0..whole.len() {
                std::fs::write(&path, &whole[..length]).unwrap();
                assert_eq!(state.standing(&here).unwrap(), Standing::Damaged, "{file} cut to {length} bytes");
            }
            std::fs::write(&path, &whole).unwrap();
        }
        assert!(state.standing(&here).unwrap().generation().is_some());
    }

    #[test]
    fn a_root_keeps_its_marker() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(RootIdentity::of(&root).unwrap().marker, None);
        let marked = RootIdentity::marked(&root).unwrap();
        assert_eq!(RootIdentity::marked(&root).unwrap(), marked);
        assert!(marked.survives_in(&RootIdentity::of(&root).unwrap()));
        let other = tempfile::tempdir().unwrap();
        let other = RootIdentity::marked(&Root::open(other.path()).unwrap()).unwrap();
        assert!(!marked.survives_in(&other));
    }
}
