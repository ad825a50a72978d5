//! The public halves of keys, also of those that others hold: ed25519, or ECDSA of P-256, because that is what most
//! tokens have.

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use sigstore_tuf::Key;

use super::KeyError;

/// Largest public key in a file, in bytes.
const MAX_PUBLIC: u64 = 4 * 1024;

/// What is at the beginning and at the end of a public key in PEM.
const PEM: (&str, &str) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----");

/// Characters of base64 in a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// Length of a point of P-256 that is not compressed, in bytes.
const P256_POINT: usize = 65;

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ed25519,
    EcdsaP256,
}

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    kind: Kind,
    /// As it stands in metadata: hexadecimal digits of ed25519, PEM of ECDSA.
    pub(super) public: String,
    id: String,
}

impl PublicKey {
    /// The key with these 32 bytes, in hexadecimal.
    ///
    /// # Errors
    /// [`KeyError::NotPublic`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let not_public = || KeyError::NotPublic(text.escape_debug().take(80).collect());
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| not_public())?;
        Self::checked(Kind::Ed25519, hex::encode(bytes)).ok_or_else(not_public)
    }

    /// The key in a PEM text (`BEGIN PUBLIC KEY`): ed25519, or ECDSA of P-256.
    ///
    /// # Errors
    /// [`KeyError::NotPublic`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let not_public = || KeyError::NotPublic(text.escape_debug().take(80).collect());
        let pem = in_one_form(text).ok_or_else(not_public)?;
        let raw = |kind| {
            let key: Key = serde_json::from_value(object(kind, &pem)).ok()?;
            Some(key.verification_key().ok()?.as_bytes().to_vec())
        };
        if let Some(raw) = raw(Kind::Ed25519) {
            return Self::from_hex(&hex::encode(raw));
        }
        let is_whole = |point: &Vec<u8>| point.len() == P256_POINT;
        raw(Kind::EcdsaP256)
            .filter(is_whole)
            .and_then(|_| Self::checked(Kind::EcdsaP256, pem))
            .ok_or_else(not_public)
    }

    /// The key that somebody names: by its hexadecimal digits, or by a PEM file.
    ///
    /// # Errors
    /// [`KeyError::NotPublic`], [`KeyError::File`].
    pub fn named(text: &str) -> Result<Self, KeyError> {
        let path = Path::new(text);
        let by_digits = Self::from_hex(text);
        if by_digits.is_ok() || !path.is_file() {
            return by_digits;
        }
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let mut pem = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        io::Read::read_to_end(&mut io::Read::take(file, MAX_PUBLIC), &mut pem).map_err(failed)?;
        Self::from_pem(&String::from_utf8_lossy(&pem)).map_err(|_| KeyError::NotPublic(text.to_owned()))
    }

    fn checked(kind: Kind, public: String) -> Option<Self> {
        let key: Key = serde_json::from_value(object(kind, &public)).ok()?;
        Some(Self { kind, id: key.key_id().ok()?, public })
    }

    /// Its id: SHA-256 of the key as it stands in metadata.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The first digits of its id, for file names and people.
    pub fn short(&self) -> &str {
        &self.id[..12]
    }

    /// As it stands in metadata.
    pub fn to_json(&self) -> Value {
        object(self.kind, &self.public)
    }
}

/// A public key in PEM as RFC 7468 has it written, because the id depends on every byte; `None` if it is nothing like PEM.
fn in_one_form(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let [first, content @ .., last] = lines.as_slice() else { return None };
    if (*first, *last) != PEM {
        return None;
    }
    let content: Vec<char> = content.iter().flat_map(|line| line.chars()).collect();
    let wrapped = content.chunks(PEM_LINE).map(String::from_iter);
    let lines = [PEM.0.to_owned()].into_iter().chain(wrapped).chain([PEM.1.to_owned()]);
    Some(lines.map(|line| line + "\n").collect())
}

fn object(kind: Kind, public: &str) -> Value {
    let (keytype, scheme) = match kind {
        Kind::Ed25519 => ("ed25519", "ed25519"),
        Kind::EcdsaP256 => ("ecdsa", "ecdsa-sha2-nistp256"),
    };
    json!({"keytype": keytype, "scheme": scheme, "keyval": {"public": public}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_one_that_securesystemslib_makes() {
        // Made with securesystemslib 1.4.0: SSlibKey's id of this key.
        let key =
            PublicKey::from_hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        assert_eq!(key.id(), "74c181c7ad8a0855d4b55e44d2ba87aabdddb196832571f15f92fece332e4916");
        assert!(PublicKey::from_hex("d75a").is_err());
        // The same key as openssl and pkcs11-tool write it (RFC 8410).
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::from_pem(pem).unwrap(), key);
    }

    /// Made with openssl 3.0, the id with securesystemslib's rule: SHA-256 of the key's canonical JSON.
    #[test]
    fn a_key_of_p_256_is_read_from_pem_and_of_another_curve_is_not() {
        let p256 = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEIZKG3y8APeeL7kTYYxpneqGZ9gso\njnRceCwb9lVihhV+/1QzTaE8Bb1ZTxy/fE9cqxZfF7ZbpNxf5YBghC8C7w==\n-----END PUBLIC KEY-----\n";
        let key = PublicKey::from_pem(p256).unwrap();
        assert_eq!(key.to_json()["scheme"], "ecdsa-sha2-nistp256");
        assert_eq!(key.id(), "7a975348b41dbb9d1fcca42022542cc8fb801d6e30b99c636f0f3c521e661364");
        let windows = format!("\r\n{}\r\n", p256.trim().replace('\n', "\r\n"));
        assert_eq!(PublicKey::from_pem(&windows).unwrap(), key);
        let narrow = p256.replacen("AEIZ", "AE\nIZ", 1);
        assert_eq!(PublicKey::from_pem(&narrow).unwrap().id(), key.id());
        let p384 = "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEUI4WL0oOyXS5YAwKO2P5ZcdZHGIx1h+E\nkvHWZkLyGyyejmk7HvEruhqwkrtAq9PBqjwGDtbeUVMg0RuSFEbLvZ08zgHu92Hu\nZIQURhw+2Gr1I6CW3WZr6qN9mc+j46kR\n-----END PUBLIC KEY-----\n";
        let cut = p256.replacen("MFk", "MFl", 1);
        let private = p256.replace("PUBLIC", "PRIVATE");
        for bad in [p384, &cut, &private, "", "-----BEGIN PUBLIC KEY-----", &p256[..80]] {
            assert!(matches!(PublicKey::from_pem(bad), Err(KeyError::NotPublic(_))), "{bad}");
        }
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("token.pem");
        std::fs::write(&path, p256).unwrap();
        assert_eq!(PublicKey::named(path.to_str().unwrap()).unwrap(), key);
        std::fs::write(&path, p384).unwrap();
        let error = PublicKey::named(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("token.pem") && error.contains("P-256"), "{error}");
    }
}
