//! Where things are: the workspace, its target directory, scratch space.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::error::{Doing, Error};

/// The workspace this crate was compiled in.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// The directory with the binaries of the profile that the running program was built with, such as
/// `target/debug`.
///
/// # Errors
/// When the running program does not lie in a target directory.
pub fn profile_dir() -> Result<PathBuf, Error> {
    let program = std::env::current_exe().doing(|| "find the running program".to_owned())?;
    let mut directory = program.parent().unwrap_or(Path::new("/"));
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory = directory.parent().unwrap_or(directory);
    }
    if directory.join(".cargo-lock").exists() || directory.join("deps").is_dir() {
        return Ok(directory.to_owned());
    }
    Err(Error::Unexpected(format!("{} is not in a target directory of cargo", program.display())))
}

/// The target directory, with the profiles in it.
///
/// # Errors
/// As [`profile_dir`].
pub fn target_dir() -> Result<PathBuf, Error> {
    let profile = profile_dir()?;
    Ok(profile.parent().map_or_else(|| profile.clone(), Path::to_owned))
}

/// A fresh directory that vanishes when it is dropped. It is in the target directory, so that a killed
/// test leaves nothing elsewhere.
///
/// # Errors
/// When it cannot be made.
pub fn scratch(purpose: &str) -> Result<TempDir, Error> {
    let parent = target_dir()?.join("tmp");
    fs::create_dir_all(&parent).doing(|| format!("make {}", parent.display()))?;
    tempfile::Builder::new()
        .prefix(&format!("molt-{purpose}-"))
        .tempdir_in(&parent)
        .doing(|| format!("make a directory in {}", parent.display()))
}

/// Waits for, and then holds, the lock with this name in the target directory: one builder, one
/// downloader, whatever the number of test processes.
///
/// # Errors
/// When the lock file cannot be used.
pub fn lock(name: &str) -> Result<Flock<File>, Error> {
    let path = target_dir()?.join(format!("molt-{name}.lock"));
    let file = File::create(&path).doing(|| format!("make {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .doing(|| format!("lock {}", path.display()))
}

/// Cargo, the same that started this program where there is one, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}
