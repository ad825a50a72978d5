//! What this node has accepted so far, one file per role, each replaced as a whole.
//!
//! ```text
//! root.json  root_history/2.root.json …   timestamp.json  snapshot.json  targets.json  prod.json  clock
//! ```
//! Nothing here is believed when it is read: it is checked from the pinned root on like everything else. It
//! only keeps versions from falling.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sigstore_tuf::cache::MetadataStore;

use super::clock::Progress;
use super::error::TrustError;
use super::keys;

/// Largest file that is read back, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Longest name of a role that is kept; a longer one is fetched each time.
const MAX_NAME: usize = 200;

/// Where the progress of the clock is kept; no role's file, because those end in `.json`.
const CLOCK: &str = "clock";

/// A file of the state cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct StateError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The directory with the state (0700).
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    /// Why something that was accepted is not kept. A state that is not kept protects from nothing.
    failure: Mutex<Option<TrustError>>,
}

impl StateDir {
    /// Uses this directory, and makes it if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError { action: "use", path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        if std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o7777 != 0o700 {
            std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), failure: Mutex::default() })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept of a role; `None` where nothing is.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        read(&self.path.join(name))
    }

    /// Replaces what is kept under a name; what is already there is not written again.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        if self.read(name).is_ok_and(|old| old.is_some_and(|old| old == bytes)) {
            return Ok(());
        }
        let path = self.path.join(name);
        replace(&path, bytes).map_err(|source| StateError { action: "write", path, source })
    }

    /// Forgets what is kept of delegated roles, which is only there to save fetching.
    pub(super) fn forget_delegated(&self) -> Result<(), StateError> {
        let listing = |source| StateError { action: "list", path: self.path.clone(), source };
        for entry in std::fs::read_dir(&self.path).map_err(listing)? {
            let path = entry.map_err(listing)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let delegated = name.ends_with(".json") && !is_top_level(&name);
            if delegated && let Err(source) = std::fs::remove_file(&path) {
                return Err(StateError { action: "remove", path, source });
            }
        }
        Ok(())
    }

    /// The progress of the clock; `None` when there is none that can be read.
    pub(super) fn progress(&self) -> Option<Progress> {
        kept_progress(&self.path)
    }

    /// Keeps the progress of the clock.
    pub(super) fn keep_progress(&self, progress: &Progress) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(progress).unwrap_or_default();
        self.write(CLOCK, &bytes)
    }

    /// Why the first thing was not kept since the last call that was to be kept.
    pub(super) fn take_failure(&self) -> Result<(), TrustError> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// The progress of the clock that is kept in this directory; `None` when there is none that can be read.
pub(super) fn kept_progress(directory: &Path) -> Option<Progress> {
    serde_json::from_slice(&read(&directory.join(CLOCK)).ok()??).ok()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let failed = |source| StateError { action: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

impl MetadataStore for StateDir {
    fn load(&self, name: &str) -> sigstore_tuf::Result<Option<Vec<u8>>> {
        if !is_kept(name) {
            return Ok(None);
        }
        self.read(name).map_err(|error| sigstore_tuf::Error::io(error.to_string(), error.source))
    }

    fn store(&self, name: &str, bytes: &[u8]) -> sigstore_tuf::Result<()> {
        let kept = match keys::check_file(bytes) {
            Ok(()) if is_kept(name) => self.write(name, bytes).map_err(TrustError::State),
            checked => checked,
        };
        if let Err(error) = kept {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        Ok(())
    }
}

/// Whether this is the file of one of the four roles that every repository has.
pub(super) fn is_top_level(file: &str) -> bool {
    matches!(file, "root.json" | "timestamp.json" | "snapshot.json" | "targets.json")
}

/// Roles, quoted as in an address, and old roots. Numbered names are second copies; targets are not ours.
fn is_kept(name: &str) -> bool {
    let role = name.strip_prefix("root_history/").unwrap_or(name);
    let numbered = role.split_once('.').is_some_and(|(number, _)| is_number(number));
    let fits = role.len() <= MAX_NAME && !role.contains('/') && role.ends_with(".json");
    fits && (numbered == (role.len() != name.len()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::clock::Uptime;
    use super::*;

    #[test]
    fn only_roles_and_old_roots_are_kept() {
        for kept in
            ["root.json", "timestamp.json", "prod.json", "%3F.json", "...json", "root_history/2.root.json"]
        {
            assert!(is_kept(kept), "{kept}");
        }
        let long = format!("{}.json", "x".repeat(MAX_NAME));
        for other in
            ["3.snapshot.json", "targets/x.json", "clock", "../x.json", "root_history/root.json", &long]
        {
            assert!(!is_kept(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        state.store("timestamp.json", b"1").unwrap();
        state.take_failure().unwrap();
        assert_eq!(state.read("timestamp.json").unwrap().unwrap(), b"1");
        // A file where a directory has to be.
        std::fs::write(directory.path().join("root_history"), "").unwrap();
        state.store("root_history/2.root.json", b"2").unwrap();
        assert!(state.take_failure().is_err());
        state.take_failure().unwrap();
    }

    #[test]
    fn the_clock_survives_and_damage_is_no_clock() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        assert_eq!(state.progress(), None);
        let uptime = Uptime { boot_id: "a".to_owned(), seconds: 3 };
        let progress = Progress { floor: 7, uptime, keys: vec!["k".to_owned()] };
        state.keep_progress(&progress).unwrap();
        assert_eq!(state.progress(), Some(progress));
        std::fs::write(directory.path().join(CLOCK), "{").unwrap();
        assert_eq!(state.progress(), None);
    }
}
