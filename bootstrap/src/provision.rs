//! What makes a node one of a fleet: its roots of trust and its configuration, from a directory.
//!
//! Everything is checked before the first file is written, each file is replaced as a whole, and a file that is
//! there already with the same content is left alone. So it can be interrupted anywhere and done again.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flist::hub::{Access, AccessError};
use flist::trust::{TrustError, check_root};

use crate::durable;
use crate::settings::{Settings, SettingsError};

/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What may be in the directory, with its mode; the configuration comes last, because it may demand the others.
const FILES: [(&str, u32); 5] = [
    ("root.json", 0o644),
    ("director.json", 0o644),
    ("hub.token", 0o600),
    ("hub.pem", 0o600),
    ("config.yaml", 0o644),
];

/// Where they go, beneath the root.
const PLACE: &str = "etc/molt";

/// Why a node was not provisioned.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// A file cannot be read or written.
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
    /// A root of trust is none.
    #[error("{path} is no root of trust; nothing was changed")]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TrustError,
    },
    /// The configuration is not usable.
    #[error("the configuration is not usable; nothing was changed")]
    Config(#[source] SettingsError),
    /// There is no such root.
    #[error("{0} is no directory, so it is no root file system; nothing was changed")]
    NoRoot(PathBuf),
    /// What hubs are to be shown cannot be used.
    #[error("what hubs are to be shown cannot be used; nothing was changed")]
    Access(#[source] AccessError),
    /// There is nothing to provision.
    #[error("{0} has none of root.json, director.json, hub.token, hub.pem and config.yaml")]
    Empty(PathBuf),
}

/// Provisions the node at `root` with the files in `from`; returns which of them were new or different.
///
/// # Errors
/// [`ProvisionError`].
pub fn provision(root: &Path, from: &Path) -> Result<Vec<&'static str>, ProvisionError> {
    let mut files = Vec::new();
    for (name, mode) in FILES {
        let path = from.join(name);
        let Some(bytes) = read(&path)? else { continue };
        match name {
            "config.yaml" => Settings::check(&path, &bytes).map_err(ProvisionError::Config)?,
            "hub.token" => check_access(Some(&path), None)?,
            "hub.pem" => check_access(None, Some(&path))?,
            _ => check_root(&bytes).map_err(|source| ProvisionError::Root { path, source })?,
        }
        files.push((name, mode, bytes));
    }
    if files.is_empty() {
        return Err(ProvisionError::Empty(from.to_owned()));
    }
    if !root.is_dir() {
        return Err(ProvisionError::NoRoot(root.to_owned()));
    }
    let place = root.join(PLACE);
    std::fs::create_dir_all(&place).map_err(|source| ProvisionError::File {
        action: "make",
        path: place.clone(),
        source,
    })?;
    let mut changed = Vec::new();
    for (name, mode, bytes) in files {
        let path = place.join(name);
        if read(&path)?.is_some_and(|old| old == bytes) && has_mode(&path, mode) {
            continue;
        }
        durable::replace(&path, &bytes, mode).map_err(|source| ProvisionError::File {
            action: "write",
            path,
            source,
        })?;
        changed.push(name);
    }
    Ok(changed)
}

/// Which of the files in `from` the node at `root` has with other content, which [`provision`] would replace.
///
/// # Errors
/// [`ProvisionError::File`].
pub fn differing(root: &Path, from: &Path) -> Result<Vec<&'static str>, ProvisionError> {
    let mut differing = Vec::new();
    for (name, _) in FILES {
        if let (Some(new), Some(old)) = (read(&from.join(name))?, read(&root.join(PLACE).join(name))?)
            && new != old
        {
            differing.push(name);
        }
    }
    Ok(differing)
}

fn check_access(token: Option<&Path>, certificate: Option<&Path>) -> Result<(), ProvisionError> {
    Access::read(&[], token, certificate).map(drop).map_err(ProvisionError::Access)
}

