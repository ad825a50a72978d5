//! The `identityd` command: arguments in, output and exit codes out.

mod apply;
mod check;
mod daemon;
mod doctor;
mod failure;
mod generations;
mod guardian;
mod history;
mod order;
mod pins;
mod place;
mod plan;
mod provision;
mod status;
mod why;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use flist::exit::EXIT_CODES;
use identityd::agent::{Asked, Outcome, Withheld};
use identityd::control::{self, AskError, DEFAULT_SOCKET};
use identityd::own_unit;

use failure::{CommandResult, Failure, other};
use place::{require_generations, require_readable};

/// Keeps a running node at the release its channel offers, without a reboot.
#[derive(Parser)]
#[command(name = "identityd", version = identityd::VERSION, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  identityd status            what runs, what was seen, what is waited for and why
  identityd plan              what the channel's release would change
  identityd apply             check and upgrade now, and show how it goes
  identityd why               every reason to wait, and when it may change
  identityd rollback          put the release before this one back
  identityd hold 2.0.0        do not install this release
  identityd status --json     for a program

Set RUST_LOG=debug to see more of `identityd run`.";

#[derive(Subcommand)]
enum Command {
    Run(Box<daemon::Arguments>),
    Status(status::Arguments),
    Check(check::Arguments),
    Plan(plan::Arguments),
    Apply(apply::Arguments),
    Retry(apply::RetryArguments),
    Rollback(apply::RollbackArguments),
    Generations(Box<generations::Arguments>),
    Pin(Box<pins::PinArguments>),
    Unpin(Box<pins::UnpinArguments>),
    Gc(Box<generations::GcArguments>),
    Hold(order::HoldArguments),
    Unhold(order::UnholdArguments),
    Pause(order::PauseArguments),
    Resume(order::ResumeArguments),
    Cancel(order::CancelArguments),
    Why(why::Arguments),
    History(history::Arguments),
    Doctor(Box<doctor::Arguments>),
    Provision(provision::Arguments),
    #[command(hide = true)]
    Guardian(guardian::Arguments),
}

/// What the subcommands that ask a running identityd have in common.
#[derive(clap::Args)]
struct Asking {
    /// Print the answer, or the error, as JSON on standard output
    #[arg(long)]
    json: bool,
    /// The socket of the running identityd
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// The command line as data, for manual pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs one subcommand and says how it ended. The first argument is the program's own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let followed = own_unit::follow(&words, |words| Arguments::try_parse_from(words).is_ok());
    if let Err(problem) = followed {
        eprintln!("identityd: {problem}");
    }
    let command = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments.command,
        Err(error) => return flist::exit::end_of_parsing(&error, &words),
    };
    let json = words.iter().any(|word| word == "--json");
    match run_command(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json && !matches!(failure, Failure::Ill(_)) {
                // With nobody to read the JSON, there still are the text and the exit code.
                let _unread = print(&failure.as_json().to_string());
            }
            eprintln!("identityd: {}", flist::report(&failure));
            failure.exit().into()
        }
    }
}

fn run_command(command: Command) -> CommandResult {
    match command {
        Command::Run(arguments) => daemon::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Apply(arguments) => apply::run(arguments),
        Command::Retry(arguments) => apply::retry(arguments),
        Command::Rollback(arguments) => apply::rollback(arguments),
        Command::Generations(arguments) => generations::run(&arguments),
        Command::Pin(arguments) => pins::pin(&arguments),
        Command::Unpin(arguments) => pins::unpin(&arguments),
        Command::Gc(arguments) => generations::gc(&arguments),
        Command::Hold(arguments) => order::hold(arguments),
        Command::Unhold(arguments) => order::unhold(arguments),
        Command::Pause(arguments) => order::pause(arguments),
        Command::Resume(arguments) => order::resume(arguments),
        Command::Cancel(arguments) => order::cancel(arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Provision(arguments) => provision::run(&arguments),
        Command::Guardian(arguments) => guardian::run(&arguments),
    }
}

/// Asks a question that has one answer.
fn ask(asking: &Asking, asked: impl Into<Asked>) -> Result<Outcome, Failure> {
    wait(control::ask(&asking.socket, asked, |_| {}))
}

/// Waits for a conversation with the daemon.
fn wait(conversation: impl Future<Output = Result<Outcome, AskError>>) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(other)?;
    runtime.block_on(conversation).map_err(Failure::Ask)
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

/// What the director keeps from this node, why, and until when.
fn kept_back(withheld: &Withheld) -> String {
    let Withheld { version, release: id, why, turn, node, group, .. } = withheld;
    let group = group.as_ref().map(|group| format!(", group {group}")).unwrap_or_default();
    let until = match turn {
        Some(turn) => format!("until {}", turn.at),
        None => "until it signs another choice".to_owned(),
    };
    format!("the director keeps {} from this node ({node}{group}) {until}: {why}", release(version, id))
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

    /// The words of a command line, as a shell tells them apart: by spaces, but not within '.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (number, part) in line.split('\'').enumerate() {
            match number % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        words
    }

    #[test]
    fn every_example_in_the_help_is_a_good_command_line() {
        let command = command();
        for help in command.get_subcommands().filter(|help| !help.is_hide_set()).chain([&command]) {
            let text = help.get_after_help().unwrap_or_default().to_string();
            let examples = text.lines().map(str::trim).filter(|line| line.starts_with("identityd "));
            let examples: Vec<_> =
                examples.map(|line| line.split("   ").next().unwrap_or_default()).collect();
            assert!(examples.len() >= 2, "{}: {text}", help.get_name());
            for example in examples {
                let parsed = Arguments::try_parse_from(words(example));
                assert!(parsed.is_ok(), "{example}: {:?}", parsed.err());
            }
        }
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
}
