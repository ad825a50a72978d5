//! The journal: what a transaction is about to do, on disk before it does it.
//!
//! One line a record: 16 hexadecimal digits (the first 8 bytes of the BLAKE2b-256 of the rest), a space,
//! JSON. Records are appended and synced. A torn last line, as a power cut leaves it, is ignored: what it
//! would have announced has not begun. A whole line that only a newer version understands is none of that: fields and
//! kinds of records that are not known are passed over, but nobody acts on half of what he was told.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flist::block::BlockKey;
use flist::hub::{ReleaseId, ReleaseVersion};
use flist::path::FlistPath;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use zinit_client::UnitName;

use super::states::StateSlot;
use crate::boot_info::BootInfo;
use crate::disk::{self, Beneath, Disk, is_absent};
use crate::generation::RootIdentity;
use crate::plan::{FileChange, HookCall, Purpose};

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be read or written.
    #[error("cannot {action} the journal {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A record in the middle is damaged.
    #[error(
        "the journal {path} is damaged in line {line}; the engine cannot know what was done; `identityd doctor --fix` sets it aside"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The root file system that the transaction works on, as far as that can be read.
        root: Option<RootIdentity>,
    },
    /// A record that another version wrote, and only that one understands.
    #[error(
        "the journal {path} has a record in line {line} that this version of Molt does not understand; the version that wrote it has to finish or undo what it began"
    )]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The root file system that the transaction works on, as far as that is said.
        root: Option<RootIdentity>,
        /// What is not understood.
        #[source]
        source: serde_json::Error,
    },
    /// A transaction is under way already.
    #[error("the journal {0} is there already; the transaction in it has to be recovered first")]
    Exists(PathBuf),
    /// A record is longer than what would be read again.
    #[error("the transaction has too many changes: its journal would be longer than {MAX_JOURNAL} bytes")]
    TooLong,
    /// A record could not be put into words.
    #[error("cannot write a record")]
    Encode(#[source] serde_json::Error),
}

/// What was announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// The transaction begins: nothing but staging has been done.
    Begin(Box<Header>),
    /// Everything is staged; stops and swaps come next.
    Staged {
        /// What lies where, in the order of the changes.
        swaps: Vec<Swap>,
    },
    /// This hook of the header is run next, or its inverse after it.
    Hook {
        /// Its number.
        hook: usize,
    },
    /// What this hook did is taken back, or given up.
    TakenBack {
        /// Its number.
        hook: usize,
    },
    /// The copies of state are migrated; they are exchanged next.
    Migrated {
        /// The inode number of each, in the order of the states.
        copies: Vec<Option<u64>>,
        /// What tells whether somebody has written to them since; earlier versions did not say.
        #[serde(default)]
        contents: Vec<String>,
    },
    /// These services are stopped next and started again if the transaction is undone: fewer than the header says
    /// where somebody has stopped some of them since. The last such record counts.
    Stopping {
        /// Them.
        units: Vec<UnitName>,
    },
    /// It is undone from here on. Somebody has stopped these services since they were started: they stay down.
    Undoing {
        /// Them.
        stopped: Vec<UnitName>,
    },
    /// Of the services that were down when it began, these are still when a recovery ends the others of them, which were
    /// started since.
    StillDown {
        /// Them.
        units: Vec<UnitName>,
    },
    /// Undoing could not end these services; they may run what the files no longer are.
    Unstopped {
        /// Them.
        units: Vec<UnitName>,
    },
    /// The new generation is current: what is left is to clean up.
    Committed {
        /// Its number.
        generation: u64,
    },
    /// Something that a newer version wrote. Whatever is needed to go back is in the records above.
    #[serde(other)]
    Unknown,
}

