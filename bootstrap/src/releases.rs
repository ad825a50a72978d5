//! What is remembered of releases: how often one was tried, and which ones failed.
//!
//! A release whose services were started and did not do is bad at once, because finding out again would cost
//! another downtime. One whose attempts only ended before anybody could judge it is bad after
//! [`MAX_ATTEMPTS`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flist::hub::ReleaseId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::durable;

/// After so many attempts that did not end well a release is bad.
pub const MAX_ATTEMPTS: u32 = 3;

/// Releases that are remembered; the oldest notes go first.
const MAX_NOTES: usize = 64;

/// Longest reason that is remembered, in characters.
const LONGEST_REASON: usize = 1000;

/// The notes could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot remember what became of release {release} in {path}")]
pub struct ReleasesError {
    /// The release.
    pub release: ReleaseId,
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: std::io::Error,
}

/// What is known of one release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Attempts to install it that did not end well.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: String,
    /// It was judged: its services did not do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub judged: bool,
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

/// The notes of all releases, kept in one file.
#[derive(Debug)]
pub struct Releases {
    path: PathBuf,
    notes: Notes,
}

impl Releases {
    /// Reads the notes. A file that is damaged or not there means that nothing is known.
    pub fn load(path: &Path) -> Self {
        let notes = std::fs::read(path).ok().and_then(|bytes| Notes::parse(&bytes).ok());
        Self { path: path.to_owned(), notes: notes.unwrap_or_default() }
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
        self.change(release, |note| {
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
        self.change(release, |note| note.reason = reason)
    }

    /// Says that the release itself did not do, and why: it is bad from now on.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn judged_bad(&mut self, release: ReleaseId, reason: &str) -> Result<(), ReleasesError> {
        let reason = shortened(reason);
        self.change(release, |note| {
            note.attempts = note.attempts.max(1);
            note.judged = true;
            note.reason = reason;
        })
    }

    /// Takes back an attempt that failed for a reason that is not the release's fault.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn excuse(&mut self, release: ReleaseId) -> Result<(), ReleasesError> {
        self.change(release, |note| note.attempts = note.attempts.saturating_sub(1))
    }

