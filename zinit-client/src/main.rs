//! `zinit-client`: the supervisor's services, for operators; the same words and output whichever zinit it is.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
