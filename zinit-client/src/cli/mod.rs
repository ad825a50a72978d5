//! The command line: arguments in, output and exit codes out.

mod failure;
mod verbs;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::Serialize;
use zinit_client::{Client, DEFAULT_SOCKET, DEFAULT_UNITS, SignalName, UnitName};

use failure::{Failure, USAGE};

/// Longest time that an operator can give one order, in seconds.
const MAX_TIMEOUT: u64 = 3600;

/// Shows and steers the services of zinit, whichever version it is.
#[derive(Parser)]
#[command(name = "zinit-client", version, after_help = AFTER_HELP)]
struct Arguments {
    /// The supervisor's socket
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_SOCKET, global = true)]
    socket: PathBuf,
    /// Where unit files are: zinit 0.3 is told what is in them, and `restart` ends services as they say
    #[arg(long, value_name = "DIR", default_value = DEFAULT_UNITS, global = true)]
    units: PathBuf,
    /// How long one answer may take, and `restart` wait for an end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, global = true,
        value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT))]
    timeout: u64,
    /// Print the answer, or the error, as JSON on standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "Examples:
  zinit-client list                          every service and its state
  zinit-client status redis --json
  zinit-client restart redis
  zinit-client kill redis SIGHUP
  zinit-client --socket /tmp/zinit.sock log redis

Exit codes:
  0  done
  1  failed
  2  wrong usage: the same command will fail again
  3  zinit not reached, or a service has not ended in time: later it may work
  4  zinit does not know this service
  5  zinit refused, or would do more than was asked for";

#[derive(Subcommand)]
enum Verb {
    /// Show every service and its state
    List,
    /// Show one service
    Status { service: UnitName },
    /// Want services up
    Start {
        #[arg(required = true)]
        services: Vec<UnitName>,
    },
    /// Want services down, and signal them; zinit 0.2.20 to 0.2.28 kills half a second later
    Stop {
        #[arg(required = true)]
        services: Vec<UnitName>,
    },
    /// Stop services, wait until they have ended, and start them
    Restart {
        #[arg(required = true)]
        services: Vec<UnitName>,
    },
    /// Load units and start them
    Monitor {
        #[arg(required = true)]
        services: Vec<UnitName>,
    },
    /// Remove stopped services from the table
    Forget {
        #[arg(required = true)]
        services: Vec<UnitName>,
    },
    /// Signal the processes of a service
    Kill {
        service: UnitName,
        #[arg(default_value = "SIGTERM")]
        signal: SignalName,
    },
    /// Show what services wrote lately
    Log {
        /// Only this service
        service: Option<UnitName>,
    },
    /// Show which of zinit's dialects is spoken: line, jsonrpc or service
    Dialect,
}

/// Runs one command and says how it ended. The first argument is the program's own name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(error) => return end_of_parsing(&error, &words),
    };
    let json = arguments.json;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return told(&Failure::Output(error), json),
    };
    match runtime.block_on(verbs::run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => told(&failure, json),
    }
}

impl Arguments {
    fn client(&self) -> Client {
        Client::new(&self.socket).with_units(&self.units).with_deadline(self.timeout())
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Prints text for people, or JSON.
    fn print(&self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = match self.json {
            true => serde_json::to_string_pretty(json).map_err(|error| Failure::Output(error.into()))? + "\n",
            false => text(),
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
    }
}

fn told(failure: &Failure, json: bool) -> ExitCode {
    if json {
        // With nobody to read the JSON, there still are the text and the exit code.
        let _unread = writeln!(io::stdout(), "{}", failure.as_json());
    }
    eprintln!("zinit-client: {}", failure.report());
    ExitCode::from(failure.exit_code())
}

/// Says what came of a command line that did not lead to a command: help, the version, or what is wrong.
fn end_of_parsing(error: &clap::Error, words: &[OsString]) -> ExitCode {
    // With nobody to read the text, there still is the exit code.
    let _unread = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if words.iter().any(|word| word == "--json") {
        let text = error.render().to_string();
        let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
        let (error, remedy) = text.split_once("\n\n").unwrap_or((text, "try '--help'"));
        let json = serde_json::json!({"error": error, "causes": [], "remedy": remedy, "exit_code": USAGE});
        let _unread = writeln!(io::stdout(), "{json}");
    }
    ExitCode::from(USAGE)
}
