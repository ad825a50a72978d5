//! Starting another kernel. What happens here cannot be undone, so all that can be refused is refused before.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use bootstrap::programs::{Call, Ended, InRoot, Programs};
use bootstrap::supervisor::Supervisor;
use flist::path::FlistPath;
use nix::sys::reboot::{RebootMode, reboot};
use zinit_client::UnitName;

use super::How;
use super::shipped::{IMAGE, INITRAMFS, Startable};

/// How long services may take to end before the machine goes on without waiting for them.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at them.
const LOOK: Duration = Duration::from_millis(200);

/// How long the program may take that prepares the boot loader.
const BOOT_LOADER_TAKES: Duration = Duration::from_secs(300);

/// Longest command line that Linux takes on most machines, in bytes.
const LONGEST_LINE: usize = 2048;

/// A kernel that panics and stays would never come back to the old one.
const PANIC: &str = "panic=10";

/// What tells bootstrap how many seconds the new kernel has.
const TRIAL: &str = "molt.kernel_trial=";

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel command line cannot be passed on.
    #[error("the kernel command line cannot be passed on: {0}")]
    CommandLine(String),
    /// The running kernel does not take it.
    #[error("the running kernel does not take /{IMAGE} (kexec_file_load)")]
    Refused(#[source] io::Error),
    /// The program that prepares the boot loader could not be run.
    #[error("/{0} cannot be run")]
    BootLoader(FlistPath, #[source] io::Error),
    /// The boot loader is not prepared.
    #[error("/{program} {verb} has not prepared the boot loader: {ended}")]
    NotPrepared {
        /// Who should have.
        program: FlistPath,
        /// What it was asked to do.
        verb: &'static str,
        /// How it ended.
        ended: Ended,
    },
    /// It did not start.
    #[error("the machine could not be restarted")]
    NotStarted(#[source] io::Error),
}

/// Loads a kernel beside the running one, which checks it. The command line is that of the running kernel, with a
/// trial of this many seconds.
///
/// # Errors
/// [`StartError`]; nothing has changed then.
#[allow(unsafe_code, reason = "a system call that no library of ours has")]
pub(super) fn load(startable: &Startable, trial: Duration) -> Result<(), StartError> {
    let running =
        fs::read_to_string("/proc/cmdline").map_err(|error| StartError::CommandLine(error.to_string()))?;
    let line = command_line(&running, trial)?;
    let (no_flags, length) = (0_u64, line.as_bytes_with_nul().len());
    // SAFETY: both descriptors are open files and stay so during the call; `line` is that many bytes, ends with a
    // zero byte and outlives the call, which keeps none of its arguments.
    let code = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_kexec_file_load,
            startable.image.as_raw_fd(),
            startable.initramfs.as_raw_fd(),
            length,
            line.as_ptr(),
            no_flags,
        )
    };
    if code == 0 { Ok(()) } else { Err(StartError::Refused(io::Error::last_os_error())) }
}

/// The command line of the running kernel, for the next one: what a boot loader adds for itself and an earlier trial are
/// left out, and a panic ends in a reboot.
fn command_line(running: &str, trial: Duration) -> Result<CString, StartError> {
    let stays = |word: &&str| {
        let no_more = ["BOOT_IMAGE=", "initrd=", TRIAL].iter().any(|name| word.starts_with(name));
        // With 0 a panic lasts for ever.
        !no_more && *word != "panic=0"
    };
    // What is in quotes keeps its blanks.
    let mut words: Vec<&str> = running.trim().split(' ').filter(stays).collect();
    let trial = format!("{TRIAL}{}", trial.as_secs());
    // Everything after it is for init.
    let ours = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    if !words[..ours].iter().any(|word| word.starts_with("panic=")) {
        words.insert(ours, PANIC);
    }
    words.insert(ours, &trial);
    let line = words.join(" ");
    if line.len() >= LONGEST_LINE {
        let why = format!("it has {} bytes, and less than {LONGEST_LINE} are taken", line.len());
        return Err(StartError::CommandLine(why));
    }
    CString::new(line).map_err(|_| StartError::CommandLine("there is a zero byte in it".to_owned()))
}

/// What the program that prepares the boot loader is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Start the kernel of the release at the next boot, and only then.
    Try,
    /// Start it at every boot from now on.
    Keep,
    /// Start the one before it.
    Back,
}

