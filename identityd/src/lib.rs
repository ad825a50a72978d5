//! Keeps a running node at the release its channel offers, without a reboot.
//!
//! | module       | what it does                                                     |
//! |--------------|------------------------------------------------------------------|
//! | [`agent`]    | decides when to poll, when to upgrade, when to wait; has it done |
//! | [`gates`]    | every reason to wait, and why                                    |
//! | [`maintenance`] | windows of time in which upgrades begin by themselves         |
//! | [`orders`]   | what people hold back or have paused                             |
//! | [`own_unit`] | its own unit, which zinit may have another version of            |
//! | [`history`]  | what became of every attempt                                     |
//! | [`downtime`] | how long services will be down, by what was recorded             |
//! | [`doctor`]   | finds and repairs what is wrong with a node                      |
//! | [`control`]  | the unix socket through which people ask                         |
//! | [`status`]   | the snapshot for people and programs                             |
//! | [`handover`] | the daemon replaces itself                                       |
//! | [`kernel`]   | a release that brings another kernel                             |
//!
//! The root file system and the supervisor are touched through `bootstrap` only.

pub mod agent;
pub mod cli;
pub mod control;
pub mod doctor;
pub mod downtime;
pub mod gates;
pub mod handover;
pub mod history;
pub mod kernel;
pub mod orders;
pub mod own_unit;
pub mod status;
pub mod timestamp;

// The command is written as the user of this library that it is.
extern crate self as identityd;

use std::future::Future;
use std::path::PathBuf;
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::{info, warn};

use agent::effects::Effects;
use agent::{Agent, AgentError, Brake, Ground, Problem};
use bootstrap::generation::boot_id;
use bootstrap::maintenance::{MaintenanceError, Windows, ZONEINFO};
use bootstrap::settings::Settings;
use bootstrap::state_place::StatePlace;
use control::{Server, ServerError};
use handover::Handover;
use kernel::Keeper;
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
    /// The maintenance windows are not usable.
    #[error("{} is not valid", config.display())]
    Maintenance {
        /// The configuration file.
        config: PathBuf,
        /// What is wrong with them.
        #[source]
        source: MaintenanceError,
    },
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
    let daemon = Daemon {
        version: VERSION.to_owned(),
        pid: std::process::id(),
        started: SystemTime::now().into(),
        polled: false,
    };
    info!(version = VERSION, pid = daemon.pid, poll_interval = ?settings.poll_interval, "identityd starts");
    for parameter in &settings.unknown_params {
        warn!(parameter, "unknown kernel parameter; ignored");
    }
    let windows = maintenance_windows(&settings)?;
    let file = StatusFile::prepare(&settings.run_dir).map_err(RunError::Status)?;
    let server = Server::bind(&settings.run_dir.join(control::SOCKET)).await.map_err(RunError::Control)?;
    let handed_over = Handover::read(&settings.run_dir).filter(|handover| handover.pid == daemon.pid);
    let fetched = handed_over.as_ref().map(|handover| handover.fetched);
    let (place, run_dir) = (StatePlace::of(&settings), settings.run_dir.clone());
    let (poll_interval, brake) = (settings.poll_interval, Brake::default());
    let (held_by_kernel, longest_postponement) = (settings.switches.hold, settings.longest_postponement);
    let (of_keeper, of_node) = (settings.clone(), (windows.clone(), boot_id()));
    // First of all: it finds out where the state is.
    let effects = Effects::new(settings, brake.clone()).map_err(RunError::Engine)?;
    let node = Some(effects.node());
    let status = Status { node, ..Status::new(daemon, effects.is_insecure()) };
    let status = status.continued_from(file.read(), fetched);
    let (shown, kernel) = watch::channel(None);
    let ground = Ground {
        poll_interval,
        windows,
        longest_postponement,
        held_by_kernel,
        state: place,
        run_dir,
        boot: boot_id(),
        handed_over: handed_over.is_some(),
        brake,
        kernel,
    };

    let (handle, inbox) = agent::channel(status.clone());
    let agent = Agent::new(effects, ground, status, file, inbox);
    let keeper = tokio::spawn(Keeper::new(of_keeper, of_node, handle.clone(), shown).run());
    let server = tokio::spawn(server.serve(handle));
    let result = agent.run(shutdown).await;
    keeper.abort();
    server.abort();
    // Waits until the socket is removed; that it was aborted is no news.
    let _aborted = server.await;
    result.map_err(RunError::Agent)
}

/// The maintenance windows of the configuration.
fn maintenance_windows(settings: &Settings) -> Result<Option<Windows>, RunError> {
    let Some(maintenance) = &settings.maintenance else { return Ok(None) };
    let windows = Windows::new(maintenance, &settings.root.join(ZONEINFO));
    windows.map(Some).map_err(|source| RunError::Maintenance { config: settings.config.clone(), source })
}
