//! Why the engine cannot go on.

use flist::format::FormatError;
use flist::hub::FlistName;
use flist::merge::MergeError;
use flist::package::{PackageError, SchemaRefusal, Unmet};
use flist::path::FlistPath;
use zinit_client::UnitError;

use super::MAX_UNIT;
use crate::generation::{GenerationError, TooManyPins};
use crate::plan::{PlanError, Space};
use crate::root::RootError;
use crate::source::SourceError;
use crate::transaction::TransactionError;
use crate::transaction::services::ServiceError;

/// Why the engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The root file system cannot be looked at.
    #[error("cannot look at the root file system")]
    Root(#[source] RootError),
    /// The state cannot be used.
    #[error("cannot use the state")]
    Generation(#[source] GenerationError),
    /// A flist of the release is not usable.
    #[error("flist {name} of the release is not usable")]
    Flist {
        /// Its name on the hub.
        name: FlistName,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// The flists of the release do not fit together.
    #[error("the packages of the release cannot be installed together")]
    Merge(#[source] MergeError),
    /// Nothing is recorded of a generation.
    #[error("nothing is recorded of generation {0}, or the record is damaged")]
    NoGeneration(u64),
    /// There is nothing to go back to.
    #[error("there is no such generation to go back to; {}", targets(.0))]
    NothingBefore(Vec<u64>),
    /// There is no generation of this number that could be kept.
    #[error("there is no such generation to pin; {}", targets(.0))]
    NotToBePinned(Vec<u64>),
    /// There is no pin to take away.
    #[error("this generation is not pinned; {}", pinned(.0))]
    NotPinned(Vec<u64>),
    /// There is no place for another pin.
    #[error(transparent)]
    TooManyPins(TooManyPins),
    /// A transaction has not ended.
    #[error("an upgrade is under way, or was interrupted and has not been recovered yet; try again later")]
    Unfinished,
    /// A unit of the release is not usable.
    #[error("the unit /{path} of the release is not usable")]
    Unit {
        /// The unit file.
        path: FlistPath,
        /// What is wrong with it.
        #[source]
        source: UnitError,
    },
    /// A unit of the release is no text.
    #[error("the unit /{0} of the release is not UTF-8 or longer than {MAX_UNIT} bytes")]
    UnitText(FlistPath),
    /// The content of a unit cannot be had.
    #[error("the content of the unit /{path} cannot be had")]
    Content {
        /// The unit file.
        path: FlistPath,
        /// The reason.
        #[source]
        source: SourceError,
    },
    /// The description of a package is not usable.
    #[error("the package description /{path} of the release is not usable")]
    Package {
        /// The description.
        path: FlistPath,
        /// What is wrong with it.
        #[source]
        source: PackageError,
    },
    /// This node is not as packages of the release need it.
    #[error("this node does not meet what the release asks for: {}; nothing was fetched", in_words(.0))]
    Unmet(Vec<Unmet>),
    /// The release could not read the state that its packages have on this node.
    #[error("the release could not read the state on this node: {}", in_words(.0))]
    Schema(Vec<SchemaRefusal>),
    /// The stores of the release cannot be used.
    #[error("the package descriptions of the release cannot be read: {0}")]
    NoSource(String),
    /// The supervisor does not answer.
    #[error("cannot find out what runs")]
    Service(#[source] ServiceError),
    /// The supervisor does not list its services.
    #[error("zinit does not list its services")]
    List(#[source] zinit_client::Error),
    /// The release cannot be installed on this node.
    #[error("the release cannot be installed here")]
    Plan(#[source] PlanError),
    /// There is not enough space for it.
    #[error(
        "there is not enough space for the release: {} needs {} bytes and has {}; nothing was fetched",
        .0.at, .0.need, .0.have.unwrap_or_default()
    )]
    NoSpace(Space),
    /// Something went wrong while it was installed.
    #[error("the installation failed")]
    Transaction(#[source] TransactionError),
    /// A thread of the engine failed.
    #[error("looking at the node broke off")]
    Broken(#[source] tokio::task::JoinError),
}

impl EngineError {
    /// Whether another version of Molt may see it in another way: a release that brings one is not held up by it.
    pub fn is_about_molt(&self) -> bool {
        match self {
            Self::Package { .. } => true,
            Self::Unmet(unmet) => unmet.iter().all(Unmet::is_about_molt),
            _ => false,
        }
    }
}

fn in_words<T: std::fmt::Display>(reasons: &[T]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn targets(numbers: &[u64]) -> String {
    match numbers {
        [] => "none is kept".to_owned(),
        _ => format!("these are kept: {}", listed(numbers)),
    }
}

fn pinned(numbers: &[u64]) -> String {
    match numbers {
        [] => "none is".to_owned(),
        _ => format!("these are: {}", listed(numbers)),
    }
}

fn listed(numbers: &[u64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
