//! Between the first stop and the last start there are only renames: what an overlay copies up for them is copied
//! before, and every one of these copies can fail.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;
use std::time::Duration;

use bootstrap::lock;
use molt_model::fault::{Fault, Operation, Planned};
use molt_model::{Observed, scenario};

#[test]
fn an_overlay_is_copied_up_before_the_first_stop_or_the_upgrade_does_not_begin() {
    let directory = tempfile::tempdir().unwrap();
    let lock = lock::take(directory.path(), "the test", Duration::ZERO).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let found = scenario::all().into_iter().find(|scenario| scenario.overlay).unwrap();
        let stage = found.set_up(&lock).await.unwrap();
        let before = Observed::of(&stage.machine);
        let whole = Arc::new(stage.machine.copy());
        whole.plan(None);
        stage.act(&whole, &lock).await.unwrap();
        assert_eq!(whole.with(|root, _, _| root.copied_late), 0, "a rename had to copy up");
        assert_ne!(Observed::of(&whole).difference(&before), Vec::<String>::new());

        // No space for one of the copies, whichever: nothing has been stopped then.
        let operations = whole.operations();
        let first_stop = operations.iter().position(|operation| *operation == Operation::Order).unwrap();
        for at in 0..first_stop {
            let machine = Arc::new(stage.machine.copy());
            machine.plan(Some(Planned { at, fault: Fault::Enospc, lasting: false }));
            if stage.act(&machine, &lock).await.is_err() {
                assert!(!machine.operations().contains(&Operation::Order), "a service was touched: {at}");
                assert_eq!(Observed::of(&machine).difference(&before), Vec::<String>::new(), "{at}");
            }
        }
    });
}
