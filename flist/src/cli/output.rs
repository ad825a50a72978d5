//! What the subcommands say: results on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};

use flist::ErrorReport;
use flist::exit::Exit;
use indicatif::ProgressBar;
use serde::Serialize;

use super::Outcome;
use super::failure::Failure;
use super::progress::Progress;

/// What every subcommand can be told about its output.
#[derive(clap::Args)]
pub(super) struct OutputOptions {
    /// Print the result, or the error, as JSON on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Say nothing but errors, and what was asked for: listings, differences, JSON
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// Where a subcommand's words go.
pub(super) struct Output {
    pub(super) json: bool,
    pub(super) quiet: bool,
    bar: ProgressBar,
}

impl Output {
    pub(super) fn new(options: &OutputOptions) -> Self {
        Self { json: options.json, quiet: options.quiet, bar: ProgressBar::hidden() }
    }

    /// A writer for the log that does not write into a progress bar.
    pub(super) fn log(&self) -> LogWriter {
        LogWriter { bar: self.bar.clone() }
    }

    /// A work that takes long begins. Told on standard error: as a bar on a terminal, else in lines.
    pub(super) fn progress(&self, doing: &'static str) -> Progress {
        match (self.quiet, io::stderr().is_terminal()) {
            (true, _) => Progress::silent(),
            (false, true) => Progress::bar(doing, self.bar.clone()),
            (false, false) => Progress::lines(doing),
        }
    }

    /// What was done: a sentence for people, which `--quiet` leaves out, or JSON.
    pub(super) fn done(&self, json: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
        match (self.json, self.quiet) {
            (true, _) => self.print_json(json)?,
            (false, true) => {}
            (false, false) => print(&(text() + "\n"))?,
        }
        Ok(Exit::Done)
    }

    /// What was asked for, in lines or as JSON.
    pub(super) fn data(&self, json: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
        if self.json {
            self.print_json(json)?
        } else {
            print(&text())?
        }
        Ok(Exit::Done)
    }

    /// A remark for people.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            eprintln!("flist: {text}");
        }
    }

    /// Says why it failed, on standard error, and where programs listen also as JSON.
    pub(super) fn failed(&self, failure: &Failure) {
        self.bar.finish_and_clear();
        let Failure { error, exit, remedy } = failure;
        let report = ErrorReport::new(error.as_ref(), *exit, remedy.clone());
        if self.json {
            // With nobody to read the JSON, there still are the text and the exit code.
            let _unread = self.print_json(&report);
        }
        let remedy = remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        eprintln!("flist: {}{remedy}", flist::report(error.as_ref()));
    }

    fn print_json(&self, value: &impl Serialize) -> Result<(), Failure> {
        print(&(serde_json::to_string_pretty(value)? + "\n"))
    }
}

/// Prints data that may be piped into a program that has seen enough before its end.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// `1 block`, `2 blocks`.
pub(super) fn counted(count: impl Into<u64>, what: &str) -> String {
    let count = count.into();
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `1 entry`, `2 entries`.
pub(super) fn counted_entries(count: usize) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// A line at a time to standard error, with the progress bar out of the way.
#[derive(Clone)]
pub(super) struct LogWriter {
    bar: ProgressBar,
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.bar.suspend(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
