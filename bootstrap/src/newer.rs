//! The first stage of a boot: the newest bootstrap there is installs the release.
//!
//! ```text
//! channel ──► Release ──► the program in it ──► state/bootstrap/<id> ──► a copy in memory
//!                                                                              │ exec
//!                                                        goes on in the same process
//! ```
//!
//! The one of the base image stays where it is and what it is. Whoever cannot get a newer one goes on with it;
//! each newer one is tried three times at most, counted before each try; and one that was tried looks for no other.

mod sealed;

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flist::hub::{Release, ReleaseId, ReleaseVersion};
use flist::path::FlistPath;
use flist::store::CacheRoom;
use flist::store::StoreError;
use flist::tree::{Content, Fingerprint};
use flist::trust::Trusted;
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::block_cache::cached;
use crate::boot_report::{NEWER, OWN_FIRST, Reporter};
use crate::durable;
use crate::engine::{EngineError, ReleaseTree};
use crate::offers::{Offers, OffersError, Question};
use crate::settings::{HubSettings, Settings};
use crate::source::{BlockSource, ContentSource, SourceError};
use crate::state_place::StatePlace;
use sealed::Sealed;

/// So often is one tried.
const MAX_ATTEMPTS: u32 = 3;

/// Directory in the state directory, and the files in it.
const DIRECTORY: &str = "bootstrap";
const ATTEMPTS: &str = "attempts.json";

/// Where the program may be in a flist; anywhere else it is found if it is the only one of that name.
const PLACES: [&str; 4] = ["sbin/bootstrap", "usr/sbin/bootstrap", "bin/bootstrap", "usr/bin/bootstrap"];
const NAME: &[u8] = b"bootstrap";

/// Largest program that is taken, in bytes.
const MAX_PROGRAM: u64 = 256 << 20;