    /// Forgets a release: it was installed.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn succeeded(&mut self, release: ReleaseId) -> Result<(), ReleasesError> {
        match self.notes.releases.remove(&release) {
            Some(_) => self.save(release),
            None => Ok(()),
        }
    }

    /// Takes back what was counted against a release that is installed, because nobody came to note that its last
    /// attempt ended well. One that was judged stays so.
    ///
    /// # Errors
    /// [`ReleasesError`].
    pub fn installed(&mut self, release: ReleaseId) -> Result<(), ReleasesError> {
        if self.note(&release).is_some_and(|note| note.judged) { Ok(()) } else { self.succeeded(release) }
    }

    /// Forgets every release whose id begins with this text, so that each may be tried again; tells which.
    ///
    /// # Errors
    /// [`ReleasesError`]; the file is as before then.
    pub fn forget(&mut self, id: &str) -> Result<Vec<ReleaseId>, ReleasesError> {
        let matching =
            self.notes.releases.keys().copied().filter(|release| release.to_string().starts_with(id));
        let matching: Vec<ReleaseId> = matching.collect();
        self.notes.releases.retain(|release, _| !matching.contains(release));
        if let Some(first) = matching.first() {
            self.save(*first)?;
        }
        Ok(matching)
    }

    /// Whether the file at this path can be understood; one that is not there can.
    pub fn is_readable(path: &Path) -> bool {
        match std::fs::read(path) {
            Ok(bytes) => Notes::parse(&bytes).is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    fn change(&mut self, release: ReleaseId, change: impl FnOnce(&mut Note)) -> Result<(), ReleasesError> {
        let notes = &mut self.notes.releases;
        let order = notes.values().map(|note| note.order).max().unwrap_or(0) + 1;
        let note = notes.entry(release).or_default();
        note.order = order;
        change(note);
        while notes.len() > MAX_NOTES {
            let oldest = notes.iter().min_by_key(|(_, note)| note.order).map(|(id, _)| *id);
            oldest.and_then(|id| notes.remove(&id));
        }
        self.save(release)
    }

    fn save(&self, release: ReleaseId) -> Result<(), ReleasesError> {
        let failed = |source| ReleasesError { release, path: self.path.clone(), source };
        let json = serde_json::to_vec_pretty(&self.notes).map_err(|error| failed(error.into()))?;
        durable::replace(&self.path, &json, 0o600).map_err(failed)
    }
}

fn shortened(reason: &str) -> String {
    reason.chars().take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ReleaseId {
        format!("{number:02x}").repeat(32).parse().unwrap()
    }

    #[test]
    fn three_attempts_make_a_release_bad_until_it_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("releases.json");
        for _ in 0..MAX_ATTEMPTS {
            let mut releases = Releases::load(&path);
            assert!(!releases.note(&id(1)).is_some_and(Note::is_bad));
            releases.attempt(id(1)).unwrap();
            releases.failed(id(1), "it crashed").unwrap();
        }
        let mut releases = Releases::load(&path);
        assert!(releases.note(&id(1)).unwrap().is_bad());
        assert_eq!(releases.note(&id(1)).unwrap().reason, "it crashed");
        assert!(releases.note(&id(2)).is_none());
        releases.excuse(id(1)).unwrap();
        assert!(!releases.note(&id(1)).unwrap().is_bad());
        releases.installed(id(1)).unwrap();
        assert!(Releases::load(&path).note(&id(1)).is_none());
        releases.installed(id(1)).unwrap();
    }

    #[test]
    fn a_release_that_was_judged_is_bad_at_once_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("releases.json");
        let mut releases = Releases::load(&path);
        releases.attempt(id(1)).unwrap();
        releases.judged_bad(id(1), "web is not well").unwrap();
        let mut releases = Releases::load(&path);
        let note = releases.note(&id(1)).unwrap();
        assert_eq!((note.is_bad(), note.attempts, note.reason.as_str()), (true, 1, "web is not well"));
        releases.installed(id(1)).unwrap();
        assert!(releases.note(&id(1)).unwrap().is_bad());
        releases.forget("0101").unwrap();
        releases.attempt(id(1)).unwrap();
        assert!(!Releases::load(&path).note(&id(1)).unwrap().is_bad());
    }

    #[test]
    fn notes_of_the_first_version_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("releases.json");
        let note = r#"{"attempts": 3, "reason": "it crashed", "order": 1}"#;
        std::fs::write(&path, format!("{{\"{}\": {note}}}", id(1))).unwrap();
        assert!(Releases::load(&path).note(&id(1)).unwrap().is_bad());
    }

    #[test]
    fn what_a_newer_version_wrote_can_be_read_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("releases.json");
        let note = r#"{"attempts": 3, "reason": "it crashed", "order": 1, "since": [7]}"#;
        let newer = format!(r#"{{"schema": 2, "releases": {{"{}": {note}}}, "floor": {{"by": 1}}}}"#, id(1));
        std::fs::write(&path, newer).unwrap();
        let mut releases = Releases::load(&path);
        assert!(releases.note(&id(1)).unwrap().is_bad() && Releases::is_readable(&path));
        releases.attempt(id(2)).unwrap();
        let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((&written["schema"], &written["floor"]["by"]), (&2.into(), &1.into()));
        assert_eq!(written["releases"][id(1).to_string()]["since"][0], 7);
    }

    #[test]
    fn a_release_is_forgotten_by_the_beginning_of_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("releases.json");
        let mut releases = Releases::load(&path);
        assert!(Releases::is_readable(&path));
        for number in [1, 2] {
            releases.attempt(id(number)).unwrap();
        }
        assert_eq!(releases.forget("0303").unwrap(), []);
        assert_eq!(releases.forget("0101").unwrap(), [id(1)]);
        let releases = Releases::load(&path);
        assert!(releases.note(&id(1)).is_none() && releases.note(&id(2)).is_some());
        assert!(Releases::is_readable(&path));
        std::fs::write(&path, "{").unwrap();
        assert!(!Releases::is_readable(&path));
    }

    #[test]
    fn notes_are_limited_and_a_damaged_file_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("releases.json");
        std::fs::write(&path, "{").unwrap();
        let mut releases = Releases::load(&path);
        for number in 0..=MAX_NOTES {
            releases.attempt(id(number as u8)).unwrap();
        }
        let releases = Releases::load(&path);
        assert_eq!(releases.notes.releases.len(), MAX_NOTES);
        assert!(releases.note(&id(0)).is_none());
    }
}
