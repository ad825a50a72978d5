//! Commands that sign with keys which never leave their tokens, as they are written down beside keys.
//!
//! Whoever writes this file decides what is run by whoever signs. So it lies with the keys, which do not travel with a
//! copy of the repository, and of a repository that was brought by somebody else none is read.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::directory::replace;
use crate::regular_file;

/// Its name in a directory of keys.
const NAME: &str = "signers.json";

/// Largest such file, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Why the commands cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CommandsError {
    /// The file cannot be read or written.
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
    /// Others could have written it.
    #[error(
        "{0} names commands, and others than its owner can write it; make sure of what it says, then: chmod 600 {0}"
    )]
    Unsafe(PathBuf),
    /// It is something else.
    #[error("{path} is not of the form {{\"<id of a key>\": [\"<program>\", \"<argument>\", …]}}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Ids of keys, and the command that signs with each: a program and its arguments.
pub(super) type Commands = BTreeMap<String, Vec<String>>;

/// The commands that are written down in a directory of keys; none where there is no such file.
pub(super) fn read(directory: &Path) -> Result<Commands, CommandsError> {
    let path = directory.join(NAME);
    let failed = |source| CommandsError::File { action: "read", path: path.clone(), source };
    let (file, metadata) = match regular_file::open(&path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Commands::new()),
        Err(error) => return Err(failed(error)),
    };
    let is_owned = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    if !is_owned || metadata.permissions().mode() & 0o022 != 0 {
        return Err(CommandsError::Unsafe(path));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    serde_json::from_slice(&bytes).map_err(|source| CommandsError::Form { path, source })
}

/// Writes down that this command signs with the key of this id (0600), beside what is written down already.
///
/// # Errors
/// [`CommandsError`].
pub fn keep_command(directory: &Path, id: &str, command: &[String]) -> Result<(), CommandsError> {
    let mut commands = read(directory)?;
    commands.insert(id.to_owned(), command.to_owned());
    let mut bytes = serde_json::to_vec_pretty(&commands).unwrap_or_default();
    bytes.push(b'\n');
    let path = directory.join(NAME);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let written = made.and_then(|()| replace(&path, &bytes, 0o600));
    written.map_err(|source| CommandsError::File { action: "write", path, source })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::*;

    #[test]
    fn commands_are_kept_beside_each_other_and_only_their_owner_writes_them() {
        let directory = tempfile::tempdir().unwrap();
        let (path, at) = (directory.path().join(NAME), directory.path());
        assert_eq!(read(at).unwrap(), Commands::new());
        keep_command(at, "a", &["sign".to_owned(), "--slot".to_owned()]).unwrap();
        keep_command(at, "b", &["other".to_owned()]).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(at).unwrap()["a"], ["sign", "--slot"]);
        assert_eq!(read(at).unwrap().len(), 2);
        set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(read(at), Err(CommandsError::Unsafe(_))));
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "{\"a\": \"sign\"}").unwrap();
        assert!(matches!(read(at), Err(CommandsError::Form { .. })));
    }
}
