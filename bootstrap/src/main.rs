//! Installs the run mode's release once, at boot.

use std::io::IsTerminal;
use std::process::ExitCode;

use bootstrap::cli::Arguments;
use bootstrap::settings::{Overrides, Settings, SettingsError};
use bootstrap::supervise::{self, EXIT_USAGE, Outcome};
use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
    start_log();
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

/// Levels by target as in `RUST_LOG=debug,hyper=warn`. The richer `EnvFilter` would bring regular expressions
/// into a program that has to be small.
fn start_log() {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|levels| levels.parse::<Targets>().ok());
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .with(wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO)))
        .init();
}

fn fail(error: &(dyn std::error::Error + 'static), code: ExitCode) -> ExitCode {
    eprintln!("bootstrap: {}", flist::report(error));
    code
}
