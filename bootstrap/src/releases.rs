//! What is remembered of releases: how often one was tried, and which ones failed.
//!
//! A release whose services were started and did not do is bad at once, because finding out again would cost
//! another downtime. So is one that would not run, because it would be fetched and rehearsed again for the same answer;
//! no attempt is counted then. One whose attempts only ended before anybody could judge it is bad after
//! [`MAX_ATTEMPTS`].

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flist::hub::ReleaseId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::durable;
use crate::state_place::StatePlace;

/// Name of the file in the state directory.
pub const FILE: &str = "releases.json";

/// After so many attempts that did not end well a release is bad.
pub const MAX_ATTEMPTS: u32 = 3;

/// Releases that are remembered; the oldest notes go first.
const MAX_NOTES: usize = 64;

/// Longest reason that is remembered, in characters.
const LONGEST_REASON: usize = 1000;

/// How long a note waits for whoever keeps others from writing: while the state moves from a disk that fails, every file
/// takes its time, and a verdict that is lost costs another downtime.
const PATIENCE: Duration = Duration::from_secs(120);

/// The notes could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot remember what became of release {release} in {path}")]
pub struct ReleasesError {
    /// The release's id, or the beginning of it.
    pub release: String,
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// What is known of one release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Attempts to install it that did not end well.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: String,
    /// It was judged: its services did not do, or it would not run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub judged: bool,
    /// Attempts that stopped services and failed for reasons that were not the release's, in the boot `excused_in`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub excused: u32,
    /// The boot in which these were counted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub excused_in: String,
    /// Orders the notes by age.
    order: u64,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Note {
    /// Whether it is not to be tried again.
    pub fn is_bad(&self) -> bool {
        self.judged || self.attempts >= MAX_ATTEMPTS
    }

    /// Whether it is bad although nothing of it was ever begun: it would not run here.
    pub fn is_refused(&self) -> bool {
        self.judged && self.attempts == 0
    }

    /// Whether it is not to be tried again in this boot: that it is not to blame does not help the services which each
    /// attempt stops.
    pub fn rests(&self, boot: &str) -> bool {
        self.excused >= MAX_ATTEMPTS && self.excused_in == boot
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks like this")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The version of the file's layout. Additions do not change it.
const SCHEMA: u32 = 1;

/// The file. What a newer version added is kept when it is written again.
#[derive(Debug, Serialize, Deserialize)]
struct Notes {
    schema: u32,
    releases: BTreeMap<ReleaseId, Note>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Default for Notes {
    fn default() -> Self {
        Self { schema: SCHEMA, releases: BTreeMap::new(), unknown: Map::new() }
    }
}

impl Notes {
    fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        // Before there was a version, there was nothing but the releases.
        let bare = |error| {
            let releases = serde_json::from_slice(bytes).map_err(|_| error)?;
            Ok(Self { releases, ..Self::default() })
        };
        serde_json::from_slice(bytes).or_else(bare)
    }
}

/// The notes of all releases, kept in one file. Each change is made to what the file says at that time, while nobody
/// else writes it: both programs, every command and the guardian do.
#[derive(Debug)]
pub struct Releases {
    place: StatePlace,
    notes: Notes,
    /// Why nobody knows what they say.
    unreadable: Option<String>,
}

impl Releases {
    /// Reads the notes. A file that is damaged or not there means that nothing is known; one that cannot be read, too,
    /// but see [`Releases::unreadable`].
    pub fn load(place: &StatePlace) -> Self {
        let path = place.directory().join(FILE);
        let (notes, unreadable) = match read(&path) {
            Ok(notes) => (notes, None),
            Err(error) => {
                tracing::error!(%error, "nobody knows which releases have failed");
                let readable_later = error.kind() != ErrorKind::InvalidData;
                let why = readable_later.then(|| format!("{} cannot be read: {error}", path.display()));
                (Notes::default(), why)
            }
        };
        Self { place: place.clone(), notes, unreadable }
    }

    /// Why nobody knows what is noted although something may be: the file could not be read. A damaged one is none of
    /// that, because it will never say more.
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// What is known of a release.
    pub fn note(&self, release: &ReleaseId) -> Option<&Note> {
        self.notes.releases.get(release)
    }

    /// Counts an attempt, before it is made, so that a crash counts too. Its reason stands until
    /// [`Releases::failed`] gives a better one.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn attempt(&mut self, release: ReleaseId) -> Result<(), ReleasesError> {
        self.note_down(release, |note| {
            note.attempts += 1;
            "the attempt was interrupted".clone_into(&mut note.reason);
        })
    }

    /// Says why the last attempt failed.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn failed(&mut self, release: ReleaseId, reason: &str) -> Result<(), ReleasesError> {
        let reason = shortened(reason);
        self.note_down(release, |note| note.reason = reason)
    }

    /// Says that the release itself did not do, and why: it is bad from now on.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn judged_bad(&mut self, release: ReleaseId, reason: &str) -> Result<(), ReleasesError> {
        let reason = shortened(reason);
        self.note_down(release, |note| {
            note.attempts = note.attempts.max(1);
            note.judged = true;
            note.reason = reason;
        })
    }

