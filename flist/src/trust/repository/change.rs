//! Changes of a repository: what they do to its roles, who has to sign, and what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::change_lock::ChangeLock;
use super::directory::{Settings, TrustDirectory};
use super::envelope::Envelope;
use super::key::{KeyError, Passphrase, PublicKey, SecretKey};
use super::roles::{Plan, RoleName, RolePlan};
use super::signer::Signers;
use super::{RepositoryError, key};
use crate::trust::claims;

/// How the next version of a role stands with those who have to sign it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The role.
    pub role: RoleName,
    /// The ids of the keys that have signed.
    pub signed: Vec<String>,
    /// How many have to.
    pub needed: usize,
    /// The ids of keys that could still sign.
    pub missing: Vec<String>,
}

impl Waiting {
    /// Whether enough have signed.
    pub fn is_done(&self) -> bool {
        self.signed.len() >= self.needed
    }
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The roles with a new version, as it is served now, or as it waits.
    pub versions: Vec<(RoleName, u64)>,
    /// What waits for signatures; empty when everything is done.
    pub waiting: Vec<Waiting>,
    /// Files of keys that were made.
    pub new_keys: Vec<PathBuf>,
}

/// A change that is being made.
pub(super) struct Change {
    pub(super) directory: TrustDirectory,
    /// What is served.
    pub(super) before: BTreeMap<RoleName, Envelope>,
    /// What is to be served.
    pub(super) roles: BTreeMap<RoleName, Envelope>,
    /// What has a new version.
    pub(super) changed: BTreeSet<RoleName>,
    /// What waits for signatures of another change, and so cannot be a part of this one.
    pub(super) staged: BTreeSet<RoleName>,
    /// Keeps others from changing the repository meanwhile.
    pub(super) _lock: ChangeLock,
}

impl TrustDirectory {
    /// Makes a repository with new keys, which lie in `keys`, sealed.
    ///
    /// # Errors
    /// There is one already, or something cannot be written.
    pub fn init(
        path: &Path,
        settings: Settings,
        plan: &Plan,
        passphrase: &Passphrase,
        now: Timestamp,
    ) -> Result<(Self, Outcome), RepositoryError> {
        let directory = Self::create(path, settings)?;
        let lock = directory.lock()?;
        let mut new_keys = Vec::new();
        let mut keys: BTreeMap<RoleName, Vec<PublicKey>> = BTreeMap::new();
        for RolePlan { role, keys: count, .. } in plan.roles.iter().copied() {
            for _ in 0..count {
                let (public, path) = directory.new_key(role, &directory.keys(), passphrase)?;
                new_keys.push(path);
                keys.entry(role).or_default().push(public);
            }
        }
        let mut change = Change {
            directory,
            before: BTreeMap::new(),
            roles: begun(plan, &keys),
            changed: BTreeSet::new(),
            staged: BTreeSet::new(),
            _lock: lock,
        };
        change.changed = change.roles.keys().copied().collect();
        let directory = change.directory.clone();
        let mut signers = Signers::find(&[directory.keys()], Some(passphrase.clone()))
            .map_err(|source| RepositoryError::Sign { role: RoleName::Root, source })?;
        let outcome = change.commit(&mut signers, now)?;
        directory.save_settings()?;
        Ok((directory, Outcome { new_keys, ..outcome }))
    }

    /// Makes a key for a role, which does not count before it is added to the role.
    ///
    /// # Errors
    /// [`RepositoryError::Key`].
    pub fn new_key(
        &self,
        role: RoleName,
        keys: &Path,
        passphrase: &Passphrase,
    ) -> Result<(PublicKey, PathBuf), RepositoryError> {
        let failed = |source| RepositoryError::Key { role, source };
        let secret = SecretKey::generate().map_err(failed)?;
        let path = keys.join(format!("{role}-{}.key", secret.public().short()));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(keys);
        made.map_err(|source| failed(KeyError::File { path: keys.to_owned(), source }))?;
        secret.seal(&path, passphrase).map_err(failed)?;
        Ok((key::public_of(&path).map_err(failed)?, path))
    }

