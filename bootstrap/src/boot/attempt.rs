//! What becomes of the release that the channel offers when it cannot be installed.

use flist::hub::ReleaseId;

use super::BootError;
use crate::engine::EngineError;
use crate::releases::{Releases, ReleasesError};
use crate::state_place::StatePlace;
use crate::transaction::TransactionError;

/// What has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// This node, or nobody knows what state it is in: no other release would go better.
    Node,
    /// Content could not be had.
    Content,
    /// This release cannot be installed, here or anywhere.
    Release,
}

impl Failure {
    pub(super) fn of(error: &BootError) -> Self {
        match error {
            BootError::Engine { source, .. } => Self::of_engine(source),
            BootError::Store { .. } => Self::Content,
            // There is no room for what would be recorded of it, or it has made a thread panic.
            BootError::StatePlace(_) | BootError::Broken(_) => Self::Release,
            _ => Self::Node,
        }
    }

    fn of_engine(error: &EngineError) -> Self {
        match error {
            EngineError::Content { .. }
            | EngineError::NoSource(_)
            | EngineError::Transaction(TransactionError::Content { .. }) => Self::Content,
            EngineError::Transaction(
                TransactionError::Degraded { .. } | TransactionError::NotRecovered(_),
            )
            | EngineError::Unfinished
            | EngineError::Service(_)
            | EngineError::List(_) => Self::Node,
            _ => Self::Release,
        }
    }

    /// Whether the same may go better in a moment.
    pub(super) fn may_pass(self) -> bool {
        self == Self::Content
    }
}

/// An attempt to install a release by a node that has something else to boot from. It is counted from its beginning on,
/// so that a worker is counted too that is killed by it, for instance because the release takes all memory there is.
pub(super) struct Attempt {
    release: ReleaseId,
}

impl Attempt {
    /// Counts it.
    pub(super) fn begin(place: &StatePlace, release: ReleaseId) -> Self {
        told(Releases::load(place).attempt(release));
        Self { release }
    }

    /// Notes how it ended. Only what the release is to blame for stays counted; what was judged is noted already.
    pub(super) fn ended(self, place: &StatePlace, error: Option<&BootError>) {
        // Where the state is now: it may have moved.
        let mut releases = Releases::load(place);
        let transaction = match error {
            Some(BootError::Engine { source: EngineError::Transaction(error), .. }) => Some(error),
            _ => None,
        };
        if transaction.is_some_and(TransactionError::would_not_run) {
            // Found before anything was begun, and found again by whoever asks again.
            told(releases.excuse(self.release));
        }
        told(match (error, transaction) {
            (None, _) => releases.installed(self.release),
            (Some(_), Some(failed)) if failed.is_judged() => Ok(()),
            (Some(_), Some(failed)) if failed.would_not_run() => {
                releases.refused(self.release, &flist::report(failed))
            }
            (Some(error), Some(failed)) if failed.is_the_releases_fault() => {
                releases.failed(self.release, &flist::report(error))
            }
            (Some(_), _) => releases.excuse(self.release),
        });
    }
}

/// What cannot be remembered keeps no node from booting.
fn told(noted: Result<(), ReleasesError>) {
    if let Err(error) = noted {
        tracing::error!(error = %flist::report(&error), "the attempt cannot be remembered");
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use flist::rehearsal::{Code, Finding};

    use super::*;
    use crate::plan::PlanError;
    use crate::releases::MAX_ATTEMPTS;
    use crate::source::SourceError;

    fn engine(source: EngineError) -> BootError {
        BootError::Engine { channel: "a/b:c.flist".to_owned(), source }
    }

    fn content() -> SourceError {
        SourceError::Stopped("no block".to_owned())
    }

    #[test]
    fn what_another_release_may_do_better_and_what_may_pass() {
        let of = |error| Failure::of(&engine(error));
        let path = || "a".parse().unwrap();
        assert_eq!(of(EngineError::Plan(PlanError::MountPoint(path()))), Failure::Release);
        assert_eq!(of(EngineError::Unmet(Vec::new())), Failure::Release);
        assert_eq!(of(EngineError::Content { path: path(), source: content() }), Failure::Content);
        let staged = TransactionError::Content { path: path(), source: content() };
        assert_eq!(of(EngineError::Transaction(staged)), Failure::Content);
        let degraded = TransactionError::Degraded {
            not_undone: Vec::new(),
            source: Box::new(TransactionError::NotRecovered(Vec::new())),
        };
        assert_eq!(of(EngineError::Transaction(degraded)), Failure::Node);
        assert_eq!(of(EngineError::Unfinished), Failure::Node);
        let mount_point = BootError::MountPoint { path: "/x".into(), source: io::ErrorKind::Other.into() };
        assert_eq!(Failure::of(&mount_point), Failure::Node);
        assert!(Failure::Content.may_pass() && !Failure::Release.may_pass());
    }

    #[test]
    fn a_release_that_would_not_run_is_bad_at_once_and_nothing_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let place = StatePlace::fixed(dir.path());
        let release = ReleaseId::of([]);
        let finding = Finding::about_path(Code::MissingExec, "bin/web".parse().unwrap(), "it is missing");
        let refused = engine(EngineError::Transaction(TransactionError::WouldNotRun(vec![finding])));
        Attempt::begin(&place, release).ended(&place, Some(&refused));
        let releases = Releases::load(&place);
        let note = releases.note(&release).unwrap();
        assert!(note.is_bad() && note.is_refused(), "{note:?}");
        assert!(note.reason.contains("it is missing"), "{note:?}");
    }

    #[test]
    fn an_attempt_counts_until_it_has_ended_without_blame() {
        let dir = tempfile::tempdir().unwrap();
        let place = StatePlace::fixed(dir.path());
        let release = ReleaseId::of([]);
        let attempts = || Releases::load(&place).note(&release).map(|note| note.attempts);
        let missing = engine(EngineError::Content { path: "a".parse().unwrap(), source: content() });
        Attempt::begin(&place, release).ended(&place, Some(&missing));
        assert_eq!(attempts(), Some(0), "nobody is to blame");
        for _ in 0..MAX_ATTEMPTS {
            // Killed, so nothing is said of its end.
            Attempt::begin(&place, release);
        }
        assert!(Releases::load(&place).note(&release).unwrap().is_bad());
        Attempt::begin(&place, release).ended(&place, None);
        assert_eq!(attempts(), None);
    }
}
