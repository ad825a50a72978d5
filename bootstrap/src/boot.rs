//! The boot pipeline: wait for the hub, find the release, mount it, install it, leave.

mod attempt;
mod carry_out;
mod choice;
mod identityd;
mod install;
mod meter;
mod offline;
mod stopped;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flist::exit::Exit;
use flist::hub::ReleaseVersion;
use flist::mount::{MountError, detach};
use flist::store::StoreError;

use crate::boot_info::{self, BootInfoError};
use crate::boot_report::Reporter;
use crate::boot_waits;
use crate::engine::{Engine, EngineError, LOCK_PATIENCE};
use crate::generation::{Generation, RootIdentity};
use crate::lock::{self, EngineLock, LockError};
use crate::newer;
use crate::offers::{Asked, Offers, OffersError, Question};
use crate::root::Root;
use crate::settings::Settings;
use crate::state_place::{StatePlace, StatePlaceError};
use carry_out::carry_out;
use choice::{Choice, Trust, choose};
use offline::Offline;
use stopped::Stopped;

/// The longest pause between two attempts to reach the hub.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The first one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How often the supervisor is asked who is stopped, if it does not answer.
const LOOKS: u32 = 3;

const USER_AGENT: &str = concat!("bootstrap/", env!("CARGO_PKG_VERSION"));

