//! A migration that was cut off and is run again gives what it gives when nothing happens.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;
use std::time::Duration;

use bootstrap::lock;
use molt_model::fault::{Fault, Planned};
use molt_model::{Observed, scenario};

#[test]
fn after_a_kill_anywhere_the_next_attempt_leads_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let lock = lock::take(directory.path(), "the test", Duration::ZERO).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        for name in ["hooks and a migration", "a migration without exchange", "a migration back"] {
            let found = scenario::all().into_iter().find(|scenario| scenario.name == name).unwrap();
            let stage = found.set_up(&lock).await.unwrap();
            let whole = Arc::new(stage.machine.copy());
            whole.plan(None);
            stage.act(&whole, &lock).await.unwrap();
            let (expected, operations) = (Observed::of(&whole), whole.operations().len());
            // Every fourth: `cargo xtask torture` fails all of them.
            for at in (0..operations).step_by(4) {
                for fault in [Fault::KillBefore, Fault::KillAfter, Fault::PowerCut(16)] {
                    let machine = Arc::new(stage.machine.copy());
                    machine.plan(Some(Planned { at, fault, lasting: false }));
                    let _cut_off = stage.act(&machine, &lock).await;
                    let restarted = matches!(fault, Fault::PowerCut(_));
                    if restarted {
                        machine.power_on();
                    }
                    machine.plan(None);
                    stage.recover(&machine, &lock, restarted).await.unwrap();
                    if Observed::of(&machine) != expected {
                        stage.try_again(&machine, &lock).await.unwrap();
                    }
                    let now = Observed::of(&machine);
                    assert_eq!(now.difference(&expected), Vec::<String>::new(), "{name}: {fault} at {at}");
                }
            }
        }
    });
}
