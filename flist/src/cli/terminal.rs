//! Asking whoever sits at the terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Longest answer, in bytes.
pub(super) const LONGEST: u64 = 4096;

/// Asks for a secret: what is typed is not shown.
pub(super) fn ask_secret(question: &str) -> io::Result<String> {
    let terminal = open()?;
    let before = tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    (&terminal).write_all(question.as_bytes())?;
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent)?;
    let line = line(&terminal);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &before)?;
    (&terminal).write_all(b"\n")?;
    line
}

/// Asks whether something shall be done; whatever is not a yes is a no.
///
/// # Errors
/// There is nobody to ask.
pub(super) fn agrees(question: &str) -> io::Result<bool> {
    let terminal = open()?;
    (&terminal).write_all(format!("{question} [y/N] ").as_bytes())?;
    Ok(is_yes(&line(&terminal)?))
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOCTTY).open("/dev/tty")
}

fn line(terminal: &File) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(io::Read::take(terminal, LONGEST)).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_yes("y") && is_yes("YES ") && is_yes("Yes"));
        assert!(!is_yes("") && !is_yes("n") && !is_yes("yess") && !is_yes("no, yes"));
    }
}
