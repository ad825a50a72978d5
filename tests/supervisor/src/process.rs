//! Starting, signalling and reaping processes.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, wait};

use crate::console::CONSOLE_VARIABLE;
use crate::service::{End, Ended};
use crate::unit::LogTarget;

/// A process that was started, and its output if that is to be read.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

/// A command that could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("the command line {0:?} has an open quote or no program")]
    BadCommand(String),
    #[error("{program:?} cannot be run in {directory:?}")]
    Spawn { program: String, directory: String, source: io::Error },
}

/// Environment variables.
pub(crate) type Environment = BTreeMap<String, String>;

/// Starts `command_line`, split like a shell's words but without a shell, as the leader of a new
/// process group.
///
/// Its environment is ours, over it `base`, over that `own`. Nobody may wait for the process but
/// [`reap`].
pub(crate) fn start(
    command_line: &str,
    directory: &str,
    [base, own]: [&Environment; 2],
    log: LogTarget,
) -> Result<Started, StartError> {
    let words = shlex::split(command_line).unwrap_or_default();
    let Some((program, arguments)) = words.split_first() else {
        return Err(StartError::BadCommand(command_line.to_owned()));
    };
    let directory = if directory.is_empty() { "/" } else { directory };
    let output = || match log {
        LogTarget::None => Stdio::null(),
        LogTarget::Ring => Stdio::piped(),
        LogTarget::Stdout => Stdio::inherit(),
    };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env_remove(CONSOLE_VARIABLE)
        .envs(base)
        .envs(own)
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .process_group(0)
        .spawn()
        .map_err(|source| StartError::Spawn {
            program: program.clone(),
            directory: directory.to_owned(),
            source,
        })?;
    // The handle is dropped, which neither kills nor waits.
    Ok(Started { pid: child.id().cast_signed(), stdout: child.stdout.take(), stderr: child.stderr.take() })
}

/// Sends `signal` to the process group led by `leader`, a child that was not reaped yet: until
/// then no other process can get its number.
pub(crate) fn signal_group(leader: i32, signal: Signal) -> Result<(), Errno> {
    killpg(Pid::from_raw(leader), signal)
}

/// Reaps a child that ended, ours by birth or by adoption, if there is one.
pub(crate) fn reap() -> Option<Ended> {
    loop {
        // Not nix: it fails on the signals it has no name for, after the child has been reaped.
        match wait(WaitOptions::NOHANG) {
            Ok(None) => return None,
            Err(rustix::io::Errno::INTR) => {}
            // There are no children.
            Err(_) => return None,
            Ok(Some((pid, status))) => {
                let how = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => End::Exited(code),
                    (None, Some(signal)) => {
                        // WCOREDUMP, which rustix does not wrap.
                        End::Signaled { signal, core_dumped: status.as_raw() & 0x80 != 0 }
                    }
                    (None, None) => continue,
                };
                return Some(Ended { pid: pid.as_raw_nonzero().get(), how });
            }
        }
    }
}

/// Reads the assignments of `/etc/environment`: `NAME=value` lines, taken literally.
pub(crate) fn parse_environment(text: &str) -> Environment {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once('=').unwrap_or((line, "")))
        // Such a name would make every start fail.
        .filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etc_environment() {
        let read = parse_environment("# comment\n\nA=1\n B = x=y \nC\n=nothing\nQ=\"q\"\n");
        let expected = [("A", "1"), ("B ", " x=y"), ("C", ""), ("Q", "\"q\"")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(read, expected.into());
    }

    #[test]
    fn what_cannot_be_started() {
        let none = Environment::new();
        let try_to = |command: &str, directory: &str| {
            start(command, directory, [&none, &none], LogTarget::None).unwrap_err()
        };
        assert!(matches!(try_to("sh -c 'a", ""), StartError::BadCommand(_)));
        assert!(matches!(try_to("", ""), StartError::BadCommand(_)));
        assert!(matches!(try_to("/no/such/program", ""), StartError::Spawn { .. }));
        assert!(matches!(try_to("true", "/no/such/directory"), StartError::Spawn { .. }));
    }
}
