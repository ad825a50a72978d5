//! Reboots a machine with a new kernel when nobody says in time that everything is well with it.
//!
//! A kernel on trial is started with `molt.kernel_trial=SECONDS`. Where a driver is missing, for the disk of the state
//! or for the network, identityd may never run or never know of the trial, so this process relies on neither: it is
//! started by the boot unit, and by the end of its time there is a note of this boot in the run directory, or the
//! machine reboots. What boots then is the old kernel: the one that the boot loader has.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};

use crate::durable;
use crate::kernel_params;

/// The note in the run directory.
const NOTE: &str = "kernel-well";

/// Longest note, in bytes: the id of a boot has 36.
const LONGEST_NOTE: u64 = 64;

/// Time between two looks for it.
const LOOK: Duration = Duration::from_secs(1);

/// Where Linux says which process ids are seen, and what it says in no container (PROC_PID_INIT_INO).
const PID_NAMESPACE: &str = "/proc/self/ns/pid";
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Where Linux has the id of a boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether this process sees the processes of a container only, whose kernel is not its own.
pub fn in_container() -> bool {
    // Without /proc nobody knows, and then nothing is started.
    fs::read_link(PID_NAMESPACE).map_or(true, |at| at != Path::new(FIRST_PID_NAMESPACE))
}

/// Says that everything is well with the kernel of this boot.
///
/// # Errors
/// The system's.
pub fn say_well(run_dir: &Path) -> io::Result<()> {
    let boot = fs::read(BOOT_ID)?;
    durable::private_directory(run_dir)?;
    durable::replace(&run_dir.join(NOTE), boot.trim_ascii(), 0o600)
}

/// Starts the process `program --kernel-guard SECONDS`, in a session of its own, if the command line in the file
/// `cmdline` says that the kernel is on trial.
///
/// # Errors
/// The system's; a command line that cannot be understood is the worker's to report.
pub fn start(program: &str, run_dir: &Path, cmdline: &Path) -> io::Result<()> {
    let Ok(params) = kernel_params::parse(&fs::read_to_string(cmdline)?) else { return Ok(()) };
    let Some(limit) = params.kernel_trial.filter(|_| !in_container()) else { return Ok(()) };
    eprintln!("bootstrap: this kernel is on trial: the machine reboots unless all is well in {limit:?}");
    let mut guard = Command::new(program);
    guard.arg("--kernel-guard").arg(limit.as_secs().to_string()).arg("--run-dir").arg(run_dir);
    guard.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map(drop)
}

/// What that process does. Returns when all is well, or when the machine cannot be rebooted.
///
/// # Errors
/// The system's.
pub fn guard(run_dir: &Path, limit: Duration) -> io::Result<()> {
    // Whoever ends the boot unit does not mean this process.
    nix::unistd::setsid()?;
    let boot = fs::read(BOOT_ID)?;
    if is_well(run_dir, boot.trim_ascii(), limit) {
        return Ok(());
    }
    // Whoever reads the boot unit's log may have gone with it; that must not keep the machine from rebooting.
    let said =
        format!("bootstrap: not all is well with this kernel after {limit:?}: rebooting, to the old one\n");
    let _unread = io::stderr().write_all(said.as_bytes());
    nix::unistd::sync();
    match reboot(RebootMode::RB_AUTOBOOT) {
        Err(errno) => Err(errno.into()),
    }
}

/// Waits for the note of this boot; `false` when it has not come in time.
fn is_well(run_dir: &Path, boot: &[u8], limit: Duration) -> bool {
    let (note, start) = (run_dir.join(NOTE), Instant::now());
    loop {
        let mut said = Vec::new();
        let read = fs::File::open(&note)
            .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, LONGEST_NOTE), &mut said));
        if read.is_ok() && said == boot {
            return true;
        }
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(left.min(LOOK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_note_of_this_boot_says_that_all_is_well() {
        let dir = tempfile::tempdir().unwrap();
        let short = Duration::from_millis(20);
        assert!(!is_well(dir.path(), b"this", short));
        fs::write(dir.path().join(NOTE), "another").unwrap();
        assert!(!is_well(dir.path(), b"this", short));
        say_well(dir.path()).unwrap();
        let boot = fs::read_to_string(BOOT_ID).unwrap();
        assert!(is_well(dir.path(), boot.trim().as_bytes(), Duration::ZERO));
        // Whoever waits sees it when it comes.
        fs::remove_file(dir.path().join(NOTE)).unwrap();
        let path = dir.path().to_owned();
        let waits = std::thread::spawn(move || is_well(&path, b"later", Duration::from_secs(600)));
        fs::write(dir.path().join(NOTE), "later").unwrap();
        assert!(waits.join().unwrap());
    }

    #[test]
    fn no_guard_is_started_without_a_trial() {
        let dir = tempfile::tempdir().unwrap();
        let cmdline = dir.path().join("cmdline");
        for line in ["quiet runmode=dev", "-- molt.kernel_trial=1", "runmode=nonsense molt.kernel_trial=1"] {
            fs::write(&cmdline, line).unwrap();
            start("/does/not/exist", dir.path(), &cmdline).unwrap();
        }
    }
}
