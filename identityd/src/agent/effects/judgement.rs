//! What speaks against a release.

use std::error::Error;

use bootstrap::engine::{EngineError, ReleaseTree};
use bootstrap::generation::{Generation, boot_id};
use bootstrap::releases::{Note, Releases};
use bootstrap::transaction::services::ServiceError;
use flist::hub::{ReleaseId, ReleaseVersion};
use flist::report;

use super::Effects;
use crate::agent::model::{Problem, ProblemKind};
use crate::gates::{BY_READING, BY_RETRY, BY_RETRY_OR_REBOOT, count};

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
        let downgrade = before.and_then(|current| downgrade(&current.version, offered.version()));
        downgrade.or_else(|| {
            let releases = Releases::load(&self.place);
            speaks_against(&releases, offered.version(), offered.id())
        })
    }
}

/// A lower version than the current one.
fn downgrade(current: &ReleaseVersion, offered: &ReleaseVersion) -> Option<Problem> {
    let (current, offered) = (current.semver()?, offered.semver()?);
    let message =
        format!("the channel went back from {current} to {offered}; a lower version is not followed");
    let helps =
        "a version that is not lower; or `allow_downgrade: true` in config.yaml, and a restart of identityd";
    (offered < current).then(|| Problem::new(ProblemKind::Refused, message).helped_by(helps))
}

/// What is noted of a release, where that keeps it from being installed: it is not tried again, or nobody knows.
fn speaks_against(releases: &Releases, version: &ReleaseVersion, id: ReleaseId) -> Option<Problem> {
    let refused = |message| Problem::new(ProblemKind::Refused, message).helped_by(BY_RETRY);
    if let Some(why) = releases.unreadable() {
        let message = format!("nobody knows whether release {version} ({id}) has failed here: {why}");
        return Some(refused(message).helped_by(BY_READING));
    }
    let note = releases.note(&id)?;
    let Note { attempts, excused, reason, .. } = note;
    if note.is_refused() {
        return Some(refused(format!(
            "release {version} ({id}) is not tried again until `identityd retry`: {reason}"
        )));
    }
    if note.is_bad() {
        let times = count(*attempts, "time");
        return Some(refused(format!(
            "release {version} ({id}) failed {times} and is not tried again; the last time: {reason}"
        )));
    }
    let times = count(*excused, "time");
    let message = format!(
        "release {version} ({id}) stopped services {times} for nothing and rests until `identityd retry` or a reboot, although that was not its fault; the last time: {reason}"
    );
    note.rests(&boot_id()).then(|| refused(message).helped_by(BY_RETRY_OR_REBOOT))
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

    use bootstrap::state_place::StatePlace;

    use super::*;

    #[test]
    fn what_is_noted_or_cannot_be_read_speaks_against_a_release_and_what_is_damaged_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (notes, id) = (dir.path().join(bootstrap::releases::FILE), ReleaseId::of([]));
        let version = ReleaseVersion::Text("2.0.0".to_owned());
        let said = || {
            let releases = Releases::load(&StatePlace::fixed(dir.path()));
            speaks_against(&releases, &version, id).map(|problem| problem.message)
        };
        assert_eq!(said(), None);
        std::fs::write(&notes, "{").unwrap();
        assert_eq!(said(), None);
        Releases::load(&StatePlace::fixed(dir.path())).judged_bad(id, "web is not well").unwrap();
        assert!(said().unwrap().contains("web is not well"));
        Releases::load(&StatePlace::fixed(dir.path())).forget("").unwrap();
        Releases::load(&StatePlace::fixed(dir.path())).refused(id, "it would not run").unwrap();
        let refused = said().unwrap();
        assert!(refused.ends_with("`identityd retry`: it would not run"), "{refused}");
        Releases::load(&StatePlace::fixed(dir.path())).forget("").unwrap();
        for rests in [false, false, true] {
            let mut releases = Releases::load(&StatePlace::fixed(dir.path()));
            releases.excuse_downtime(id, "/tmp is full", &boot_id()).unwrap();
            assert_eq!(
                said().is_some_and(|said| said.contains("or a reboot") && said.contains("full")),
                rests
            );
        }
        // Reading a directory fails (EISDIR), as a broken disk does.
        std::fs::remove_file(&notes).unwrap();
        std::fs::create_dir(&notes).unwrap();
        assert!(said().unwrap().contains("nobody knows whether release 2.0.0"));
    }

    #[test]
    fn a_lower_version_is_not_followed_and_is_named() {
        let version =
            |text: &str| ReleaseVersion::in_name(&format!("tf-zos/zos:v{text}.flist").parse().unwrap());
        let said = |current, offered| downgrade(&version(current), &version(offered));
        let lower = said("2.0.0", "1.9.9").unwrap();
        assert!(lower.message.contains("went back from 2.0.0 to 1.9.9"), "{}", lower.message);
        assert_eq!(lower.kind, ProblemKind::Refused);
        assert!(said("2.0.0", "2.0.0-rc.1").is_some());
        assert!(said("2.0.0", "2.0.0").is_none() && said("2.0.0", "2.0.1").is_none());
        // What has no order cannot go back.
        let text = ReleaseVersion::Text("spring".to_owned());
        assert!(
            downgrade(&text, &version("1.0.0")).is_none() && downgrade(&version("1.0.0"), &text).is_none()
        );
    }

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
