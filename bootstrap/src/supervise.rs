//! The boot unit's process: a tiny parent that runs the worker again until it has committed.
//!
//! zinit never starts a oneshot again, so somebody else has to (contract, item 3).

use std::process::{Command, ExitStatus};
use std::time::Duration;

use flist::exit::Exit;
use nix::sys::signal::Signal;

/// The first pause after a worker that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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

/// Runs a worker again and again, with pauses that grow, until it has committed or is hopeless. A worker that
/// cannot be started, for instance for lack of memory, is tried again like one that failed.
pub fn run(program: &str, arguments: &[String]) -> Outcome {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = match Command::new(program).args(arguments).status() {
            Ok(status) => match judge(status) {
                Some(outcome) => return outcome,
                None => format!("ended with {status}"),
            },
            Err(error) => format!("could not be started: {error}"),
        };
        eprintln!("bootstrap: the worker {ended}; trying again in {pause:?}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn judge(status: ExitStatus) -> Option<Outcome> {
    match status.code() {
        Some(0) => Some(Outcome::Committed),
        Some(code) if code == i32::from(EXIT_USAGE) => Some(Outcome::Hopeless),
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
        assert_eq!(run("sh", &["-c".to_owned(), script]), Outcome::Committed);
        assert_eq!(run("sh", &["-c".to_owned(), "exit 2".to_owned()]), Outcome::Hopeless);
    }
}
