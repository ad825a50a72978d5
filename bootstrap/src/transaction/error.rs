//! Why a transaction did not go through.

use std::time::Duration;

use flist::path::FlistPath;
use flist::rehearsal::Finding;
use nix::errno::Errno;
use zinit_client::UnitName;

use super::journal::JournalError;
use super::services::ServiceError;
use crate::boot_info::BootInfoError;
use crate::generation::GenerationError;
use crate::plan::ServicesError;
use crate::root::RootError;
use crate::source::SourceError;

/// Why a transaction did not go through.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The root file system did not do what was asked.
    #[error("a file could not be installed")]
    Root(#[source] RootError),
    /// The content of a file could not be had.
    #[error("the content of /{path} cannot be had")]
    Content {
        /// The file.
        path: FlistPath,
        /// The reason.
        #[source]
        source: SourceError,
    },
    /// A service could not be stopped or started.
    #[error("a service could not be switched")]
    Service(#[source] ServiceError),
    /// The journal could not be kept.
    #[error("the transaction cannot be recorded")]
    Journal(#[source] JournalError),
    /// The new generation could not be recorded.
    #[error("the new generation cannot be recorded")]
    Generation(#[source] GenerationError),
    /// The boot information could not be written.
    #[error("the boot information cannot be written")]
    BootInfo(#[source] BootInfoError),
    /// The engine stopped in the middle, and not everything could be undone afterwards.
    #[error("an interrupted transaction could not be undone: {}", .0.join("; "))]
    NotRecovered(Vec<String>),
    /// A thread of the engine failed.
    #[error("staging broke off")]
    Broken(#[source] tokio::task::JoinError),
    /// Services had been stopped or files swapped when it failed; all of that was undone.
    #[error("it failed half-way and was undone")]
    Undone(#[source] Box<TransactionError>),
    /// It could not be found out whether the release would run.
    #[error("the release cannot be rehearsed")]
    Rehearsal(#[source] flist::rehearsal::RootError),
    /// The root would not run after the swap; no service was touched.
    #[error("the release would not run on this node: {}", in_words(.0))]
    WouldNotRun(Vec<Finding>),
    /// A program of a package could not be run, or nobody knows how it ended.
    #[error("{what} could not be run")]
    NotStarted {
        /// Which program.
        what: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Nobody knows whether what programs of packages did is on its medium.
    #[error("what programs of packages did cannot be made to last")]
    NotSynced(#[source] std::io::Error),
    /// A program of a package did not do what it was asked to.
    #[error("{what} failed: {ended}")]
    Program {
        /// Which program.
        what: String,
        /// How it ended, and what it said last.
        ended: String,
    },
    /// Migrated state has become too large.
    #[error(
        "the state of package {package} takes {bytes} bytes while it is migrated; its description allows {limit}"
    )]
    StateTooLarge {
        /// The package.
        package: String,
        /// Bytes that it takes.
        bytes: u64,
        /// Bytes that it may.
        limit: u64,
    },
    /// A service was away for longer than its unit allows.
    #[error("{unit} was away for {} ms, and its unit allows {} ms", .down.as_millis(), .budget.as_millis())]
    OverBudget {
        /// The service.
        unit: UnitName,
        /// How long it was away when that was found.
        down: Duration,
        /// The longest that it may be.
        budget: Duration,
    },
    /// Something of the release did not do while a file system was full, which may be why.
    #[error("{at} has no room left, which may be why")]
    NoRoom {
        /// The file system.
        at: String,
        /// What did not do.
        #[source]
        source: Box<TransactionError>,
    },
    /// It was undone, but for what hooks did whose inverses failed again and again, and for services that do not come
    /// up again.
    #[error("it was undone, but this stays: {}", .left.join("; "))]
    Left {
        /// What stays.
        left: Vec<String>,
        /// What had failed in the first place.
        #[source]
        source: Box<TransactionError>,
    },
    /// What services wait for that would be stopped has been stopped since the plan was made.
    #[error("services have been stopped since the plan was made, so it cannot be carried out")]
    HeldUp(#[source] ServicesError),
    /// Whoever has to be ready before the swap was not.
    #[error("the swap could not begin")]
    NotReady(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something failed, and not everything could be undone.
    #[error("the node is degraded: {}", .not_undone.join("; "))]
    Degraded {
        /// What could not be undone.
        not_undone: Vec<String>,
        /// What had failed in the first place.
        #[source]
        source: Box<TransactionError>,
    },
}

/// Findings that are told in a message; the log has all.
const FINDINGS_TOLD: usize = 5;

fn in_words(findings: &[Finding]) -> String {
    let told: Vec<_> = findings.iter().take(FINDINGS_TOLD).map(ToString::to_string).collect();
    match findings.len().saturating_sub(FINDINGS_TOLD) {
        0 => told.join("; "),
        more => format!("{}; and {more} more", told.join("; ")),
    }
}

/// Answers of the system that are about this node's disk and memory, not about the release.
const NOT_THE_RELEASE: [Errno; 9] = [
    Errno::ENOSPC,
    Errno::EDQUOT,
    Errno::EIO,
    Errno::EROFS,
    Errno::ENOMEM,
    Errno::EMFILE,
    Errno::ENFILE,
    // A damaged file system.
    Errno::EUCLEAN,
    Errno::EBADMSG,
];

impl TransactionError {
    /// Whether the same may succeed later: the disk or the kernel refused, not a program.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotStarted { source, .. } => {
                let errno = source.raw_os_error().map(Errno::from_raw);
                !matches!(
                    errno,
                    Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ENOEXEC | Errno::ELOOP)
                )
            }
            Self::Program { .. } => false,
            _ => true,
        }
    }

    /// Whether programs of the release were run and did not do, or services were away for too long: trying again would
    /// only cost another downtime.
    pub fn is_judged(&self) -> bool {
        match self {
            Self::Undone(error) => error.is_judged(),
            Self::Left { source, .. } => source.is_judged(),
            Self::Program { .. } | Self::StateTooLarge { .. } | Self::OverBudget { .. } => true,
            Self::Service(ServiceError::NotWell { .. }) => true,
            _ => false,
        }
    }

    /// Whether the rehearsal found that the release would not run here, before anything was touched: it would find the
    /// same again, as long as nobody changes this node.
    pub fn would_not_run(&self) -> bool {
        matches!(self, Self::WouldNotRun(_))
    }

    /// Whether the release is to blame. Whatever fails before the first service is stopped costs nothing, unless
    /// it was the rehearsal that found what would fail; a full or broken disk, or a supervisor that does not answer, is
    /// nobody's release.
    pub fn is_the_releases_fault(&self) -> bool {
        let error = match self {
            Self::WouldNotRun(_) => return true,
            Self::Undone(error) => error,
            Self::Left { source, .. } => source,
            _ => return false,
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            let errno = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            if errno.is_some_and(|errno| NOT_THE_RELEASE.contains(&Errno::from_raw(errno))) {
                return false;
            }
            if error.downcast_ref::<ServiceError>().is_some_and(|error| !error.may_be_the_releases_fault()) {
                return false;
            }
            if matches!(error.downcast_ref::<RootError>(), Some(RootError::Changed(_)))
                || matches!(
                    error.downcast_ref::<TransactionError>(),
                    Some(TransactionError::NoRoom { .. } | TransactionError::HeldUp(_))
                )
            {
                return false;
            }
            cause = error.source();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zinit_client::{Error as ZinitError, Refusal};

    use super::*;

    #[test]
    fn a_supervisor_that_fails_and_a_process_that_does_not_end_are_not_the_releases_fault() {
        let web = || "web".parse().unwrap();
        let undone = |error| TransactionError::Undone(Box::new(TransactionError::Service(error)));
        let zinit = |action, source| ServiceError::Zinit { action, unit: web(), source };
        let refused = |reason| ZinitError::Refused { command: "monitor web".to_owned(), reason };
        let silent =
            || ZinitError::Deadline { command: "monitor web".to_owned(), after: Duration::from_secs(5) };
        for error in [
            zinit("monitor", silent()),
            zinit("monitor", refused(Refusal::ShuttingDown)),
            zinit("stop", refused(Refusal::Other("busy".to_owned()))),
            ServiceError::Immortal { unit: web(), pid: 7, after: Duration::from_secs(10) },
            ServiceError::Unnoticed { unit: web(), after: Duration::from_secs(10) },
            ServiceError::Revived { unit: web() },
            ServiceError::Discard(silent()),
        ] {
            let error = undone(error);
            assert!(!error.is_the_releases_fault(), "{error:?}");
        }
        for error in [
            zinit("monitor", refused(Refusal::ConfigLoad)),
            zinit("start", refused(Refusal::Unit("no exec".to_owned()))),
            ServiceError::NotWell { unit: web(), why: "it ended".to_owned() },
        ] {
            let error = undone(error);
            assert!(error.is_the_releases_fault(), "{error:?}");
        }
    }
}
