//! Generations: what is installed, numbered.
//!
//! ```text
//! /var/lib/molt                 0700
//! ├── current                   the number of the current generation
//! ├── generations/<n>.json      what it consists of
//! ├── journal                   only while a transaction is under way
//! └── releases.json             attempts, and releases that failed
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flist::hub::{FlistName, ReleaseId, ReleaseVersion};
use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use crate::disk::{self, Beneath, Disk, is_absent};
use crate::durable;
use crate::item::Items;
use crate::root::Root;
use crate::transaction::journal::JournalPlace;

/// Generations kept besides the current one.
const PREVIOUS_KEPT: u64 = 1;

/// Directory of the records, and the file with the number of the current one.
const GENERATIONS: &str = "generations";
const CURRENT: &str = "current";

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
        let filesystem = root.disk().filesystem(&FlistPath::root()).map_err(GenerationError::Identity)?;
        let path = marker_path()?;
        let marker = root.read_small(&path, MAX_MARKER);
        let marker = marker.map_err(|error| GenerationError::Identity(io::Error::other(error)))?;
        let marker = marker.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Ok(Self { marker: marker.filter(|marker| !marker.is_empty()), volatile: filesystem.in_ram })
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
        disk::replace(root.disk(), &marker_path()?, marker.as_bytes(), 0o600)
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

fn marker_path() -> Result<FlistPath, GenerationError> {
    MARKER.parse().map_err(|error| GenerationError::Identity(io::Error::other(error)))
}

/// Largest record of a generation that is read, in bytes.
const MAX_MANIFEST: usize = 256 << 20;

/// The directory with everything that must survive.
#[derive(Debug, Clone)]
pub struct StateDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl StateDir {
    /// Opens it; what is not there is made.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn open(path: &Path) -> Result<Self, GenerationError> {
        let failed = |source| GenerationError::File { action: "create", path: path.to_owned(), source };
        durable::private_directory(path).map_err(failed)?;
        Self::on(Arc::new(Beneath::open(path).map_err(failed)?), path)
    }

    /// The state at the top of another disk; `path` is what it is called in messages.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, GenerationError> {
        let state = Self { disk, path: path.to_owned() };
        let generations = state.at(GENERATIONS)?;
        match state.disk.make_directory(&generations) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EEXIST as i32) => {
                Err(state.failed("create", &generations, error))
            }
            _ => Ok(state),
        }
    }

    /// Where the journal of the transaction under way is.
    ///
    /// # Errors
    /// None in practice.
    pub fn journal(&self) -> Result<JournalPlace, GenerationError> {
        let at = self.at("journal")?;
        Ok(JournalPlace { disk: self.disk.clone(), shown: self.path.join(at.as_path()), at })
    }

    /// Where attempts and failures of releases are remembered.
    pub fn releases(&self) -> PathBuf {
        self.path.join("releases.json")
    }

    fn at(&self, name: &str) -> Result<FlistPath, GenerationError> {
        name.parse().map_err(|error| GenerationError::Identity(io::Error::other(error)))
    }

    fn manifest(&self, number: u64) -> Result<FlistPath, GenerationError> {
        self.at(&format!("{GENERATIONS}/{number}.json"))
    }

    fn failed(&self, action: &'static str, at: &FlistPath, source: io::Error) -> GenerationError {
        GenerationError::File { action, path: self.path.join(at.as_path()), source }
    }

    fn read(&self, at: &FlistPath) -> Result<Option<Vec<u8>>, GenerationError> {
        let bytes = disk::read_small(self.disk.as_ref(), at, MAX_MANIFEST, false);
        bytes.map_err(|source| self.failed("read", at, source))
    }

    fn write(&self, at: &FlistPath, bytes: &[u8]) -> Result<(), GenerationError> {
        let written = disk::replace(self.disk.as_ref(), at, bytes, 0o600);
        written.map_err(|source| self.failed("write", at, source))
    }

    /// What is installed in this root. A damaged record is told apart from none, because then what is on
    /// disk may be somebody's work.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn standing(&self, root: &RootIdentity) -> Result<Standing, GenerationError> {
        if self.read(&self.at(CURRENT)?)?.is_none() {
            return Ok(Standing::Nothing);
        }
        let generation = match self.current_number()? {
            Some(number) => self.recorded(number)?,
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

    /// What is recorded of a generation; `None` when nothing is, or it is damaged.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn recorded(&self, number: u64) -> Result<Option<Generation>, GenerationError> {
        let bytes = self.read(&self.manifest(number)?)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The number of the current generation, without reading it; `None` when there is none or the pointer
    /// is damaged.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn current_number(&self) -> Result<Option<u64>, GenerationError> {
        let pointer = self.read(&self.at(CURRENT)?)?;
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
        self.write(&self.manifest(number)?, &json)
    }

    /// Makes a prepared generation the current one.
    ///
    /// # Errors
    /// [`GenerationError::File`]; the old one is current then.
    pub fn commit(&self, number: u64) -> Result<(), GenerationError> {
        self.write(&self.at(CURRENT)?, number.to_string().as_bytes())
    }

    /// Forgets generations that are neither current nor kept for going back.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn prune(&self, current: u64) -> Result<(), GenerationError> {
        for number in self.numbers()? {
            if number + PREVIOUS_KEPT < current || number > current {
                let at = self.manifest(number)?;
                match self.disk.remove(&at) {
                    Err(error) if !is_absent(&error) => return Err(self.failed("remove", &at, error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The numbers of all generations that are recorded, the current one or not, in order.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn numbers(&self) -> Result<Vec<u64>, GenerationError> {
        let at = self.at(GENERATIONS)?;
        let names = self.disk.list(&at).map_err(|source| self.failed("list", &at, source))?;
        let number = |name: Vec<u8>| std::str::from_utf8(&name).ok()?.strip_suffix(".json")?.parse().ok();
        let mut numbers: Vec<u64> = names.into_iter().filter_map(number).collect();
        numbers.sort_unstable();
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
