//! Refreshing the metadata, and looking targets up in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{self, Context};
use jiff::Timestamp;
use serde_json::Value;
use sigstore_tuf::metadata::Role;
use sigstore_tuf::{Error as TufError, Root, TargetFile, Updater, UpdaterConfig};

use super::clock::{self, Clocks, Progress};
use super::error::TrustError;
use super::floors::{Floors, key_ids};
use super::keys;
use super::root_of_trust::RootOfTrust;
use super::source::{Source, SourceError, Transport};
use super::state::{StateDir, StateError, kept_progress};
use crate::hub::Sha256;
use crate::tls;

/// Longest life that anybody gives to metadata, in seconds: two years. A clock further ahead than this of
/// everything signed is wrong rather than the metadata old.
const LONGEST_LIFE: i64 = 2 * 366 * 86400;

/// The field of a signed timestamp that says when it was signed. The specification has none.
pub(super) const SIGNED_AT: &str = "x-molt-signed";

/// Checks the metadata of one repository.
pub struct TrustClient {
    pub(super) root: Vec<u8>,
    pub(super) state: Arc<StateDir>,
    pub(super) source: Source,
}

impl TrustClient {
    /// Trusts what the keys in `root` (a `root.json`) trust, keeps what it accepts in the directory `state`,
    /// and fetches from `source`. Nothing is sent yet.
    ///
    /// # Errors
    /// The root is none, or the directory cannot be used.
    pub fn open(root: &[u8], state: &Path, source: Source) -> Result<Self, TrustError> {
        check_root(root)?;
        let state = Arc::new(StateDir::open(state).map_err(TrustError::State)?);
        Ok(Self { root: root.to_vec(), state, source })
    }

    /// The earliest time that it can be, in seconds since 1970.
    pub fn floor(&self, clocks: &Clocks) -> i64 {
        earliest(self.state.path(), clocks)
    }

    /// Fetches and checks whatever is newer than what was accepted before: the chain of roots, timestamp,
    /// snapshot, targets.
    ///
    /// # Errors
    /// [`TrustError`]. What was accepted up to the error stays accepted.
    pub async fn refresh(&self, clocks: &Clocks) -> Result<Fresh, TrustError> {
        let before = self.state.progress();
        let mut fresh = self.begin(clocks)?;
        let mut refreshed = fresh.updater.refresh(fresh.moment.now()).await;
        let keys = key_ids(fresh.root(), "timestamp");
        let counts = |before: &Progress| before.keys.is_empty() || before.keys == keys;
        let is_forgotten = before.as_ref().is_some_and(|before| !counts(before));
        let before = before.filter(counts);
        if is_forgotten {
            // The owners have replaced the key that said what time it is, and the chain of roots says so.
            fresh.moment.floor = clock::floor(clocks.built, None, None, &clocks.uptime);
            if matches!(refreshed, Err(TufError::Expired { .. })) {
                refreshed = fresh.updater.refresh(fresh.moment.now()).await;
            }
        }
        // Before anything else: what was accepted has to be kept even if the rest is refused.
        self.state.take_failure()?;
        let kept = self.progress(&fresh, clocks, before.as_ref(), keys);
        refreshed.map_err(|error| fresh.refused(error))?;
        kept?;
        keys::check_root(fresh.root())?;
        if let Some(delegations) = fresh.targets_role("targets").and_then(|role| role.delegations.as_ref()) {
            keys::check_delegations(delegations)?;
        }
        Ok(fresh)
    }

    fn begin(&self, clocks: &Clocks) -> Result<Fresh, TrustError> {
        let moment = Moment { clock: clocks.wall, floor: self.floor(clocks) };
        let used_state = Arc::new(AtomicBool::new(false));
        let (source, state) = (self.source.clone(), Arc::clone(&self.state));
        let floors = self.floors().map_err(TrustError::State)?;
        let transport = Transport { source, state, floors, used_state: Arc::clone(&used_state) };
        let updater = Updater::new(transport, &self.root).map_err(TrustError::BadRoot)?;
        let updater = updater.with_config(limits()).with_store(Arc::clone(&self.state));
        let (url, state) = (self.source.url().to_owned(), Arc::clone(&self.state));
        Ok(Fresh { updater, state, used_state, url, moment, ambiguous: None })
    }

    /// What the snapshot that is kept keeps from falling.
    fn floors(&self) -> Result<Option<Floors>, StateError> {
        let (root, snapshot) = (self.state.read("root.json")?, self.state.read("snapshot.json")?);
        Ok(root.zip(snapshot).and_then(|(root, snapshot)| Floors::of(&root, &snapshot)))
    }