/// What a transaction is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The number of the generation that it makes; also names its staging directories.
    pub generation: u64,
    /// What it is for.
    pub purpose: Purpose,
    /// The release it installs.
    pub release: ReleaseId,
    /// That release's version.
    pub version: ReleaseVersion,
    /// The root file system it works on.
    pub root: RootIdentity,
    /// Services that are stopped before the swap although they are wanted up, in this order; they are
    /// started again if the transaction is undone.
    pub stop: Vec<UnitName>,
    /// Services that are started after it.
    pub start: Vec<UnitName>,
    /// Services that are down, and that the supervisor is made to forget after the commit.
    #[serde(default)]
    pub forget: Vec<UnitName>,
    /// Nothing of `stop` is stopped before a record says so; earlier versions did not write one.
    #[serde(default)]
    pub announces_stops: bool,
    /// Nothing is ended before a record says that it is undone; earlier versions did not write one.
    #[serde(default)]
    pub announces_undo: bool,
    /// Staging directories, one for each mount.
    pub staging: Vec<FlistPath>,
    /// flist.name and flist.info before it.
    #[serde(default)]
    pub boot_info: BootInfo,
    /// Programs that are run.
    #[serde(default)]
    pub hooks: Vec<HookCall>,
    /// State that is migrated.
    #[serde(default)]
    pub states: Vec<StateSlot>,
}

/// One change and where its other half lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// What is changed.
    pub change: FileChange,
    /// The slot: the new content before the swap, the old one after it; for a directory that goes one like it. `None`
    /// from earlier versions for all directories.
    pub slot: Option<FlistPath>,
    /// Inode number of what was staged; tells whether the swap has happened.
    pub staged_inode: Option<u64>,
}

/// The journal's name in the state directory.
pub const NAME: &str = "journal";

/// Longest journal, in bytes: some hundred bytes for each change, so half a million of them. Less in the unit
/// tests, which reach it.
const MAX_JOURNAL: usize = if cfg!(test) { 2 << 20 } else { 256 << 20 };

/// Of these, what the records take that are not about changes.
const OTHER_RECORDS: usize = 1 << 20;

/// Where a journal is.
#[derive(Debug, Clone)]
pub struct JournalPlace {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The file on it.
    pub at: FlistPath,
    /// What it is called in messages.
    pub shown: PathBuf,
}

/// The journal of a transaction that is under way.
#[derive(Debug)]
pub struct Journal {
    place: JournalPlace,
    /// Its last line may be torn: what comes after a torn line could not be read.
    torn: bool,
}

impl Journal {
    /// Begins one.
    ///
    /// # Errors
    /// [`JournalError::Exists`] while another transaction has not been recovered. Otherwise nothing is left.
    pub fn begin(place: JournalPlace, header: Header) -> Result<Self, JournalError> {
        match place.disk.create(&place.at) {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {
                return Err(JournalError::Exists(place.shown));
            }
            created => created.map_err(|source| place.failed("create", source))?,
        }
        let mut journal = Self { place, torn: false };
        let begun =
            journal.append(&Record::Begin(Box::new(header))).and_then(|()| journal.place.sync_directory());
        match begun {
            Ok(()) => Ok(journal),
            Err(error) => {
                // Nothing has begun, so a journal that stays is one that recovery removes.
                let _ = journal.place.remove();
                Err(error)
            }
        }
    }

    /// The journal that is there, to go on with it.
    pub fn at(place: JournalPlace) -> Self {
        Self { place, torn: true }
    }

    /// Takes space for records to come, in bytes; a file system that cannot is none the worse.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn reserve(&self, bytes: u64) -> Result<(), JournalError> {
        // There is no space of no size (fallocate(2)).
        if bytes == 0 {
            return Ok(());
        }
        match self.place.disk.reserve(&self.place.at, bytes) {
            Err(error) if error.raw_os_error() != Some(Errno::EOPNOTSUPP as i32) => {
                Err(self.place.failed("take space for", error))
            }
            _ => Ok(()),
        }
    }

    /// Appends a record and waits until it is on disk.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let json = serde_json::to_string(record).map_err(JournalError::Encode)?;
        // What is written has to be read after a crash.
        if json.len() > MAX_JOURNAL - OTHER_RECORDS {
            return Err(JournalError::TooLong);
        }
        let line = format!("{} {json}\n", checksum(&json));
        let JournalPlace { disk, at, .. } = &self.place;
        let appended = match self.torn {
            true => self.place.append_to_whole_lines(line.as_bytes()),
            false => disk.append(at, line.as_bytes()).and_then(|()| disk.sync_file(at)),
        };
        self.torn = appended.is_err();
        appended.map_err(|source| self.place.failed("write", source))
    }

    /// Ends it: nothing is left to finish or to undo.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn end(self) -> Result<(), JournalError> {
        self.place.remove()
    }
}