    /// Says that the release would not run here, and why: it is bad from now on, and no attempt is counted.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn refused(&mut self, release: ReleaseId, reason: &str) -> Result<(), ReleasesError> {
        let reason = shortened(reason);
        self.note_down(release, |note| {
            note.judged = true;
            note.reason = reason;
        })
    }

    /// Takes back an attempt that failed for a reason that is not the release's fault.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn excuse(&mut self, release: ReleaseId) -> Result<(), ReleasesError> {
        self.note_down(release, |note| note.attempts = note.attempts.saturating_sub(1))
    }

    /// As [`Releases::excuse`], for an attempt that had stopped services; it counts in this boot.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn excuse_downtime(
        &mut self,
        release: ReleaseId,
        reason: &str,
        boot: &str,
    ) -> Result<(), ReleasesError> {
        let reason = shortened(reason);
        self.note_down(release, |note| {
            note.attempts = note.attempts.saturating_sub(1);
            note.excused = if note.excused_in == boot { note.excused.saturating_add(1) } else { 1 };
            boot.clone_into(&mut note.excused_in);
            note.reason = reason;
        })
    }

    /// Forgets a release: it was installed.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn succeeded(&mut self, release: ReleaseId) -> Result<(), ReleasesError> {
        self.change(release, |notes| notes.releases.remove(&release).is_some())
    }

    /// Takes back what was counted against a release that is installed, because nobody came to note that its last
    /// attempt ended well. One that was judged stays so.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn installed(&mut self, release: ReleaseId) -> Result<(), ReleasesError> {
        let gone = |notes: &mut Notes| {
            let excused = notes.releases.get(&release).is_some_and(|note| !note.judged);
            excused && notes.releases.remove(&release).is_some()
        };
        self.change(release, gone)
    }

    /// Forgets every release whose id begins with this text, so that each may be tried again; tells which.
    ///
    /// # Errors
    /// [`ReleasesError`]; the file is as before then.
    pub fn forget(&mut self, id: &str) -> Result<Vec<ReleaseId>, ReleasesError> {
        let mut forgotten = Vec::new();
        self.change(id, |notes| {
            let ids = notes.releases.keys().copied();
            forgotten = ids.filter(|release| release.to_string().starts_with(id)).collect();
            notes.releases.retain(|release, _| !forgotten.contains(release));
            !forgotten.is_empty()
        })?;
        Ok(forgotten)
    }

    /// Whether the file at this path can be understood; one that is not there can.
    pub fn is_readable(path: &Path) -> bool {
        read(path).is_ok()
    }

    fn note_down(&mut self, release: ReleaseId, change: impl FnOnce(&mut Note)) -> Result<(), ReleasesError> {
        self.change(release, |notes| {
            let notes = &mut notes.releases;
            let order = notes.values().map(|note| note.order).max().unwrap_or(0) + 1;
            let note = notes.entry(release).or_default();
            note.order = order;
            change(note);
            while notes.len() > MAX_NOTES {
                let oldest = notes.iter().min_by_key(|(_, note)| note.order).map(|(id, _)| *id);
                oldest.and_then(|id| notes.remove(&id));
            }
            true
        })
    }

    /// Changes what the file says now; `change` tells whether there is something to write. What was noted counts in
    /// this process also where it cannot be written.
    fn change(
        &mut self,
        release: impl ToString,
        change: impl FnOnce(&mut Notes) -> bool,
    ) -> Result<(), ReleasesError> {
        let Self { place, notes, .. } = self;
        let locked = place.write_lock_within(PATIENCE);
        let path = place.directory().join(FILE);
        match read(&path) {
            Ok(now) => *notes = now,
            // What is damaged says nothing; what cannot be read now may be readable later.
            Err(error) if error.kind() == ErrorKind::InvalidData => *notes = Notes::default(),
            Err(source) => {
                change(notes);
                return Err(ReleasesError { release: release.to_string(), path, source });
            }
        }
        if !change(notes) {
            return Ok(());
        }
        let written = locked.and_then(|_lock| {
            let json = serde_json::to_vec_pretty(notes)?;
            durable::replace(&path, &json, 0o600)
        });
        written.map_err(|source| ReleasesError { release: release.to_string(), path, source })
    }
}

/// What a file says; nothing without one. `InvalidData` of one that is damaged.
fn read(path: &Path) -> io::Result<Notes> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Notes::default()),
        bytes => bytes?,
    };
    Notes::parse(&bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

fn shortened(reason: &str) -> String {
    reason.chars().take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests;
