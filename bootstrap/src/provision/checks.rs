//! What is refused before anything is written, because of what is in the root.

use std::path::{Component, Path};

use flist::hub::Access;
use flist::path::FlistPath;
use flist::trust::{RootOfTrust, check_root};

use super::{CERTIFICATE, DIRECTOR, ProvisionError, Provisioning, ROOT, TOKEN};
use crate::disk::Kind;
use crate::settings::{CONFIG, NO_DIRECTOR, Settings};

/// Which options name another file than the one of this name in the usual place.
const OPTIONS: [(&str, &str); 4] = [
    ("trust.root", ROOT),
    ("trust.director", DIRECTOR),
    ("hub_access.token", TOKEN),
    ("hub_access.certificate", CERTIFICATE),
];

/// The root of trust and the director's root of a node, as far as they are there.
#[derive(Default)]
struct Roots {
    releases: Option<RootOfTrust>,
    director: Option<RootOfTrust>,
}

impl Provisioning {
    /// Refuses where the directory of the files can neither be used nor made.
    pub(super) fn check_place(&self) -> Result<(), ProvisionError> {
        let disk = self.root.disk();
        for directory in self.directories() {
            let there = disk.stat(&directory).map_err(self.failed("look at", &directory))?;
            let real = disk.real_directory(&directory).map_err(self.failed("find", &directory))?;
            if there.is_some() && real.is_none() {
                return Err(ProvisionError::InTheWay(self.root.outer(&directory)));
            }
        }
        Ok(())
    }

    /// Refuses roots of trust of one repository, and those that the node has the other way round.
    pub(super) fn check_roots(&self, from: &Path) -> Result<(), ProvisionError> {
        let read = |name| self.given.bytes_of(name).and_then(|bytes| RootOfTrust::parse(bytes).ok());
        let given = Roots { releases: read(ROOT), director: read(DIRECTOR) };
        let there = |name: &str| -> Result<Option<RootOfTrust>, ProvisionError> {
            // What is there and is none will be replaced, or is the doctor's business.
            Ok(self.content(&self.at(name)?)?.and_then(|bytes| RootOfTrust::parse(&bytes).ok()))
        };
        let there = Roots { releases: there(ROOT)?, director: there(DIRECTOR)? };
        let place = self.place();
        if given.make_one_repository_of(&there) {
            let path = |name: &str, given: &Option<RootOfTrust>| match given {
                Some(_) => from.join(name),
                None => place.join(name),
            };
            let (root, director) = (path(ROOT, &given.releases), path(DIRECTOR, &given.director));
            return Err(ProvisionError::SameRepository { root, director });
        }
        match given.are_the_other_way_round_in(&there) {
            true => Err(ProvisionError::Exchanged { from: from.to_owned(), place }),
            false => Ok(()),
        }
    }

    /// Refuses a configuration that names what will not be there, or cannot be used: with it a node installs nothing.
    pub(super) fn check_named(&self, settings: &Settings) -> Result<(), ProvisionError> {
        for (option, path) in settings.named_files() {
            let at = self.named(option, path)?;
            if self.comes(&at)? {
                continue;
            }
            let Some(bytes) = self.content(&at)? else {
                return Err(ProvisionError::Absent { option, path: path.to_owned() });
            };
            let outer = self.root.outer(&at);
            let is_file = self.root.stat(&at).map_err(ProvisionError::InRoot)?;
            // Links of an image cannot be followed by those who read secrets.
            let is_file = is_file.is_some_and(|stat| stat.kind == Kind::File);
            match option {
                "hub_access.token" if is_file => check_access(Some(&outer), None)?,
                "hub_access.certificate" if is_file => check_access(None, Some(&outer))?,
                "hub_access.token" | "hub_access.certificate" => {}
                _ => check_root(&bytes).map_err(|source| ProvisionError::Root { path: outer, source })?,
            }
        }
        Ok(())
    }

    /// Refuses files that nobody would ever read, because the configuration names others.
    pub(super) fn check_used(&self) -> Result<(), ProvisionError> {
        let named = self.settings.as_ref().map(Settings::named_files).unwrap_or_default();
        for (option, path) in named {
            let usual = OPTIONS.into_iter().find(|(of, _)| *of == option).map(|(_, name)| name);
            let Some(name) = usual.filter(|name| self.given.bytes_of(name).is_some()) else { continue };
            if self.named(option, path)? != self.real(&self.at(name)?)? {
                return Err(ProvisionError::Unused { name, option, path: path.to_owned() });
            }
        }
        let follows_none = self.settings.as_ref().is_some_and(|settings| settings.trust.is_undirected);
        match self.given.bytes_of(DIRECTOR).filter(|_| follows_none) {
            Some(_) => {
                let path = NO_DIRECTOR.into();
                Err(ProvisionError::Unused { name: DIRECTOR, option: "trust.director", path })
            }
            None => Ok(()),
        }
    }

    /// The settings by the configuration that is there already, where both programs would start with it.
    pub(super) fn settings_there(&self) -> Result<Option<Settings>, ProvisionError> {
        let config = FlistPath::from_bytes(CONFIG.as_bytes()).unwrap_or_default();
        let bytes = self.content(&config)?.unwrap_or_default();
        Ok(Settings::check(&self.root.outer(&config), &bytes).ok())
    }

    /// The file in the root that is named by an option of the configuration.
    pub(super) fn named(&self, option: &'static str, path: &Path) -> Result<FlistPath, ProvisionError> {
        let wrong = || ProvisionError::NoPath { option, path: path.to_owned() };
        let mut at = FlistPath::root();
        let mut components = path.components();
        if components.next() != Some(Component::RootDir) {
            return Err(wrong());
        }
        for component in components {
            let Component::Normal(name) = component else { return Err(wrong()) };
            at = at.join(name.as_encoded_bytes()).map_err(|_| wrong())?;
        }
        self.real(&at)
    }

    /// Whether this file is one of those that are given.
    pub(super) fn comes(&self, at: &FlistPath) -> Result<bool, ProvisionError> {
        for (name, ..) in &self.given.files {
            if self.real(&self.at(name)?)? == *at {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether secrets can be used.
pub(super) fn check_access(token: Option<&Path>, certificate: Option<&Path>) -> Result<(), ProvisionError> {
    Access::read(&[], token, certificate).map(drop).map_err(ProvisionError::Access)
}

impl Roots {
    /// Whether the node would have both of one repository afterwards.
    fn make_one_repository_of(&self, there: &Self) -> bool {
        let releases = self.releases.as_ref().or(there.releases.as_ref());
        let director = self.director.as_ref().or(there.director.as_ref());
        (self.releases.is_some() || self.director.is_some()) && is_same(releases, director)
    }

    /// Whether one of them is what the node has as the other. Where the node has both of one repository, that is being
    /// put right.
    fn are_the_other_way_round_in(&self, there: &Self) -> bool {
        let (releases, director) = (there.releases.as_ref(), there.director.as_ref());
        let is_other = |given: &Option<RootOfTrust>, own, other| {
            is_same(given.as_ref(), other) && !is_same(given.as_ref(), own)
        };
        is_other(&self.releases, releases, director) || is_other(&self.director, director, releases)
    }
}

fn is_same(one: Option<&RootOfTrust>, other: Option<&RootOfTrust>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one.is_of_the_repository_of(other))
}
