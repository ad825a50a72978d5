//! What a boot waits for, for whoever asks on the node before it has booted: a note in the run directory.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable;

/// Name of the note in the run directory.
const FILE: &str = "boot-waits";

/// Longest note that is read, in bytes.
const MAX_NOTE: u64 = 16 * 1024;

/// Notes it.
///
/// # Errors
/// Those of the file.
pub(crate) fn note(run_dir: &Path, what: &str) -> io::Result<()> {
    durable::replace(&path(run_dir), what.as_bytes(), 0o600)
}

/// Takes it back: the node has booted, or waits no more.
pub(crate) fn clear(run_dir: &Path) {
    // Where it cannot be removed it is of no node that has booted all the same.
    let _ = std::fs::remove_file(path(run_dir));
}

/// What the boot of this node waits for; `None` where none waits that has said so.
pub fn read(run_dir: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path(run_dir)).ok()?;
    io::Read::read_to_string(&mut io::Read::take(file, MAX_NOTE), &mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_until_it_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), None);
        note(directory.path(), "the hub\n").unwrap();
        assert_eq!(read(directory.path()).as_deref(), Some("the hub"));
        clear(directory.path());
        assert_eq!(read(directory.path()), None);
    }
}
