//! The `identityd` command: arguments in, output and exit codes out.

mod apply;
mod check;
mod daemon;
mod doctor;
mod generations;
mod guardian;
mod history;
mod order;
mod plan;
mod provision;
mod status;
mod why;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use bootstrap::generation::GENERATIONS;
use bootstrap::settings::SettingsError;
use bootstrap::state_place::StatePlace;
use clap::{CommandFactory, Parser, Subcommand};
use flist::ErrorReport;
use flist::exit::{EXIT_CODES, Exit};
use identityd::agent::{Asked, Outcome, Problem, ProblemKind};
use identityd::control::{self, AskError, DEFAULT_SOCKET};
use identityd::own_unit;

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

/// Why a subcommand did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The running identityd gave no good answer.
    #[error(transparent)]
    Ask(AskError),
    /// The settings are wrong, or cannot be read.
    #[error(transparent)]
    Settings(SettingsError),
    /// The doctor has found something that nobody has repaired; it is told already.
    #[error("{0} of the findings above need somebody")]
    Ill(usize),
    /// What was given cannot be used; the causes are in the error.
    #[error(transparent)]
    Usage(Box<dyn Error>),
    /// It was refused, because something would be lost.
    #[error(transparent)]
    Refused(Box<dyn Error>),
    /// Anything else; the causes are in the error.
    #[error(transparent)]
    Other(Box<dyn Error>),
}

type CommandResult = Result<(), Failure>;

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

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Ask(error) if error.is_unreachable() => Exit::Unreachable,
            Self::Ask(AskError::Refused(problem)) => of_problem(problem),
            Self::Ask(error) if error.is_forbidden() => Exit::Refused,
            Self::Ill(_) => Exit::Differs,
            // What could not be read may be readable the next time.
            Self::Settings(SettingsError::Read { .. }) => Exit::Failed,
            Self::Settings(_) | Self::Usage(_) => Exit::Usage,
            Self::Refused(_) => Exit::Refused,
            Self::Ask(_) | Self::Other(_) => Exit::Failed,
        }
    }

    /// The report that all programs of this project give, and the kind of a problem that the daemon told.
    fn as_json(&self) -> serde_json::Value {
        let mut report = serde_json::json!(ErrorReport::new(self, self.exit(), None));
        if let Self::Ask(AskError::Refused(problem)) = self {
            report["kind"] = problem.kind.as_str().into();
            if !problem.unmet.is_empty() {
                report["unmet"] = serde_json::json!(problem.unmet);
            }
        }
        report
    }
}

/// What the daemon's answer means.
fn of_problem(problem: &Problem) -> Exit {
    match problem.kind {
        _ if !problem.unmet.is_empty() => Exit::Refused,
        ProblemKind::Network if problem.absent => Exit::NotFound,
        ProblemKind::Network | ProblemKind::Busy => Exit::Unreachable,
        ProblemKind::Refused => Exit::Refused,
        ProblemKind::Local | ProblemKind::Degraded => Exit::Failed,
    }
}

/// There is no state of a node where it was looked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no directory {}, where the state of a node is kept; on a node with another one give --state-dir; \
     one that bootstrap has never booted has none",
    .directory.display()
)]
struct NoState {
    directory: PathBuf,
}

/// A directory is none with the state of a node.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no {GENERATIONS} in {}, so this is not the directory with the state of a node; give the right one with --state-dir",
    .directory.display()
)]
struct NoGenerations {
    directory: PathBuf,
}

/// Refuses to look for the state of a node where there is none: what is found empty would be a mistyped directory.
fn require_state(place: &StatePlace) -> CommandResult {
    match place.directory() {
        directory if directory.is_dir() => Ok(()),
        directory => Err(Failure::Usage(Box::new(NoState { directory }))),
    }
}

