//! Bringing the supervisor up, and taking it down.

use std::io;
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::console::Console;
use crate::lifecycle::Services;
use crate::machine::{self, Ending};
use crate::process::{Environment, parse_environment};
use crate::ring::Ring;
use crate::server::{self, ListenError};
use crate::supervisor::{Signals, Supervisor};

/// Variables for every service.
const ENVIRONMENT_FILE: &str = "/etc/environment";

/// Requests that may wait for the supervisor.
const QUEUE: usize = 64;

/// What the command line of `init` says.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) config: PathBuf,
    /// Lines of log to keep.
    pub(crate) buffer: usize,
    pub(crate) dialect: Dialect,
    /// How long a service that has ended rests before it is started again.
    pub(crate) respawn_delay: Duration,
    pub(crate) debug: bool,
    /// The end of the supervisor is not that of the machine.
    pub(crate) container: bool,
}

/// What is spoken on the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dialect {
    /// That of zinit 0.2.11.
    #[default]
    Line,
    /// That of zinit 0.2.28, with its way to stop a service.
    Jsonrpc,
}

/// A supervisor that does not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("could not use the unit directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("could not find out the absolute path of {}", path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("could not handle signals")]
    Signals { source: io::Error },
    #[error(transparent)]
    Listen(ListenError),
    #[error("could not end the machine: {ending:?}")]
    Machine { ending: Ending, source: io::Error },
}

/// Supervises until the shutdown is over; as the first process of a machine, ends that too.
pub(crate) async fn run(settings: Settings) -> Result<(), InitError> {
    let console = Console::new(settings.debug);
    let socket = absolute_path(&settings.socket)?;
    let directory = absolute_path(&settings.config)?;
    let in_directory = |source| InitError::Directory { path: directory.clone(), source };
    std::env::set_current_dir(&directory).map_err(in_directory)?;

    let signals = Signals::register().map_err(|source| InitError::Signals { source })?;
    let listener = server::listen(&socket).await.map_err(InitError::Listen)?;
    let ring = Ring::new(settings.buffer, console);
    let environment = load_environment(console);
    let services = Services::new(environment, settings.respawn_delay, ring.clone(), console);
    let mut supervisor = Supervisor::new(services, directory.clone(), console);
    supervisor.monitor_all().map_err(in_directory)?;

    let (sender, messages) = mpsc::channel(QUEUE);
    tokio::spawn(server::serve(listener, settings.dialect, sender, ring, console));
    let ending = supervisor.run(messages, signals).await;
    if let Err(error) = std::fs::remove_file(&socket) {
        console.error(format_args!("could not remove the socket {}: {error}", socket.display()));
    }
    if machine::is_ours(settings.container) {
        let ended = machine::end(ending, console);
        return ended.map(|never| match never {}).map_err(|source| InitError::Machine { ending, source });
    }
    Ok(())
}

fn absolute_path(path: &Path) -> Result<PathBuf, InitError> {
    absolute(path).map_err(|source| InitError::Path { path: path.to_owned(), source })
}

fn load_environment(console: Console) -> Environment {
    match std::fs::read_to_string(ENVIRONMENT_FILE) {
        Ok(text) => parse_environment(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Environment::new(),
        Err(error) => {
            console.error(format_args!("could not read {ENVIRONMENT_FILE}: {error}"));
            Environment::new()
        }
    }
}
