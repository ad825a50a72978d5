//! A node whose clock on the wall is wrong, on a machine whose clock is right.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::{BaseFile, Node, job};

/// Where a node has the seconds by which its clock is ahead.
const AHEAD: &str = "/etc/clock-ahead";

/// Longest time that the compiler may take.
const LIMIT: Duration = Duration::from_secs(60);

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

/// Files of a base image with which the clock is `seconds` ahead, or behind. A compiler makes them in `scratch`.
///
/// # Errors
/// When there is no compiler, or it fails.
pub fn clock_ahead(seconds: i64, scratch: &Path) -> Result<[BaseFile; 3], Error> {
    let (source, library) = (scratch.join("clock.c"), scratch.join("clock.so"));
    fs::write(&source, CLOCK).doing(|| format!("write {}", source.display()))?;
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]);
    job::run(&mut compile, LIMIT)?;
    Ok([
        BaseFile::program("/usr/lib/clock.so", library),
        BaseFile::text("/etc/ld.so.preload", "/usr/lib/clock.so\n"),
        BaseFile::text(AHEAD, seconds.to_string()),
    ])
}

/// Sets the clock of a node with these files.
///
/// # Errors
/// When it cannot be set.
pub fn put_clock_ahead(node: &Node, seconds: i64) -> Result<(), Error> {
    // Renamed into place: an empty file is no time.
    let half = node.path(format!("{AHEAD}.half"));
    fs::write(&half, seconds.to_string())
        .and_then(|()| fs::rename(&half, node.path(AHEAD)))
        .doing(|| "set the clock of the node".to_owned())
}