/// As [`require_state`], for who looks for generations: every node that was ever booted has a place for them.
fn require_generations(place: &StatePlace) -> CommandResult {
    require_state(place)?;
    match place.directory() {
        directory if directory.join(GENERATIONS).is_dir() => Ok(()),
        directory => Err(Failure::Usage(Box::new(NoGenerations { directory }))),
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
    use identityd::agent::Gate;

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

    /// The table of docs/cli.md, by what the daemon answers and by what happens before.
    #[test]
    fn exit_codes() {
        let socket = || PathBuf::from("/nowhere");
        let connect = |kind: io::ErrorKind| AskError::Connect { socket: socket(), source: kind.into() };
        let unmet = || flist::package::Unmet {
            code: "kernel-too-old".into(),
            package: "web".into(),
            need: "kernel 9.0.0 or newer".into(),
            have: "6.1.0".into(),
        };
        let problem = |kind| Problem::new(kind, "no");
        let closed = |gate| Problem::closed(gate, "no");
        let unreadable = SettingsError::Read { path: socket(), source: io::ErrorKind::NotFound.into() };
        let secret = flist::hub::Access::read(&[], Some(&socket()), None).unwrap_err();
        let asked = [
            (
                AskError::NotRunning {
                    socket: socket(),
                    waits: None,
                    source: io::ErrorKind::NotFound.into(),
                },
                3,
            ),
            (AskError::Deadline { socket: socket(), after: std::time::Duration::ZERO }, 3),
            (AskError::BrokenOff { socket: socket(), source: None }, 3),
            (AskError::Garbage { socket: socket(), source: None }, 1),
            (connect(io::ErrorKind::Other), 3),
            (connect(io::ErrorKind::PermissionDenied), 5),
        ];
        let answered = [
            (problem(ProblemKind::Network), 3),
            (Problem { absent: true, ..problem(ProblemKind::Network) }, 4),
            (problem(ProblemKind::Busy), 3),
            (problem(ProblemKind::Local), 1),
            (problem(ProblemKind::Degraded), 1),
            (problem(ProblemKind::Refused), 5),
            (Problem { unmet: vec![unmet()], ..problem(ProblemKind::Refused) }, 5),
            (closed(Gate::Trust), 5),
            (closed(Gate::BadRelease), 5),
            (closed(Gate::Hold), 5),
            (closed(Gate::Pause), 5),
            (closed(Gate::Maintenance), 5),
        ];
        let others = [
            (Failure::Settings(unreadable), 1),
            (Failure::Settings(SettingsError::Access(secret)), 2),
            (Failure::Ill(1), 6),
            (Failure::Usage(Box::new(NoState { directory: socket() })), 2),
            (Failure::Usage(Box::new(NoGenerations { directory: socket() })), 2),
            (other(io::Error::other("x")), 1),
        ];
        let answered = answered.map(|(problem, code)| (Failure::Ask(AskError::Refused(problem)), code));
        let asked = asked.map(|(error, code)| (Failure::Ask(error), code));
        for (failure, code) in asked.into_iter().chain(answered).chain(others) {
            assert_eq!(failure.exit().code(), code, "{failure:?}");
            assert_eq!(failure.as_json()["exit_code"], code, "{failure:?}");
        }
        let lacking = Problem { unmet: vec![unmet()], ..problem(ProblemKind::Refused) };
        let report = Failure::Ask(AskError::Refused(lacking)).as_json();
        assert_eq!(
            (&report["unmet"][0]["code"], &report["kind"]),
            (&"kernel-too-old".into(), &"Refused".into())
        );
    }

    #[test]
    fn a_daemon_that_does_not_run_is_told_with_what_starts_it() {
        let socket = PathBuf::from("/nowhere");
        let waits = Some("for the hub".to_owned());
        let missing = AskError::NotRunning { socket, waits, source: io::ErrorKind::NotFound.into() };
        let report = Failure::Ask(missing).as_json();
        let text = report["error"].as_str().unwrap_or_default();
        for said in ["/nowhere", "identityd run", "not booted yet: for the hub"] {
            assert!(text.contains(said), "{report}");
        }
    }
}
