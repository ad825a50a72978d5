//! What is refused is refused before anything is touched.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;
use std::time::Duration;

use bootstrap::engine::EngineError;
use bootstrap::lock;
use bootstrap::plan::Place;
use bootstrap::transaction::TransactionError;
use flist::rehearsal::Code;
use molt_model::fault::Operation;
use molt_model::scenario::{FileSpec, Scenario, Stopped, upgrade_with};
use molt_model::{Files, Machine, Observed};

/// Upgrades as this scenario does on a machine that is prepared like this; returns the error, after
/// having seen that no service was touched and no file differs.
fn refused(scenario: Scenario, prepare: impl FnOnce(&mut Files, &mut Files)) -> (EngineError, Arc<Machine>) {
    let directory = tempfile::tempdir().unwrap();
    let lock = lock::take(directory.path(), "the test", Duration::ZERO).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let stage = scenario.set_up(&lock).await.unwrap();
        let machine = Arc::new(stage.machine.copy());
        machine.with(|root, state, _| prepare(root, state));
        machine.plan(None);
        let before = Observed::of(&machine);
        let error = stage.act(&machine, &lock).await.unwrap_err();
        assert_eq!(before.difference(&Observed::of(&machine)), Vec::<String>::new());
        assert!(!machine.operations().contains(&Operation::Order), "a service was touched: {error:?}");
        (error, machine)
    })
}

fn codes(changes: &[FileSpec]) -> Vec<Code> {
    codes_of(upgrade_with(changes))
}

fn codes_of(scenario: Scenario) -> Vec<Code> {
    match refused(scenario, |_, _| {}).0 {
        EngineError::Transaction(error @ TransactionError::WouldNotRun(_)) => {
            assert!(error.is_the_releases_fault());
            let TransactionError::WouldNotRun(findings) = error else { unreachable!() };
            findings.into_iter().map(|finding| finding.code).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_would_not_run_is_found_before_a_service_is_stopped() {
    let unit = |text| ("etc/zinit/web.yaml", 0o644, text);
    assert_eq!(codes(&[unit("exec: /bin/nothing\n")]), [Code::MissingExec]);
    assert_eq!(codes(&[unit("exec: /bin/web\ntest: /bin/nothing\n")]), [Code::MissingExec]);
    assert_eq!(codes(&[("bin/web", 0o644, "#!/bin/sh\nweb 2")]), [Code::ExecNotExecutable]);
    assert_eq!(codes(&[("bin/web", 0o755, "#!/bin/python\nweb 2")]), [Code::MissingShebangInterpreter]);
    assert_eq!(codes(&[("bin/web", 0o755, "-> nowhere")]), [Code::MissingExec]);
}

#[test]
fn a_unit_that_somebody_has_edited_is_rehearsed_as_it_stays() {
    let mut scenario = upgrade_with(&[("etc/zinit/db.yaml", 0o644, "exec: /bin/db --two\n")]);
    scenario.edited = vec![("etc/zinit/db.yaml", 0o644, "exec: /bin/helper --mine\n")];
    scenario.release.retain(|file| file.0 != "bin/helper");
    assert_eq!(codes_of(scenario), [Code::MissingExec]);
}

#[test]
fn nothing_is_stopped_that_waits_for_what_somebody_stops_while_files_are_staged() {
    let mut scenario = upgrade_with(&[
        ("bin/web", 0o755, "#!/bin/sh\nweb 2"),
        ("etc/zinit/db.yaml", 0o644, "exec: /bin/db --two\n"),
    ]);
    scenario.stopped = Some(Stopped::Meanwhile("db"));
    let error = refused(scenario, |_, _| {}).0;
    let said = flist::report(&error);
    assert!(said.contains("web would not come up again: it is started after db"), "{said}");
    let EngineError::Transaction(error) = error else { panic!("{error:?}") };
    assert!(!error.is_the_releases_fault());
}

#[test]
fn too_little_space_is_found_before_a_byte_is_written() {
    let changes = [("bin/web", 0o755, "#!/bin/sh\nweb 2")];
    for in_state in [false, true] {
        let (error, machine) = refused(upgrade_with(&changes), |root, state| {
            (if in_state { state } else { root }).available = Some(4096);
        });
        let EngineError::NoSpace(space) = &error else { panic!("{error:?}") };
        assert_eq!(space.at, Place::Directory(if in_state { "/var/lib/molt" } else { "/" }.into()));
        assert!(space.need > 0 && space.have == Some(4096), "{space:?}");
        let touched = |operation: &&Operation| !matches!(operation, Operation::Read | Operation::Ask);
        let operations = machine.operations();
        let changes: Vec<_> = operations.iter().filter(touched).collect();
        // The directory of the records is made when the state is opened, or is there.
        assert_eq!(changes, [&Operation::Allocate]);
    }
}