/// Runs the program that prepares the boot loader: `PROGRAM try|keep|back /boot/vmlinuz /boot/initramfs`.
///
/// # Errors
/// [`StartError`]: nobody knows what boots next then.
pub(super) async fn prepare(root: &Path, program: &FlistPath, verb: Verb) -> Result<(), StartError> {
    let verb = match verb {
        Verb::Try => "try",
        Verb::Keep => "keep",
        Verb::Back => "back",
    };
    let files = [IMAGE, INITRAMFS].map(|path| format!("/{path}"));
    let words = [format!("/{program}"), verb.to_owned()].into_iter().chain(files).collect();
    let call = Call {
        program: program.clone(),
        words,
        environment: Vec::new(),
        mark: "boot-loader".to_owned(),
        instead: Vec::new(),
        timeout: BOOT_LOADER_TAKES,
    };
    let ended = InRoot::new(root).run(&call).await;
    let ended = ended.map_err(|source| StartError::BootLoader(program.clone(), source))?;
    if ended.is_good() {
        return Ok(());
    }
    Err(StartError::NotPrepared { program: program.clone(), verb, ended })
}

/// Ends all services but `own`, the one of this process, writes everything to the disks, and starts the kernel. Returns
/// only when that failed; the services that were ended are started again then.
pub(super) async fn leave(zinit: &dyn Supervisor, own: &str, how: How) -> StartError {
    let ended = end_services(zinit, own).await;
    nix::unistd::sync();
    let mode = match how {
        How::Kexec => RebootMode::RB_KEXEC,
        How::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let Err(errno) = reboot(mode);
    start_services(zinit, &ended).await;
    StartError::NotStarted(errno.into())
}

/// Wants these services up.
pub(super) async fn start_services(zinit: &dyn Supervisor, services: &[UnitName]) {
    for unit in services {
        if let Err(error) = zinit.start(unit).await {
            tracing::error!(service = %unit, error = %flist::report(&error), "it could not be started again");
        }
    }
}

/// A service that does not end in time loses what it had not written, as in any reboot. Returns those that were up.
async fn end_services(zinit: &dyn Supervisor, own: &str) -> Vec<UnitName> {
    let names = zinit.list().await.unwrap_or_default();
    let mut ended = Vec::new();
    for unit in names.iter().filter(|name| *name != own).filter_map(|name| name.parse::<UnitName>().ok()) {
        let is_up = zinit.status(&unit).await.is_ok_and(|status| status.pid.is_some());
        if !is_up {
            continue;
        }
        if let Err(error) = zinit.stop(&unit).await {
            tracing::warn!(service = %unit, error = %flist::report(&error), "it could not be stopped");
        }
        ended.push(unit);
    }
    let start = tokio::time::Instant::now();
    for unit in &ended {
        while zinit.status(unit).await.is_ok_and(|status| status.pid.is_some()) {
            if start.elapsed() > PATIENCE {
                tracing::warn!(service = %unit, "it does not end; going on without it");
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_command_line_is_passed_on_with_a_trial_and_a_panic_ends_in_a_reboot() {
        let line = |running: &str| {
            let line = command_line(running, Duration::from_secs(60));
            line.unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(
            line("BOOT_IMAGE=/v quiet runmode=dev\n"),
            "quiet runmode=dev molt.kernel_trial=60 panic=10"
        );
        assert_eq!(
            line("quiet panic=-1 molt.kernel_trial=9 -- x panic=1"),
            "quiet panic=-1 molt.kernel_trial=60 -- x panic=1"
        );
        assert_eq!(line("initrd=\\i panic=0 -- x"), "molt.kernel_trial=60 panic=10 -- x");
        assert_eq!(line("x=\"a  b\""), "x=\"a  b\" molt.kernel_trial=60 panic=10");
        let error = command_line(&"x".repeat(2048), Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("less than 2048 are taken"), "{error}");
    }

    #[tokio::test]
    async fn the_boot_loader_is_prepared_by_a_program_that_has_to_succeed() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("next-kernel");
        let said = dir.path().join("said");
        let text = format!(
            "#!/bin/sh\necho \"$@\" >> {}\n[ $1 != back ] || {{ echo no; exit 3; }}\n",
            said.display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let program: FlistPath = program.to_str().unwrap().trim_start_matches('/').parse().unwrap();
        let root = Path::new("/");
        prepare(root, &program, Verb::Try).await.unwrap();
        prepare(root, &program, Verb::Keep).await.unwrap();
        let error = prepare(root, &program, Verb::Back).await.unwrap_err();
        assert!(
            error.to_string().contains("back has not prepared the boot loader: it ended with code 3"),
            "{error}"
        );
        let files = "/boot/vmlinuz /boot/initramfs";
        assert_eq!(fs::read_to_string(said).unwrap(), format!("try {files}\nkeep {files}\nback {files}\n"));
        let missing = "does/not/exist".parse().unwrap();
        assert!(matches!(prepare(root, &missing, Verb::Try).await, Err(StartError::BootLoader(..))));
    }
}
