//! The files of a repository.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::RepositoryError;
use super::change_lock::ChangeLock;
use super::envelope::Envelope;
use super::roles::{MODES, RoleName};
use crate::regular_file;

/// Largest file that is read, in bytes: what nodes read back of their own.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// How long signatures hold, in days. The shorter the timestamp's, the sooner a node notices that news are kept
/// from it, and the sooner nodes wait when nobody signs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifetimes {
    /// Of the root.
    pub root: i64,
    /// Of the targets.
    pub targets: i64,
    /// Of the roles of the run modes.
    pub mode: i64,
    /// Of the snapshot.
    pub snapshot: i64,
    /// Of the timestamp.
    pub timestamp: i64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { root: 365, targets: 365, mode: 365, snapshot: 30, timestamp: 7 }
    }
}

impl Lifetimes {
    pub(super) fn of(self, role: RoleName) -> i64 {
        match role {
            RoleName::Root => self.root,
            RoleName::Targets => self.targets,
            RoleName::Mode(_) => self.mode,
            RoleName::Snapshot => self.snapshot,
            RoleName::Timestamp => self.timestamp,
        }
    }
}

/// `settings.json`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// How long signatures hold.
    pub lifetimes: Lifetimes,
}

/// `settings.json`, as it may lie there.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Found {
    lifetimes: Lifetimes,
    /// Earlier versions ran these. This file travels with copies of the repository, so it names none any more.
    commands: BTreeMap<String, IgnoredAny>,
}

/// A repository on disk.
#[derive(Debug, Clone)]
pub struct TrustDirectory {
    path: PathBuf,
    /// What `settings.json` says.
    pub settings: Settings,
}

