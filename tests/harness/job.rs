//! Running a program to its end, bounded in time and output.

use std::io::{self, Read};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::wait::wait_for;

/// Most bytes kept of each output stream.
const MAX_OUTPUT: u64 = 16 << 20;

/// Characters of output shown in an error.
const EXCERPT: usize = 4000;

/// Runs `command` without input and returns what it wrote, whether it succeeded or not.
///
/// # Errors
/// When it cannot be started, or when it is not done within `limit`; it is killed then.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output, Error> {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("run {line}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let ended = wait_for(&format!("{line} ends"), limit, || match child.try_wait() {
        Ok(Some(status)) => Ok(Ok(status)),
        Ok(None) => Err("it still runs".to_owned()),
        Err(error) => Ok(Err(error)),
    });
    if ended.is_err() {
        // It may have ended at this moment; the error of the wait is the one to report.
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = ended?.doing(|| format!("wait for {line}"))?;
    Ok(Output { status, stdout: collected(stdout), stderr: collected(stderr) })
}

/// As [`output`], for a program that has to succeed: returns its standard output as text.
///
/// # Errors
/// Those of [`output`], and [`Error::Command`] when it fails.
pub fn run(command: &mut Command, limit: Duration) -> Result<String, Error> {
    let ended = output(command, limit)?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(failed(&format!("{command:?}"), &ended))
}

/// The error that tells how a program failed.
pub(crate) fn failed(command: &str, ended: &Output) -> Error {
    let text =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let from = text.char_indices().rev().nth(EXCERPT).map_or(0, |(at, _)| at);
    Error::Command {
        command: command.to_owned(),
        status: ended.status.to_string(),
        output: text[from..].trim_end().to_owned(),
    }
}

type Drain = Option<thread::JoinHandle<Vec<u8>>>;

fn drain(stream: Option<impl Read + Send + 'static>) -> Drain {
    stream.map(|mut stream| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What is beyond the limit is read too, or the writer would block; an unreadable pipe counts
            // as its end.
            let _ = stream.by_ref().take(MAX_OUTPUT).read_to_end(&mut bytes);
            let _ = io::copy(&mut stream, &mut io::sink());
            bytes
        })
    })
}

fn collected(drain: Drain) -> Vec<u8> {
    drain.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn failure_tells_what_was_written() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), SOON).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("out\nerr"), "{text}");
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        let error = run(Command::new("sleep").arg("1000"), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }
}
