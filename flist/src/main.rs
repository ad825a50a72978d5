//! The `flist` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flist: {}", flist::report(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
