//! One hub for one directory: two would each believe that nobody else changes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::ServerError;

/// The name of the lock file in the root; it holds the process that has the lock.
const NAME: &str = ".lock";

/// Most bytes of what the holder says about itself.
const MAX_HOLDER: u64 = 100;

/// The lock of a hub's directory, held until it is dropped or the process ends.
#[derive(Debug)]
pub(super) struct RootLock {
    _file: Flock<File>,
}

impl RootLock {
    /// Takes the lock of `root`, which is made when it is not there.
    ///
    /// # Errors
    /// [`ServerError::Taken`] names the process that has it; or the directory cannot be written.
    pub(super) fn take(root: &Path) -> Result<Self, ServerError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Directory { path, source }
        };
        std::fs::create_dir_all(root).map_err(failed(root))?;
        let path = root.join(NAME);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o644).open(&path);
        match Flock::lock(file.map_err(failed(&path))?, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_holder(&mut file).map_err(failed(&path))?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let holder = read_holder(&mut file).map_err(failed(&path))?;
                Err(ServerError::Taken { root: PathBuf::from(root), holder })
            }
            Err((_, errno)) => Err(failed(&path)(errno.into())),
        }
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {}", std::process::id())
}

/// What the holder says about itself; one that has only just come may not have said it yet.
fn read_holder(file: &mut File) -> io::Result<String> {
    let mut holder = Vec::new();
    file.rewind()?;
    file.take(MAX_HOLDER).read_to_end(&mut holder)?;
    let holder = String::from_utf8_lossy(&holder);
    let holder: String = holder.trim().chars().filter(|c| !c.is_control()).collect();
    Ok(if holder.is_empty() { "another process".to_owned() } else { holder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hub_is_told_who_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("new");
        let first = RootLock::take(&root).unwrap();
        let error = RootLock::take(&root).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} uses", std::process::id())), "{error}");
        drop(first);
        RootLock::take(&root).unwrap();
    }
}
