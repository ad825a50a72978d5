//! Keeps a running node at the release its channel offers, without a reboot.
//!
//! | module       | what it does                                                     |
//! |--------------|------------------------------------------------------------------|
//! | [`agent`]    | decides when to poll, when to upgrade, when to wait; has it done |
//! | [`control`]  | the unix socket through which people ask                         |
//! | [`status`]   | the snapshot for people and programs                             |
//! | [`handover`] | the daemon replaces itself                                       |
//!
//! The root file system and the supervisor are touched through `bootstrap` only.

pub mod agent;
pub mod cli;
pub mod control;
pub mod handover;
pub mod maintenance;
pub mod status;
pub mod timestamp;

// The command is written as the user of this library that it is.
extern crate self as identityd;

use std::future::Future;
use std::time::SystemTime;

use tracing::{info, warn};

use agent::effects::Effects;
use agent::{Agent, AgentError, Problem};
use bootstrap::settings::Settings;
use control::{Server, ServerError};
use handover::Handover;
use status::{Daemon, Status, StatusError, StatusFile};

/// The version of this program: the one it was built as, else the crate's.
pub const VERSION: &str = match option_env!("MOLT_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The daemon ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no place for status and socket.
    #[error("could not show the status")]
    Status(#[source] StatusError),
    /// Nobody could ask it anything.
    #[error("could not listen for requests")]
    Control(#[source] ServerError),
    /// The engine did not start.
    #[error("could not start the engine")]
    Engine(#[source] Problem),
    /// The agent gave up.
    #[error("the agent ended")]
    Agent(#[source] AgentError),
}

/// Runs the daemon until `shutdown` comes; a running transaction is finished first.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    // This build knows no root of trust, so no release is authenticated.
    let insecure = true;
    let daemon =
        Daemon { version: VERSION.to_owned(), pid: std::process::id(), started: SystemTime::now().into() };
    info!(version = VERSION, pid = daemon.pid, poll_interval = ?settings.poll_interval, "identityd starts");
    if insecure {
        warn!("INSECURE: there is no root of trust; whoever runs the hub decides what runs here");
    }
    for parameter in &settings.unknown_params {
        warn!(parameter, "unknown kernel parameter; ignored");
    }
    let file = StatusFile::prepare(&settings.run_dir).map_err(RunError::Status)?;
    let server = Server::bind(&settings.run_dir.join(control::SOCKET)).await.map_err(RunError::Control)?;
    let handed_over = Handover::read(&settings.run_dir).filter(|handover| handover.pid == daemon.pid);
    let fetched = handed_over.map(|handover| handover.fetched);
    let status = Status::new(daemon, insecure).continued_from(file.read(), fetched);
    let poll_interval = settings.poll_interval;
    let effects = Effects::new(settings).map_err(RunError::Engine)?;

    let (handle, inbox) = agent::channel(status.clone());
    let server = tokio::spawn(server.serve(handle));
    let result = Agent::new(effects, poll_interval, status, file, inbox).run(shutdown).await;
    server.abort();
    // Waits until the socket is removed; that it was aborted is no news.
    let _aborted = server.await;
    result.map_err(RunError::Agent)
}
