//! One engine at a time: an exclusive lock that every apply, recover, rollback and gc holds, by whichever
//! program.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::durable;

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock file could not be used.
    #[error("cannot use the lock {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("another engine is at work: {holder} holds {path}; waited {waited:?}")]
    Held {
        /// The file.
        path: PathBuf,
        /// Who has it, as it says itself.
        holder: String,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// The lock, held until it is dropped or the process ends or executes another program.
#[derive(Debug)]
pub struct EngineLock {
    _file: Flock<File>,
}

/// Takes the lock in the run directory, waiting for at most `patience`. Blocks the thread.
///
/// # Errors
/// [`LockError::Held`] names the holder.
pub fn take(run_dir: &Path, who: &str, patience: Duration) -> Result<EngineLock, LockError> {
    let path = run_dir.join("lock");
    let failed = |source| LockError::File { path: path.clone(), source };
    durable::private_directory(run_dir).map_err(failed)?;
    let started = Instant::now();
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(failed)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut locked) => {
                write_holder(&mut locked, who).map_err(failed)?;
                return Ok(EngineLock { _file: locked });
            }
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        if started.elapsed() >= patience {
            let holder = read_holder(&mut file).map_err(failed)?;
            return Err(LockError::Held { path, holder, waited: started.elapsed() });
        }
        std::thread::sleep(RETRY);
    }
}

/// Who holds the lock in the run directory, as it says itself; `None` when nobody does, or nobody ever took
/// it. Does not wait.
///
/// # Errors
/// [`LockError::File`].
pub fn holder(run_dir: &Path) -> Result<Option<String>, LockError> {
    let path = run_dir.join("lock");
    let failed = |source| LockError::File { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    // Shared, so that two who look do not take each other for a holder.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut held, Errno::EWOULDBLOCK)) => read_holder(&mut held).map(Some).map_err(failed),
        Err((_, errno)) => Err(failed(errno.into())),
    }
}

fn write_holder(file: &mut File, who: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{who} (pid {})", std::process::id())
}

fn read_holder(file: &mut File) -> io::Result<String> {
    let mut holder = String::new();
    file.rewind()?;
    file.take(200).read_to_string(&mut holder)?;
    Ok(holder.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_waits_and_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()).unwrap(), None);
        let first = take(dir.path(), "first", Duration::ZERO).unwrap();
        assert!(holder(dir.path()).unwrap().unwrap().contains("first (pid "));
        let error = take(dir.path(), "second", Duration::from_millis(60)).unwrap_err();
        assert!(error.to_string().contains("first (pid "), "{error}");
        drop(first);
        assert_eq!(holder(dir.path()).unwrap(), None);
        take(dir.path(), "second", Duration::ZERO).unwrap();
    }
}
