//! Signing keys: ed25519, in files that only a passphrase opens.

mod public;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{pbkdf2, rand};
use serde::{Deserialize, Serialize};

use crate::private_file::{self, NotPrivate};
use crate::regular_file;
pub use public::PublicKey;

/// Rounds of PBKDF2-HMAC-SHA256 for new keys (OWASP Password Storage Cheat Sheet, 2023).
pub const ROUNDS: u32 = 600_000;

/// Most rounds that are accepted in a file: half a minute of one processor.
const MAX_ROUNDS: u32 = 100_000_000;

/// Largest key file, in bytes.
const MAX_FILE: u64 = 16 * 1024;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot use key file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Others could use the file. That a passphrase seals it is no reason to let them have it: they could guess at that
    /// for as long as they want.
    #[error("key file {path} {problem}")]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// The file is no key file.
    #[error("{path} is not a key file of flist: {problem}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The passphrase does not open it.
    #[error("the passphrase does not open {path}")]
    Passphrase {
        /// The file.
        path: PathBuf,
    },
    /// A text is no public key.
    #[error(
        "'{0}' is no public key: expected the 64 hexadecimal digits of an ed25519 key, or the name of a PEM file (BEGIN PUBLIC KEY) with an ed25519 key or an ECDSA key of P-256"
    )]
    NotPublic(String),
    /// The system gives no random numbers, or refuses the cryptography.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// A secret that opens key files. It is never printed.
#[derive(Clone)]
pub struct Passphrase {
    text: String,
    rounds: NonZeroU32,
}

impl Passphrase {
    /// Takes a passphrase; new keys are sealed with [`ROUNDS`].
    pub fn new(text: impl Into<String>) -> Self {
        Self::with_rounds(text, ROUNDS)
    }

    /// As [`Passphrase::new`], with other rounds for new keys. Fewer make guessing cheaper.
    pub fn with_rounds(text: impl Into<String>, rounds: u32) -> Self {
        Self { text: text.into(), rounds: NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN) }
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// A key that can sign.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
    public: PublicKey,
}

impl SecretKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        rand::fill(&mut seed).map_err(|_| KeyError::Crypto)?;
        Self::from_seed(seed)
    }

    fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Crypto)?;
        let public = PublicKey::from_hex(&hex::encode(pair.public_key().as_ref()))?;
        Ok(Self { pair, seed, public })
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    /// Writes it to a new file (0600), sealed.
    ///
    /// # Errors
    /// The file is there already or cannot be written, or the cryptography fails.
    pub fn seal(&self, path: &Path, passphrase: &Passphrase) -> Result<(), KeyError> {
        let (mut salt, mut nonce) = ([0; 16], [0; 12]);
        rand::fill(&mut salt).and_then(|()| rand::fill(&mut nonce)).map_err(|_| KeyError::Crypto)?;
        let key = derive(passphrase, passphrase.rounds, &salt)?;
        let mut sealed = self.seed.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.public.public.as_bytes()),
            &mut sealed,
        )
        .map_err(|_| KeyError::Crypto)?;
        let file = KeyFile {
            public: self.public.public.clone(),
            kdf: "pbkdf2-hmac-sha256".to_owned(),
            rounds: passphrase.rounds.get(),
            salt: hex::encode(salt),
            cipher: "aes-256-gcm".to_owned(),
            nonce: hex::encode(nonce),
            sealed: hex::encode(sealed),
        };
        let text = serde_json::to_string_pretty(&file).map_err(|_| KeyError::Crypto)? + "\n";
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let mut new =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).map_err(failed)
    }

    /// Opens a key file.
    ///
    /// # Errors
    /// It is none, cannot be read, or is sealed with another passphrase.
    pub fn open(path: &Path, passphrase: &Passphrase) -> Result<Self, KeyError> {
        let file = KeyFile::read(path)?;
        let not_a_key =
            |problem: &str| KeyError::NotAKey { path: path.to_owned(), problem: problem.to_owned() };
        if file.kdf != "pbkdf2-hmac-sha256" || file.cipher != "aes-256-gcm" {
            return Err(not_a_key("it is sealed in a way that this program does not know"));
        }
        let rounds = NonZeroU32::new(file.rounds).filter(|rounds| rounds.get() <= MAX_ROUNDS);
        let rounds = rounds.ok_or_else(|| not_a_key("its number of rounds is out of range"))?;
        let parts = (hex::decode(&file.salt), hex::decode(&file.nonce), hex::decode(&file.sealed));
        let (Ok(salt), Ok(nonce), Ok(mut sealed)) = parts else {
            return Err(not_a_key("it has something else than hexadecimal digits in it"));
        };
        let nonce: [u8; 12] = nonce.try_into().map_err(|_| not_a_key("its nonce has another length"))?;
        let key = derive(passphrase, rounds, &salt)?;
        let wrong = || KeyError::Passphrase { path: path.to_owned() };
        let nonce = Nonce::assume_unique_for_key(nonce);
        let seed =
            key.open_in_place(nonce, Aad::from(file.public.as_bytes()), &mut sealed).map_err(|_| wrong())?;
        Self::from_seed(<[u8; 32]>::try_from(&*seed).map_err(|_| wrong())?)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public.short())
    }
}

