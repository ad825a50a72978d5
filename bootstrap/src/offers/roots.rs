//! The roots that a node was given: whose releases it believes, and whose choices among them it follows.
//!
//! A root that is gone is no reason to do without: whoever can take one file away, or a base image that has lost it,
//! would have all signatures ignored, or all that the director has called off installed.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flist::trust::check_root;

use super::{DIRECTOR, OffersError, TRUST};
use crate::settings::Settings;
use crate::state_place::StatePlace;

/// Largest root, in bytes.
pub(super) const MAX_ROOT: u64 = 1 << 20;

/// One of the two roots that a node can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// That of the releases.
    Releases,
    /// That of the director.
    Director,
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Releases => "the root of trust",
            Self::Director => "the director's root",
        })
    }
}

impl Anchor {
    /// Where it is in the base image.
    pub(super) fn path(self, settings: &Settings) -> &Path {
        match self {
            Self::Releases => &settings.trust.root,
            Self::Director => &settings.trust.director,
        }
    }

    /// Whether somebody has said that it has to be there.
    fn is_demanded(self, settings: &Settings) -> bool {
        match self {
            Self::Releases => settings.trust.is_required,
            Self::Director => settings.trust.is_directed,
        }
    }

    /// Whether somebody has said that this node does without.
    fn is_waived(self, settings: &Settings) -> bool {
        match self {
            Self::Releases => settings.trust.is_insecure,
            Self::Director => settings.trust.is_undirected,
        }
    }

    /// The file of the state that shows that this node has gone by such a root before; `None` where nothing shows it. What
    /// cannot be looked at may be there.
    fn known(self, settings: &Settings) -> Option<PathBuf> {
        let place = StatePlace::of(settings).directory();
        let repository = match self {
            Self::Releases => TRUST,
            Self::Director => DIRECTOR,
        };
        let of = |state: &Path| state.join(repository).join("root.json");
        let counts = of(&place);
        let is_absent =
            |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        match std::fs::symlink_metadata(&counts) {
            Err(error) if is_absent(&error) => {
                // Where the state is in RAM, its disk may show what could not be read of it.
                Some(of(&settings.state_dir)).filter(|path| path.symlink_metadata().is_ok())
            }
            _ => Some(counts),
        }
    }

    /// Reads it; `None` where the node was never given one, or told to do without. Who `had` one in this process misses
    /// it, whatever the state shows.
    pub(super) fn read(self, settings: &Settings, had: bool) -> Result<Option<Vec<u8>>, OffersError> {
        if self.is_waived(settings) {
            return Ok(None);
        }
        let path = self.path(settings);
        let unreadable = |source| OffersError::Root { anchor: self, path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.is_demanded(settings) => {
                return match self.known(settings) {
                    None if !had => Ok(None),
                    known => Err(self.gone(settings, known)),
                };
            }
            Err(error) => return Err(unreadable(error)),
        };
        let mut bytes = Vec::new();
        if let Err(error) = file.take(MAX_ROOT).read_to_end(&mut bytes) {
            return Err(match error.kind() {
                ErrorKind::IsADirectory => OffersError::InTheWay { anchor: self, path: path.to_owned() },
                _ => unreadable(error),
            });
        }
        let damaged = |source| OffersError::Damaged { anchor: self, path: path.to_owned(), source };
        check_root(&bytes).map_err(damaged)?;
        Ok(Some(bytes))
    }

    fn gone(self, settings: &Settings, known: Option<PathBuf>) -> OffersError {
        let path = self.path(settings).to_owned();
        let known = known
            .map_or_else(|| "in this run of the program".to_owned(), |known| known.display().to_string());
        match self {
            Self::Releases => OffersError::RootGone { path, known },
            Self::Director => OffersError::DirectorGone { path, known, config: settings.config.clone() },
        }
    }
}

/// The roots of a node, as their files are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Roots {
    /// That of the releases; `None` for a node that checks nothing.
    pub(super) releases: Option<Vec<u8>>,
    /// That of the director; `None` for a node without one.
    pub(super) director: Option<Vec<u8>>,
}

/// Which roots this process has gone by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Had {
    releases: bool,
    pub(super) director: bool,
}

impl Roots {
    /// Reads them.
    ///
    /// # Errors
    /// [`OffersError`]: one of them is gone, or cannot be used.
    pub(super) fn read(settings: &Settings, had: Had) -> Result<Self, OffersError> {
        let releases = Anchor::Releases.read(settings, had.releases)?;
        // Where nothing is checked nobody is believed who chooses.
        let director = match &releases {
            Some(_) => Anchor::Director.read(settings, had.director)?,
            None => None,
        };
        Ok(Self { releases, director })
    }