    /// Keeps how far time has come at least.
    fn progress(
        &self,
        fresh: &Fresh,
        clocks: &Clocks,
        before: Option<&Progress>,
        keys: Vec<String>,
    ) -> Result<(), TrustError> {
        let uptime = clocks.uptime.clone();
        let floor = clock::floor(clocks.built, fresh.signed_at(), before, &uptime);
        let progress = Progress { floor, uptime, keys };
        if !progress.is_news(before) {
            return Ok(());
        }
        self.state.keep_progress(&progress).map_err(TrustError::State)
    }
}

/// Whether a file is a root of trust.
///
/// # Errors
/// What is wrong with it.
pub fn check_root(bytes: &[u8]) -> Result<(), TrustError> {
    RootOfTrust::parse(bytes).map(drop)
}

/// Has TLS know what time it is at least by what is kept in this directory, the state of the repository of the releases.
/// A director's is not asked: it only chooses.
pub fn learn_time(state: &Path) {
    if let Some(progress) = kept_progress(state) {
        tls::time_is_at_least(progress.floor);
    }
}

/// The earliest time that it can be, in seconds since 1970, by what is kept in this directory: what was accepted last
/// counts, also where it is less than what was accepted before, because the owners have replaced a key since.
pub fn earliest(state: &Path, clocks: &Clocks) -> i64 {
    clock::floor(clocks.built, None, kept_progress(state).as_ref(), &clocks.uptime)
}

fn limits() -> UpdaterConfig {
    let mut limits = UpdaterConfig::default();
    limits.max_root_rotations = 256;
    limits
}

/// The clock of a node and its floor.
#[derive(Debug, Clone, Copy)]
struct Moment {
    clock: Timestamp,
    floor: i64,
}

impl Moment {
    fn now(self) -> Timestamp {
        clock::floored(self.clock, self.floor)
    }
}

/// Metadata that was fresh a moment ago.
pub struct Fresh {
    updater: Updater,
    state: Arc<StateDir>,
    used_state: Arc<AtomicBool>,
    url: String,
    moment: Moment,
    /// The role that counts one key twice, if one was met. The checks themselves take it.
    ambiguous: Option<String>,
}

impl Fresh {
    /// What was signed for the target `path`, by whoever is responsible for it by the delegations.
    ///
    /// # Errors
    /// Nobody has signed for it ([`TrustError::Unsigned`]), or a role on the way is refused.
    pub async fn target(&mut self, path: &str) -> Result<SignedTarget, TrustError> {
        if let Some(role) = self.ambiguous.clone() {
            return Err(TrustError::SameKeyTwice { role });
        }
        let found = match self.look_up(path).await {
            Err(error) if self.used_state.swap(false, Ordering::Relaxed) => {
                tracing::warn!(error = %error, "what is kept of a delegated role is of no use; fetching it again");
                self.state.forget_delegated().map_err(TrustError::State)?;
                self.look_up(path).await
            }
            found => found,
        };
        if let Err(error) = self.state.take_failure() {
            if let TrustError::SameKeyTwice { role } = &error {
                self.ambiguous = Some(role.clone());
            }
            return Err(error);
        }
        let file = found.map_err(|error| self.refused(error))?;
        let file = file.ok_or_else(|| TrustError::Unsigned { target: path.to_owned() })?;
        SignedTarget::new(path, file)
    }

    async fn look_up(&mut self, path: &str) -> sigstore_tuf::Result<Option<TargetFile>> {
        self.updater.get_target_info(path, self.moment.now()).await
    }

    /// When the first of the top-level roles expires: until then a node accepts what it has accepted now.
    pub fn expires(&self) -> Timestamp {
        let trusted = self.updater.trusted();
        let all = [
            Some(trusted.root().expires()),
            trusted.timestamp().map(Role::expires),
            trusted.snapshot().map(Role::expires),
            trusted.targets_role("targets").map(Role::expires),
        ];
        all.into_iter().flatten().min().unwrap_or(Timestamp::MIN)
    }

    /// The time that expiry is judged by.
    pub fn now(&self) -> Timestamp {
        self.moment.now()
    }

    /// Whether files are numbered and targets named after their digests.
    pub fn is_consistent(&self) -> bool {
        self.updater.trusted().root().consistent_snapshot
    }

    /// When the accepted timestamp was signed, in seconds since 1970, if it says so.
    pub fn signed_at(&self) -> Option<i64> {
        let timestamp = self.updater.trusted().timestamp()?;
        let signed: Timestamp = timestamp.extra.get(SIGNED_AT)?.as_str()?.parse().ok()?;
        // Nobody signs what has expired.
        (signed <= timestamp.expires).then(|| signed.as_second())
    }

