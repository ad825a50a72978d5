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
    /// What the configuration names is not there.
    #[error(
        "the configuration names {path}, which is not in the root, so the node would install nothing; nothing was changed; put it there first, or leave the name out"
    )]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to provision.
    #[error("{0} has none of root.json, director.json, hub.token, hub.pem and config.yaml")]
    Empty(PathBuf),
}

/// What a node is to be given, checked as a whole.
#[derive(Debug)]
pub struct Provisioning {
    place: PathBuf,
    /// Name, mode and content.
    files: Vec<(&'static str, u32, Vec<u8>)>,
}

impl Provisioning {
    /// Reads the files in `from` and checks all of them, for the node at `root`. Nothing is changed.
    ///
    /// # Errors
    /// [`ProvisionError`].
    pub fn check(root: &Path, from: &Path) -> Result<Self, ProvisionError> {
        let (mut files, mut settings) = (Vec::new(), None);
        for (name, mode) in FILES {
            let path = from.join(name);
            let Some(bytes) = read(&path)? else { continue };
            match name {
                "config.yaml" => {
                    settings = Some(Settings::check(&path, &bytes).map_err(ProvisionError::Config)?);
                }
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
        let provisioning = Self { place: root.join(PLACE), files };
        if let Some(settings) = settings {
            provisioning.check_named(root, &settings)?;
        }
        Ok(provisioning)
    }

    /// Whether the files that the configuration names will be there: without them a node installs nothing.
    fn check_named(&self, root: &Path, settings: &Settings) -> Result<(), ProvisionError> {
        let trust = &settings.trust;
        let roots = [(trust.is_required, &trust.root), (trust.is_directed, &trust.director)];
        let roots = roots.into_iter().filter(|(is_named, _)| *is_named).map(|(_, path)| path.as_path());
        for path in roots.clone().chain(settings.hub.shown.named()) {
            let comes = path
                .strip_prefix(Path::new("/").join(PLACE))
                .is_ok_and(|name| self.files.iter().any(|(file, ..)| name == Path::new(file)));
            if comes {
                continue;
            }
            let there = root.join(path.strip_prefix("/").unwrap_or(path));
            let Some(bytes) = read(&there)? else {
                return Err(ProvisionError::Absent { path: path.to_owned() });
            };
            if roots.clone().any(|root| root == path) {
                check_root(&bytes).map_err(|source| ProvisionError::Root { path: there, source })?;
            }
        }
        Ok(())
    }

    /// Which of the files the node has with other content, which would be replaced.
    ///
    /// # Errors
    /// [`ProvisionError::File`].
    pub fn differing(&self) -> Result<Vec<&'static str>, ProvisionError> {
        let mut differing = Vec::new();
        for (name, _, new) in &self.files {
            if read(&self.place.join(name))?.is_some_and(|old| old != *new) {
                differing.push(*name);
            }
        }
        Ok(differing)
    }

    /// Gives it to the node; returns which of the files were new or different.
    ///
    /// # Errors
    /// [`ProvisionError::File`].
    pub fn carry_out(&self) -> Result<Vec<&'static str>, ProvisionError> {
        std::fs::create_dir_all(&self.place).map_err(failed("make", &self.place))?;
        let only_one = std::fs::File::open(&self.place).and_then(|place| place.lock().map(|()| place));
        let _only_one = only_one.map_err(failed("lock", &self.place))?;
        self.clear().map_err(failed("clear", &self.place))?;
        let mut changed = Vec::new();
        for (name, mode, bytes) in &self.files {
            let path = self.place.join(name);
            if read(&path)?.is_some_and(|old| old == *bytes) && has_mode(&path, *mode) {
                continue;
            }
            durable::replace(&path, bytes, *mode).map_err(failed("write", &path))?;
            changed.push(*name);
        }
        Ok(changed)
    }

    /// Removes what runs have left that were killed: halves of files, and of secrets.
    fn clear(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.place)? {
            let entry = entry?;
            let is_left = entry.file_name().as_encoded_bytes().starts_with(durable::TEMPORARY.as_bytes());
            if is_left && entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProvisionError + use<> {
    let path = path.to_owned();
    move |source| ProvisionError::File { action, path, source }
}

fn check_access(token: Option<&Path>, certificate: Option<&Path>) -> Result<(), ProvisionError> {
    Access::read(&[], token, certificate).map(drop).map_err(ProvisionError::Access)
}

/// Whether a file is as private as it has to be.
fn has_mode(path: &Path, mode: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o7777 & !mode == 0)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, ProvisionError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE), &mut bytes).map_err(failed("read", path))?;
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

    fn provision(root: &Path, from: &Path) -> Result<Vec<&'static str>, ProvisionError> {
        Provisioning::check(root, from)?.carry_out()
    }

    fn differing(root: &Path, from: &Path) -> Result<Vec<&'static str>, ProvisionError> {
        Provisioning::check(root, from)?.differing()
    }

    /// Where a run was killed, in the middle of the next file; that runs are killed so is tried with the program.
    #[test]
    fn what_a_killed_run_has_left_is_gone_on_with_and_taken_away() {
        for done in 0..=FILES.len() {
            let (from, root) = directories();
            let place = root.path().join(PLACE);
            fs::create_dir_all(&place).unwrap();
            for (name, _) in &FILES[..done] {
                fs::copy(from.path().join(name), place.join(name)).unwrap();
            }
            fs::write(place.join(".new-abcdef"), "half a token").unwrap();
            fs::create_dir(place.join(".new-mine")).unwrap();
            let left: Vec<&str> = FILES[done..].iter().map(|(name, _)| *name).collect();
            assert_eq!(provision(root.path(), from.path()).unwrap(), left, "{done}");
            assert!(!place.join(".new-abcdef").exists() && place.join(".new-mine").exists());
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
    fn what_the_configuration_names_has_to_be_there_or_to_come() {
        let config = |text: &str| {
            let (from, root) = directories();
            fs::write(from.path().join("config.yaml"), text).unwrap();
            (from, root)
        };
        for named in [
            "trust: {root: /etc/molt/root.json, director: /etc/molt/director.json}\n",
            "hub_access: {token: /etc/molt/hub.token, certificate: /etc/molt/hub.pem}\n",
        ] {
            let (from, root) = config(named);
            provision(root.path(), from.path()).unwrap();
        }
        for named in [
            "trust: {root: /etc/molt/other.json}\n",
            "trust: {director: /media/usb/director.json}\n",
            "hub_access: {token: /etc/molt/other.token}\n",
            "hub_access: {certificate: /etc/molt/other.pem}\n",
        ] {
            let (from, root) = config(named);
            let refused = provision(root.path(), from.path()).unwrap_err();
            assert!(matches!(refused, ProvisionError::Absent { .. }), "{named}: {refused}");
            assert!(!root.path().join(PLACE).exists(), "{named}");
        }
        let (from, root) = config("trust: {root: /usr/share/root.json}\n");
        fs::create_dir_all(root.path().join("usr/share")).unwrap();
        fs::write(root.path().join("usr/share/root.json"), "{}").unwrap();
        let refused = provision(root.path(), from.path()).unwrap_err();
        assert!(matches!(refused, ProvisionError::Root { .. }), "{refused}");
        fs::copy(from.path().join("root.json"), root.path().join("usr/share/root.json")).unwrap();
        provision(root.path(), from.path()).unwrap();
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
            ("config.yaml", "hub: []\n"),
            ("config.yaml", "store: foo\n"),
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