fn derive(passphrase: &Passphrase, rounds: NonZeroU32, salt: &[u8]) -> Result<LessSafeKey, KeyError> {
    let mut key = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, passphrase.text.as_bytes(), &mut key);
    UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new).map_err(|_| KeyError::Crypto)
}

/// A key file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    public: String,
    kdf: String,
    rounds: u32,
    salt: String,
    cipher: String,
    nonce: String,
    sealed: String,
}

impl KeyFile {
    /// Reads it, whoever else can: for what in it is public.
    fn read_public(path: &Path) -> Result<Self, KeyError> {
        let bytes = regular_file::read(path, MAX_FILE);
        let bytes = bytes.map_err(|source| KeyError::File { path: path.to_owned(), source })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| KeyError::NotAKey { path: path.to_owned(), problem: error.to_string() })
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let (file, _) = private_file::open(path, MAX_FILE).map_err(|error| match error {
            NotPrivate::Open(source) => failed(source),
            NotPrivate::Unsafe(problem) => KeyError::NotPrivate { path: path.to_owned(), problem },
        })?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE), &mut text).map_err(failed)?;
        serde_json::from_str(&text)
            .map_err(|error| KeyError::NotAKey { path: path.to_owned(), problem: error.to_string() })
    }
}

/// Whether this is what is in a key file, however the file is named.
pub fn is_key_file(content: &[u8]) -> bool {
    serde_json::from_slice::<KeyFile>(content).is_ok()
}

/// The public half of the key in a file, which needs no passphrase.
///
/// # Errors
/// It is no key file, or cannot be read.
pub fn public_of(path: &Path) -> Result<PublicKey, KeyError> {
    PublicKey::from_hex(&KeyFile::read(path)?.public)
}

/// As [`public_of`], also of a file that others can use: whether it may sign is seen when it is to.
///
/// # Errors
/// It is no key file, or cannot be read.
pub(super) fn public_in(path: &Path) -> Result<PublicKey, KeyError> {
    PublicKey::from_hex(&KeyFile::read_public(path)?.public)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_passphrase_opens_a_key_and_nothing_shows_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let (right, wrong) = (Passphrase::with_rounds("right", 10), Passphrase::with_rounds("wrong", 10));
        let key = SecretKey::generate().unwrap();
        key.seal(&path, &right).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&hex::encode(key.seed)) && !format!("{key:?}{right:?}").contains("right"));
        assert_eq!(public_of(&path).unwrap(), *key.public());
        let opened = SecretKey::open(&path, &right).unwrap();
        assert_eq!(opened.sign(b"x"), key.sign(b"x"));
        assert!(matches!(SecretKey::open(&path, &wrong), Err(KeyError::Passphrase { .. })));
        // Another public key beside the same secret one.
        let other = SecretKey::generate().unwrap();
        std::fs::write(&path, text.replace(&key.public.public, &other.public.public)).unwrap();
        assert!(matches!(SecretKey::open(&path, &right), Err(KeyError::Passphrase { .. })));
        assert!(matches!(key.seal(&path, &right), Err(KeyError::File { .. })));
    }

    #[test]
    fn a_key_that_others_can_use_is_not_used_by_whatever_name() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("a.key"), directory.path().join("link.key"));
        let passphrase = Passphrase::with_rounds("right", 10);
        SecretKey::generate().unwrap().seal(&path, &passphrase).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for (mode, is_private) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            for path in [&path, &link] {
                let opened = SecretKey::open(path, &passphrase).map(drop).and(public_of(path).map(drop));
                assert_eq!(opened.is_ok(), is_private, "{mode:o}: {opened:?}");
                if let Err(error) = opened {
                    assert!(error.to_string().contains("chmod 600"), "{error}");
                }
            }
        }
    }
}
