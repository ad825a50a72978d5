//! A change that waits for signatures, as those see it who are asked for theirs.
//!
//! They have it from somebody else, who may want them to sign something else than he says. So what is shown to them
//! is what they then sign, held in memory in between; it is compared with what is in force, and only what was signed by
//! those who have to is taken to be in force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use sigstore_tuf::TrustedMetadataSet;

use super::RepositoryError;
use super::change::{Change, Outcome};
use super::difference::RoleDifference;
use super::directory::{TrustDirectory, limited};
use super::envelope::Envelope;
use super::roles::RoleName;
use super::signer::Signers;
use super::states::{all_signatories, signatories};
use crate::trust::keys;

type Roles = BTreeMap<RoleName, Envelope>;

/// A change that waits for signatures.
pub struct Staged {
    change: Change,
    waits: Roles,
    differences: Vec<RoleDifference>,
}

impl TrustDirectory {
    /// The change that waits, to be signed; nobody else changes the repository while it is held. Where `root` is given, a
    /// root file of whoever signs, what is in force has to follow from it.
    ///
    /// # Errors
    /// Nothing waits, it does not follow what is in force, or what is said to be in force is not.
    pub fn waiting(&self, root: Option<&Path>) -> Result<Staged, RepositoryError> {
        let lock = self.lock()?;
        let (before, waits) = (self.load()?, self.load_staged()?);
        let differences = self.compared(&before, &waits, root)?;
        let mut roles = before.clone();
        roles.extend(waits.clone());
        let changed = waits.keys().copied().collect();
        let staged = BTreeSet::new();
        let change = Change { directory: self.clone(), before, roles, changed, staged, _lock: lock };
        Ok(Staged { change, waits, differences })
    }

    /// What the change that waits would change. Only looks, also where nothing can be written.
    ///
    /// # Errors
    /// As [`TrustDirectory::waiting`].
    pub fn differences(&self, root: Option<&Path>) -> Result<Vec<RoleDifference>, RepositoryError> {
        self.compared(&self.load()?, &self.load_staged()?, root)
    }

    fn compared(
        &self,
        before: &Roles,
        waits: &Roles,
        root: Option<&Path>,
    ) -> Result<Vec<RoleDifference>, RepositoryError> {
        if waits.is_empty() {
            return Err(RepositoryError::NothingStaged(self.staged()));
        }
        self.check_in_force(before)?;
        if let Some(root) = root {
            self.check_root(before, root)?;
        }
        let nothing = Envelope::new("targets", serde_json::json!({}));
        let difference = |(role, after): (&RoleName, &Envelope)| {
            let (role, old) = (*role, before.get(role).unwrap_or(&nothing));
            let (directory, version, before) = (self.staged(), after.version(), old.version());
            if version.checked_sub(1) != Some(before) {
                return Err(RepositoryError::NotNext { role, directory, version, before });
            }
            keys::check_file(&after.to_bytes())
                .map_err(|_| RepositoryError::SameKeyTwice { role, directory })?;
            Ok(RoleDifference::between(role, old, after))
        };
        waits.iter().map(difference).collect()
    }

    /// Whether all that can be compared with was signed by those who have to.
    fn check_in_force(&self, before: &Roles) -> Result<(), RepositoryError> {
        let unsigned = |role, version| {
            let directory = self.metadata();
            Err(RepositoryError::NotInForce { role, version, directory })
        };
        if !before.contains_key(&RoleName::Root) {
            return unsigned(RoleName::Root, 0);
        }
        for (role, envelope) in before.iter().filter(|(role, _)| !role.is_listing()) {
            let by = signatories(before, *role);
            let signed = by.as_ref().map(|by| envelope.signers(by)).transpose()?.unwrap_or_default().len();
            if by.is_none_or(|by| by.threshold == 0 || signed < by.threshold) {
                return unsigned(*role, envelope.version());
            }
        }
        Ok(())
    }

