//! Why the engine cannot go on.

use flist::format::FormatError;
use flist::hub::FlistName;
use flist::merge::MergeError;
use flist::path::FlistPath;
use zinit_client::UnitError;

use super::MAX_UNIT;
use crate::generation::GenerationError;
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

fn targets(numbers: &[u64]) -> String {
    match numbers {
        [] => "none is kept".to_owned(),
        _ => {
            let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            format!("these are kept: {}", numbers.join(", "))
        }
    }
}
