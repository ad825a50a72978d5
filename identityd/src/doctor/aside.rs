//! Setting aside what nobody can explain.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::DoctorError;

/// Most things of one name that lie aside.
const MOST: u32 = 1000;

/// Renames something to `<name>.broken-<n>`, beside it, with the first number that is free; tells which.
///
/// # Errors
/// [`DoctorError::File`].
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, DoctorError> {
    under_free_name(path, |name| Ok(renameat_with(CWD, path, CWD, name, RenameFlags::NOREPLACE)?))
}

/// Gives a file a second name of this kind, so that another one can take its place without it ever being missing.
///
/// # Errors
/// [`DoctorError::File`].
pub(super) fn keep_aside(path: &Path) -> Result<PathBuf, DoctorError> {
    under_free_name(path, |name| std::fs::hard_link(path, name))
}

fn under_free_name(path: &Path, put: impl Fn(&Path) -> std::io::Result<()>) -> Result<PathBuf, DoctorError> {
    let failed = |source| DoctorError::File { action: "set aside", path: path.to_owned(), source };
    for number in 1..=MOST {
        let mut name = OsString::from(path);
        name.push(format!(".broken-{number}"));
        let name = PathBuf::from(name);
        match put(&name) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(std::io::Error::other(format!("{MOST} of that name lie aside already; remove some"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_lies_aside_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for number in 1..=3 {
            std::fs::write(&path, number.to_string()).unwrap();
            let aside = set_aside(&path).unwrap();
            assert_eq!(aside, directory.path().join(format!("file.broken-{number}")));
        }
        assert_eq!(std::fs::read(directory.path().join("file.broken-1")).unwrap(), b"1");
        assert!(matches!(set_aside(&path), Err(DoctorError::File { .. })));
        std::fs::write(&path, "4").unwrap();
        assert_eq!(keep_aside(&path).unwrap(), directory.path().join("file.broken-4"));
        assert_eq!(std::fs::read(&path).unwrap(), b"4", "it is never missing");
    }
}