    /// Whether the root that is in force follows from this one, as nodes would follow it.
    fn check_root(&self, before: &Roles, path: &Path) -> Result<(), RepositoryError> {
        let read = |path: &Path| {
            let failed = |source| RepositoryError::File { action: "read", path: path.to_owned(), source };
            limited(path).map_err(failed)
        };
        let other = || RepositoryError::OtherRoot { directory: self.metadata(), root: path.to_owned() };
        let mut trusted = TrustedMetadataSet::from_root(&read(path)?).map_err(|_| other())?;
        let last = before.get(&RoleName::Root).ok_or_else(other)?;
        for version in trusted.root().version.saturating_add(1)..=last.version() {
            let next = read(&self.metadata().join(RoleName::Root.versioned(version)))?;
            trusted.update_root(&next).map_err(|_| other())?;
        }
        let reached = Envelope::parse(trusted.root_bytes()).map_err(|_| other())?;
        match reached.signed == last.signed {
            true => Ok(()),
            false => Err(other()),
        }
    }
}

impl Staged {
    /// What it would change.
    pub fn differences(&self) -> &[RoleDifference] {
        &self.differences
    }

    /// Adds the signatures that a copy of the repository has for this change; says with which keys these are made that
    /// were not there yet. `copy` may be its directory `staged` alone.
    ///
    /// # Errors
    /// Nothing waits there, or another change does.
    pub fn add_from(&mut self, copy: &Path) -> Result<Vec<String>, RepositoryError> {
        let inner = copy.join("staged");
        let there = if inner.is_dir() { inner } else { copy.to_owned() };
        let theirs = TrustDirectory::load_staged_in(&there)?;
        if theirs.is_empty() {
            return Err(RepositoryError::NothingStaged(there));
        }
        let other = |role: &RoleName| RepositoryError::OtherChange {
            role: *role,
            copy: there.clone(),
            directory: self.change.directory.staged(),
        };
        let is_same = |(role, theirs): &(&RoleName, &Envelope)| {
            self.waits.get(role).is_some_and(|ours| ours.signed == theirs.signed)
        };
        // Before anything is taken, all of it is compared.
        if let Some((role, _)) = theirs.iter().find(|entry| !is_same(entry)) {
            return Err(other(role));
        }
        let mut added = BTreeSet::new();
        for (role, theirs) in &theirs {
            let groups = all_signatories(&self.change.before, &self.change.roles, *role);
            let Some(ours) = self.change.roles.get_mut(role) else { continue };
            for (group, signature) in groups
                .iter()
                .flat_map(|group| theirs.signatures.iter().map(move |signature| (group, signature)))
            {
                let alone = Envelope { signatures: vec![signature.clone()], signed: ours.signed.clone() };
                let is_new =
                    !alone.signers(group)?.is_empty() && !ours.signers(group)?.contains(&signature.keyid);
                if let Ok(bytes) = hex::decode(&signature.sig)
                    && is_new
                {
                    ours.put(&signature.keyid, &bytes);
                    added.insert(signature.keyid.clone());
                }
            }
        }
        Ok(added.into_iter().collect())
    }

    /// Adds the signatures of the keys at hand to exactly what was shown. With enough of them it is published.
    ///
    /// # Errors
    /// [`RepositoryError`]; [`RepositoryError::NoKeyAtHand`] where no signature was added.
    pub fn sign(self, signers: &mut Signers, now: Timestamp) -> Result<Outcome, RepositoryError> {
        let Self { change, waits, .. } = self;
        let directory = change.directory.clone();
        let outcome = change.finish(signers, now)?;
        if !outcome.waiting.is_empty() && directory.load_staged()? == waits {
            let missing = outcome.waiting.into_iter().flat_map(|waiting| waiting.missing);
            let missing: BTreeSet<String> = missing.collect();
            return Err(RepositoryError::NoKeyAtHand { missing: missing.into_iter().collect() });
        }
        Ok(outcome)
    }
}
