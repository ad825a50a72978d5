//! Where the roles of a repository stand: versions, keys, thresholds, and until when they hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::RepositoryError;
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
}

impl TrustDirectory {
    /// Where every role stands.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn states(&self) -> Result<Vec<RoleState>, RepositoryError> {
        let (roles, staged) = (self.load()?, self.load_staged()?);
        let state = |(role, envelope): (&RoleName, &Envelope)| {
            let by = signatories(&roles, *role);
            RoleState {
                role: *role,
                version: envelope.version(),
                expires: envelope.expires(),
                threshold: by.as_ref().map_or(0, |by| by.threshold),
                keys: by.map(|by| by.keys.into_keys().collect()).unwrap_or_default(),
                waiting: staged.get(role).map(Envelope::version),
            }
        };
        Ok(roles.iter().map(state).collect())
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

/// Who has to sign a role, as what is served says; `None` where nothing says it. Pure.
pub(super) fn signatories(roles: &BTreeMap<RoleName, Envelope>, role: RoleName) -> Option<Signatories> {
    let signed = |holder| roles.get(&holder).map_or(&Value::Null, |envelope| &envelope.signed);
    match role {
        RoleName::Mode(_) => Signatories::of_delegation(signed(RoleName::Targets), role.as_str()),
        _ => Some(Signatories::of_root(signed(RoleName::Root), role.as_str())),
    }
}
