//! Ending services, when a transaction that was cut off is undone.

use std::collections::BTreeSet;

use flist::path::FlistPath;
use zinit_client::{MAX_UNIT_BYTES, ServiceUnit, UnitName};

use super::journal::{Journal, JournalPlace, Record};
use super::left_down::await_end;
use super::{TransactionError, services};
use crate::disk;
use crate::plan::UNIT_DIRECTORY;
use crate::root::Root;
use crate::supervisor::Supervisor;

/// Ends services. The supervisor goes on to know those that somebody has stopped. Those that do not end are noted before
/// their files go, because nothing in the root tells of them after that.
///
/// # Errors
/// [`TransactionError::NotRecovered`] when they cannot be noted; then the files have to stay, for the next recovery to
/// see.
pub(super) async fn end(
    (zinit, root): (&dyn Supervisor, &Root),
    (units, stopped, noted): (&[UnitName], &BTreeSet<UnitName>, &BTreeSet<&UnitName>),
    journal: &JournalPlace,
    not_undone: &mut Vec<String>,
) -> Result<(), TransactionError> {
    let mut units_left = Vec::new();
    for unit in units.iter().rev() {
        let definition = definition_of(root, unit);
        let ended = match stopped.contains(unit) {
            true => await_end(zinit, unit, definition.as_ref()).await,
            false => services::stop_and_forget(zinit, unit, definition.as_ref()).await,
        };
        if let Err(error) = ended {
            not_undone.push(flist::report(&error));
            units_left.push(unit.clone());
        }
    }
    if units_left.iter().all(|unit| noted.contains(unit)) {
        return Ok(());
    }
    let record = Record::Unstopped { units: units_left };
    Journal::at(journal.clone()).append(&record).map_err(|error| {
        not_undone.push(flist::report(&error));
        TransactionError::NotRecovered(std::mem::take(not_undone))
    })
}

/// The unit of a service as it is in the root now: it says how the service is ended, and how long that may take.
/// `None` where there is none that can be read.
fn definition_of(root: &Root, unit: &UnitName) -> Option<ServiceUnit> {
    let path: FlistPath = format!("{UNIT_DIRECTORY}/{unit}.yaml").parse().ok()?;
    let text = disk::read_small(root.disk(), &path, MAX_UNIT_BYTES, true).ok().flatten()?;
    ServiceUnit::parse(unit, &String::from_utf8_lossy(&text)).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_service_is_ended_as_the_unit_that_is_in_the_root_says() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let units = dir.path().join(UNIT_DIRECTORY);
        std::fs::create_dir_all(&units).unwrap();
        let unit: UnitName = "web".parse().unwrap();
        assert!(definition_of(&root, &unit).is_none());
        std::fs::write(units.join("web.yaml"), "exec: [").unwrap();
        assert!(definition_of(&root, &unit).is_none());
        let text = "exec: web\nshutdown_timeout: 60\nsignal:\n  stop: SIGINT\n";
        std::fs::write(units.join("web.yaml"), text).unwrap();
        let found = definition_of(&root, &unit).unwrap();
        let wanted = (Duration::from_secs(60), "SIGINT");
        assert_eq!((found.stop_timeout(), found.stop_signal.as_str()), wanted);
    }
}
