//! `identityd run`

use std::io::IsTerminal;

use bootstrap::settings::{Overrides, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use identityd::RunError;

use super::{CommandResult, Failure, other};

/// Threads that wait for network, files and the socket; blocking work has its own.
const WORKERS: usize = 2;

/// Follow the channel and upgrade this node; ends on SIGTERM, after a running transaction.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    overrides: Overrides,
    /// How the log is written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Log nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

const EXAMPLES: &str = "Examples:
  identityd run
  identityd run --hub http://10.0.2.2:8080 --run-mode dev --log-format json";

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// One line an event, for people
    Text,
    /// One JSON object an event
    Json,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    // Secrets that cannot be used keep the node from asking its hub, not this program from answering.
    let settings = Settings::load_without_secrets(&arguments.overrides).map_err(Failure::Settings)?;
    let level = match (arguments.quiet, settings.switches.debug) {
        (true, _) => "error",
        (false, true) => "debug",
        (false, false) => "info",
    };
    start_log(arguments.log_format, level);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(other)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(other)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(other)?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM"),
                _ = interrupt.recv() => info!("SIGINT"),
            }
        };
        identityd::run(settings, shutdown).await.map_err(|error| match error {
            // As what else is wrong in the configuration.
            error @ RunError::Maintenance { .. } => Failure::Usage(Box::new(error)),
            error => other(error),
        })
    })
}

pub(super) fn start_log(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Who uses this library may have a log of its own already.
    let _started = match format {
        LogFormat::Text => {
            log.compact().with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
        }
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}
