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

/// The specification takes key ids as they are declared, so the same key under two ids would be two signers; and one key
/// can be written in several ways.
fn check(role: &str, ids: &[String], keys: &BTreeMap<String, Key>) -> Result<(), TrustError> {
    let ids: BTreeSet<&String> = ids.iter().collect();
    let known: Vec<&Key> = ids.into_iter().filter_map(|id| keys.get(id)).collect();
    let different: BTreeSet<Vec<u8>> = known.iter().map(|key| bytes(key)).collect();
    match different.len() == known.len() {
        true => Ok(()),
        false => Err(TrustError::SameKeyTwice { role: role.to_owned() }),
    }
}

/// What a key is, however it is written; of one that can verify nothing, what is written.
pub(super) fn bytes(key: &Key) -> Vec<u8> {
    match key.verification_key() {
        Ok(key) => key.as_bytes().to_vec(),
        Err(_) => key.keyval.public.trim().as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(public: &str) -> Key {
        serde_json::from_value(
            json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}),
        )
        .unwrap()
    }

    /// The key of RFC 8410, section 10.1.
    const HEX: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    const BASE64: [&str; 2] = ["MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQ", "hqowtrbLDFw4rXAxZuE="];

    #[test]
    fn a_key_is_the_same_however_it_is_written() {
        let pem = |between: &str| {
            let body = BASE64.join(between);
            format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
        };
        let mixed = HEX.replace("bf", "Bf");
        let forms = [HEX.to_owned(), HEX.to_uppercase(), mixed, format!(" {HEX}\n"), pem(""), pem("\n")];
        let ids = ["a".to_owned(), "b".to_owned()];
        for one in &forms {
            for other in &forms {
                let keys = BTreeMap::from([(ids[0].clone(), key(one)), (ids[1].clone(), key(other))]);
                let checked = check("prod", &ids, &keys);
                assert!(matches!(checked, Err(TrustError::SameKeyTwice { .. })), "{one} and {other}");
                // One id twice is one signer anyway.
                assert!(check("prod", &[ids[0].clone(), ids[0].clone()], &keys).is_ok());
            }
        }
        let other = HEX.replace("19", "1a");
        let keys = BTreeMap::from([(ids[0].clone(), key(HEX)), (ids[1].clone(), key(&other))]);
        assert!(check("prod", &ids, &keys).is_ok());
        // What can sign nothing does not count for anybody.
        let keys = BTreeMap::from([(ids[0].clone(), key("x")), (ids[1].clone(), key("X"))]);
        assert!(check("prod", &ids, &keys).is_ok());
    }
}
