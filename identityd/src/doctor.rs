//! Finds what is wrong with a node's upgrades, with or without a running identityd, and repairs what can be
//! repaired without guessing.
//!
//! | code              | what is wrong                                                     |
//! |-------------------|-------------------------------------------------------------------|
//! | `mode`            | a private directory is open to others, or not root's              |
//! | `no-state`        | there is no state directory: never booted by us, or another one was meant |
//! | `records-lost`    | nothing says what is installed in this root, although something is |
//! | `state-in-ram`    | the state directory cannot be used, so upgrades work from RAM     |
//! | `read-only`       | a file system that is written to is read-only                     |
//! | `orders-damaged`, `releases-damaged`, `attempt-damaged`, `history-damaged`, `journal-damaged`, `current-damaged`, `generation-damaged` | that file of the state directory cannot be read |
//! | `stale-mount`     | a flist is mounted although no engine is at work                  |
//! | `leftover-staging`| staged files that no journal and no generation knows              |
//! | `flist-name`      | /tmp/flist.name is missing, not trusted, or names another channel |
//! | `zinit`           | the supervisor does not answer                                    |
//! | `not-monitored`   | zinit does not know identityd, so nobody would start it again     |
//! | `cache`           | the block cache cannot be used                                    |
//! | `trust-damaged`   | a root of trust is missing although one is demanded or was trusted before, or is none |
//! | `configuration`   | identityd would not start with its configuration                  |
//! | `secret`          | what hubs are shown cannot be used, so that none is asked         |
//! | `clock`           | the clock stands before this program was built                    |
//!
//! Nothing is deleted: what is in the way is set aside under another name, `<name>.broken-<n>`.

mod aside;
mod node;
mod state;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bootstrap::boot_info::BootInfoError;
use bootstrap::generation::Generation;
use bootstrap::lock::{self, EngineLock, LockError};
use bootstrap::root::{Root, RootError};
use bootstrap::settings::{Settings, SettingsError};
use bootstrap::state_place::StatePlace;
use bootstrap::transaction::services::{self, ServiceError};
use serde::Serialize;
use zinit_client::{Client, UnitName};

use crate::orders::OrdersError;

