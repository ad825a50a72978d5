//! The directory that `flist unpack` fills: nothing that was there is lost, and nothing half is left.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use flist::exit::Exit;
use flist::path::FlistPath;
use flist::tree::{Entry, Kind, Tree};

use super::failure::Failure;

/// Where a flist is unpacked to, as it was before.
pub(super) struct Destination {
    path: PathBuf,
    before: Before,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Absent,
    Empty,
    /// The user wants it merged.
    Occupied,
}

impl Destination {
    /// Looks at a directory before it is filled.
    ///
    /// # Errors
    /// It is no directory, or it is not empty and that is not wanted.
    pub(super) fn look(path: &Path, merge: bool) -> Result<Self, Failure> {
        let shown = path.display();
        let before = match fs::read_dir(path) {
            Ok(mut entries) => match entries.next() {
                None => Before::Empty,
                Some(_) if merge => Before::Occupied,
                Some(_) => {
                    return Err(Failure::usage(format!(
                        "{shown} is not empty; unpack into a new or empty directory, or use --merge to keep what is there"
                    )));
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Before::Absent,
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return Err(Failure::usage(format!(
                    "{shown} is not a directory; name a new or an empty one"
                )));
            }
            Err(error) => {
                let mut failure = Failure::from(error);
                failure.error = format!("cannot look into {shown}: {}", failure.error).into();
                return Err(failure);
            }
        };
        Ok(Self { path: path.to_owned(), before })
    }

    /// Finds out before anything is written whether something is in the way of a tree.
    ///
    /// # Errors
    /// It names what is there already.
    pub(super) fn has_room_for(&self, tree: &Tree) -> Result<(), Failure> {
        let in_the_way = |(path, entry): &(&FlistPath, &Entry)| {
            let there = self.path.join(path.as_path()).symlink_metadata();
            there.is_ok_and(|there| !(matches!(entry.kind, Kind::Directory) && there.is_dir()))
        };
        match tree.iter().find(in_the_way) {
            Some((path, _)) => Err(Failure::new(
                Exit::Refused,
                format!(
                    "'{path}' is already in {}; nothing was unpacked; remove it, or unpack elsewhere",
                    self.path.display()
                ),
            )),
            None => Ok(()),
        }
    }

    /// Takes away what a failed unpack has made, and says what is left.
    pub(super) fn clean_up(&self) -> String {
        let path = self.path.display();
        let cleared = match self.before {
            Before::Occupied => {
                return format!("what was unpacked until then stays in {path}, which was not empty before");
            }
            Before::Empty => clear(&self.path),
            Before::Absent => clear(&self.path).and_then(|()| fs::remove_dir(&self.path)),
        };
        match cleared {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                format!("what was unpacked until then could not be removed from {path}: {error}")
            }
            _ => format!("{path} is as it was before"),
        }
    }
}

/// Removes what is in a directory; no link is followed.
fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fill(directory: &Path, outside: &Path) {
        fs::create_dir_all(directory.join("a/b")).unwrap();
        fs::write(directory.join("a/b/file"), "half").unwrap();
        symlink(outside, directory.join("link")).unwrap();
    }

    #[test]
    fn what_a_failure_leaves_is_taken_away_where_nothing_was() {
        let at = tempfile::tempdir().unwrap();
        let outside = at.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("mine"), "mine").unwrap();
        let new = at.path().join("new");
        for absent in [true, false] {
            if !absent {
                fs::create_dir(&new).unwrap();
            }
            let destination = Destination::look(&new, false).unwrap();
            fill(&new, &outside);
            assert!(destination.clean_up().ends_with("is as it was before"));
            assert_eq!(new.exists(), !absent);
            assert!(!new.join("a").exists());
        }
        assert_eq!(fs::read_to_string(outside.join("mine")).unwrap(), "mine");
    }

    #[test]
    fn what_was_there_stays() {
        let at = tempfile::tempdir().unwrap();
        fs::write(at.path().join("mine"), "mine").unwrap();
        let refused = Destination::look(at.path(), false).map(drop).unwrap_err();
        assert!(refused.error.to_string().contains("--merge"), "{refused:?}");
        let destination = Destination::look(at.path(), true).unwrap();
        assert!(destination.clean_up().contains("stays in"));
        assert_eq!(fs::read_to_string(at.path().join("mine")).unwrap(), "mine");
        let file = at.path().join("mine");
        assert!(
            Destination::look(&file, true)
                .map(drop)
                .unwrap_err()
                .error
                .to_string()
                .contains("not a directory")
        );
    }
}
