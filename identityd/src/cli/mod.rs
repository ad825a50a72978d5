//! The `identityd` command: arguments in, output and exit codes out.

mod apply;
mod check;
mod daemon;
mod doctor;
mod guardian;
mod history;
mod order;
mod plan;
mod status;
mod why;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use identityd::agent::{Asked, Outcome};
use identityd::control::{self, AskError, DEFAULT_SOCKET};

/// Keeps a running node at the release its channel offers, without a reboot.
#[derive(Parser)]
#[command(name = "identityd", version = identityd::VERSION, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes:
  0  fine; also when there is nothing to do
  1  it failed, or `doctor` found something; the last line says why
  2  wrong usage
  3  identityd could not be reached

Set RUST_LOG=debug to see more of `identityd run`.";

#[derive(Subcommand)]
enum Command {
    Run(Box<daemon::Arguments>),
    Status(status::Arguments),
    Check(check::Arguments),
    Plan(plan::Arguments),
    Apply(apply::Arguments),
    Retry(apply::RetryArguments),
    Hold(order::HoldArguments),
    Unhold(order::UnholdArguments),
    Pause(order::PauseArguments),
    Resume(order::ResumeArguments),
    Cancel(order::CancelArguments),
    Why(why::Arguments),
    History(history::Arguments),
    Doctor(Box<doctor::Arguments>),
    #[command(hide = true)]
    Guardian(guardian::Arguments),
}

/// What the subcommands that ask a running identityd have in common.
#[derive(clap::Args)]
struct Asking {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The socket of the running identityd
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Why a subcommand did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The running identityd gave no good answer.
    #[error(transparent)]
    Ask(AskError),
    /// Anything else; the causes are in the error.
    #[error(transparent)]
    Other(Box<dyn Error>),
}

type CommandResult = Result<(), Failure>;

/// The command line as data, for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Parses the command line and runs one subcommand. Wrong usage, `--help` and `--version` end the process.
pub fn run() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => daemon::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Apply(arguments) => apply::run(arguments),
        Command::Retry(arguments) => apply::retry(arguments),
        Command::Hold(arguments) => order::hold(arguments),
        Command::Unhold(arguments) => order::unhold(arguments),
        Command::Pause(arguments) => order::pause(arguments),
        Command::Resume(arguments) => order::resume(arguments),
        Command::Cancel(arguments) => order::cancel(arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Guardian(arguments) => guardian::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("identityd: {}", with_causes(&failure));
            match failure {
                Failure::Ask(error) if error.is_unreachable() => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// An error and its causes, joined by ": ".
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Asks a question that has one answer.
fn ask(asking: &Asking, asked: impl Into<Asked>) -> Result<Outcome, Failure> {
    wait(asking, control::ask(&asking.socket, asked, |_| {}))
}

/// Waits for a conversation with the daemon. A refusal is part of the JSON output.
fn wait(
    asking: &Asking,
    conversation: impl Future<Output = Result<Outcome, AskError>>,
) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(other)?;
    let answer = runtime.block_on(conversation);
    if let Err(AskError::Refused(problem)) = &answer
        && asking.json
    {
        print_line("error", problem)?;
    }
    answer.map_err(Failure::Ask)
}

fn other(error: impl Error + 'static) -> Failure {
    Failure::Other(Box::new(error))
}

/// An answer to another question than the one that was asked.
fn wrong_answer(asking: &Asking) -> Failure {
    Failure::Ask(AskError::Garbage { socket: asking.socket.clone(), source: None })
}

/// Prints JSON, one value with line breaks.
fn print_json(value: &impl serde::Serialize) -> CommandResult {
    print(&serde_json::to_string_pretty(value).map_err(other)?)
}

/// Prints JSON, one object with this one key, in one line.
fn print_line(key: &str, value: impl serde::Serialize) -> CommandResult {
    print(&serde_json::json!({ key: value }).to_string())
}

/// Prints a text that may or may not end in a line feed.
fn print(text: &str) -> CommandResult {
    match writeln!(io::stdout(), "{}", text.trim_end_matches('\n')) {
        // Somebody who pipes into `head` has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(other(error)),
        _ => Ok(()),
    }
}

/// A release for people: its version and the beginning of its id.
fn release(version: &str, release: &str) -> String {
    let short: String = release.chars().take(12).collect();
    format!("{version} (release {short})")
}

/// Bytes for people.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut scaled = count as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn bytes_have_one_decimal() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn only_an_unreachable_daemon_is_exit_code_3() {
        let socket = PathBuf::from("/nowhere");
        let missing = AskError::NotRunning { socket: socket.clone(), source: io::ErrorKind::NotFound.into() };
        assert!(missing.is_unreachable());
        assert!(with_causes(&missing).contains("/nowhere"));
        assert!(with_causes(&missing).contains("identityd run"));
        assert!(!AskError::BrokenOff { socket, source: None }.is_unreachable());
    }
}
