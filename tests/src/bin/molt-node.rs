//! `molt-node`: makes a node in namespaces and waits for it. The test harness starts it; see
//! [`molt_tests::launcher`].

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use clap::{Parser, Subcommand};
use molt_tests::{Error, launcher};

/// Make a node in namespaces of its own and wait for it (a part of the test harness).
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the node that a JSON file describes and stay until its PID 1 exits
    Launch {
        /// The description
        spec: PathBuf,
    },
    /// Be PID 1 of it; `launch` starts this
    #[command(hide = true)]
    Init {
        /// The description
        spec: PathBuf,
    },
    /// Run a program that dies with its parent
    Tied {
        /// The program
        program: PathBuf,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(status) => {
            // As a shell tells it: death by a signal is 128 and its number.
            let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("molt-node: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitStatus, Error> {
    match command {
        Command::Launch { spec } => launcher::launch(spec),
        Command::Init { spec } => launcher::become_init(spec).map(|never| match never {}),
        Command::Tied { program, arguments } => {
            launcher::tied(program, arguments).map(|never| match never {})
        }
    }
}
