//! A node whose clock is far ahead.

use std::fs;
use std::path::Path;
use std::process::Command;

use molt_tests::{BaseFile, Node, Signing, Site, UPGRADE_LIMIT};

use super::{looks_twice, until, why};

/// A library that adds the seconds in a file to what the clock on the wall says, in every dynamic program of a node; a
/// namespace has no such clock of its own.
const CLOCK: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *at) {
    int before = errno, result = syscall(SYS_clock_gettime, id, at);
    if (result != 0 || id != CLOCK_REALTIME)
        return result;
    char text[32] = {0};
    int file = open("/etc/clock-ahead", O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0)
            at->tv_sec += atoll(text);
        close(file);
    }
    errno = before;
    return 0;
}
"#;

/// Files of a base image with which the clock is ahead by the seconds in `/etc/clock-ahead`.
fn clock_ahead(by: &str, scratch: &Path) -> [BaseFile; 3] {
    let (source, library) = (scratch.join("clock.c"), scratch.join("clock.so"));
    fs::write(&source, CLOCK).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]);
    molt_tests::run(&mut compile, UPGRADE_LIMIT).unwrap();
    [
        BaseFile::program("/usr/lib/clock.so", library),
        BaseFile::text("/etc/ld.so.preload", "/usr/lib/clock.so\n"),
        BaseFile::text("/etc/clock-ahead", by),
    ]
}

#[test]
fn with_a_clock_far_ahead_a_running_node_stays_as_it_is_and_a_fresh_boot_waits() {
    /// Until the middle of the century.
    const YEARS: &str = "800000000";
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new().unwrap();
    let signing = Signing::new(&site.hub).unwrap();
    signing.publish(&site.hub, "1.0.0", site.payload("1.0.0").unwrap().directory()).unwrap();
    let node = |by: &str| {
        let node = site.node().file(signing.root().unwrap());
        clock_ahead(by, scratch.path()).into_iter().fold(node, molt_tests::NodeBuilder::file).boot().unwrap()
    };
    let running = node("0");
    site.await_version(&running, "1.0.0").unwrap();
    let pids = |node: &Node| ["identityd", "web", "idle"].map(|service| node.pid_of(service).unwrap());
    let before = pids(&running);
    let set = |node: &Node, by: &str| fs::write(node.path("/etc/clock-ahead"), by).unwrap();
    set(&running, YEARS);
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
    set(&running, "0");
    site.await_version(&running, "2.0.0").unwrap();
    drop(running);
    set(&fresh, "0");
    site.await_version(&fresh, "2.0.0").unwrap();
}
