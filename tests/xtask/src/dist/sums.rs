//! Checksums of what is shipped, in the form that `sha256sum --check` reads.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use molt_tests::{Error, digest_of};

/// The file with the checksums.
const NAME: &str = "SHA256SUMS";

/// Removes what an earlier run has left in `out`, by its own list, so that nothing old gets among the new.
/// There need not be such a directory.
///
/// # Errors
/// When the directory has something and no list: it is none of ours. When a file cannot be removed.
pub(super) fn remove_earlier(out: &Path) -> Result<(), Error> {
    let sums = out.join(NAME);
    let text = match fs::read_to_string(&sums) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
                true => Err(Error::Unexpected(format!(
                    "{} is not empty and not from an earlier run; choose another directory or empty it",
                    out.display()
                ))),
                false => Ok(()),
            };
        }
        text => text.map_err(super::failed("read", &sums))?,
    };
    for name in text.lines().filter_map(|line| line.split_once("  ")).map(|(_, name)| Path::new(name)) {
        // Names that we have written lead nowhere else.
        if name.components().all(|part| matches!(part, Component::Normal(_))) {
            let file = out.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(super::failed("remove", &file)(error));
                }
                _ => {}
            }
        }
    }
    fs::remove_file(&sums).map_err(super::failed("remove", &sums))
}

/// Writes the checksums of all files beneath `out`, sorted by path.
///
/// # Errors
/// When a file cannot be read, or the checksums not be written.
pub(super) fn write(out: &Path) -> Result<(), Error> {
    let sums = out.join(NAME);
    let mut files = Vec::new();
    list(out, &mut files)?;
    files.retain(|file| *file != sums);
    files.sort_unstable();
    let mut text = String::new();
    for file in &files {
        let shown = file.strip_prefix(out).unwrap_or(file);
        text += &format!("{}  {}\n", digest_of(file)?, shown.display());
    }
    fs::write(&sums, text).map_err(super::failed("write", &sums))
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = || super::failed("list", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_type().map_err(failed())?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_checksum_and_goes_with_it() {
        let out = tempfile::tempdir().unwrap();
        fs::create_dir(out.path().join("bin")).unwrap();
        fs::write(out.path().join("bin/b"), "abc").unwrap();
        fs::write(out.path().join("a"), "").unwrap();
        // Again, as after a run that did not get to its end.
        write(out.path()).unwrap();
        write(out.path()).unwrap();
        let text = fs::read_to_string(out.path().join(NAME)).unwrap();
        assert_eq!(
            text,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  bin/b\n"
        );
        fs::write(out.path().join("bin/mine"), "").unwrap();
        remove_earlier(out.path()).unwrap();
        let mut left = Vec::new();
        list(out.path(), &mut left).unwrap();
        assert_eq!(left, [out.path().join("bin/mine")]);
    }

    #[test]
    fn a_directory_of_somebody_else_is_left_alone() {
        let out = tempfile::tempdir().unwrap();
        remove_earlier(&out.path().join("not there")).unwrap();
        remove_earlier(out.path()).unwrap();
        fs::write(out.path().join("mine"), "").unwrap();
        let error = remove_earlier(out.path()).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        fs::create_dir(out.path().join("out")).unwrap();
        fs::write(out.path().join("out").join(NAME), "00  ../mine\n").unwrap();
        remove_earlier(&out.path().join("out")).unwrap();
        assert!(out.path().join("mine").exists());
    }
}
