//! The `flist` command.

use std::process::ExitCode;

use flist::cli;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flist: {}", flist::report(error.as_ref()));
            match error.downcast_ref::<cli::LintFailed>() {
                Some(_) => ExitCode::from(cli::LintFailed::EXIT_CODE),
                None => ExitCode::FAILURE,
            }
        }
    }
}
