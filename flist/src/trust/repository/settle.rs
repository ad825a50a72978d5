//! A change under way: new versions, signatures, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::RepositoryError;
use super::change::{Change, Outcome, Waiting};
use super::envelope::{Envelope, Signatories, instant};
use super::key::PublicKey;
use super::roles::RoleName;
use super::signer::Signers;
use super::states::{all_signatories, standing};
use crate::trust::client::SIGNED_AT;

impl Change {
    /// What a role says, to be changed.
    pub(super) fn edit(&mut self, role: RoleName) -> Result<&mut Value, RepositoryError> {
        let missing = RepositoryError::None(self.directory.metadata());
        self.roles.get_mut(&role).map(|envelope| &mut envelope.signed).ok_or(missing)
    }

    pub(super) fn change_keys(
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
    pub(super) fn commit(
        mut self,
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        if !self.staged.is_disjoint(&self.changed) {
            return Err(RepositoryError::Staged(self.directory.staged()));
        }
        for role in self.changed.iter().filter(|role| !role.is_listing()) {
            if let Some(envelope) = self.roles.get_mut(role) {
                envelope.renew(now, self.directory.settings.lifetimes.of(*role));
            }
        }
        self.finish(signers, now)
    }

    /// Signs with the keys at hand; writes it all where nothing is missing, and sets it aside otherwise.
    pub(super) fn finish(
        mut self,
        signers: &mut Signers,
        now: Timestamp,
    ) -> Result<Outcome, RepositoryError> {
        let offline: Vec<RoleName> = self.changed.iter().copied().filter(|role| !role.is_listing()).collect();
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
            // What waits is one change, so that what its holders are shown before they sign is all of it.
            false if !self.staged.is_empty() => return Err(RepositoryError::Staged(self.directory.staged())),
            // Without anything that was decided, there is nothing to keep: the next attempt makes it again.
            false if new.is_empty() => {}
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
        let stands = standing(role, envelope, &groups)?;
        Ok(stands.into_iter().filter(|stands| !stands.is_done()).collect())
    }

    /// Whether the keys at hand are enough for a change of this role.
    pub(super) fn can_be_finished(&self, role: RoleName, signers: &Signers) -> bool {
        [role, RoleName::Snapshot, RoleName::Timestamp].into_iter().all(|role| {
            let is_enough = |group: &Signatories| {
                group.keys.keys().filter(|id| signers.has(id)).count() >= group.threshold
            };
            self.signatories(role).iter().all(is_enough)
        })
    }

    fn signatories(&self, role: RoleName) -> Vec<Signatories> {
        all_signatories(&self.before, &self.roles, role)
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
