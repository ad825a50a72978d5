//! Talking to a program that halts at named points (`molt-halting`), in a node.

use std::fs;
use std::path::{Path, PathBuf};

use super::LIMIT;
use crate::Node;
use crate::error::{Doing, Error};

/// Where the program and the campaign leave messages for each other.
const DIRECTORY: &str = "/run/points";

/// The points of a node.
#[derive(Clone, Copy)]
pub(super) struct Points<'n>(pub(super) &'n Node);

impl Points<'_> {
    fn path(self, name: &str) -> PathBuf {
        self.0.path(DIRECTORY).join(name)
    }

    fn make_directory(self) -> Result<(), Error> {
        let directory = self.0.path(DIRECTORY);
        fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))
    }

    /// From here on the names of all points are written down.
    pub(super) fn begin_list(self) -> Result<(), Error> {
        self.make_directory()?;
        let file = self.path("reached");
        fs::write(&file, "").doing(|| format!("write {}", file.display()))
    }

    /// The names of the points that were reached, in this order.
    pub(super) fn end_list(self) -> Result<Vec<String>, Error> {
        let file = self.path("reached");
        let text = fs::read_to_string(&file).doing(|| format!("read {}", file.display()))?;
        fs::remove_file(&file).doing(|| format!("remove {}", file.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The next process that comes by this point halts there.
    pub(super) fn arm(self, point: &str) -> Result<(), Error> {
        self.make_directory()?;
        for name in ["halted", "armed"] {
            // Of the last point; most often it is gone.
            let _ = fs::remove_file(self.path(name));
        }
        let file = self.path("armed");
        fs::write(&file, point).doing(|| format!("write {}", file.display()))
    }

    /// Waits until a process has halted, all its threads, and gives its pid; `None` when `is_over` and nobody has:
    /// what is over is the daemon's work, and whoever watched over it has gone.
    pub(super) fn halted(self, is_over: impl Fn() -> bool) -> Result<Option<u32>, Error> {
        let node = self.0;
        let inside = || fs::read_to_string(self.path("halted")).ok()?.parse::<u32>().ok();
        let inside = node.wait_for("identityd halts", 2 * LIMIT, || {
            if let Some(pid) = inside() {
                return Ok(Some(pid));
            }
            match is_over() && guardians(node).is_ok_and(|guardians| guardians.is_empty()) {
                // What was reached before all was over is written down by now.
                true => Ok(inside()),
                false => Err("it goes on".to_owned()),
            }
        })?;
        let Some(inside) = inside else { return Ok(None) };
        let processes = node.processes()?;
        let halted = processes.iter().find(|process| process.pid_inside == inside);
        let pid =
            halted.ok_or_else(|| Error::Unexpected(format!("the halted process {inside} is gone")))?.pid;
        node.wait_for("all threads stand still", LIMIT, || match threads_that_run(pid) {
            0 => Ok(()),
            running => Err(format!("{running} run")),
        })?;
        Ok(Some(pid))
    }
}

/// The pids, outside, of whoever watches over a handover.
pub(super) fn guardians(node: &Node) -> Result<Vec<u32>, Error> {
    let is_guardian = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"guardian")
    };
    Ok(node.processes()?.iter().map(|process| process.pid).filter(is_guardian).collect())
}

/// Threads of a process that are not stopped, by the third field of /proc/PID/task/TID/stat (proc(5)).
fn threads_that_run(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let is_stopped = |task: &Path| {
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    tasks.filter(|task| !is_stopped(&task.path())).count()
}
