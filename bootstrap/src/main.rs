//! Installs the run mode's release once, at boot.

use std::io::IsTerminal;
use std::process::ExitCode;

use bootstrap::cli::Arguments;
use bootstrap::settings::{Overrides, Settings, SettingsError};
use bootstrap::supervise::{self, EXIT_USAGE, Outcome};
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.supervise { run_supervised() } else { run_worker(&arguments.overrides) }
}

fn run_supervised() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--supervise").collect();
    match supervise::run("/proc/self/exe", &arguments) {
        Outcome::Committed => ExitCode::SUCCESS,
        Outcome::Hopeless => ExitCode::from(EXIT_USAGE),
    }
}

fn run_worker(overrides: &Overrides) -> ExitCode {
    supervise::die_with_parent();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let settings = match Settings::load(overrides) {
        Ok(settings) => settings,
        // What could not be read may be readable the next time; what is wrong stays wrong.
        Err(error @ SettingsError::Read { .. }) => return fail(&error, ExitCode::FAILURE),
        Err(error) => return fail(&error, ExitCode::from(EXIT_USAGE)),
    };
    for name in &settings.unknown_params {
        tracing::warn!(name, "unknown kernel parameter");
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, ExitCode::FAILURE),
    };
    match runtime.block_on(bootstrap::boot::boot(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, ExitCode::FAILURE),
    }
}

fn fail(error: &(dyn std::error::Error + 'static), code: ExitCode) -> ExitCode {
    eprintln!("bootstrap: {}", flist::report(error));
    code
}
