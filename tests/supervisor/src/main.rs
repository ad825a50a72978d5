//! A small, real service supervisor that speaks zinit's line dialect, or with `--dialect jsonrpc` that one.
//!
//! It is a **stand-in for tests and the demo, not a product**: it starts, watches, restarts and
//! signals real processes the way zinit 0.2.11 does, so that the end-to-end tests of Molt need no
//! zinit on the machine. Every such test can run against the real one instead, with
//! `MOLT_ZINIT=/path/to/zinit` in the environment; what the two do differently is a fault here.
//!
//! `molt-supervisor -s SOCK init --container -c DIR` supervises the units `DIR/*.yaml`; the other
//! subcommands are the client side, with zinit's names and arguments, for scripts inside a node. As
//! process 1 of a PID namespace it reaps orphans, and the namespace ends with it.
//!
//! # What is ours and what is shared
//! The client side uses `zinit-client`. The serving side does not: it has its own model of units,
//! states and messages, written from the measured protocol. With one shared model a wrong default
//! or a misspelt state would be wrong on both sides at once, and every test green.
//!
//! # Deliberate differences from zinit
//! * `shutdown` and `reboot` end the program, and the machine only where this is its first process and
//!   `--container` was not given; SIGTERM and SIGHUP are a `shutdown`, SIGINT is a `reboot`.
//! * A socket on which somebody listens is not taken over.
//! * `monitor` takes no path out of the unit directory, requests and units have a size limit, and a
//!   line of log over 4 KiB is cut into several.
//! * A `test` that cannot be run is tried again every two seconds, and not in a busy loop.
//! * Services that wait are looked at after every change, zinit does so only after some.
//!
//! `--respawn-delay` makes it start what has ended earlier than zinit's two seconds, so that campaigns need not wait.
//!
//! `MOLT_SUPERVISOR_CONSOLE=1` copies the lines of the log ring to standard output.

mod cli;
mod console;
mod init;
mod jsonrpc;
mod lifecycle;
mod machine;
mod process;
mod protocol;
mod ring;
mod server;
mod service;
mod shutdown;
mod supervisor;
mod timers;
mod unit;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The unix socket to listen on, or to talk to.
    #[arg(short, long, value_name = "SOCKET", default_value = "/var/run/zinit.sock")]
    socket: PathBuf,
    /// Say on standard output what every service does.
    #[arg(short, long)]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Supervise the units of a directory.
    Init {
        /// The directory of the units; only files that end in .yaml count.
        #[arg(short, long, value_name = "DIR", default_value = "/etc/zinit/")]
        config: PathBuf,
        /// How many lines of log to keep.
        #[arg(short, long, value_name = "LINES", default_value_t = 2000)]
        buffer: usize,
        /// What to speak on the socket.
        #[arg(long, value_enum, default_value_t)]
        dialect: init::Dialect,
        /// How long a service that has ended rests before it is started again; that of zinit is 2000.
        #[arg(long, value_name = "MILLISECONDS", default_value_t = 2000)]
        respawn_delay: u32,
        /// Never end the machine, only this program.
        #[arg(long)]
        container: bool,
    },
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Init { config, buffer, dialect, respawn_delay, container } => {
            let settings = init::Settings {
                socket: arguments.socket,
                config,
                buffer,
                dialect,
                respawn_delay: Duration::from_millis(respawn_delay.into()),
                debug: arguments.debug,
                container,
            };
            run(init::run(settings)).and_then(|result| result.map_err(Into::into))
        }
        Command::Client(command) => run(cli::run(&arguments.socket, command)).flatten(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("molt-supervisor: {}", console::Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` on one thread. Reaping depends on it: between the birth of a child and its entry in
/// the table nothing else may run.
fn run<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}