/// Why the node did not boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A hub's address or the root of trust is not usable.
    #[error("cannot ask for a release")]
    Offers(#[source] OffersError),
    /// Another engine is at work and does not finish.
    #[error("cannot begin")]
    Lock(#[source] LockError),
    /// The engine failed.
    #[error("cannot install {channel}")]
    Engine {
        /// What was to be installed.
        channel: String,
        /// The reason.
        #[source]
        source: EngineError,
    },
    /// The node's own state is not usable.
    #[error("cannot use this node's state")]
    State(#[source] EngineError),
    /// The node's state cannot be where it is, nor anywhere else.
    #[error("cannot use this node's state")]
    StatePlace(#[source] StatePlaceError),
    /// The stores of the flist are not usable.
    #[error("cannot use the block stores of {channel}")]
    Store {
        /// What was to be installed.
        channel: String,
        /// The reason.
        #[source]
        source: StoreError,
    },
    /// The flist cannot be unmounted.
    #[error("cannot unmount {channel}")]
    Unmount {
        /// What is mounted.
        channel: String,
        /// The reason.
        #[source]
        source: MountError,
    },
    /// The boot information cannot be written.
    #[error("cannot say what this node was booted from")]
    BootInfo(#[source] BootInfoError),
    /// The mount point cannot be made.
    #[error("cannot prepare the mount point {path}")]
    MountPoint {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A thread failed.
    #[error("the installation broke off")]
    Broken(#[source] tokio::task::JoinError),
}

impl BootError {
    /// How the program ends for it.
    pub fn exit(&self) -> Exit {
        let told = match self {
            // It speaks with the hub's words, and so its causes begin after them.
            Self::Offers(OffersError::Hub(error)) => Exit::of(error),
            error => Exit::of(error),
        };
        match told {
            // Whoever has the lock ends, or is killed.
            _ if matches!(self, Self::Lock(LockError::Held { .. })) => Exit::Unreachable,
            // The settings are good: what is wrong in a release can be right in the next one.
            Exit::Usage => Exit::Failed,
            exit => exit,
        }
    }
}

/// Boots the node: returns when a release is installed, recorded and its services are monitored. A root
/// that has a generation of the same channel keeps it, without asking the hub: changing it is identityd's
/// work. So a second run changes nothing. One of another channel is upgraded, and kept where that fails. Where the
/// channel offers a release that is bad on this node, held, or cannot be installed, the newest good one that is recorded
/// is installed instead; without one, another release is waited for, unless it is only held.
///
/// # Errors
/// [`BootError`]; nothing half-installed is left then.
pub async fn boot(settings: &Settings) -> Result<(), BootError> {
    let lock = take_lock(settings).await?;
    let engine = open_engine(settings, &lock, 0)?;
    clear_stale_mounts(&settings.run_dir);
    let stopped = Stopped::default();
    recover(&engine, &lock, &stopped).await?;
    let mut reporter = Reporter::of_this_process();
    if let Some(newer) = reporter.as_ref().and_then(Reporter::newer) {
        tracing::info!(release = newer, version = env!("CARGO_PKG_VERSION"), "this is a newer bootstrap");
    }
    if is_installed(&engine, &lock, settings, &stopped).await? {
        committed(settings, reporter.as_ref());
        return Ok(());
    }
    // Nobody else has to wait while this one waits for the hub.
    drop(lock);
    let (lock, engine, choice) = loop {
        let choice = wait_for_choice(settings, &engine, &mut reporter).await?;
        let lock = take_lock(settings).await?;
        let engine = open_engine(settings, &lock, 0)?;
        recover(&engine, &lock, &stopped).await?;
        // Somebody else may have been faster, and by now this would be an upgrade that nobody watches.
        if is_installed(&engine, &lock, settings, &stopped).await? {
            committed(settings, reporter.as_ref());
            return Ok(());
        }
        let Choice::Offered(release) = choice else { break (lock, engine, choice) };
        // What was true without the lock may not be true with it.
        match choose(&engine, settings, release)? {
            Choice::Other { other, .. } if other.is_nothing() => {}
            choice => break (lock, engine, choice),
        }
    };
    let installed = carry_out(&engine, &lock, settings, choice, &stopped).await;
    if installed.is_ok() {
        committed(settings, reporter.as_ref());
    }
    installed
}

/// Tells whoever watches a newer bootstrap that it does, and takes back what was waited for.
fn committed(settings: &Settings, reporter: Option<&Reporter>) {
    boot_waits::clear(&settings.run_dir);
    if let Some(reporter) = reporter {
        newer::succeeded(settings, reporter);
        reporter.committed();
    }
}

/// The engine on the state where it is usable: on its disk, or in RAM, with room for `need` bytes of records.
fn open_engine(settings: &Settings, lock: &EngineLock, need: u64) -> Result<Engine, BootError> {
    let root = Root::open(&settings.root).map_err(EngineError::Root).map_err(BootError::State)?;
    let identity = RootIdentity::of(&root).map_err(EngineError::Generation).map_err(BootError::State)?;
    StatePlace::of(settings).settle(lock, Some(&identity), need).map_err(BootError::StatePlace)?;
    Ok(Engine::open(settings).map_err(BootError::State)?.keeping(settings.keep_generations))
}

fn not_installed(settings: &Settings, source: EngineError) -> BootError {
    BootError::Engine { channel: settings.channel_names(), source }
}

async fn take_lock(settings: &Settings) -> Result<EngineLock, BootError> {
    let run_dir = settings.run_dir.clone();
    blocking(move || lock::take(&run_dir, "bootstrap", LOCK_PATIENCE)).await?.map_err(BootError::Lock)
}

/// Finishes or undoes what a crash has left, and notes who was stopped before.
async fn recover(engine: &Engine, lock: &EngineLock, stopped: &Stopped) -> Result<(), BootError> {
    for _ in 0..LOOKS {
        let Err(error) = stopped.look(engine).await else { break };
        // A recovery may make the supervisor forget them.
        tracing::warn!(error = %flist::report(&error), "nobody says who is stopped");
        tokio::time::sleep(FIRST_PAUSE).await;
    }
    engine.recover(lock).await.map(drop).map_err(BootError::State)
}

/// Whether the root has a generation of what is followed already; then it is gone on with.
async fn is_installed(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    stopped: &Stopped,
) -> Result<bool, BootError> {
    let current = engine.current().map_err(BootError::State)?;
    match current.filter(|current| settings.follows(&current.channel)) {
        Some(current) => resume(engine, lock, settings, &current, stopped).await.map(|()| true),
        None => Ok(false),
    }
}

/// Goes on with what is installed: the boot information, which may lie in RAM, is written again, and
/// services that the supervisor does not know yet are monitored, unless they are stopped.
async fn resume(
    engine: &Engine,
    lock: &EngineLock,
    settings: &Settings,
    current: &Generation,
    stopped: &Stopped,
) -> Result<(), BootError> {
    tracing::info!(channel = %current.channel, version = %current.version, generation = current.number, "installed already");
    let named = boot_info::read_name(&settings.root).ok().flatten();
    if named.as_ref() != Some(&current.channel) {
        // Services do not wait for a file that tools read: identityd looks at it again.
        if let Err(error) = boot_info::write(engine.root(), &current.channel, &current.info) {
            tracing::error!(error = %flist::report(&error), "what the node was booted from is not recorded in /tmp");
        }
    }
    let started = engine.start_missing(lock, current, &stopped.all()).await.map_err(BootError::State)?;
    for unit in started {
        tracing::info!(service = %unit, "monitored");
    }
    Ok(())
}

/// Asks the hub until there is something to install. What is waited for is said once, and again whenever it
/// changes. While the hub offers nothing that may be installed, a recorded release will do whose content is here.
async fn wait_for_choice(
    settings: &Settings,
    engine: &Engine,
    reporter: &mut Option<Reporter>,
) -> Result<Choice, BootError> {
    let mut offers = Offers::open(settings, USER_AGENT).map_err(BootError::Offers)?;
    // What ran before on this state, if it is known: versions do not go down by themselves.
    let before = recorded_version(engine, settings);
    let (mut pause, mut said, start) = (FIRST_PAUSE, String::new(), Instant::now());
    let mut offline = Offline::look(engine, settings, Trust::of(!offers.is_insecure()))?;
    loop {
        let own_first = reporter.as_mut().is_some_and(Reporter::asks_first);
        if !own_first {
            look_for_newer(settings, &offers, reporter.as_ref()).await;
        }
        let question = Question { channels: &settings.channels, installed: before.as_ref() };
        let (what, event, reason) = match offers.ask(question).await {
            Ok(Asked::Release(release)) => {
                // Opened anew: meanwhile others may have moved the state.
                let engine = Engine::open(settings).map_err(BootError::State)?;
                match choose(&engine, settings, Box::new(release))? {
                    Choice::Other { other, why } if other.is_nothing() => {
                        let what = "another release, because nothing good is recorded of this channel";
                        (what, "the channel offers one", why)
                    }
                    choice => return Ok(choice),
                }
            }
            // It is known from an earlier turn, and was not to be installed then.
            Ok(Asked::Same | Asked::Nothing) => {
                let why = offers.withheld().map_or(said.clone(), ToString::to_string);
                ("another release", "the channel offers one", why)
            }
            Err(error) if error.verdict().is_some() => {
                let until = "one is signed that this node may install";
                ("a release that can be trusted", until, flist::report(&error))
            }
            Err(error) => ("the hub", "it answers", flist::report(&error)),
        };
        if own_first {
            newer::excuse(settings);
        }
        if let Some(other) = offline.instead(start.elapsed(), &reason) {
            return Ok(other);
        }
        if reason != said {
            let until = offline.until(event);
            tracing::warn!(
                hub = offers.hubs(),
                channel = settings.channel_names(),
                reason,
                "waiting for {what} since {:.0?}, until {until}; trying again, at the latest every {LONGEST_PAUSE:?}",
                start.elapsed(),
            );
            let note = format!("bootstrap waits for {what}, until {until}; {reason}");
            if let Err(error) = boot_waits::note(&settings.run_dir, &note) {
                tracing::debug!(%error, "nobody else is told what is waited for");
            }
            said = reason;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Goes on as a newer bootstrap, where there is one and somebody watches it.
async fn look_for_newer(settings: &Settings, offers: &Offers, reporter: Option<&Reporter>) {
    let Some(reporter) = reporter else { return };
    reporter.working(0);
    // Whatever comes of it, this one goes on; a hub that is not there is told of by whoever asks it for a release.
    match newer::go_on_as_newer(settings, offers, reporter).await {
        Err(error) if !error.may_pass() => {
            tracing::warn!(error = %flist::report(&error), "going on with this bootstrap");
        }
        _ => {}
    }
}

/// The version that this node ran last, if it is known and was of what the run mode follows.
fn recorded_version(engine: &Engine, settings: &Settings) -> Option<ReleaseVersion> {
    let state = engine.state();
    let current = state.recorded(state.current_number().ok()??).ok()??;
    settings.is_of_run_mode(&current.channel, &current.version).then_some(current.version)
}

/// Where releases are mounted while they are installed.
pub fn mount_directory(run_dir: &Path) -> PathBuf {
    run_dir.join("mnt")
}

/// Detaches what a worker that was killed has left mounted.
fn clear_stale_mounts(run_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(mount_directory(run_dir)) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if detach(&path).is_ok() {
            tracing::warn!(path = %path.display(), "detached a stale mount");
        }
        // What is not empty is not ours.
        let _ = std::fs::remove_dir(&path);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BootError> {
    tokio::task::spawn_blocking(work).await.map_err(BootError::Broken)
}

#[cfg(test)]
mod tests {
    use flist::hub::HubError;

    use super::*;

    /// With the settings, which `tests/command.rs` has, the rows of the table that a boot can end with.
    #[test]
    fn exit_codes() {
        let held = LockError::Held { path: PathBuf::new(), holder: "x".to_owned(), waited: LONGEST_PAUSE };
        let hub = |error| BootError::Offers(OffersError::Hub(error));
        let name = || "it".to_owned();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        for (error, code) in [
            (BootError::Lock(held), 3),
            (hub(HubError::Stalled { url: name(), seconds: 1 }), 3),
            (hub(HubError::NotFound { what: name(), hub: name() }), 4),
            (BootError::MountPoint { path: PathBuf::new(), source: full() }, 5),
            (BootError::MountPoint { path: PathBuf::new(), source: std::io::Error::other("x") }, 1),
            // Nothing that a release does ends the attempts, as wrong settings do.
            (hub(HubError::BadUrl { url: name(), reason: name() }), 1),
        ] {
            assert_eq!(error.exit().code(), code, "{error:?}");
        }
    }
}
