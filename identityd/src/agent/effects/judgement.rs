//! What speaks against a release.

use std::error::Error;

use bootstrap::engine::{EngineError, ReleaseTree};
use bootstrap::generation::Generation;
use bootstrap::releases::{Note, Releases};
use bootstrap::transaction::services::ServiceError;
use flist::hub::ReleaseVersion;
use flist::report;

use super::Effects;
use crate::agent::model::{Problem, ProblemKind};
use crate::gates::count;

impl Effects {
    /// The last daemon may have been killed after the commit and before it had noted that all went well.
    pub(super) fn excuse_installed(&self) {
        let Ok(Some(current)) = self.engine.current() else { return };
        let mut releases = Releases::load(&self.place);
        if let Err(error) = releases.installed(current.release) {
            tracing::warn!(error = report(&error), "an attempt that ended well still counts");
        }
    }
}

impl Effects {
    /// What speaks against a release, as long as nothing else is known.
    pub(super) fn objection(&self, current: Option<&Generation>, offered: &ReleaseTree) -> Option<Problem> {
        let before = current.filter(|_| !self.settings.trust.allow_downgrade);
        let downgrade = before.and_then(|current| downgrade(&current.version, &offered.version));
        downgrade.or_else(|| {
            let releases = Releases::load(&self.place);
            releases.note(&offered.id).filter(|note| note.is_bad()).map(|note| bad_release(offered, note))
        })
    }
}

/// A lower version than the current one.
fn downgrade(current: &ReleaseVersion, offered: &ReleaseVersion) -> Option<Problem> {
    let (current, offered) = (current.semver()?, offered.semver()?);
    let message =
        format!("the channel went back from {current} to {offered}; a lower version is not followed");
    (offered < current).then(|| Problem::new(ProblemKind::Refused, message))
}

/// A release that is not tried again.
fn bad_release(offered: &ReleaseTree, Note { attempts, reason, .. }: &Note) -> Problem {
    let (version, id) = (&offered.version, offered.id);
    let times = count(*attempts, "time");
    let message =
        format!("release {version} ({id}) failed {times} and is not tried again; the last time: {reason}");
    Problem::new(ProblemKind::Refused, message)
}

/// Whether services of the release were started and did not do: trying again would only cost another
/// downtime.
pub(super) fn is_judged(error: &EngineError) -> bool {
    if matches!(error, EngineError::Transaction(error) if error.is_judged()) {
        return true;
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ServiceError>() {
            return matches!(error, ServiceError::NotWell { .. });
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use bootstrap::transaction::TransactionError;

    use super::*;

    #[test]
    fn only_services_that_did_not_do_judge_a_release() {
        let undone = |error| EngineError::Transaction(TransactionError::Undone(Box::new(error)));
        let unit = || "web".parse().unwrap();
        let not_well = ServiceError::NotWell { unit: unit(), why: "its state is Failure".to_owned() };
        assert!(is_judged(&undone(TransactionError::Service(not_well))));
        let after = std::time::Duration::from_secs(10);
        let unnoticed = ServiceError::Unnoticed { unit: unit(), after };
        assert!(!is_judged(&undone(TransactionError::Service(unnoticed))));
        let full = std::io::Error::from_raw_os_error(nix::libc::ENOSPC);
        assert!(!is_judged(&undone(TransactionError::NotReady(full.into()))));
    }
}