impl TrustDirectory {
    /// Opens a repository.
    ///
    /// # Errors
    /// There is none, its settings cannot be used, or they name commands.
    pub fn open(path: &Path) -> Result<Self, RepositoryError> {
        let file = path.join("settings.json");
        match limited(&file) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(Found { lifetimes, commands }) if commands.is_empty() => {
                    Ok(Self { path: path.to_owned(), settings: Settings { lifetimes } })
                }
                Ok(_) => Err(RepositoryError::Commands(file)),
                Err(source) => Err(RepositoryError::Damaged { path: file, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RepositoryError::None(path.to_owned()))
            }
            Err(source) => Err(RepositoryError::File { action: "read", path: file, source }),
        }
    }

    /// Makes the directories of a new one.
    pub(super) fn create(path: &Path, settings: Settings) -> Result<Self, RepositoryError> {
        if path.join("settings.json").exists() {
            return Err(RepositoryError::Exists(path.to_owned()));
        }
        if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(RepositoryError::NotEmpty(path.to_owned()));
        }
        let directory = Self { path: path.to_owned(), settings };
        for (path, mode) in
            [(path.to_owned(), 0o755), (directory.keys(), 0o700), (directory.metadata(), 0o755)]
        {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(&path);
            made.map_err(|source| RepositoryError::File { action: "make", path, source })?;
        }
        Ok(directory)
    }

    /// Keeps others from changing the repository.
    pub(super) fn lock(&self) -> Result<ChangeLock, RepositoryError> {
        ChangeLock::take(&self.path)
    }

    /// Writes the settings.
    ///
    /// # Errors
    /// [`RepositoryError::File`].
    pub fn save_settings(&self) -> Result<(), RepositoryError> {
        let mut bytes = serde_json::to_vec_pretty(&self.settings).unwrap_or_default();
        bytes.push(b'\n');
        write(&self.path.join("settings.json"), &bytes)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its keys lie, unless they were taken elsewhere.
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// What is served.
    pub fn metadata(&self) -> PathBuf {
        self.path.join("metadata")
    }

    /// What waits for signatures.
    pub fn staged(&self) -> PathBuf {
        self.path.join("staged")
    }

    /// The newest root, for base images.
    pub fn root(&self) -> PathBuf {
        self.path.join("root.json")
    }

    /// The files of `metadata` that nodes need now, in the order in which a server should get them.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn served(&self) -> Result<Vec<(String, Vec<u8>)>, RepositoryError> {
        let roles = self.load()?;
        let last_root = roles.get(&RoleName::Root).map_or(0, Envelope::version);
        let mut names: Vec<String> =
            (1..=last_root).map(|version| RoleName::Root.versioned(version)).collect();
        let order = [RoleName::Targets].into_iter().chain(MODES.map(RoleName::Mode));
        let order = order.chain([RoleName::Snapshot, RoleName::Timestamp]);
        names.extend(order.filter_map(|role| Some(role.versioned(roles.get(&role)?.version()))));
        names.into_iter().map(|name| Ok((name.clone(), read(&self.metadata().join(name))?))).collect()
    }

    /// The newest version of every role.
    pub(super) fn load(&self) -> Result<BTreeMap<RoleName, Envelope>, RepositoryError> {
        let directory = self.metadata();
        let mut newest: BTreeMap<RoleName, u64> = BTreeMap::new();
        for name in names(&directory)? {
            if name == RoleName::Timestamp.file() {
                newest.insert(RoleName::Timestamp, 0);
            } else if let Some((version, role)) = numbered(&name) {
                let known = newest.entry(role).or_default();
                *known = version.max(*known);
            }
        }
        let path = |role: RoleName, version| directory.join(role.versioned(version));
        newest.into_iter().map(|(role, version)| Ok((role, parse(&path(role, version))?))).collect()
    }

    /// What waits for signatures. Snapshot and timestamp never do: they are made anew each time.
    pub(super) fn load_staged(&self) -> Result<BTreeMap<RoleName, Envelope>, RepositoryError> {
        Self::load_staged_in(&self.staged())
    }

    /// As [`TrustDirectory::load_staged`], of any directory that is named so.
    pub(super) fn load_staged_in(directory: &Path) -> Result<BTreeMap<RoleName, Envelope>, RepositoryError> {
        let of = |name: &String| Some((numbered(name)?.1, name.clone()));
        let of = |name: &String| of(name).filter(|(role, _)| !role.is_listing());
        let found = names(directory)?;
        let found = found.iter().filter_map(of);
        found.map(|(role, name)| Ok((role, parse(&directory.join(name))?))).collect()
    }

    /// Keeps versions that wait for signatures.
    pub(super) fn stage(&self, roles: &BTreeMap<RoleName, Envelope>) -> Result<(), RepositoryError> {
        let directory = self.staged();
        fs::create_dir_all(&directory).map_err(|source| RepositoryError::File {
            action: "make",
            path: directory.clone(),
            source,
        })?;
        roles.iter().try_for_each(|(role, envelope)| {
            write(&directory.join(role.versioned(envelope.version())), &envelope.to_bytes())
        })
    }

    /// Puts new versions where they are served; whoever reads meanwhile finds the old state or the new one.
    pub(super) fn publish(&self, roles: &BTreeMap<RoleName, Envelope>) -> Result<(), RepositoryError> {
        let mut order: Vec<RoleName> = roles.keys().copied().collect();
        order.sort_by_key(|role| match role {
            RoleName::Root => 0,
            RoleName::Targets | RoleName::Mode(_) => 1,
            RoleName::Snapshot => 2,
            RoleName::Timestamp => 3,
        });
        for role in order {
            let envelope = &roles[&role];
            write(&self.metadata().join(role.versioned(envelope.version())), &envelope.to_bytes())?;
            if role == RoleName::Root {
                write(&self.root(), &envelope.to_bytes())?;
            }
        }
        // Another change may go on waiting there.
        let left = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
        };
        let staged = roles.iter().map(|(role, envelope)| role.versioned(envelope.version()));
        let removed = staged.map(|name| self.staged().join(name)).map(|path| (fs::remove_file(&path), path));
        for (removed, path) in removed.chain([self.staged()].map(|path| (fs::remove_dir(&path), path))) {
            if let Err(source) = removed
                && !left(&source)
            {
                return Err(RepositoryError::File { action: "remove", path, source });
            }
        }
        Ok(())
    }
}

fn names(directory: &Path) -> Result<Vec<String>, RepositoryError> {
    let failed = |source| RepositoryError::File { action: "list", path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Ok(entries) => {
            let name =
                |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
            entries.map(name).collect::<io::Result<_>>().map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// `3.prod.json`
fn numbered(name: &str) -> Option<(u64, RoleName)> {
    let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
    Some((version.parse().ok()?, role.parse().ok()?))
}

fn parse(path: &Path) -> Result<Envelope, RepositoryError> {
    Envelope::parse(&read(path)?).map_err(|source| RepositoryError::Damaged { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, RepositoryError> {
    limited(path).map_err(|source| RepositoryError::File { action: "read", path: path.to_owned(), source })
}

/// A file may have been brought by somebody else, so it is not read without end.
pub(super) fn limited(path: &Path) -> io::Result<Vec<u8>> {
    regular_file::read(path, MAX_FILE)
}

/// Replaces a file as a whole; everybody may read it, as a web server has to.
fn write(path: &Path, bytes: &[u8]) -> Result<(), RepositoryError> {
    replace(path, bytes, 0o644).map_err(|source| RepositoryError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// Replaces a file as a whole, and gives it this mode.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}
