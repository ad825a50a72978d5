//! Blocks of classic flists, as 0-flist makes them: `key = BLAKE2b-128(plain)`; `stored = XXTEA(key)` over Snappy's
//! raw format of the plain bytes; `id = BLAKE2b-128(stored)`.

use blake2b_simd::Params;

use super::xxtea;

/// BLAKE2b-128.
pub(super) fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(Params::new().hash_length(16).hash(bytes).as_bytes());
    digest
}

pub(super) fn encrypt(key: &[u8; 16], compressed: Vec<u8>) -> Vec<u8> {
    xxtea::encrypt(key, compressed)
}

/// `None` when the length inside cannot be.
pub(super) fn decrypt<'s>(key: &[u8; 16], stored: &'s mut [u8]) -> Option<&'s [u8]> {
    xxtea::decrypt(key, stored)
}
