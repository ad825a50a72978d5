//! Unit files, read without trusting them.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::unit::MAX_UNIT_BYTES;

/// The text of a unit file: at most one byte more than [`MAX_UNIT_BYTES`], for
/// [`ServiceUnit::parse`](crate::ServiceUnit::parse) to refuse it. Never waits, as whoever opens a fifo does.
///
/// # Errors
/// When it cannot be read, is no text, or is no regular file ([`ErrorKind::InvalidInput`]).
pub fn read_unit_file(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(MAX_UNIT_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_read_no_further_and_what_is_no_file_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        assert_eq!(read_unit_file(&path).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(&path, "exec: a\n").unwrap();
        assert_eq!(read_unit_file(&path).unwrap(), "exec: a\n");
        fs::write(&path, "x".repeat(3 * MAX_UNIT_BYTES)).unwrap();
        assert_eq!(read_unit_file(&path).unwrap().len(), MAX_UNIT_BYTES + 1);
        assert_eq!(read_unit_file(directory.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
