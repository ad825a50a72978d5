//! Changes of a repository: what they do to its roles, who has to sign, and what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::directory::{Settings, TrustDirectory};
use super::envelope::{Envelope, Signatories, instant};
use super::key::{Passphrase, PublicKey, SecretKey};
use super::roles::{Plan, RoleName, RolePlan};
use super::signer::Signers;
use super::{RepositoryError, key};
use crate::trust::claims;
use crate::trust::client::SIGNED_AT;

/// A role whose next version lacks signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The role.
    pub role: RoleName,
    /// How many have signed.
    pub signed: usize,
    /// How many have to.
    pub needed: usize,
    /// The ids of keys that could still sign.
    pub missing: Vec<String>,
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
    directory: TrustDirectory,
    /// What is served.
    before: BTreeMap<RoleName, Envelope>,
    /// What is to be served.
    roles: BTreeMap<RoleName, Envelope>,
    /// What has a new version.
    changed: BTreeSet<RoleName>,
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
        secret.seal(&path, passphrase).map_err(failed)?;
        Ok((key::public_of(&path).map_err(failed)?, path))
    }

    /// The ids of a role's keys.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn key_ids(&self, role: RoleName) -> Result<Vec<String>, RepositoryError> {
        let roles = self.load()?;
        let holder = if matches!(role, RoleName::Mode(_)) { RoleName::Targets } else { RoleName::Root };
        let signed = roles.get(&holder).map(|envelope| &envelope.signed).unwrap_or(&Value::Null);
        let keys = match role {
            RoleName::Mode(_) => Signatories::of_delegation(signed, role.as_str()),
            _ => Some(Signatories::of_root(signed, role.as_str())),
        };
        Ok(keys.map(|keys| keys.keys.into_keys().collect()).unwrap_or_default())
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

    /// Adds the signatures of the keys at hand to what waits for them.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn sign(&self, signers: &mut Signers, now: Timestamp) -> Result<Outcome, RepositoryError> {
        let staged = self.load_staged()?;
        if staged.is_empty() {
            return Err(RepositoryError::NothingStaged(self.staged()));
        }
        let before = self.load()?;
        let mut roles = before.clone();
        roles.extend(staged.clone());
        let changed = staged.keys().copied().collect();
        let change = Change { directory: self.clone(), before, roles, changed };
        change.finish(signers, now)
    }

    fn begin(&self) -> Result<Change, RepositoryError> {
        if !self.load_staged()?.is_empty() {
            return Err(RepositoryError::Staged(self.staged()));
        }
        let before = self.load()?;
        Ok(Change { directory: self.clone(), roles: before.clone(), before, changed: BTreeSet::new() })
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

impl Change {
    /// What a role says, to be changed.
    fn edit(&mut self, role: RoleName) -> Result<&mut Value, RepositoryError> {
        let missing = RepositoryError::None(self.directory.metadata());
        self.roles.get_mut(&role).map(|envelope| &mut envelope.signed).ok_or(missing)
    }

    fn change_keys(
        &mut self,
        role: RoleName,
        add: &[PublicKey],
        remove: &[String],
        threshold: Option<usize>,
    ) -> Result<(), RepositoryError> {
        let missing = RepositoryError::None(self.directory.metadata());
        let delegated = matches!(role, RoleName::Mode(_));
        let holder = if delegated { RoleName::Targets } else { RoleName::Root };
        let signed = self.edit(holder)?;
        let authority = if delegated { &mut signed["delegations"] } else { signed };
        let entry = match (delegated, &mut authority["roles"]) {
            (true, Value::Array(roles)) => roles.iter_mut().find(|entry| entry["name"] == role.as_str()),
            (_, roles) => roles.get_mut(role.as_str()),
        };
        let entry = entry.ok_or(missing)?;
        let mut ids: Vec<String> = serde_json::from_value(entry["keyids"].clone()).unwrap_or_default();
        for prefix in remove {
            let found = ids.iter().position(|id| !prefix.is_empty() && id.starts_with(prefix.as_str()));
            let found = found.ok_or_else(|| RepositoryError::NoKey { role, id: prefix.clone() })?;
            ids.remove(found);
        }
        for key in add {
            if ids.iter().any(|id| id == key.id()) {
                return Err(RepositoryError::HasKey { role, id: key.short().to_owned() });
            }
            ids.push(key.id().to_owned());
        }
        let threshold = threshold.unwrap_or_else(|| entry["threshold"].as_u64().map_or(1, |n| n as usize));
        if threshold == 0 || ids.len() < threshold {
            return Err(RepositoryError::Threshold { role, keys: ids.len(), threshold });
        }
        entry["keyids"] = json!(ids);
        entry["threshold"] = json!(threshold);
        for key in add {
            authority["keys"][key.id()] = key.to_json();
        }
        forget_unused(authority);
        // Whoever may sign has changed, so what they have signed is signed anew.
        self.changed.extend([holder, role]);
        Ok(())
    }

    /// Gives what has changed its next version, and finishes it.
    fn commit(mut self, signers: &mut Signers, now: Timestamp) -> Result<Outcome, RepositoryError> {
        let listing = [RoleName::Snapshot, RoleName::Timestamp];
        for role in self.changed.iter().filter(|role| !listing.contains(role)) {
            if let Some(envelope) = self.roles.get_mut(role) {
                envelope.renew(now, self.directory.settings.lifetimes.of(*role));
            }
        }
        self.finish(signers, now)
    }

    /// Signs with the keys at hand; writes it all where nothing is missing, and sets it aside otherwise.
    fn finish(mut self, signers: &mut Signers, now: Timestamp) -> Result<Outcome, RepositoryError> {
        signers.add_commands(&self.directory.settings.commands);
        let listing = [RoleName::Snapshot, RoleName::Timestamp];
        let offline: Vec<RoleName> =
            self.changed.iter().copied().filter(|role| !listing.contains(role)).collect();
        let mut waiting = Vec::new();
        for role in &offline {
            waiting.extend(self.sign(*role, signers)?);
        }
        if waiting.is_empty() {
            if offline.iter().any(|role| *role != RoleName::Root) {
                self.changed.insert(RoleName::Snapshot);
            }
            self.changed.insert(RoleName::Timestamp);
            waiting = self.list(signers, now)?;
        }
        let done = waiting.is_empty();
        let kept = |role: &RoleName| done || offline.contains(role);
        let new: BTreeMap<RoleName, Envelope> = self
            .changed
            .iter()
            .filter(|role| kept(role))
            .map(|role| (*role, self.roles[role].clone()))
            .collect();
        match done {
            true => self.directory.publish(&new)?,
            // Without anything that was decided, there is nothing to keep: the next attempt makes it again.
            false => self.directory.stage(&new)?,
        }
        let versions = new.iter().map(|(role, envelope)| (*role, envelope.version())).collect();
        Ok(Outcome { versions, waiting, new_keys: Vec::new() })
    }

    /// Makes snapshot and timestamp list what there is, and signs them.
    fn list(&mut self, signers: &mut Signers, now: Timestamp) -> Result<Vec<Waiting>, RepositoryError> {
        let lifetimes = self.directory.settings.lifetimes;
        let mut waiting = Vec::new();
        if self.changed.contains(&RoleName::Snapshot) {
            let lists = |role: &RoleName| matches!(role, RoleName::Targets | RoleName::Mode(_));
            let listed = self.roles.iter().filter(|(role, _)| lists(role));
            let listed: Map<String, Value> =
                listed.map(|(role, file)| (role.file(), file.listed())).collect();
            if let Some(snapshot) = self.roles.get_mut(&RoleName::Snapshot) {
                snapshot.signed["meta"] = Value::Object(listed);
                snapshot.renew(now, lifetimes.snapshot);
            }
            waiting.extend(self.sign(RoleName::Snapshot, signers)?);
        }
        let listed = self.roles.get(&RoleName::Snapshot).map(Envelope::listed);
        if let Some(timestamp) = self.roles.get_mut(&RoleName::Timestamp) {
            timestamp.signed["meta"] = json!({RoleName::Snapshot.file(): listed});
            timestamp.signed[SIGNED_AT] = instant(now).into();
            timestamp.renew(now, lifetimes.timestamp);
        }
        waiting.extend(self.sign(RoleName::Timestamp, signers)?);
        Ok(waiting)
    }

    /// Puts the signatures on a role that can be made here, and says what is missing.
    fn sign(&mut self, role: RoleName, signers: &mut Signers) -> Result<Vec<Waiting>, RepositoryError> {
        let groups = self.signatories(role);
        let Some(envelope) = self.roles.get_mut(&role) else { return Ok(Vec::new()) };
        let bytes = envelope.canonical()?;
        let ids: BTreeSet<&String> = groups.iter().flat_map(|group| group.keys.keys()).collect();
        let mut signed = BTreeSet::new();
        for group in &groups {
            signed.extend(envelope.signers(group)?);
        }
        let can: Vec<&String> =
            ids.into_iter().filter(|id| !signed.contains(*id) && signers.has(id)).collect();
        for id in can {
            let signature =
                signers.sign(id, &bytes).map_err(|source| RepositoryError::Sign { role, source })?;
            envelope.put(id, &signature);
        }
        let mut waiting = Vec::new();
        for group in &groups {
            let signed = envelope.signers(group)?;
            if signed.len() < group.threshold {
                let missing = group.keys.keys().filter(|id| !signed.contains(*id)).cloned().collect();
                waiting.push(Waiting { role, signed: signed.len(), needed: group.threshold, missing });
            }
        }
        Ok(waiting)
    }

    /// Who has to sign a role; a new root has to be signed by the keys of the old one too.
    fn signatories(&self, role: RoleName) -> Vec<Signatories> {
        let signed = |roles: &BTreeMap<RoleName, Envelope>, role| {
            roles.get(&role).map_or(Value::Null, |envelope| envelope.signed.clone())
        };
        let root = signed(&self.roles, RoleName::Root);
        match role {
            RoleName::Mode(_) => {
                let targets = signed(&self.roles, RoleName::Targets);
                Signatories::of_delegation(&targets, role.as_str()).into_iter().collect()
            }
            RoleName::Root if !self.before.is_empty() => {
                let before = signed(&self.before, RoleName::Root);
                vec![Signatories::of_root(&before, role.as_str()), Signatories::of_root(&root, role.as_str())]
            }
            _ => vec![Signatories::of_root(&root, role.as_str())],
        }
    }
}

/// Takes keys out that no role has.
fn forget_unused(authority: &mut Value) {
    let entries: Vec<&Value> = match &authority["roles"] {
        Value::Array(roles) => roles.iter().collect(),
        Value::Object(roles) => roles.values().collect(),
        _ => return,
    };
    let ids = entries.into_iter().filter_map(|entry| entry["keyids"].as_array()).flatten();
    let used: BTreeSet<String> = ids.filter_map(Value::as_str).map(str::to_owned).collect();
    if let Some(keys) = authority["keys"].as_object_mut() {
        keys.retain(|id, _| used.contains(id));
    }
}
