//! Blocks of fl flists, as rfs makes them: `key = BLAKE2b-256(plain)`; `stored = AES-256-GCM(key, nonce = first 12
//! bytes of key, no associated data, tag appended)` over Snappy's raw format of the plain bytes;
//! `id = BLAKE2b-256(stored)`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// `None` only beyond 64 GiB.
pub(super) fn encrypt(key: &[u8; 32], mut compressed: Vec<u8>) -> Option<Vec<u8>> {
    cipher(key)?.seal_in_place_append_tag(nonce(key), Aad::empty(), &mut compressed).ok()?;
    Some(compressed)
}

/// `None` when the tag does not match.
pub(super) fn decrypt<'s>(key: &[u8; 32], stored: &'s mut [u8]) -> Option<&'s [u8]> {
    Some(cipher(key)?.open_in_place(nonce(key), Aad::empty(), stored).ok()?)
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?))
}

fn nonce(key: &[u8; 32]) -> Nonce {
    let mut bytes = [0; 12];
    bytes.copy_from_slice(&key[..12]);
    Nonce::assume_unique_for_key(bytes)
}
