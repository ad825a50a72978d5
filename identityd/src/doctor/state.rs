//! The files of the state directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bootstrap::durable;
use bootstrap::generation::{Generation, GenerationError, RootIdentity, StateDir};
use bootstrap::lock::EngineLock;
use bootstrap::releases::{self, Releases};
use bootstrap::root::Root;
use bootstrap::settings::Settings;
use bootstrap::state_place::{Notice, StatePlace};
use bootstrap::transaction::journal::{JournalError, JournalPlace};
use flist::report;

use super::{DoctorError, Finding, Repair, aside};
use crate::agent::effects::state::records_lost;
use crate::history::{ATTEMPT_FILE, FILE, History, OLD_FILE, is_whole};
use crate::orders::{OrdersError, OrdersFile};
use crate::timestamp::Timestamp;

/// What the state directory holds.
pub(super) struct State {
    pub(super) findings: Vec<Finding>,
    /// Whether a transaction is under way, or was when the engine stopped.
    pub(super) journal: bool,
    /// Generations that are recorded, readable or not.
    pub(super) numbers: BTreeSet<u64>,
    /// Up to this number there may be others, which cannot be read now.
    pub(super) floor: u64,
    /// The current generation, where it is known.
    pub(super) current: Option<Generation>,
}

/// The state directory that counts, on a node with this root.
pub(super) fn look(place: &StatePlace, root: &Path) -> State {
    let directory = &place.directory();
    let mut findings = Vec::new();
    findings.extend(orders(place));
    findings.extend(releases(directory));
    findings.extend(pins(directory));
    findings.extend(history(directory));
    findings.extend(attempt(directory));
    let journal = directory.join("journal");
    findings.extend(damaged_journal(&journal));
    let manifests = manifests(&directory.join("generations"));
    let numbers: BTreeSet<u64> = manifests.iter().map(|manifest| manifest.number).collect();
    let pointer = fs::read(directory.join("current")).ok();
    let number = pointer.as_ref().and_then(|bytes| String::from_utf8_lossy(bytes).trim().parse::<u64>().ok());
    if pointer.is_some() && number.is_none() {
        findings.push(Finding::unfixable(
            "current-damaged",
            format!(
                "{} does not say which generation is current; the next upgrade compares the whole root with the release, keeps what differs in /etc, and writes it anew",
                directory.join("current").display()
            ),
        ));
    }
    let mut current = None;
    for Manifest { number: found, path, generation } in manifests {
        match generation {
            Some(generation) if Some(found) == number => current = Some(generation),
            Some(_) => {}
            None if Some(found) == number => findings.push(Finding::unfixable(
                "generation-damaged",
                format!(
                    "{} is damaged: nobody knows what the current generation consists of; the next upgrade compares the whole root with the release and writes it anew",
                    path.display()
                ),
            )),
            None => findings.push(Finding::aside(
                "generation-damaged",
                format!("{} is damaged: this generation cannot be gone back to", path.display()),
                &path,
                "it is not the current one",
            )),
        }
    }
    let floor = floor(directory);
    if pointer.is_none() && numbers.is_empty() && directory.exists() && is_marked(root) {
        findings.push(Finding::unfixable("records-lost", records_lost(directory)));
    }
    State { findings, journal: journal.exists(), numbers, floor, current }
}

/// Whether something of ours was installed in a root.
fn is_marked(root: &Path) -> bool {
    let identity = Root::open(root).ok().and_then(|root| RootIdentity::of(&root).ok());
    identity.is_some_and(|identity| identity.marker.is_some())
}

/// What [`StateDir::floor`] says; where nobody can read it, all numbers may be taken.
fn floor(directory: &Path) -> u64 {
    match directory.join("generations").exists() {
        true => StateDir::there(directory).and_then(|state| state.floor()).unwrap_or(u64::MAX),
        false => 0,
    }
}

/// The state is not where it should be.
pub(super) fn in_ram(notice: Notice) -> Finding {
    let unread = match notice.unread.as_slice() {
        [] => String::new(),
        files => {
            format!("; these files could not be read, so nobody knows what they say: {}", files.join(", "))
        }
    };
    let since = Timestamp::from_unix(notice.since).at;
    let what = format!(
        "the state directory cannot be used since {since} ({}): upgrades work from RAM, and what is recorded there is lost at a reboot{unread}",
        notice.reason
    );
    Finding::new("state-in-ram", what, (Repair::Return, "tries the disk again, and brings the state back"))
}

pub(super) fn bring_back(
    settings: &Settings,
    place: &StatePlace,
    lock: &EngineLock,
) -> Result<(), DoctorError> {
    let root = Root::open(&settings.root).map_err(DoctorError::Root)?;
    let identity = RootIdentity::of(&root).map_err(|error| DoctorError::InRam(report(&error)))?;
    match place.settle(lock, Some(&identity), 0) {
        Ok(None) => Ok(()),
        Ok(Some(notice)) => Err(DoctorError::InRam(notice.reason)),
        Err(error) => Err(DoctorError::InRam(report(&error))),
    }
}

