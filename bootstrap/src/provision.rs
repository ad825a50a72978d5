//! What makes a node one of a fleet: its roots of trust and its configuration, from a directory.
//!
//! Everything is checked before the first file is written, each file is replaced as a whole, and a file that is
//! there already with the same content is left alone. So it can be interrupted anywhere and done again. All paths of
//! the node are those in its root, links of an image included: nothing outside of it is read or written.

mod checks;
mod error;
mod given;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use flist::path::FlistPath;
use nix::errno::Errno;

pub use self::error::ProvisionError;
use self::given::Given;
use crate::disk::{self, Disk, Kind, Rename};
use crate::durable;
use crate::offers::{DIRECTOR as CHOICES, TRUST};
use crate::root::Root;
use crate::settings::Settings;

/// Largest file, in bytes.
const MAX_FILE: usize = 1 << 20;

/// What may be in the directory, with its mode; the configuration comes last, because it may demand the others.
const FILES: [(&str, u32); 5] =
    [(ROOT, 0o644), (DIRECTOR, 0o644), (TOKEN, 0o600), (CERTIFICATE, 0o600), (CONFIGURATION, 0o644)];

const ROOT: &str = "root.json";
const DIRECTOR: &str = "director.json";
const TOKEN: &str = "hub.token";
const CERTIFICATE: &str = "hub.pem";
const CONFIGURATION: &str = "config.yaml";

/// Where they go, beneath the root.
const PLACE: &str = "etc/molt";

/// What a node keeps of the root of trust that it has used, beneath the root.
const STATE: &str = "var/lib/molt";

/// How a name begins that is not what it is going to be yet.
const TEMPORARY: &[u8] = durable::TEMPORARY.as_bytes();

/// What a node is to be given, checked as a whole.
#[derive(Debug)]
pub struct Provisioning {
    root: Root,
    place: FlistPath,
    given: Given,
    /// What the node goes by afterwards; `None` where it has a configuration that nobody understands.
    settings: Option<Settings>,
}

/// A root that the node will be without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Where it is looked for.
    pub path: PathBuf,
    /// What shows that there was one; `None`: there never was.
    pub known: Option<PathBuf>,
}

impl Provisioning {
    /// Reads the files in `from` and checks all of them, for the node at `root`. Nothing is changed.
    ///
    /// # Errors
    /// [`ProvisionError`].
    pub fn check(root: &Path, from: &Path) -> Result<Self, ProvisionError> {
        let given = Given::read(from)?;
        let settings = given.check(from)?;
        if !root.is_dir() {
            return Err(ProvisionError::NoRoot(root.to_owned()));
        }
        let root = Root::open(root).map_err(ProvisionError::InRoot)?;
        let place = FlistPath::from_bytes(PLACE.as_bytes());
        let place = place.map_err(|_| ProvisionError::NoRoot(root.path().to_owned()))?;
        let mut provisioning = Self { root, place, given, settings };
        provisioning.check_place()?;
        provisioning.check_roots(from)?;
        match &provisioning.settings {
            Some(settings) => provisioning.check_named(settings)?,
            None => provisioning.settings = provisioning.settings_there()?,
        }
        provisioning.check_used()?;
        Ok(provisioning)
    }

    /// The names of what is in the directory and is not taken, sorted.
    pub fn not_taken(&self) -> &[String] {
        &self.given.not_taken
    }

    /// Where the files go, as a path of this process.
    pub fn place(&self) -> PathBuf {
        self.root.outer(&self.place)
    }

    /// Whether what is written is gone at the next boot. Where that cannot be told it is not.
    pub fn is_in_ram(&self) -> bool {
        self.root.disk().filesystem(&self.place).is_ok_and(|filesystem| filesystem.in_ram)
    }

    /// Whether the node will have no root of trust: one that had one installs nothing then, one that never had any hub's
    /// releases.
    ///
    /// # Errors
    /// [`ProvisionError::File`].
    pub fn untrusting(&self) -> Result<Option<Missing>, ProvisionError> {
        let named = self.settings.as_ref().map(|settings| settings.trust.root.as_path());
        self.missing(("trust.root", named), (ROOT, TRUST))
    }

    /// The director's root, where the node has followed one, is not told to follow none, and will not have it: then it
    /// installs nothing.
    ///
    /// # Errors
    /// [`ProvisionError::File`].
    pub fn misses_director(&self) -> Result<Option<Missing>, ProvisionError> {
        let trust = self.settings.as_ref().map(|settings| &settings.trust);
        if trust.is_some_and(|trust| trust.is_undirected) {
            return Ok(None);
        }
        let named = trust.map(|trust| trust.director.as_path());
        let missing = self.missing(("trust.director", named), (DIRECTOR, CHOICES))?;
        Ok(missing.filter(|missing| missing.known.is_some()))
    }

