//! The `identityd` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    identityd::cli::run(std::env::args_os())
}
