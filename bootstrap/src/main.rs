//! Installs the run mode's release once, at boot.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use bootstrap::cli::Arguments;
use bootstrap::kernel_guard;
use bootstrap::settings::{Settings, SettingsError};
use bootstrap::supervise::{self, EXIT_USAGE, Outcome};
use clap::Parser;
use flist::exit::Exit;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    match Arguments::try_parse_from(&words) {
        Ok(Arguments { kernel_guard: Some(seconds), overrides, .. }) => {
            match kernel_guard::guard(&overrides.run_dir, Duration::from_secs(seconds.into())) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, Exit::Failed),
            }
        }
        Ok(arguments) if arguments.supervise => run_supervised(&arguments),
        Ok(arguments) => run_worker(&arguments),
        Err(error) => flist::exit::end_of_parsing(&error, &words),
    }
}

fn run_supervised(Arguments { overrides, .. }: &Arguments) -> ExitCode {
    if let Err(error) = bootstrap::durable::private_directory(&overrides.run_dir) {
        eprintln!(
            "bootstrap: no newer one is tried, because {} is not usable: {error}",
            overrides.run_dir.display()
        );
    }
    if let Err(error) = kernel_guard::start("/proc/self/exe", &overrides.run_dir, overrides.cmdline()) {
        eprintln!("bootstrap: a kernel on trial would not be left, because nobody can watch: {error}");
    }
    let report = overrides.run_dir.join("bootstrap.json");
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--supervise").collect();
    let mounts = bootstrap::boot::mount_directory(&overrides.run_dir);
    match supervise::run("/proc/self/exe", &arguments, &report, &mounts) {
        Outcome::Committed => ExitCode::SUCCESS,
        Outcome::Hopeless => ExitCode::from(EXIT_USAGE),
    }
}

fn run_worker(Arguments { overrides, quiet, .. }: &Arguments) -> ExitCode {
    supervise::die_with_parent();
    let settings = match Settings::load(overrides) {
        Ok(settings) => settings,
        // What could not be read may be readable the next time, and secrets may be put right while the node waits; what
        // is wrong stays wrong.
        Err(error @ (SettingsError::Read { .. } | SettingsError::Access(_))) => {
            return fail(&error, Exit::Failed);
        }
        Err(error) => return fail(&error, Exit::Usage),
    };
    start_log(*quiet, settings.switches.debug);
    for name in &settings.unknown_params {
        tracing::warn!(name, "unknown kernel parameter");
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, Exit::Failed),
    };
    match runtime.block_on(bootstrap::boot::boot(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit()),
    }
}

/// Levels by target as in `RUST_LOG=debug,hyper=warn`. The richer `EnvFilter` would bring regular expressions
/// into a program that has to be small.
fn start_log(quiet: bool, debug: bool) {
    let level = match (quiet, debug) {
        (true, _) => LevelFilter::ERROR,
        (false, true) => LevelFilter::DEBUG,
        (false, false) => LevelFilter::INFO,
    };
    let wanted = std::env::var("RUST_LOG").ok().and_then(|levels| levels.parse::<Targets>().ok());
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .with(wanted.unwrap_or_else(|| Targets::new().with_default(level)))
        .init();
}

fn fail(error: &(dyn std::error::Error + 'static), exit: Exit) -> ExitCode {
    eprintln!("bootstrap: {}", flist::report(error));
    exit.into()
}
