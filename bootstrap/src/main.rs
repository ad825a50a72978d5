//! Installs the run mode's release once, at boot.

use std::io::IsTerminal;
use std::process::ExitCode;

use bootstrap::settings::{Overrides, Settings};
use bootstrap::supervise::{self, EXIT_USAGE, Outcome};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Installs the run mode's flist into the root file system and asks zinit to monitor its services.
///
/// Run mode, flist and hub come from the kernel command line (`runmode=`, `flist=`, `hub=`), from
/// /etc/molt/config.yaml, or from the arguments below, the last one winning. Exits with 0 when everything
/// is installed, 2 when the settings are wrong, 1 when something failed.
#[derive(Parser)]
#[command(name = "bootstrap", version)]
struct Arguments {
    /// Run the worker again, with growing pauses, until it has committed; for the boot unit
    #[arg(long)]
    supervise: bool,
    #[command(flatten)]
    overrides: Overrides,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.supervise { run_supervised() } else { run_worker(&arguments.overrides) }
}

fn run_supervised() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--supervise").collect();
    match supervise::run("/proc/self/exe", &arguments) {
        Ok(Outcome::Committed) => ExitCode::SUCCESS,
        Ok(Outcome::Hopeless) => ExitCode::from(EXIT_USAGE),
        Err(error) => fail(&error, ExitCode::FAILURE),
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
