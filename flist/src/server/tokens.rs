//! The hub's token file, read again whenever it changes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::file_version::FileVersion;
use crate::hub::{Grant, Sha256, TokenError, read_grants};

/// Who may change what, by token.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    known: Mutex<Known>,
}

/// The repos that a token is for; none means all.
pub(super) type Repos = Option<Arc<[String]>>;

#[derive(Debug)]
struct Known {
    /// What was read; none after a failure, so that it is tried again.
    version: Option<FileVersion>,
    lines: Vec<Line>,
}

/// Digests instead of tokens: nothing that reads this memory or prints it gets a token, and comparing them
/// takes the same time whatever was sent.
#[derive(Debug)]
struct Line {
    token: Sha256,
    repos: Repos,
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn open(path: PathBuf) -> Result<Self, TokenError> {
        let known = Known::read(&path)?;
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// The repos that a token is for; the outer none is for a token that is not in the file.
    ///
    /// # Errors
    /// The file was changed into one that cannot be used; until it is repaired nobody has access.
    pub(super) fn repos_of(&self, token: &str) -> Result<Option<Repos>, TokenError> {
        let failed = |source| TokenError::File { path: self.path.clone(), source };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = std::fs::metadata(&self.path).map_err(failed);
        if known.version.is_none() || metadata.as_ref().ok().map(FileVersion::of) != known.version {
            known.version = None;
            *known = Known::read(&self.path)?;
            tracing::info!(path = %self.path.display(), tokens = known.lines.len(), "token file read again");
        }
        Ok(known.repos_of(token))
    }
}

impl Known {
    fn read(path: &std::path::Path) -> Result<Self, TokenError> {
        let (grants, metadata) = read_grants(path)?;
        let line = |grant: Grant| Line {
            token: Sha256::of(grant.token.secret().as_bytes()),
            repos: (!grant.repos.is_empty()).then(|| grant.repos.into()),
        };
        Ok(Self { version: Some(FileVersion::of(&metadata)), lines: grants.into_iter().map(line).collect() })
    }

    fn repos_of(&self, token: &str) -> Option<Repos> {
        let sent = Sha256::of(token.as_bytes());
        let mut found = None;
        // Always to the end: how long it takes does not tell which line matches.
        for line in &self.lines {
            if verify_slices_are_equal(line.token.as_bytes(), sent.as_bytes()).is_ok() {
                found = Some(line.repos.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    const ALL: &str = "aaaaaaaaaaaaaaaaaaaa";
    const SOME: &str = "bbbbbbbbbbbbbbbbbbbb";

    fn write(path: &Path, text: &str) {
        let next = path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::set_permissions(&next, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&next, path).unwrap();
    }

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_locks_everybody_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        assert!(TokenFile::open(path.clone()).is_err());
        write(&path, &format!("{ALL}\n{SOME} a b\n"));
        let file = TokenFile::open(path.clone()).unwrap();
        assert_eq!(file.repos_of(ALL).unwrap(), Some(None));
        assert_eq!(file.repos_of(SOME).unwrap().flatten().unwrap().join(" "), "a b");
        assert_eq!(file.repos_of("cccccccccccccccccccc").unwrap(), None);
        assert_eq!(file.repos_of("").unwrap(), None);
        assert!(!format!("{file:?}").contains(ALL));

        write(&path, SOME);
        assert_eq!(file.repos_of(ALL).unwrap(), None);
        assert_eq!(file.repos_of(SOME).unwrap(), Some(None));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        for _ in 0..2 {
            assert!(matches!(file.repos_of(SOME), Err(TokenError::Unsafe { .. })));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(file.repos_of(SOME), Err(TokenError::File { .. })));
        write(&path, ALL);
        assert_eq!(file.repos_of(ALL).unwrap(), Some(None));
    }
}
