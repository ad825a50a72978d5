//! The `identityd` command.

use std::process::ExitCode;

use identityd::cli;

fn main() -> ExitCode {
    cli::run()
}
