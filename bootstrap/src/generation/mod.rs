//! Generations: what is installed, numbered.
//!
//! ```text
//! /var/lib/molt                 0700
//! ├── current                   the number of the current generation
//! ├── generations/<n>.json      what it consists of
//! ├── generations/<n>.fl        the flist that it was installed from; of several, all of them as one
//! ├── generations/<n>.<k>.fl    of several, each as it was offered
//! ├── journal                   only while a transaction is under way
//! ├── floor                     no new generation gets a number up to this one; usually not there
//! ├── pins.json                 generations that stay until somebody lets them go
//! └── releases.json             attempts, and releases that failed
//!
//! .molt/<n>/                    0700, at the top of each mount: while generation n is installed, what is
//!                               staged; afterwards the files that it replaced, to go back to n - 1
//! .molt/left-<n>-<k>/           what services wrote to migrated state before that was put back, until an upgrade
//!                               is committed
//! ```
//!
//! A newer version may add fields, causes and files: what this one does not know it ignores.

mod identity;
mod pins;
mod retention;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use flist::hub::{Channel, FlistName, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};
use flist::package::{Package, PackageName};
use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

pub use identity::{RootIdentity, boot_id, random_token};
pub use pins::{MOST_PINS, PINS, Pins, TooManyPins};
pub use retention::{Candidate, Retained, retained};
pub use state::GENERATIONS;
pub use state::StateDir;
pub(crate) use state::{CURRENT, FLOOR};

use crate::item::{Item, Items};
use crate::plan::Conflict;

/// Version of the file's layout.
const SCHEMA: u32 = 1;

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// A file could not be read or written.
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
    /// A generation could not be put into words.
    #[error("cannot write generation {number}")]
    Encode {
        /// Its number.
        number: u64,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// A generation is larger than what would be read again.
    #[error(
        "generation {number} has too many files: its record would be {bytes} bytes long, more than {limit}"
    )]
    TooLarge {
        /// Its number.
        number: u64,
        /// Length of the record in bytes.
        bytes: usize,
        /// Most bytes that are read.
        limit: usize,
    },
    /// The file of the pins is not what was written.
    #[error(
        "{} is damaged, so nobody knows which generations are pinned, and none is forgotten; `identityd doctor --fix` sets it aside",
        path.display()
    )]
    Pins {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The identity of the root file system could not be found out.
    #[error("cannot identify the root file system")]
    Identity(#[source] io::Error),
}

/// What a generation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The first boot.
    FirstBoot,
    /// identityd replaced itself; everything else is of the release before.
    SelfUpdate,
    /// A release was installed.
    Release,
    /// An earlier generation was put back.
    Revert,
    /// Something that only a newer version knows.
    #[serde(other)]
    Other,
}

impl Cause {
    /// The cause's one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstBoot => "first-boot",
            Self::SelfUpdate => "self-update",
            Self::Release => "release",
            Self::Revert => "revert",
            Self::Other => "other",
        }
    }
}

/// A file that a generation replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where its content lies now.
    pub slot: FlistPath,
    /// Where it was; unknown to versions before 0.2.
    #[serde(default)]
    pub path: FlistPath,
    /// What it was.
    pub item: Item,
}

/// A flist of a release, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFlist {
    /// The package that it installs.
    pub package: String,
    /// Where it was found.
    pub location: FlistName,
    /// The digest of its bytes.
    pub sha256: Sha256,
}

/// State that a generation migrated, as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptState {
    /// Whose it is.
    pub package: PackageName,
    /// Where it was.
    pub path: FlistPath,
    /// Where it lies now.
    pub slot: FlistPath,
}

/// One generation: a complete installed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Version of this layout.
    pub schema: u32,
    /// Its number; each is one more than the last.
    pub number: u64,
    /// What it came from.
    pub cause: Cause,
    /// The channel that offered it.
    pub channel: Channel,
    /// The release's version, for people.
    pub version: ReleaseVersion,
    /// The release it consists of; after a self-update, the one before.
    pub release: ReleaseId,
    /// The root file system it was installed into.
    pub root: RootIdentity,
    /// What goes into flist.info.
    #[serde(default)]
    pub info: String,
    /// Whether its release was signed by those whom the node trusted then. An earlier version did not note that.
    #[serde(default)]
    pub is_signed: bool,
    /// The flists of the release; none where an earlier version has recorded the only one.
    #[serde(default)]
    pub flists: Vec<RecordedFlist>,
    /// Everything that was installed, at its path without symlinks.
    pub items: Items,
    /// The files that it replaced or removed, for going back.
    #[serde(default)]
    pub kept: Vec<Kept>,
    /// The directories that these files lie in.
    #[serde(default)]
    pub staging: Vec<FlistPath>,
    /// Configuration that somebody has changed and that its release, or one before, changes too. Earlier versions did
    /// not note that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// What its release, or one before, has put beside configuration that somebody has changed, and what is there as it
    /// was put. Earlier versions did not note that.
    #[serde(default, skip_serializing_if = "Items::is_empty")]
    pub besides: Items,
    /// State as it was before it was migrated.
    #[serde(default)]
    pub states: Vec<KeptState>,
    /// What its packages declare: the way back from their migrations and hooks.
    #[serde(default)]
    pub packages: Packages,
    /// The layout of each package's state; `None` when whoever recorded this did not know of such things.
    #[serde(default)]
    pub schemas: Option<BTreeMap<PackageName, u32>>,
    /// Records of layouts were lost: nobody knows those that are not in `schemas`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub layouts_lost: bool,
}

/// Package descriptions by name.
pub type Packages = BTreeMap<PackageName, Package>;

/// What the state says about a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of ours is installed in it: this is a first boot.
    Nothing,
    /// Something was installed, but the record of it is damaged or lost.
    Damaged,
    /// This generation is installed.
    Installed(Box<Generation>),
}

impl Standing {
    /// The generation that is installed, as far as is known.
    pub fn generation(self) -> Option<Generation> {
        match self {
            Self::Installed(generation) => Some(*generation),
            Self::Nothing | Self::Damaged => None,
        }
    }
}

/// A new generation, not yet committed.
pub fn generation(
    number: u64,
    cause: Cause,
    (channel, version, release, flists): (Channel, ReleaseVersion, ReleaseId, &[ReleaseFlist]),
    root: RootIdentity,
    info: String,
    items: Items,
) -> Generation {
    let (kept, staging) = (Vec::new(), Vec::new());
    let recorded = |ReleaseFlist { package, location, sha256, .. }: &ReleaseFlist| {
        let (package, location) = (package.clone(), location.clone());
        RecordedFlist { package, location, sha256: *sha256 }
    };
    let flists = flists.iter().map(recorded).collect();
    let (states, packages, schemas) = (Vec::new(), Packages::new(), None);
    Generation {
        schema: SCHEMA,
        number,
        cause,
        channel,
        version,
        release,
        root,
        info,
        is_signed: false,
        flists,
        items,
        kept,
        staging,
        conflicts: Vec::new(),
        besides: Items::new(),
        states,
        packages,
        schemas,
        layouts_lost: false,
    }
}