    /// The paths of all targets that a role lists, whether it may or not; none when it is not loaded.
    pub(super) fn paths(&self, role: &str) -> Vec<String> {
        let listed = self.targets_role(role).map(|role| role.targets.keys().cloned());
        listed.into_iter().flatten().collect()
    }

    fn root(&self) -> &Root {
        self.updater.trusted().root()
    }

    fn targets_role(&self, name: &str) -> Option<&sigstore_tuf::Targets> {
        self.updater.trusted().targets_role(name)
    }

    fn refused(&self, error: TufError) -> TrustError {
        let url = self.url.clone();
        match error {
            TufError::Expired { role, expires } => {
                let ahead = clock::may_be_ahead(self.moment.clock, self.moment.floor, LONGEST_LIFE);
                TrustError::Expired { url, role, expires, now: self.moment.now(), ahead }
            }
            TufError::Transport { message, source: Some(source) } => match source.downcast::<SourceError>() {
                Ok(source) => TrustError::Fetch { url, source: *source },
                Err(source) => {
                    TrustError::Refused { url, source: TufError::Transport { message, source: Some(source) } }
                }
            },
            source => TrustError::Refused { url, source },
        }
    }
}

/// What was signed for one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTarget {
    /// Its path in the repository.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// Algorithms and digests, in hexadecimal; at least one that is known.
    pub digests: BTreeMap<String, String>,
    /// What else was signed for it.
    pub custom: Option<Value>,
}

impl SignedTarget {
    fn new(path: &str, file: TargetFile) -> Result<Self, TrustError> {
        let TargetFile { length, hashes: digests, custom, .. } = file;
        if algorithms(&digests).next().is_none() {
            let problem = "it has no digest of a known kind (sha256, sha512)".to_owned();
            return Err(TrustError::BadTarget { target: path.to_owned(), problem });
        }
        Ok(Self { path: path.to_owned(), length, digests, custom })
    }

    /// Its path where files are named after their digests: `dir/<digest>.name`.
    pub fn consistent_path(&self) -> String {
        let digest = self.digests.get("sha256").or_else(|| self.digests.values().next());
        let digest = digest.map_or("", String::as_str);
        match self.path.rsplit_once('/') {
            Some((directory, name)) => format!("{directory}/{digest}.{name}"),
            None => format!("{digest}.{}", self.path),
        }
    }

    /// Its SHA-256, if that was signed.
    pub fn sha256(&self) -> Option<Sha256> {
        self.digests.get("sha256")?.parse().ok()
    }

    /// Begins to check a content.
    pub fn check(&self) -> Check<'_> {
        let contexts = algorithms(&self.digests).map(|(algorithm, digest)| (Context::new(algorithm), digest));
        Check { target: self, contexts: contexts.collect(), length: 0 }
    }
}

fn algorithms(
    digests: &BTreeMap<String, String>,
) -> impl Iterator<Item = (&'static digest::Algorithm, &str)> {
    digests.iter().filter_map(|(name, digest)| match name.as_str() {
        "sha256" => Some((&digest::SHA256, digest.as_str())),
        "sha512" => Some((&digest::SHA512, digest.as_str())),
        _ => None,
    })
}

/// Checks a content while it comes in.
pub struct Check<'a> {
    target: &'a SignedTarget,
    contexts: Vec<(Context, &'a str)>,
    length: u64,
}

impl Check<'_> {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`TrustError::Mismatch`] as soon as there are more than were signed for.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        self.length += bytes.len() as u64;
        if self.length > self.target.length {
            return Err(self.mismatch(format!("it has more than {} bytes", self.target.length)));
        }
        self.contexts.iter_mut().for_each(|(context, _)| context.update(bytes));
        Ok(())
    }

    /// Says whether that was all of it, and every digest is right.
    ///
    /// # Errors
    /// [`TrustError::Mismatch`].
    pub fn finish(self) -> Result<(), TrustError> {
        if self.length != self.target.length {
            return Err(self.mismatch(format!("it has {} bytes, not {}", self.length, self.target.length)));
        }
        let wrong = self.contexts.iter().find(|(context, expected)| {
            !hex::encode(context.clone().finish().as_ref()).eq_ignore_ascii_case(expected)
        });
        match wrong {
            Some((_, expected)) => Err(self.mismatch(format!("its digest is not {expected}"))),
            None => Ok(()),
        }
    }

    fn mismatch(&self, problem: String) -> TrustError {
        TrustError::Mismatch { target: self.target.path.clone(), problem }
    }
}