/// Whether a file is as private as it has to be.
fn has_mode(path: &Path, mode: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o7777 & !mode == 0)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, ProvisionError> {
    let failed = |source| ProvisionError::File { action: "read", path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE), &mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CONFIG: &str = "hub: http://hub\nrun_mode: test\n";

    fn directories() -> (tempfile::TempDir, tempfile::TempDir) {
        let (from, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("config.yaml"), CONFIG).unwrap();
        fs::write(from.path().join("root.json"), include_bytes!("../tests/fixtures/root.json")).unwrap();
        fs::write(from.path().join("director.json"), include_bytes!("../tests/fixtures/root.json")).unwrap();
        for (name, text) in [
            ("hub.token", "0123456789abcdef0123"),
            ("hub.pem", include_str!("../../flist/tests/fixtures/tls/client.pem")),
        ] {
            fs::write(from.path().join(name), text).unwrap();
            fs::set_permissions(from.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        (from, root)
    }

    #[test]
    fn interrupted_after_any_file_it_can_be_done_again() {
        for done in 0..=FILES.len() {
            let (from, root) = directories();
            // What a run left that was killed after so many files, in the middle of the next one.
            let place = root.path().join(PLACE);
            fs::create_dir_all(&place).unwrap();
            for (name, _) in &FILES[..done] {
                fs::copy(from.path().join(name), place.join(name)).unwrap();
            }
            fs::write(place.join(".new-abcdef"), "half").unwrap();
            let left: Vec<&str> = FILES[done..].iter().map(|(name, _)| *name).collect();
            assert_eq!(provision(root.path(), from.path()).unwrap(), left, "{done}");
            assert_eq!(provision(root.path(), from.path()).unwrap(), [""; 0]);
            for (name, mode) in FILES {
                assert_eq!(fs::read(from.path().join(name)).unwrap(), fs::read(place.join(name)).unwrap());
                let found = fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o777;
                assert_eq!(found, mode, "{name}");
            }
            // A secret that others could read is made private again.
            fs::set_permissions(place.join("hub.token"), fs::Permissions::from_mode(0o644)).unwrap();
            assert_eq!(provision(root.path(), from.path()).unwrap(), ["hub.token"]);
            assert_eq!(provision(root.path(), from.path()).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn what_would_be_replaced_is_known_before() {
        let (from, root) = directories();
        assert_eq!(differing(root.path(), from.path()).unwrap(), [""; 0]);
        provision(root.path(), from.path()).unwrap();
        assert_eq!(differing(root.path(), from.path()).unwrap(), [""; 0]);
        fs::write(root.path().join(PLACE).join("root.json"), "another root").unwrap();
        assert_eq!(differing(root.path(), from.path()).unwrap(), ["root.json"]);
        fs::remove_file(from.path().join("root.json")).unwrap();
        assert_eq!(differing(root.path(), from.path()).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        for (name, content) in [
            ("root.json", "{}"),
            ("director.json", "x"),
            ("hub.token", "x"),
            ("hub.pem", "x"),
            ("config.yaml", "no_such_key: 1\n"),
            ("config.yaml", "poll_interval: 0\n"),
            ("config.yaml", "maintenance: {windows: [\"Foo 1-2\"]}\n"),
            ("config.yaml", "maintenance: {timezone: Mars/Base, windows: [\"02:00-05:00\"]}\n"),
        ] {
            let (from, root) = directories();
            fs::write(from.path().join(name), content).unwrap();
            assert!(provision(root.path(), from.path()).is_err(), "{name}");
            assert!(!root.path().join(PLACE).exists(), "{name}");
        }
        let (from, root) = directories();
        let nowhere = root.path().join("no-such-root");
        assert!(matches!(provision(&nowhere, from.path()), Err(ProvisionError::NoRoot(_))));
        assert!(!nowhere.exists());
        assert!(matches!(provision(root.path(), root.path()), Err(ProvisionError::Empty(_))));
    }
}