    /// Remembers that these were gone by.
    pub(super) fn note(&self, had: &mut Had) {
        had.releases |= self.releases.is_some();
        had.director |= self.director.is_some();
    }

    /// Says it loudly where nothing is checked, and which director is not followed.
    pub(super) fn announce(&self, settings: &Settings) {
        if settings.trust.is_insecure {
            tracing::error!(
                "INSECURE: molt.insecure=1: signatures are not checked; whoever runs the hub decides what runs here"
            );
        } else if self.releases.is_none() {
            let path = settings.trust.root.display();
            tracing::warn!(%path, "INSECURE: there is no root of trust; whoever runs the hub decides what runs here");
        } else if settings.trust.is_undirected {
            let config = settings.config.display();
            tracing::info!(%config, "no director is followed: the configuration says `trust: {{director: none}}`");
        }
    }
}

/// What is wrong with the roots of a node, so that it installs nothing: each that is gone, or cannot be used.
pub fn faults(settings: &Settings) -> Vec<OffersError> {
    if settings.trust.is_insecure {
        return Vec::new();
    }
    let fault = |anchor: Anchor| anchor.read(settings, false).err();
    [Anchor::Releases, Anchor::Director].into_iter().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        overrides: crate::settings::Overrides,
    }

    const ROOT: &[u8] = include_bytes!("../../tests/fixtures/root.json");

    /// The settings of a node whose base image has no roots.
    fn node() -> (TempDir, Settings) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("cmdline"), "").unwrap();
        std::fs::write(path("config"), "").unwrap();
        let mut words = vec!["x".to_owned()];
        for option in ["root", "config", "cmdline", "state-dir", "run-dir"] {
            words.extend([format!("--{option}"), path(option)]);
        }
        let mut settings = Settings::load_without_secrets(&Arguments::parse_from(words).overrides).unwrap();
        settings.trust.root = directory.path().join("root.json");
        settings.trust.director = directory.path().join("director.json");
        (directory, settings)
    }

    /// Has the state show that the node has gone by this root.
    fn known(settings: &Settings, repository: &str) -> PathBuf {
        let known = settings.state_dir.join(repository).join("root.json");
        std::fs::create_dir_all(known.parent().unwrap()).unwrap();
        std::fs::write(&known, "{}").unwrap();
        known
    }

    fn releases(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
        Roots::read(settings, Had::default()).map(|roots| roots.releases)
    }

    fn director(settings: &Settings) -> Result<Option<Vec<u8>>, OffersError> {
        Roots::read(settings, Had::default()).map(|roots| roots.director)
    }

    /// Which of these parts a text lacks.
    fn lacks<'p>(said: &str, parts: &[&'p str]) -> Vec<&'p str> {
        parts.iter().copied().filter(|part| !said.contains(part)).collect()
    }

    #[test]
    fn a_root_of_trust_that_is_gone_is_not_done_without() {
        let (_directory, mut settings) = node();
        assert_eq!(releases(&settings).unwrap(), None);
        // What a client leaves that has never got so far as to trust a root is none.
        std::fs::create_dir_all(settings.state_dir.join(TRUST)).unwrap();
        std::fs::write(settings.state_dir.join(TRUST).join("clock"), "{}").unwrap();
        assert_eq!(releases(&settings).unwrap(), None);
        let known = known(&settings, TRUST);
        let refused = releases(&settings).unwrap_err();
        let said = refused.to_string();
        let (root, known) = (settings.trust.root.to_str().unwrap(), known.to_str().unwrap());
        assert_eq!(
            lacks(&said, &["is gone", root, known, "provision", "molt.insecure=1"]),
            [""; 0],
            "{said}"
        );
        assert_eq!(refused.verdict(), Some(flist::trust::Verdict::Local));
        // Only who says so on the kernel command line does without, or who puts it back with it.
        settings.trust.is_insecure = true;
        assert_eq!(releases(&settings).unwrap(), None);
        assert!(faults(&settings).is_empty());
        settings.trust.is_insecure = false;
        assert_eq!(faults(&settings).len(), 1);
        std::fs::write(&settings.trust.root, ROOT).unwrap();
        assert_eq!(releases(&settings).unwrap().unwrap(), ROOT);
    }

    #[test]
    fn a_directors_root_that_is_gone_is_not_done_without() {
        let (_directory, mut settings) = node();
        std::fs::write(&settings.trust.root, ROOT).unwrap();
        assert_eq!(director(&settings).unwrap(), None);
        let known = known(&settings, DIRECTOR);
        let refused = director(&settings).unwrap_err();
        let said = refused.to_string();
        let (root, known) = (settings.trust.director.to_str().unwrap(), known.to_str().unwrap());
        let config = settings.config.to_str().unwrap();
        let parts = ["local: ", "is gone", root, known, "provision", "trust: {director: none}", config];
        assert_eq!(lacks(&said, &parts), [""; 0], "{said}");
        assert_eq!(refused.verdict(), Some(flist::trust::Verdict::Local));
        assert_eq!(faults(&settings).len(), 1);
        // Only who says so in the configuration does without, or who puts it back with it.
        settings.trust.is_undirected = true;
        assert_eq!(director(&settings).unwrap(), None);
        assert!(faults(&settings).is_empty());
        settings.trust.is_undirected = false;
        std::fs::write(&settings.trust.director, ROOT).unwrap();
        assert_eq!(director(&settings).unwrap().unwrap(), ROOT);
        // Told to follow none, a node follows none that is there.
        settings.trust.is_undirected = true;
        assert_eq!(director(&settings).unwrap(), None);
    }

    #[test]
    fn a_root_that_was_gone_by_is_missed_whatever_the_state_shows() {
        let (_directory, settings) = node();
        let mut had = Had::default();
        for path in [&settings.trust.root, &settings.trust.director] {
            std::fs::write(path, ROOT).unwrap();
        }
        Roots::read(&settings, had).unwrap().note(&mut had);
        std::fs::remove_file(&settings.trust.director).unwrap();
        let refused = Roots::read(&settings, had).unwrap_err();
        assert!(matches!(refused, OffersError::DirectorGone { .. }), "{refused}");
        std::fs::remove_file(&settings.trust.root).unwrap();
        let refused = Roots::read(&settings, had).unwrap_err();
        assert!(matches!(refused, OffersError::RootGone { .. }), "{refused}");
        assert_eq!(releases(&settings).unwrap(), None, "who never had one does without");
    }

    #[test]
    fn a_damaged_root_is_named() {
        let (_directory, settings) = node();
        std::fs::write(&settings.trust.root, ROOT).unwrap();
        for path in [&settings.trust.director, &settings.trust.root] {
            std::fs::write(path, "{}").unwrap();
            let refused = Roots::read(&settings, Had::default()).unwrap_err();
            assert_eq!(refused.verdict(), Some(flist::trust::Verdict::Local));
            let said = flist::report(&refused);
            let parts = ["local: ", "is damaged", path.to_str().unwrap(), "provision --replace"];
            assert_eq!(lacks(&said, &parts), [""; 0], "{said}");
        }
        assert_eq!(faults(&settings).len(), 2);
    }

    #[test]
    fn a_directory_in_the_place_of_a_root_is_to_be_moved_away_first() {
        let (_directory, settings) = node();
        std::fs::create_dir(&settings.trust.root).unwrap();
        let refused = releases(&settings).unwrap_err();
        assert_eq!(refused.verdict(), Some(flist::trust::Verdict::Local));
        let said = flist::report(&refused);
        let parts =
            ["local: ", settings.trust.root.to_str().unwrap(), "is a directory", "move it away", "provision"];
        assert_eq!(lacks(&said, &parts), [""; 0], "{said}");
    }

    #[test]
    fn neither_a_state_in_ram_nor_one_that_cannot_be_looked_at_makes_it_forgotten() {
        let (directory, settings) = node();
        for (anchor, repository) in [(Anchor::Releases, TRUST), (Anchor::Director, DIRECTOR)] {
            let known = known(&settings, repository);
            let ram = settings.run_dir.join("state");
            std::fs::create_dir_all(&ram).unwrap();
            std::fs::write(ram.join("in-force"), "{}").unwrap();
            assert_eq!(StatePlace::of(&settings).directory(), ram);
            assert_eq!(anchor.known(&settings), Some(known.clone()));
            std::fs::remove_dir_all(&ram).unwrap();
            // A link that leads nowhere is there.
            std::fs::remove_file(&known).unwrap();
            std::os::unix::fs::symlink(directory.path().join("nowhere"), &known).unwrap();
            assert_eq!(anchor.known(&settings), Some(known));
        }
    }
}
