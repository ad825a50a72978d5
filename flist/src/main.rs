//! The `flist` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    flist::cli::run(std::env::args_os())
}