    /// The root that an option names, or that is in the usual place, where it will not be there; what the node keeps of
    /// it is in this directory of its state.
    fn missing(
        &self,
        (option, named): (&'static str, Option<&Path>),
        (name, kept): (&str, &str),
    ) -> Result<Option<Missing>, ProvisionError> {
        let at = named.map_or_else(|| self.at(name), |path| self.named(option, path))?;
        if self.comes(&at)? || self.content(&at)?.is_some() {
            return Ok(None);
        }
        let known: Option<FlistPath> = format!("{STATE}/{kept}/{ROOT}").parse().ok();
        let is_there = |path: &FlistPath| self.root.stat(path).is_ok_and(|stat| stat.is_some());
        let known = known.filter(is_there).map(|path| self.root.outer(&path));
        Ok(Some(Missing { path: self.root.outer(&at), known }))
    }

    /// Which of the files the node has with other content, which would be replaced.
    ///
    /// # Errors
    /// [`ProvisionError::File`].
    pub fn differing(&self) -> Result<Vec<&'static str>, ProvisionError> {
        let mut differing = Vec::new();
        for (name, _, new) in &self.given.files {
            if self.content(&self.at(name)?)?.is_some_and(|old| old != *new) {
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
        self.make_place()?;
        let real = self.root.disk().real_directory(&self.place).map_err(self.failed("find", &self.place))?;
        // What is locked is only waited for, by those who do the same.
        let place = File::open(self.root.outer(&real.unwrap_or_else(|| self.place.clone())));
        let only_one = place.and_then(|place| place.lock().map(|()| place));
        let _only_one = only_one.map_err(self.failed("lock", &self.place))?;
        self.clear().map_err(self.failed("clear", &self.place))?;
        let mut changed = Vec::new();
        for (name, mode, bytes) in &self.given.files {
            let at = self.at(name)?;
            if self.is_as_it_shall_be(&at, bytes, *mode)? {
                continue;
            }
            disk::replace(self.root.disk(), &at, bytes, *mode).map_err(self.failed("write", &at))?;
            changed.push(*name);
        }
        Ok(changed)
    }

    /// Makes the directory, and those above it. One that is made in part is gone on with.
    fn make_place(&self) -> Result<(), ProvisionError> {
        let disk = self.root.disk();
        for directory in self.directories() {
            if disk.real_directory(&directory).map_err(self.failed("find", &directory))?.is_none() {
                make_directory(disk, &directory).map_err(self.failed("make", &directory))?;
            }
        }
        Ok(())
    }

    /// Removes what runs have left that were killed: halves of files, and of secrets.
    fn clear(&self) -> io::Result<()> {
        let disk = self.root.disk();
        for name in disk.list(&self.place)?.into_iter().filter(|name| name.starts_with(TEMPORARY)) {
            let at = self.place.join(&name).map_err(|_| Errno::EINVAL)?;
            if disk.stat(&at)?.is_some_and(|stat| stat.kind == Kind::File) {
                disk.remove(&at)?;
            }
        }
        Ok(())
    }

    /// Whether a file has this content, is as private as it has to be, and no other user's.
    fn is_as_it_shall_be(&self, at: &FlistPath, bytes: &[u8], mode: u32) -> Result<bool, ProvisionError> {
        let stat = self.root.disk().stat(at).map_err(self.failed("look at", at))?;
        let own = [0, nix::unistd::geteuid().as_raw()];
        let is_fit = stat
            .is_some_and(|stat| stat.kind == Kind::File && stat.mode & !mode == 0 && own.contains(&stat.uid));
        Ok(is_fit && self.content(at)?.as_deref() == Some(bytes))
    }

    /// The directory of the files, and those above it, from the top.
    fn directories(&self) -> Vec<FlistPath> {
        let above = std::iter::successors(Some(self.place.clone()), FlistPath::parent);
        let mut directories: Vec<_> = above.filter(|directory| !directory.is_root()).collect();
        directories.reverse();
        directories
    }

    /// Where one of the files goes.
    fn at(&self, name: &str) -> Result<FlistPath, ProvisionError> {
        let no_name = |_| self.failed("name", &self.place)(Errno::EINVAL.into());
        self.place.join(name.as_bytes()).map_err(no_name)
    }

    /// The path without links in its directories.
    fn real(&self, path: &FlistPath) -> Result<FlistPath, ProvisionError> {
        self.root.canonical(path).map_err(ProvisionError::InRoot)
    }

    /// What is in a file of the root, links in the root followed; `None` where there is none.
    fn content(&self, at: &FlistPath) -> Result<Option<Vec<u8>>, ProvisionError> {
        let read = disk::read_small(self.root.disk(), at, MAX_FILE, true);
        read.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EINVAL) => ProvisionError::NoFile(self.root.outer(at)),
            _ => self.failed("read", at)(error),
        })
    }

    fn failed(&self, action: &'static str, path: &FlistPath) -> impl Fn(io::Error) -> ProvisionError + use<> {
        let path = self.root.outer(path);
        move |source| ProvisionError::File { action, path: path.clone(), source }
    }
}

/// Makes a directory that is either as it shall be or not there.
fn make_directory(disk: &dyn Disk, at: &FlistPath) -> io::Result<()> {
    let above = at.parent().unwrap_or_default();
    let temporary = above.join(&[TEMPORARY, at.name()].concat()).map_err(|_| Errno::ENAMETOOLONG)?;
    let is_there = |error: &io::Error| error.raw_os_error() == Some(Errno::EEXIST as i32);
    match disk.make_directory(&temporary) {
        Err(error) if !is_there(&error) => return Err(error),
        _ => disk.set_mode(&temporary, 0o755)?,
    }
    match disk.rename(&temporary, at, Rename::NoReplace) {
        // Somebody else has made it meanwhile.
        Err(error) if is_there(&error) => disk.remove_directory(&temporary)?,
        renamed => renamed?,
    }
    disk.sync_directory(&above)
}

#[cfg(test)]
mod tests;
