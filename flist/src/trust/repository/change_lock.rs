//! One change of a repository at a time: two that begin with the same versions would each undo what the other has done.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::RepositoryError;

/// How often the lock is tried, and how long is waited in between. A change takes a second; one that
/// asks a token for signatures may wait for a person, so this is five minutes in all.
const TRIES: u32 = 3000;
const PAUSE: Duration = Duration::from_millis(100);

/// The lock of a repository, held until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct ChangeLock {
    _file: File,
}

impl ChangeLock {
    /// Takes the lock of the repository in `directory`; waits for another command that has it, but not for ever.
    ///
    /// # Errors
    /// [`RepositoryError::Busy`], [`RepositoryError::File`].
    pub(super) fn take(directory: &Path) -> Result<Self, RepositoryError> {
        let path = directory.join(".lock");
        let failed = |source| RepositoryError::File { action: "lock", path: path.clone(), source };
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Err(RepositoryError::Busy(directory.to_owned()))
    }
}