/// How long repairs wait for another engine.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A repair did not work.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Another engine is at work.
    #[error("nothing is repaired while another engine is at work")]
    Lock(#[source] LockError),
    /// The system refused.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The mount stays.
    #[error("could not detach the mount")]
    Mount(#[source] flist::mount::MountError),
    /// The boot information stays as it is.
    #[error("could not write /tmp/flist.name")]
    BootInfo(#[source] BootInfoError),
    /// The root file system cannot be opened.
    #[error("cannot use the root file system")]
    Root(#[source] RootError),
    /// The orders stay as they are.
    #[error("the orders cannot be restored")]
    Orders(#[source] OrdersError),
    /// The state stays in RAM.
    #[error("the state stays in RAM: {0}")]
    InRam(String),
    /// The supervisor did not take the service.
    #[error("zinit does not monitor identityd")]
    Zinit(#[source] ServiceError),
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it is; stable.
    pub code: &'static str,
    /// What was found, for people.
    pub what: String,
    /// What a repair does; `None`: only a person can help.
    pub fix: Option<String>,
    #[serde(skip)]
    repair: Repair,
}

#[derive(Debug, Clone, PartialEq)]
enum Repair {
    None,
    SetAside(PathBuf),
    KeepReadable(PathBuf),
    /// Has the state back on its disk.
    Return,
    /// Puts the copy of the orders in the place of the damaged file.
    CopyOrders,
    MakePrivate(PathBuf),
    Detach(PathBuf),
    NameChannel(Box<Generation>),
    Monitor(UnitName),
}

impl Finding {
    fn new(code: &'static str, what: String, (repair, fix): (Repair, &str)) -> Self {
        let fix = (repair != Repair::None).then(|| fix.to_owned());
        Self { code, what, fix, repair }
    }

    /// Something that only a person can repair.
    fn unfixable(code: &'static str, what: String) -> Self {
        Self { code, what, fix: None, repair: Repair::None }
    }

    /// Something that is set aside.
    fn aside(code: &'static str, what: String, path: &Path, then: &str) -> Self {
        let fix = format!("sets {} aside; {then}", path.display());
        Self { code, what, fix: Some(fix), repair: Repair::SetAside(path.to_owned()) }
    }
}

/// What of this node its user may not look at, so that there would be findings of what is in order.
pub fn forbidden(settings: &Settings) -> Option<PathBuf> {
    StatePlace::of(settings).forbidden().or_else(|| node::forbidden(settings))
}

/// What is wrong; changes nothing. `unusable` is why these settings are without what the configuration, or the kernel
/// command line, says.
pub async fn examine(settings: &Settings, unusable: Option<&SettingsError>) -> Vec<Finding> {
    // A lock that cannot be looked at is nobody's.
    let idle = lock::holder(&settings.run_dir).ok().flatten().is_none();
    look(settings, unusable, idle, SystemTime::now()).await
}

/// Repairs what can be repaired, holding the engine's lock; tells what came of each finding. `unusable` as of
/// [`examine`].
///
/// # Errors
/// [`DoctorError::Lock`]; nothing was tried then.
pub async fn repair(
    settings: &Settings,
    unusable: Option<&SettingsError>,
) -> Result<Vec<(Finding, Result<(), DoctorError>)>, DoctorError> {
    let run_dir = settings.run_dir.clone();
    let taking =
        tokio::task::spawn_blocking(move || lock::take(&run_dir, "identityd doctor", LOCK_PATIENCE)).await;
    let lock = match taking {
        Ok(taken) => taken.map_err(DoctorError::Lock)?,
        Err(error) => {
            let source = io::Error::other(error);
            return Err(DoctorError::File { action: "lock", path: settings.run_dir.clone(), source });
        }
    };
    let mut done = Vec::new();
    // What the disk says is looked at once it counts again: what seems to be nobody's may be in its records.
    if let Some(finding) = StatePlace::of(settings).notice().map(state::in_ram) {
        let result = carry_out(&finding.repair, settings, &lock).await;
        done.push((finding, result));
    }
    for finding in look(settings, unusable, true, SystemTime::now()).await {
        if finding.repair == Repair::Return {
            continue;
        }
        let result = carry_out(&finding.repair, settings, &lock).await;
        done.push((finding, result));
    }
    Ok(done)
}

/// All checks. `idle`: no engine is at work, so that what looks unfinished is.
async fn look(
    settings: &Settings,
    unusable: Option<&SettingsError>,
    idle: bool,
    now: SystemTime,
) -> Vec<Finding> {
    let place = StatePlace::of(settings);
    let mut findings: Vec<Finding> = node::no_state(&place).into_iter().collect();
    findings.extend(node::modes(settings));
    findings.extend(place.notice().map(state::in_ram));
    findings.extend(node::read_only(settings));
    let state = state::look(&place, &settings.root);
    let (journal, numbers, current) = (state.journal, state.numbers, state.current);
    let nobodys = |number: u64| number > state.floor && !numbers.contains(&number);
    findings.extend(state.findings);
    if idle {
        findings.extend(node::stale_mounts(settings));
    }
    // Where no generation is known, an empty directory in place of the state for instance, it may belong to any of them.
    if idle && !journal && (!numbers.is_empty() || state.floor > 0) {
        findings.extend(node::leftover_staging(settings, &nobodys));
    }
    findings.extend(node::flist_name(settings, current));
    findings.extend(node::zinit(settings).await);
    findings.extend(node::cache(settings));
    findings.extend(node::configuration(settings, unusable));
    // Which files these are is not known otherwise.
    if unusable.is_none() {
        findings.extend(node::roots_of_trust(settings));
        findings.extend(node::secrets(settings));
    }
    findings.extend(node::clock(now));
    findings
}

async fn carry_out(repair: &Repair, settings: &Settings, lock: &EngineLock) -> Result<(), DoctorError> {
    let place = StatePlace::of(settings);
    match repair {
        Repair::None => Ok(()),
        Repair::SetAside(path) => aside::set_aside(path).map(drop),
        Repair::KeepReadable(path) => state::keep_readable(path, &place),
        Repair::Return => state::bring_back(settings, &place, lock),
        Repair::CopyOrders => state::copy_orders(&place),
        Repair::MakePrivate(path) => node::make_private(path),
        Repair::Detach(path) => flist::mount::detach(path).map_err(DoctorError::Mount),
        Repair::NameChannel(generation) => {
            let name = settings.root.join("tmp/flist.name");
            if name.symlink_metadata().is_ok() {
                aside::set_aside(&name)?;
            }
            let root = Root::open(&settings.root).map_err(DoctorError::Root)?;
            bootstrap::boot_info::write(&root, &generation.channel, &generation.info)
                .map_err(DoctorError::BootInfo)
        }
        Repair::Monitor(unit) => {
            let zinit = Client::new(&settings.zinit_socket);
            let zinit = zinit.with_units(settings.root.join(bootstrap::plan::UNIT_DIRECTORY));
            services::monitor(&zinit, unit).await.map_err(DoctorError::Zinit)
        }
    }
}

#[cfg(test)]
mod tests;