    /// Opens the key files that are needed to change a role, so that a wrong passphrase is found before anything is done.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn unseal(&self, role: RoleName, signers: &mut Signers) -> Result<(), RepositoryError> {
        for role in [role, RoleName::Snapshot, RoleName::Timestamp] {
            for id in self.key_ids(role)? {
                signers.unseal(&id).map_err(|source| RepositoryError::Sign { role, source })?;
            }
        }
        Ok(())
    }

    /// Adds keys to a role, removes those whose ids begin so, and sets its threshold, all in one.
    ///
    /// # Errors
    /// [`RepositoryError`]; nothing has changed then.
    pub fn change_keys(
        &self,
        role: RoleName,
        add: &[PublicKey],
        remove: &[String],
        threshold: Option<usize>,
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        let mut change = self.begin()?;
        change.change_keys(role, add, remove, threshold)?;
        change.commit(signers, now)
    }

    /// Signs for targets: path, length, SHA-256, and what else is signed.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn add_targets(
        &self,
        role: RoleName,
        targets: &[(String, u64, String, Value)],
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        let mut change = self.begin()?;
        let signed = change.edit(role)?;
        let mut differs = false;
        for (path, length, sha256, custom) in targets {
            let target = json!({"length": length, "hashes": {"sha256": sha256}, "custom": custom});
            differs |= signed["targets"].get(path) != Some(&target);
            signed["targets"][path] = target;
        }
        if !differs {
            return Ok(Outcome::default());
        }
        change.changed.insert(role);
        change.commit(signers, now)
    }

    /// Takes signatures for targets back: nodes that have them keep them, and no other gets them.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn remove_targets(
        &self,
        role: RoleName,
        paths: &[String],
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        let mut change = self.begin()?;
        let targets = change.edit(role)?["targets"].as_object_mut();
        let mut none = Map::new();
        let targets = targets.unwrap_or(&mut none);
        for path in paths {
            let target = path.clone();
            targets.remove(path).ok_or(RepositoryError::NoTarget { role, target })?;
        }
        change.changed.insert(role);
        change.commit(signers, now)
    }

    /// Signs the timestamp again, and with it the roles that are named, and a snapshot that has less than half of its life
    /// before it.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn refresh(
        &self,
        roles: &[RoleName],
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        let mut change = self.begin()?;
        change.changed.extend(roles.iter().copied().filter(|role| change.roles.contains_key(role)));
        let half = self.settings.lifetimes.of(RoleName::Snapshot) * 86400 / 2;
        let expires = change.roles.get(&RoleName::Snapshot).and_then(Envelope::expires);
        if expires.is_none_or(|expires| expires.as_second() - now.as_second() < half) {
            change.changed.insert(RoleName::Snapshot);
        }
        change.changed.insert(RoleName::Timestamp);
        change.commit(signers, now)
    }

    /// Whether a role can be changed now: nobody else changes the repository, there is such a role, and what waits for
    /// signatures is in nobody's way. Where nothing may come to change, what waits is not.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub(super) fn check_change(
        &self,
        role: RoleName,
        may_be_none: bool,
        signers: &Signers,
    ) -> Result<(), RepositoryError> {
        let mut change = self.begin()?;
        change.edit(role)?;
        let is_in_the_way = change.staged.contains(&role)
            || (!change.staged.is_empty() && !change.can_be_finished(role, signers));
        match is_in_the_way && !may_be_none {
            true => Err(RepositoryError::Staged(self.staged())),
            false => Ok(()),
        }
    }

    fn begin(&self) -> Result<Change, RepositoryError> {
        let lock = self.lock()?;
        let staged = self.load_staged()?.into_keys().collect();
        let before = self.load()?;
        Ok(Change {
            directory: self.clone(),
            roles: before.clone(),
            before,
            changed: BTreeSet::new(),
            staged,
            _lock: lock,
        })
    }
}

/// The first versions of all roles, unsigned.
fn begun(plan: &Plan, keys: &BTreeMap<RoleName, Vec<PublicKey>>) -> BTreeMap<RoleName, Envelope> {
    let none = Vec::new();
    let of = |role: RoleName| keys.get(&role).unwrap_or(&none);
    let ids = |role| of(role).iter().map(PublicKey::id).collect::<Vec<_>>();
    let objects = |roles: &[RoleName]| -> Map<String, Value> {
        let all = roles.iter().flat_map(|role| of(*role));
        all.map(|key| (key.id().to_owned(), key.to_json())).collect()
    };
    let threshold = |role| plan.of(role).map_or(1, |plan| plan.threshold);
    let top = [RoleName::Root, RoleName::Targets, RoleName::Snapshot, RoleName::Timestamp];
    let modes: Vec<RoleName> =
        plan.roles.iter().map(|plan| plan.role).filter(|role| matches!(role, RoleName::Mode(_))).collect();
    let roles: Map<String, Value> = top
        .iter()
        .map(|role| (role.to_string(), json!({"keyids": ids(*role), "threshold": threshold(*role)})))
        .collect();
    let delegated: Vec<Value> = modes
        .iter()
        .filter_map(|role| match role {
            RoleName::Mode(mode) => Some(json!({
                "name": role.as_str(), "keyids": ids(*role), "threshold": threshold(*role),
                "terminating": true, "paths": [claims::pattern(*mode)],
            })),
            _ => None,
        })
        .collect();
    let mut targets = json!({"targets": {}});
    if !modes.is_empty() {
        targets["delegations"] = json!({"keys": objects(&modes), "roles": delegated});
    }
    let root = json!({"consistent_snapshot": true, "keys": objects(&top), "roles": roles});
    let mut begun = BTreeMap::from([
        (RoleName::Root, Envelope::new("root", root)),
        (RoleName::Targets, Envelope::new("targets", targets)),
        (RoleName::Snapshot, Envelope::new("snapshot", json!({"meta": {}}))),
        (RoleName::Timestamp, Envelope::new("timestamp", json!({"meta": {}}))),
    ]);
    begun.extend(modes.into_iter().map(|role| (role, Envelope::new("targets", json!({"targets": {}})))));
    begun
}
