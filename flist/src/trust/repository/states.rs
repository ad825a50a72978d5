//! Where the roles of a repository stand: versions, keys, thresholds, and until when they hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::RepositoryError;
use super::change::Waiting;
use super::directory::TrustDirectory;
use super::envelope::{Envelope, Signatories};
use super::roles::RoleName;

/// Where one role stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleState {
    /// The role.
    pub role: RoleName,
    /// Its version.
    pub version: u64,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// The ids of its keys.
    pub keys: Vec<String>,
    /// How many of them have to sign.
    pub threshold: usize,
    /// The version that waits for signatures.
    pub waiting: Option<u64>,
    /// Who has signed that, and who has not; of a new root first those of the one in force, then those of its own.
    pub signatures: Vec<Waiting>,
}

impl TrustDirectory {
    /// Where every role stands.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn states(&self) -> Result<Vec<RoleState>, RepositoryError> {
        let (roles, staged) = (self.load()?, self.load_staged()?);
        let mut after = roles.clone();
        after.extend(staged.clone());
        let state = |(role, envelope): (&RoleName, &Envelope)| {
            let by = signatories(&roles, *role);
            let signatures = match staged.get(role) {
                Some(waits) => standing(*role, waits, &all_signatories(&roles, &after, *role))?,
                None => Vec::new(),
            };
            Ok(RoleState {
                role: *role,
                version: envelope.version(),
                expires: envelope.expires(),
                threshold: by.as_ref().map_or(0, |by| by.threshold),
                keys: by.map(|by| by.keys.into_keys().collect()).unwrap_or_default(),
                waiting: staged.get(role).map(Envelope::version),
                signatures,
            })
        };
        roles.iter().map(state).collect()
    }

    /// The ids of a role's keys.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn key_ids(&self, role: RoleName) -> Result<Vec<String>, RepositoryError> {
        let by = signatories(&self.load()?, role);
        Ok(by.map(|by| by.keys.into_keys().collect()).unwrap_or_default())
    }
}

/// Who has to sign the next version of a role; a new root has to be signed by the keys of the old one too. Pure.
pub(super) fn all_signatories(
    before: &BTreeMap<RoleName, Envelope>,
    after: &BTreeMap<RoleName, Envelope>,
    role: RoleName,
) -> Vec<Signatories> {
    let new = signatories(after, role);
    match role {
        RoleName::Root if !before.is_empty() => signatories(before, role).into_iter().chain(new).collect(),
        _ => new.into_iter().collect(),
    }
}

/// Who of each group has signed a version of a role. Pure.
pub(super) fn standing(
    role: RoleName,
    envelope: &Envelope,
    groups: &[Signatories],
) -> Result<Vec<Waiting>, RepositoryError> {
    let of = |group: &Signatories| {
        let signed = envelope.signers(group)?;
        let missing = group.keys.keys().filter(|id| !signed.contains(*id)).cloned().collect();
        Ok(Waiting { role, signed: signed.into_iter().collect(), needed: group.threshold, missing })
    };
    groups.iter().map(of).collect()
}

/// Who has to sign a role, as what is served says; `None` where nothing says it. Pure.
pub(super) fn signatories(roles: &BTreeMap<RoleName, Envelope>, role: RoleName) -> Option<Signatories> {
    let signed = |holder| roles.get(&holder).map_or(&Value::Null, |envelope| &envelope.signed);
    match role {
        RoleName::Mode(_) => Signatories::of_delegation(signed(RoleName::Targets), role.as_str()),
        _ => Some(Signatories::of_root(signed(RoleName::Root), role.as_str())),
    }
}
