//! A node whose clock is far ahead.

use molt_tests::{Node, Signing, Site, UPGRADE_LIMIT, clock_ahead, put_clock_ahead};

use super::{looks_twice, until, why};

#[test]
fn with_a_clock_far_ahead_a_running_node_stays_as_it_is_and_a_fresh_boot_waits() {
    /// Until the middle of the century.
    const YEARS: i64 = 800_000_000;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    signing.publish(&site.hub, "1.0.0", site.payload("1.0.0").unwrap().directory()).unwrap();
    let node = |by: i64| {
        let node = site.node().file(signing.root().unwrap());
        clock_ahead(by, scratch.path())
            .unwrap()
            .into_iter()
            .fold(node, molt_tests::NodeBuilder::file)
            .boot()
            .unwrap()
    };
    let running = node(0);
    site.await_version(&running, "1.0.0").unwrap();
    let pids = |node: &Node| ["identityd", "web", "idle"].map(|service| node.pid_of(service).unwrap());
    let before = pids(&running);
    put_clock_ahead(&running, YEARS).unwrap();
    signing.publish(&site.hub, "2.0.0", site.payload("2.0.0").unwrap().directory()).unwrap();
    until(&running, "the gate is closed", |status| status["gate"] == "Trust");
    looks_twice(&running);
    let said = why(&running);
    assert!(said.contains("CLOSED Trust") && said.contains("look at the clock"), "{said}");
    assert!(said.contains("what is installed stays: clock:"), "{said}");
    assert_eq!(running.status().unwrap()["installed"]["version"], "1.0.0");
    assert_eq!(pids(&running), before);

    // A machine that starts with such a clock waits, and says for what.
    let fresh = node(YEARS);
    fresh
        .wait_for("the console says what it waits for and why", UPGRADE_LIMIT, || {
            let console = fresh.console();
            match console.contains("waiting for a release that can be trusted")
                && console.contains("look at the clock")
            {
                true => Ok(()),
                false => Err(console.tail(10)),
            }
        })
        .unwrap();
    assert!(!fresh.path("/usr/bin/demo-web").exists());

    // The clock that is set right has done no lasting harm to either.
    put_clock_ahead(&running, 0).unwrap();
    site.await_version(&running, "2.0.0").unwrap();
    drop(running);
    put_clock_ahead(&fresh, 0).unwrap();
    site.await_version(&fresh, "2.0.0").unwrap();
}
