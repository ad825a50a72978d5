//! Whether a threshold means as many keys as it says. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sigstore_tuf::metadata::Metadata;
use sigstore_tuf::{Delegations, Key, Root, Targets};

use super::error::TrustError;

/// Refuses an accepted file in which a role counts one key twice: any root of the chain, and whatever delegates.
pub(super) fn check_file(bytes: &[u8]) -> Result<(), TrustError> {
    if let Ok(root) = Metadata::<Root>::from_slice(bytes) {
        return check_root(root.signed());
    }
    match Metadata::<Targets>::from_slice(bytes).map(Metadata::into_signed) {
        Ok(Targets { delegations: Some(delegations), .. }) => check_delegations(&delegations),
        _ => Ok(()),
    }
}

/// Refuses a root in which a role counts one key twice.
pub(super) fn check_root(root: &Root) -> Result<(), TrustError> {
    root.roles.iter().try_for_each(|(name, role)| check(name, &role.keyids, &root.keys))
}

/// Refuses delegations in which a role counts one key twice.
pub(super) fn check_delegations(delegations: &Delegations) -> Result<(), TrustError> {
    delegations.roles.iter().try_for_each(|role| check(&role.name, &role.keyids, &delegations.keys))
}

/// The specification takes key ids as they are declared, so the same key under two ids would be two signers.
fn check(role: &str, ids: &[String], keys: &BTreeMap<String, Key>) -> Result<(), TrustError> {
    let ids: BTreeSet<&String> = ids.iter().collect();
    let known: Vec<&Key> = ids.into_iter().filter_map(|id| keys.get(id)).collect();
    let different: BTreeSet<&str> = known.iter().map(|key| key.keyval.public.trim()).collect();
    match different.len() == known.len() {
        true => Ok(()),
        false => Err(TrustError::SameKeyTwice { role: role.to_owned() }),
    }
}
