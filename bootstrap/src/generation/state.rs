//! Where generations are recorded.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flist::hub::{Channel, ReleaseFlist, Sha256};
use flist::path::FlistPath;
use nix::errno::Errno;

use super::{Generation, GenerationError, PINS, Pins, RecordedFlist, RootIdentity, Standing};
use crate::disk::{self, Beneath, Disk, Filesystem, Replacement, is_absent};
use crate::durable;
use crate::transaction::journal::{self, JournalPlace};

/// Directory of the records, and the file with the number of the current one.
pub const GENERATIONS: &str = "generations";
pub(crate) const CURRENT: &str = "current";

/// The file with a number up to which none is given out, because generations that could not be read may have them.
pub(crate) const FLOOR: &str = "floor";

/// Largest record of a generation that is read, in bytes. Less in the unit tests, which reach it.
const MAX_MANIFEST: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };

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

    /// The state that is in a directory, for who only looks at it: nothing is made, and no mode is changed.
    ///
    /// # Errors
    /// [`GenerationError::File`]; there is no such directory.
    pub fn there(path: &Path) -> Result<Self, GenerationError> {
        let failed = |source| GenerationError::File { action: "open", path: path.to_owned(), source };
        let disk = Beneath::open(path).map_err(failed)?;
        Ok(Self { disk: Arc::new(disk), path: path.to_owned() })
    }

    /// The state at the top of another disk; `path` is what it is called in messages.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, GenerationError> {
        let state = Self { disk, path: path.to_owned() };
        let generations = state.at(GENERATIONS)?;
        match state.disk.make_directory(&generations) {
            // Or a power cut could take it with every record, and a root that is marked would have lost its records.
            Ok(()) => {
                let top = FlistPath::root();
                let synced = state.disk.sync_directory(&top);
                synced.map_err(|error| state.failed("sync", &top, error)).map(|()| state)
            }
            Err(error) if error.raw_os_error() != Some(Errno::EEXIST as i32) => {
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
        let at = self.at(journal::NAME)?;
        Ok(JournalPlace { disk: self.disk.clone(), shown: self.path.join(at.as_path()), at })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory that was opened still is the one of its path: somebody may have removed it since, or made
    /// another one.
    pub fn is_in_place(&self) -> bool {
        let opened = self.disk.stat(&FlistPath::root()).ok().flatten().map(|stat| stat.inode);
        let there = std::fs::metadata(&self.path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        opened.is_some() && opened == there
    }

    fn at(&self, name: &str) -> Result<FlistPath, GenerationError> {
        name.parse().map_err(|error| GenerationError::Identity(io::Error::other(error)))
    }

    fn manifest(&self, number: u64) -> Result<FlistPath, GenerationError> {
        self.at(&format!("{GENERATIONS}/{number}.json"))
    }

    /// Of several flists, the one at `index`.
    fn part_path(&self, number: u64, index: usize) -> Result<FlistPath, GenerationError> {
        self.at(&format!("{GENERATIONS}/{number}.{index}.fl"))
    }

    fn flist_path(&self, number: u64) -> Result<FlistPath, GenerationError> {
        self.at(&format!("{GENERATIONS}/{number}.fl"))
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

    /// The file system that the state is in.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn filesystem(&self) -> Result<Filesystem, GenerationError> {
        let top = FlistPath::root();
        self.disk.filesystem(&top).map_err(|error| self.failed("look at", &top, error))
    }

    /// What is installed in this root. A record that is damaged or lost is told apart from none, because then what is
    /// on disk may be somebody's work: a root is marked only when something is recorded for it.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn standing(&self, root: &RootIdentity) -> Result<Standing, GenerationError> {
        if !self.has_pointer()? {
            // A first boot that was cut off has left its record.
            let lost = root.marker.is_some() && self.numbers()?.is_empty();
            return Ok(if lost { Standing::Damaged } else { Standing::Nothing });
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

    /// Whether anything was ever committed, whatever is known of it.
    ///
    /// # Errors
    /// [`GenerationError::File`] when the disk fails.
    pub fn has_pointer(&self) -> Result<bool, GenerationError> {
        Ok(self.read(&self.at(CURRENT)?)?.is_some())
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
        Ok(self.numbers()?.into_iter().chain([self.floor()?]).max().unwrap_or(0).saturating_add(1))
    }

    /// The number up to which generations may exist that could not be read; 0 where all could.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn floor(&self) -> Result<u64, GenerationError> {
        let floor = self.read(&self.at(FLOOR)?)?;
        Ok(floor.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok()).unwrap_or(0))
    }

    /// Writes down what a generation will consist of, and the flists that it comes from if there are any; it
    /// is not the current one yet. Of several, versions that know of no more than one read `as_one`.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn prepare(
        &self,
        generation: &Generation,
        flists: &[ReleaseFlist],
        as_one: &[u8],
    ) -> Result<(), GenerationError> {
        let number = generation.number;
        let json =
            serde_json::to_vec(generation).map_err(|source| GenerationError::Encode { number, source })?;
        let as_one = match flists {
            [only] => &only.bytes,
            _ => as_one,
        };
        // What is written has to be read again.
        let longest = flists.iter().map(|flist| flist.bytes.len()).max().unwrap_or_default();
        let bytes = json.len().max(as_one.len()).max(longest);
        if bytes > MAX_MANIFEST {
            return Err(GenerationError::TooLarge { number, bytes, limit: MAX_MANIFEST });
        }
        if flists.len() > 1 {
            for (index, flist) in flists.iter().enumerate() {
                self.write(&self.part_path(number, index)?, &flist.bytes)?;
            }
        }
        if !as_one.is_empty() {
            self.write(&self.flist_path(number)?, as_one)?;
        }
        self.write(&self.manifest(number)?, &json)
    }

    /// The flists that a generation was installed from; `None` when they are not recorded, or damaged.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn flists(&self, generation: &Generation) -> Result<Option<Vec<ReleaseFlist>>, GenerationError> {
        let number = generation.number;
        let several = generation.flists.len() > 1;
        let mut flists = Vec::new();
        for (index, RecordedFlist { package, location, sha256 }) in generation.flists.iter().enumerate() {
            let path = if several { self.part_path(number, index)? } else { self.flist_path(number)? };
            let bytes = self.read(&path)?.filter(|bytes| Sha256::of(bytes) == *sha256);
            let Some(bytes) = bytes else { return Ok(None) };
            let (package, location) = (package.clone(), location.clone());
            flists.push(ReleaseFlist { package, location, sha256: *sha256, bytes });
        }
        if !flists.is_empty() {
            return Ok(Some(flists));
        }
        // An earlier version has recorded the only one, without saying where it was found.
        let Channel::Flist(location) = generation.channel.clone() else { return Ok(None) };
        let bytes = self.read(&self.flist_path(number)?)?;
        let only = |bytes: Vec<u8>| {
            let (package, sha256) = (location.package().to_owned(), Sha256::of(&bytes));
            vec![ReleaseFlist { package, location, sha256, bytes }]
        };
        Ok(bytes.map(only))
    }

    /// The files of a generation's flists.
    fn flist_files(&self, number: u64) -> Result<Vec<FlistPath>, GenerationError> {
        let (at, prefix) = (self.at(GENERATIONS)?, format!("{number}."));
        let names = self.disk.list(&at).map_err(|source| self.failed("list", &at, source))?;
        let ours = |name: &&str| name.starts_with(&prefix) && name.ends_with(".fl");
        let names = names.iter().filter_map(|name| std::str::from_utf8(name).ok()).filter(ours);
        names.map(|name| self.at(&format!("{GENERATIONS}/{name}"))).collect()
    }

    /// Writes the pointer beside the one that is there, so that [`StateDir::commit_prepared`] takes no more space.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn prepare_commit(&self, number: u64) -> Result<Replacement, GenerationError> {
        let (at, text) = (self.at(CURRENT)?, number.to_string());
        let prepared = Replacement::prepare(self.disk.as_ref(), &at, text.as_bytes(), 0o600);
        prepared.map_err(|source| self.failed("prepare", &at, source))
    }

    /// As [`StateDir::commit`], of what was prepared.
    ///
    /// # Errors
    /// As of [`StateDir::commit`].
    pub fn commit_prepared(&self, pointer: &Replacement) -> Result<(), GenerationError> {
        let at = self.at(CURRENT)?;
        pointer.put(self.disk.as_ref()).map_err(|source| self.failed("write", &at, source))
    }

    /// Takes away what [`StateDir::prepare_commit`] has written.
    pub fn discard_prepared(&self, pointer: &Replacement) {
        pointer.discard(self.disk.as_ref());
    }

    /// Makes a prepared generation the current one.
    ///
    /// # Errors
    /// [`GenerationError::File`]; it may be current all the same, where only syncing the directory failed.
    pub fn commit(&self, number: u64) -> Result<(), GenerationError> {
        self.write(&self.at(CURRENT)?, number.to_string().as_bytes())
    }

    /// Forgets what is recorded of a generation.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn forget(&self, number: u64) -> Result<(), GenerationError> {
        // The manifest last: it is what tells that there is something to forget.
        for at in self.flist_files(number)?.into_iter().chain([self.manifest(number)?]) {
            match self.disk.remove(&at) {
                Err(error) if !is_absent(&error) => return Err(self.failed("remove", &at, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The generations that are pinned, of whatever root.
    ///
    /// # Errors
    /// [`GenerationError::Pins`], and [`GenerationError::File`] when the disk fails.
    pub fn pins(&self) -> Result<Pins, GenerationError> {
        let at = self.at(PINS)?;
        let Some(bytes) = self.read(&at)? else { return Ok(Pins::default()) };
        let damaged = |source| GenerationError::Pins { path: self.path.join(at.as_path()), source };
        Pins::parse(&bytes).map_err(damaged)
    }

    /// Writes down which generations are pinned.
    ///
    /// # Errors
    /// [`GenerationError::File`].
    pub fn write_pins(&self, pins: &Pins) -> Result<(), GenerationError> {
        let at = self.at(PINS)?;
        let json = serde_json::to_vec_pretty(pins);
        let json = json.map_err(|error| self.failed("write", &at, io::Error::other(error)))?;
        self.write(&at, &json)
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

#[cfg(test)]
mod tests;
