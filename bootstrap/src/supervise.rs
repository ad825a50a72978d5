//! The boot unit's process: a tiny parent that runs the worker again until it has committed.
//!
//! zinit never starts a oneshot again, so somebody else has to (contract, item 3). It is also who watches a
//! newer bootstrap that a worker has become: see [`boot_report`].

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use flist::exit::Exit;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::boot_report::{self, Listener, Overdue, Report};

/// The first pause after a worker that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often it is looked whether a worker gets further.
const LOOK: Duration = Duration::from_millis(500);

/// Exit code of a worker whose settings are wrong: trying again cannot help, only a person can.
pub const EXIT_USAGE: u8 = Exit::Usage.code();

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has committed.
    Committed,
    /// It will never commit with these settings.
    Hopeless,
}

/// How a worker came to its end.
enum Ended {
    ByItself(ExitStatus),
    Killed(Overdue),
}

/// Runs a worker again and again, with pauses that grow, until it has committed or is hopeless. A worker that
/// cannot be started, for instance for lack of memory, is tried again like one that failed; so is a newer
/// bootstrap that says nothing at `report`, gets no further, or has not committed when it ends. Whoever follows one
/// that got no further asks for a release itself first. Workers mount below `mounts`.
pub fn run(program: &str, arguments: &[String], report: &Path, mounts: &Path) -> Outcome {
    let (mut pause, mut own_first) = (FIRST_PAUSE, false);
    loop {
        boot_report::clear(report);
        let environment = boot_report::environment(report, own_first);
        own_first = false;
        let worker = Command::new(program).args(arguments).envs(environment).spawn();
        let ended = match worker.and_then(|worker| watch(worker, report, mounts)) {
            Ok(Ended::ByItself(status)) => match judge(status, boot_report::read(report)) {
                Some(outcome) => return outcome,
                None => format!("ended with {status}"),
            },
            Ok(Ended::Killed(Overdue::Silent)) => {
                "was a newer bootstrap, did not say that it runs and was killed".to_owned()
            }
            Ok(Ended::Killed(Overdue::Stuck(time))) => {
                own_first = true;
                format!("was a newer bootstrap, got no further for {time:?} and was killed")
            }
            Err(error) => format!("could not be started: {error}"),
        };
        eprintln!("bootstrap: the worker {ended}; trying again in {pause:?}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for a worker, and kills it when it is overdue.
fn watch(mut worker: Child, report: &Path, mounts: &Path) -> io::Result<Ended> {
    let (mut listener, mut killed) = (Listener::new(report), None);
    loop {
        if let Some(status) = worker.try_wait()? {
            return Ok(killed.map_or(Ended::ByItself(status), Ended::Killed));
        }
        if is_undead(&worker) {
            abort_mounts(mounts);
        }
        if killed.is_none()
            && let Some(overdue) = listener.overdue(Instant::now())
        {
            worker.kill()?;
            killed = Some(overdue);
        }
        wait_a_little(&worker);
    }
}

/// Whether a worker has ended and threads of it are still there: they read a mount that it served itself, and not even
/// a signal that kills ends the wait for an answer that nobody will give.
fn is_undead(worker: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.id()));
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

/// Lets everybody go who waits for an answer of what is mounted in this directory.
fn abort_mounts(mounts: &Path) {
    let Ok(entries) = std::fs::read_dir(mounts) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        // What is no mount, or gone by now, needs nothing.
        let _ = umount2(&path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
}

/// Waits until a worker has ended, but not longer than [`LOOK`].
fn wait_a_little(worker: &Child) {
    let pid = i32::try_from(worker.id()).ok().and_then(Pid::from_raw);
    let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        // Linux before 5.3.
        return std::thread::sleep(LOOK);
    };
    let ended = PollFd::new(process.as_fd(), PollFlags::POLLIN);
    let limit = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    // Whether that was so is asked of the process itself.
    let _ = nix::poll::poll(&mut [ended], limit);
}

/// What the end of a worker means, by what it has said as a newer bootstrap.
fn judge(status: ExitStatus, said: Option<Report>) -> Option<Outcome> {
    match (status.code(), said) {
        (Some(0), None | Some(Report::Committed)) => Some(Outcome::Committed),
        // A newer one may only not understand the settings.
        (Some(code), None) if code == i32::from(EXIT_USAGE) => Some(Outcome::Hopeless),
        _ => None,
    }
}

/// Makes the worker end when its parent does, whatever that dies of.
pub fn die_with_parent() {
    // An old kernel without this only lets the worker finish what it has begun.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_dies_is_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let script = format!("test -e {0} && exit 0; : > {0}; kill -KILL $$", marker.display());
        let report = dir.path().join("report");
        let run = |script: String| run("sh", &["-c".to_owned(), script], &report, dir.path());
        assert_eq!(run(script), Outcome::Committed);
        assert_eq!(run("exit 2".to_owned()), Outcome::Hopeless);
    }

    #[test]
    fn a_newer_bootstrap_has_to_say_that_it_works_and_that_it_has_committed() {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report");
        let trying = serde_json::to_string(&Report::Trying { seconds: 1, patience: 1 }).unwrap();
        let working = serde_json::to_string(&Report::Working { done: 7 }).unwrap();
        let committed = serde_json::to_string(&Report::Committed).unwrap();
        // Whatever the newer one does but one thing, another worker is run, which ends well.
        for (newer, outcome) in [
            ("exit 0", "again"),
            ("exit 2", "again"),
            ("exec sleep 100000", "again"),
            ("echo nonsense > $MOLT_BOOT_REPORT; exit 0", "again"),
            (&format!("while :; do echo '{working}' > $MOLT_BOOT_REPORT; sleep 0.1; done"), "again, itself"),
            ("while :; do echo nonsense > $MOLT_BOOT_REPORT; sleep 0.1; done", "again, itself"),
            (&format!("echo '{committed}' > $MOLT_BOOT_REPORT; exit 0"), "once"),
        ] {
            let marker = dir.path().join("marker");
            let script = format!(
                "test -e {0} && echo again${{MOLT_BOOT_OWN_FIRST:+, itself}} > {0} && exit 0; \
                 echo once > {0}; echo '{trying}' > $MOLT_BOOT_REPORT.trying; {newer}",
                marker.display()
            );
            assert_eq!(
                run("sh", &["-c".to_owned(), script], &report, dir.path()),
                Outcome::Committed,
                "{newer}"
            );
            assert_eq!(std::fs::read_to_string(&marker).unwrap().trim(), outcome, "{newer}");
            std::fs::remove_file(&marker).unwrap();
        }
    }
}