impl JournalPlace {
    /// The journal in a real directory.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn in_directory(directory: &Path) -> Result<Self, JournalError> {
        let shown = directory.join(NAME);
        let failed = |source| JournalError::File { action: "find", path: shown.clone(), source };
        let disk = Arc::new(Beneath::open(directory).map_err(failed)?);
        let at = NAME.parse().map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self { disk, at, shown })
    }

    /// The records of the transaction that was under way, if any.
    ///
    /// # Errors
    /// [`JournalError`]; a torn last line is none, but one that is not understood is.
    pub fn read(&self) -> Result<Vec<Record>, JournalError> {
        let bytes = disk::read_small(self.disk.as_ref(), &self.at, MAX_JOURNAL, false);
        let bytes = bytes.map_err(|source| self.failed("read", source))?.unwrap_or_default();
        let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
        let mut records = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let (path, number) = (self.shown.clone(), number + 1);
            let known = || records.iter().find_map(root_of);
            match whole(line).map(|json| (serde_json::from_str(json), json)) {
                Some((Ok(record), _)) => records.push(record),
                Some((Err(source), json)) => {
                    let root = known().or_else(|| Some(serde_json::from_str::<OfRoot>(json).ok()?.root));
                    return Err(JournalError::NotUnderstood { path, line: number, root, source });
                }
                None if number >= lines.len().saturating_sub(1) => break,
                None => return Err(JournalError::Damaged { path, line: number, root: known() }),
            }
        }
        Ok(records)
    }

    /// Waits until all of it is on disk that can be read.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn sync(&self) -> Result<(), JournalError> {
        self.disk.sync_file(&self.at).map_err(|source| self.failed("sync", source))?;
        self.sync_directory()
    }

    /// Removes the journal; one that is not there is fine.
    ///
    /// # Errors
    /// [`JournalError::File`].
    pub fn remove(&self) -> Result<(), JournalError> {
        match self.disk.remove(&self.at) {
            Err(error) if !is_absent(&error) => Err(self.failed("remove", error)),
            _ => self.sync_directory(),
        }
    }

    /// Puts a line after those that can be read, in the place of a torn one.
    fn append_to_whole_lines(&self, line: &[u8]) -> io::Result<()> {
        let disk = self.disk.as_ref();
        let bytes = disk::read_small(disk, &self.at, MAX_JOURNAL, false)?.unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n').take_while(|line| whole(line).is_some());
        let mut all: Vec<u8> = lines.flat_map(|line| [line, b"\n"].concat()).collect();
        all.extend_from_slice(line);
        disk::replace(disk, &self.at, &all, 0o600)
    }

    fn sync_directory(&self) -> Result<(), JournalError> {
        let directory = self.at.parent().unwrap_or_default();
        self.disk.sync_directory(&directory).map_err(|source| self.failed("sync", source))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError::File { action, path: self.shown.clone(), source }
    }
}

fn root_of(record: &Record) -> Option<RootIdentity> {
    match record {
        Record::Begin(header) => Some(header.root.clone()),
        _ => None,
    }
}

/// What every version says in the first record.
#[derive(Deserialize)]
struct OfRoot {
    root: RootIdentity,
}

/// What a line says that is as it was written.
fn whole(line: &[u8]) -> Option<&str> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (sum == checksum(json)).then_some(json)
}

fn checksum(json: &str) -> String {
    hex::encode(&BlockKey::of(json.as_bytes()).as_bytes()[..8])
}

#[cfg(test)]
mod tests;