pub(super) fn copy_orders(place: &StatePlace) -> Result<(), DoctorError> {
    let keep = |damaged: &Path| aside::keep_aside(damaged).map(drop).map_err(std::io::Error::other);
    OrdersFile::at(place.clone()).restore(keep).map_err(DoctorError::Orders)
}

fn orders(place: &StatePlace) -> Option<Finding> {
    let file = OrdersFile::at(place.clone());
    match file.load_original() {
        Err(error) if file.load().is_ok() => {
            let what = format!("{}; until then its copy counts", report(&error));
            let fix = "sets it aside, and puts the copy in its place";
            Some(Finding::new("orders-damaged", what, (Repair::CopyOrders, fix)))
        }
        Err(error @ OrdersError::Damaged { .. }) => {
            let then = "nothing is held or paused then: order it again";
            Some(Finding::aside("orders-damaged", error.to_string(), &file.path(), then))
        }
        Err(error) => Some(Finding::unfixable("orders-damaged", report(&error))),
        Ok(_) => None,
    }
}

fn releases(directory: &Path) -> Option<Finding> {
    let path = directory.join(releases::FILE);
    let what = format!("{} is damaged: bad releases are no longer known", path.display());
    let then = "a bad release is tried again, three times at most";
    (!Releases::is_readable(&path)).then(|| Finding::aside("releases-damaged", what, &path, then))
}

fn pins(directory: &Path) -> Option<Finding> {
    let error = StateDir::there(directory).and_then(|state| state.pins()).err()?;
    let then = "nothing is pinned then: pin it again";
    match &error {
        GenerationError::Pins { path, .. } => {
            Some(Finding::aside("pins-damaged", report(&error), path, then))
        }
        // Whether there is a directory is asked elsewhere.
        _ if !directory.exists() => None,
        _ => Some(Finding::unfixable("pins-damaged", report(&error))),
    }
}

fn history(directory: &Path) -> Option<Finding> {
    match History::new(directory).read(0) {
        Ok(past) if past.unreadable == 0 => None,
        Ok(past) => {
            let path = directory.join(FILE);
            let what =
                format!("{} lines of the history in {} cannot be read", past.unreadable, path.display());
            let fix = "sets the files aside, and writes what can be read anew";
            Some(Finding::new("history-damaged", what, (Repair::KeepReadable(directory.to_owned()), fix)))
        }
        Err(error) => Some(Finding::unfixable("history-damaged", report(&error))),
    }
}

fn attempt(directory: &Path) -> Option<Finding> {
    let path = directory.join(ATTEMPT_FILE);
    let bytes = fs::read(&path).ok()?;
    let what = format!("{} is damaged: what became of the last attempt is not known", path.display());
    (!is_whole(&bytes))
        .then(|| Finding::aside("attempt-damaged", what, &path, "the history lacks that attempt"))
}

fn damaged_journal(path: &Path) -> Option<Finding> {
    let journal = path.parent().unwrap_or(Path::new("/"));
    if !journal.exists() {
        // Nothing has ever been installed.
        return None;
    }
    match JournalPlace::in_directory(journal).and_then(|journal| journal.read()) {
        Ok(_) => None,
        Err(error @ JournalError::Damaged { .. }) => {
            let then =
                "files of an interrupted upgrade may stay as they are until the next one puts them right";
            Some(Finding::aside("journal-damaged", report(&error), path, then))
        }
        Err(error) => Some(Finding::unfixable("journal-damaged", report(&error))),
    }
}

/// What is recorded of one generation.
struct Manifest {
    number: u64,
    path: PathBuf,
    /// `None`: it is damaged.
    generation: Option<Generation>,
}

fn manifests(directory: &Path) -> Vec<Manifest> {
    let mut manifests = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
        let Some(number) = number else { continue };
        let bytes = fs::read(entry.path()).ok();
        let generation = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        manifests.push(Manifest { number, path: entry.path(), generation });
    }
    manifests
}

/// Sets the files of the history in this directory aside, and writes the lines that can be read anew. A daemon that
/// runs waits meanwhile, so that no line of its is lost.
///
/// # Errors
/// [`DoctorError::File`].
pub(super) fn keep_readable(directory: &Path, place: &StatePlace) -> Result<(), DoctorError> {
    let lock = place.write_lock();
    let failed = |source| DoctorError::File { action: "lock", path: directory.to_owned(), source };
    let _lock = lock.map_err(failed)?;
    for path in [OLD_FILE, FILE].map(|name| directory.join(name)) {
        let failed = |action| {
            let path = path.clone();
            move |source| DoctorError::File { action, path, source }
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("read")(error)),
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let (good, bad): (Vec<_>, Vec<_>) = lines.partition(|line| is_whole(line));
        if bad.is_empty() {
            continue;
        }
        aside::set_aside(&path)?;
        let text: Vec<u8> = good.into_iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
        durable::replace(&path, &text, 0o600).map_err(failed("write"))?;
    }
    Ok(())
}