/// Why there is no newer bootstrap to go on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewerError {
    /// The hub could not be asked.
    #[error("nobody knows whether there is a newer bootstrap")]
    Offers(#[source] OffersError),
    /// Its flist is not usable.
    #[error("the flist of the newer bootstrap is not usable")]
    Flist(#[source] EngineError),
    /// There is no program in it, or more than one.
    #[error("the flist of the newer bootstrap has {0} programs named bootstrap, expected one")]
    Program(usize),
    /// The program is absurdly large.
    #[error("the newer bootstrap has {0} bytes, the limit is {MAX_PROGRAM}")]
    TooLarge(u64),
    /// Its stores cannot be used.
    #[error("the stores of the newer bootstrap cannot be used")]
    Store(#[source] StoreError),
    /// A part of it cannot be had.
    #[error("the newer bootstrap cannot be fetched")]
    Content(#[source] SourceError),
    /// It cannot be kept.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What the disk gives back is not what was written to it.
    #[error("{0} is damaged; it is fetched again")]
    Damaged(PathBuf),
    /// A thread failed.
    #[error("fetching the newer bootstrap broke off")]
    Broken(#[source] tokio::task::JoinError),
}

impl NewerError {
    /// Whether the hub may only not be there yet.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Offers(error) if error.is_retryable())
    }
}

/// How often a newer bootstrap was tried.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Attempts {
    release: Option<ReleaseId>,
    attempts: u32,
}

/// Goes on as the newest bootstrap there is, in this process; returns when this is the one to go on with.
///
/// # Errors
/// [`NewerError`]: with this one all the same.
pub(crate) async fn go_on_as_newer(
    settings: &Settings,
    offers: &Offers,
    reporter: &Reporter,
) -> Result<(), NewerError> {
    let Some(channel) = settings.bootstrap.channel.as_ref().filter(|_| reporter.newer().is_none()) else {
        return Ok(());
    };
    let channels = [(channel.clone(), flist::hub::Packages { boot: "bootstrap".to_owned(), repo: None })];
    let own = env!("CARGO_PKG_VERSION").parse::<Version>().ok().map(ReleaseVersion::Semver);
    let release = match offers.ask_once(Question { channels: &channels, installed: own.as_ref() }).await {
        Ok(Some(release)) => release,
        Ok(None) => return Ok(()),
        Err(error) if error.is_not_offered() => return Ok(()),
        Err(error) => return Err(NewerError::Offers(error)),
    };
    if let Some(why) = passed_over(settings, &release) {
        tracing::warn!(version = %release.version, "the newest bootstrap is passed over: {why}");
        return Ok(());
    }
    let (id, version) = (release.id, release.version.clone());
    let (state_dir, cache_dir) = (state_dir(settings), settings.cache_dir.clone());
    let hub = settings.hub.clone();
    let installed = tokio::task::spawn_blocking(move || install(release, &hub, &state_dir, &cache_dir));
    let Some((path, program)) = installed.await.map_err(NewerError::Broken)?? else { return Ok(()) };
    tracing::info!(%version, release = %id, "going on as the newest bootstrap");
    let error = become_it(settings, reporter, id, (&path, &program));
    reporter.not_trying();
    Err(error)
}

/// Forgets how often the newer bootstrap was tried that this process is: it does.
pub(crate) fn succeeded(settings: &Settings, reporter: &Reporter) {
    if reporter.newer().is_some() {
        let _ = fs::remove_file(state_dir(settings).join(DIRECTORY).join(ATTEMPTS));
    }
}

/// Does not hold the last attempt against the newer bootstrap: this one finds nothing to install either.
pub(crate) fn excuse(settings: &Settings) {
    let state_dir = state_dir(settings);
    if let Attempts { release: Some(id), attempts: counted @ 1.. } = attempts(&state_dir)
        && let Err(error) = count(&state_dir, id, counted - 1)
    {
        tracing::warn!(error = %flist::report(&error), "a newer bootstrap that waited as this one does counts as failed");
    }
}

/// The state, on its disk or in RAM.
fn state_dir(settings: &Settings) -> PathBuf {
    StatePlace::of(settings).directory()
}

/// Why a release of bootstrap is not to be tried.
fn passed_over(settings: &Settings, release: &Release) -> Option<String> {
    let own = env!("CARGO_PKG_VERSION").parse::<Version>().ok();
    if let (Some(offered), Some(own)) = (release.version.semver(), own)
        && *offered < own
    {
        return Some(format!("this one is {own}"));
    }
    let Attempts { release: tried, attempts } = attempts(&state_dir(settings));
    (tried == Some(release.id) && attempts >= MAX_ATTEMPTS)
        .then(|| format!("it failed {attempts} times; another one would be tried"))
}

fn attempts(state_dir: &Path) -> Attempts {
    let bytes = fs::read(state_dir.join(DIRECTORY).join(ATTEMPTS));
    bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn count(state_dir: &Path, id: ReleaseId, attempts: u32) -> Result<(), NewerError> {
    let path = state_dir.join(DIRECTORY).join(ATTEMPTS);
    let counted = serde_json::to_vec(&Attempts { release: Some(id), attempts }).map_err(io::Error::other);
    counted.and_then(|bytes| durable::replace(&path, &bytes, 0o600)).map_err(|source| NewerError::File {
        action: "count the attempts in",
        path,
        source,
    })
}

/// Puts the program where it outlives a boot, and a copy of it in memory; `None` when it is the one that runs.
fn install(
    release: Trusted<Release>,
    hub: &HubSettings,
    state_dir: &Path,
    cache_dir: &Path,
) -> Result<Option<(PathBuf, Sealed)>, NewerError> {
    let id = release.id;
    let release = ReleaseTree::read(release).map_err(NewerError::Flist)?;
    let (path, content) = program(&release)?;
    if content.size > MAX_PROGRAM {
        return Err(NewerError::TooLarge(content.size));
    }
    let wanted = content.fingerprint();
    if is(Path::new("/proc/self/exe"), wanted) {
        return Ok(None);
    }
    let directory = state_dir.join(DIRECTORY);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| NewerError::File { action, path, source }
    };
    durable::private_directory(&directory).map_err(failed("create", &directory))?;
    let name = id.to_string();
    let place = directory.join(&name);
    // What cannot be read may still be replaced.
    if let Ok(Some(sealed)) = Sealed::of(&place, wanted, MAX_PROGRAM) {
        return Ok(Some((place, sealed)));
    }
    remove_others(&directory, &name);
    let store = release.open_stores(hub).map_err(NewerError::Store)?;
    let store = cached(store, cache_dir, CacheRoom::default());
    let source = BlockSource { store };
    let mut file = tempfile::NamedTempFile::new_in(&directory).map_err(failed("write in", &directory))?;
    for index in 0..content.blocks.len() {
        let plain = source.block(&path, &content, index).map_err(NewerError::Content)?;
        file.write_all(&plain).map_err(failed("write in", &directory))?;
    }
    let kept = file
        .as_file()
        .set_permissions(Permissions::from_mode(0o700))
        .and_then(|()| file.as_file().sync_all())
        .and_then(|()| file.persist(&place).map_err(|error| error.error));
    kept.map_err(failed("write", &place))?;
    match Sealed::of(&place, wanted, MAX_PROGRAM).map_err(failed("make a copy in memory of", &place))? {
        Some(sealed) => Ok(Some((place, sealed))),
        None => Err(NewerError::Damaged(place)),
    }
}

/// The program in a release of bootstrap.
fn program(release: &ReleaseTree) -> Result<(FlistPath, Content), NewerError> {
    let files: Vec<_> = release.tree().files().map(|(path, _, content)| (path, content)).collect();
    let at = |place: &&str| files.iter().find(|(path, _)| path.to_string() == **place);
    if let Some((path, content)) = PLACES.iter().find_map(at) {
        return Ok(((*path).clone(), (*content).clone()));
    }
    let named: Vec<_> = files.iter().filter(|(path, _)| path.name() == NAME).collect();
    match named[..] {
        [(path, content)] => Ok(((*path).clone(), (*content).clone())),
        _ => Err(NewerError::Program(named.len())),
    }
}

fn is(path: &Path, wanted: Fingerprint) -> bool {
    let found = fs::File::open(path).and_then(|file| Fingerprint::of_reader(file, wanted.codec()));
    found.is_ok_and(|found| found == wanted)
}

/// Earlier ones take room, which may be RAM.
fn remove_others(directory: &Path, name: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name() != name && entry.file_name() != ATTEMPTS {
            // What stays takes room only.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Executes it in this process; returns only if that cannot be done.
fn become_it(
    settings: &Settings,
    reporter: &Reporter,
    id: ReleaseId,
    (path, program): (&Path, &Sealed),
) -> NewerError {
    let tried = Some(attempts(&state_dir(settings))).filter(|tried| tried.release == Some(id));
    if let Err(error) = count(&state_dir(settings), id, tried.map_or(0, |tried| tried.attempts) + 1) {
        return error;
    }
    let failed = |action| {
        let path = path.to_owned();
        move |source| NewerError::File { action, path, source }
    };
    let limits = &settings.bootstrap;
    if let Err(error) = reporter.trying(limits.start_timeout, limits.progress_timeout) {
        return failed("have somebody watch")(error);
    }
    let ours = [(OsString::from(NEWER), OsString::from(id.to_string()))];
    let others = std::env::vars_os().filter(|(name, _)| name != NEWER && name != OWN_FIRST);
    let error = match program.execute(std::env::args_os(), others.chain(ours)) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // The system will not execute it the next time either.
    if let Err(uncounted) = count(&state_dir(settings), id, MAX_ATTEMPTS) {
        tracing::warn!(error = %flist::report(&uncounted), "it will be tried again");
    }
    failed("execute")(error)
}
