//! One block: its id, its key, and how it is sealed and opened.
//!
//! Source: the fl format of rfs. `key = BLAKE2b-256(plain)`; `stored = AES-256-GCM(key, nonce = first 12
//! bytes of key, no associated data, tag appended)` over Snappy's raw format of the plain bytes;
//! `id = BLAKE2b-256(stored)`. The id alone authenticates the stored bytes, because it comes from the
//! flist; the key is derived from the content, so anyone who knows the content can make a valid tag.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use blake2::{Blake2b256, Digest};
use blake2b_simd::Params;
use blake2b_simd::many::{HashManyJob, hash_many};

/// Length of a full plain block in bytes; only the last block of a file may be shorter.
pub const BLOCK_SIZE: usize = 512 * 1024;

/// Largest stored block that is accepted, in bytes: Snappy's worst case for [`BLOCK_SIZE`] and the tag.
pub const MAX_STORED: usize = 32 + BLOCK_SIZE + BLOCK_SIZE / 6 + 16;

/// Why a block could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The text is not 64 hexadecimal digits.
    #[error("'{0}' is not a block id: expected 64 hexadecimal digits")]
    NotAnId(String),
    /// The stored bytes do not have the id they were asked for by.
    #[error("block {wanted} is corrupt: its bytes have the id {found}")]
    WrongId {
        /// The id in the flist.
        wanted: BlockId,
        /// The id of the bytes that were found.
        found: BlockId,
    },
    /// The id is right but the key of the flist does not open it, or the content is no Snappy data.
    #[error("block {id} does not open with the key in the flist: {reason}")]
    Sealed {
        /// The block.
        id: BlockId,
        /// Which of the layers failed.
        reason: &'static str,
    },
    /// A plain block longer than [`BLOCK_SIZE`].
    #[error("a block of {0} bytes is longer than the {BLOCK_SIZE} the format allows")]
    TooLong(usize),
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 raw bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

digest_newtype!(
    /// Names the stored bytes of a block: BLAKE2b-256 of them.
    BlockId
);
digest_newtype!(
    /// Opens a block: BLAKE2b-256 of its plain bytes. It also identifies the plain content, so a local
    /// file can be compared with a flist without fetching anything.
    BlockKey
);

impl BlockId {
    /// The id of these stored bytes.
    pub fn of(stored: &[u8]) -> Self {
        Self(Blake2b256::digest(stored).into())
    }

    /// The ids of several blocks, in their order. Blocks of similar length are hashed side by side where the
    /// processor can, which takes about half the time of one after the other.
    pub fn of_each(stored: &[&[u8]]) -> Vec<Self> {
        digests(stored).into_iter().map(Self).collect()
    }
}

impl FromStr for BlockId {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| BlockError::NotAnId(text.chars().take(80).collect()))?;
        Ok(Self(bytes))
    }
}

impl BlockKey {
    /// The key of these plain bytes.
    pub fn of(plain: &[u8]) -> Self {
        Self(Blake2b256::digest(plain).into())
    }
}

/// How many blocks are hashed side by side: what AVX2 has room for.
const LANES: usize = 4;

/// BLAKE2b-256 of each input.
fn digests(inputs: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut by_length: Vec<_> = inputs.iter().copied().enumerate().collect();
    by_length.sort_by_key(|(_, input)| std::cmp::Reverse(input.len()));
    let mut found = vec![[0; 32]; inputs.len()];
    for group in by_length.chunks(LANES) {
        let (longest, shortest) = (group[0].1.len(), group[group.len() - 1].1.len());
        // What is left of the longest is hashed alone, slower than by the other implementation.
        if group.len() < LANES || longest / 2 > shortest {
            for (index, input) in group {
                found[*index] = Blake2b256::digest(input).into();
            }
            continue;
        }
        let mut params = Params::new();
        params.hash_length(32);
        let mut jobs: Vec<_> = group.iter().map(|(_, input)| HashManyJob::new(&params, input)).collect();
        hash_many(&mut jobs);
        for ((index, _), job) in group.iter().zip(&jobs) {
            found[*index].copy_from_slice(job.to_hash().as_bytes());
        }
    }
    found
}

/// A sealed block as a store keeps it.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Names [`Sealed::stored`].
    pub id: BlockId,
    /// Opens [`Sealed::stored`].
    pub key: BlockKey,
    /// Compressed and encrypted bytes.
    pub stored: Vec<u8>,
}

/// Compresses and encrypts one plain block of at most [`BLOCK_SIZE`] bytes.
///
/// # Errors
/// [`BlockError::TooLong`].
pub fn seal(plain: &[u8]) -> Result<Sealed, BlockError> {
    if plain.len() > BLOCK_SIZE {
        return Err(BlockError::TooLong(plain.len()));
    }
    let key = BlockKey::of(plain);
    // Snappy fails only beyond 4 GiB and AES-GCM only beyond 64 GiB, so these two cannot happen here.
    let unsealable = |_| BlockError::TooLong(plain.len());
    let mut stored = snap::raw::Encoder::new().compress_vec(plain).map_err(unsealable)?;
    cipher(&key)
        .and_then(|cipher| cipher.seal_in_place_append_tag(nonce(&key), Aad::empty(), &mut stored))
        .map_err(|_| BlockError::TooLong(plain.len()))?;
    Ok(Sealed { id: BlockId::of(&stored), key, stored })
}

/// Checks stored bytes against their id, without opening them.
///
/// # Errors
/// [`BlockError::WrongId`].
pub fn verify(id: &BlockId, stored: &[u8]) -> Result<(), BlockError> {
    let found = BlockId::of(stored);
    if found == *id { Ok(()) } else { Err(BlockError::WrongId { wanted: *id, found }) }
}

/// Opens stored bytes whose id has been verified. The content is what the packer stored: its length is
/// at most [`BLOCK_SIZE`].
///
/// # Errors
/// [`BlockError::Sealed`] when a layer does not open.
pub fn open(id: &BlockId, key: &BlockKey, mut stored: Vec<u8>) -> Result<Vec<u8>, BlockError> {
    let mut plain = Vec::new();
    let length = open_into(id, key, &mut stored, &mut plain)?.len();
    plain.truncate(length);
    Ok(plain)
}

/// As [`open`], in buffers that the caller keeps: `stored` is decrypted in place, and the plain bytes are the
/// beginning of `plain`, which grows as far as needed and never shrinks.
///
/// # Errors
/// As [`open`].
pub fn open_into<'p>(
    id: &BlockId,
    key: &BlockKey,
    stored: &mut [u8],
    plain: &'p mut Vec<u8>,
) -> Result<&'p [u8], BlockError> {
    let failed = |reason| BlockError::Sealed { id: *id, reason };
    let not_snappy = |_| failed("the content is not Snappy data");
    let compressed = cipher(key)
        .and_then(|cipher| cipher.open_in_place(nonce(key), Aad::empty(), stored))
        .map_err(|_| failed("the AES-256-GCM tag does not match"))?;
    let length = snap::raw::decompress_len(compressed).map_err(not_snappy)?;
    if length > BLOCK_SIZE {
        return Err(failed("the content is longer than a block"));
    }
    if plain.len() < length {
        plain.resize(length, 0);
    }
    let length = snap::raw::Decoder::new().decompress(compressed, plain).map_err(not_snappy)?;
    Ok(&plain[..length])
}

fn cipher(key: &BlockKey) -> Result<LessSafeKey, aws_lc_rs::error::Unspecified> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes())?))
}

fn nonce(key: &BlockKey) -> Nonce {
    let mut bytes = [0; 12];
    bytes.copy_from_slice(&key.as_bytes()[..12]);
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_again() {
        for plain in [&b""[..], b"x", &[0; BLOCK_SIZE], &(0..=255).cycle().take(70_000).collect::<Vec<u8>>()]
        {
            let sealed = seal(plain).unwrap();
            verify(&sealed.id, &sealed.stored).unwrap();
            assert_eq!(open(&sealed.id, &sealed.key, sealed.stored).unwrap(), plain);
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut sealed = seal(b"some content").unwrap();
        sealed.stored[3] ^= 1;
        assert!(matches!(verify(&sealed.id, &sealed.stored), Err(BlockError::WrongId { .. })));
        assert!(matches!(open(&sealed.id, &sealed.key, sealed.stored), Err(BlockError::Sealed { .. })));
    }

    #[test]
    fn a_block_longer_than_the_format_allows_is_refused() {
        assert!(matches!(seal(&vec![0; BLOCK_SIZE + 1]), Err(BlockError::TooLong(_))));
        let key = BlockKey::of(b"k");
        let mut stored = snap::raw::Encoder::new().compress_vec(&vec![0; BLOCK_SIZE + 1]).unwrap();
        cipher(&key).unwrap().seal_in_place_append_tag(nonce(&key), Aad::empty(), &mut stored).unwrap();
        assert!(matches!(open(&BlockId::of(&stored), &key, stored), Err(BlockError::Sealed { .. })));
    }

    #[test]
    fn both_implementations_find_the_same_ids() {
        let bytes: Vec<u8> = (0..3 * BLOCK_SIZE as u32 / 2).map(|i| (i ^ (i >> 7)) as u8).collect();
        // Groups of similar lengths, of very different ones, and fewer than are hashed side by side.
        let lengths = [0, 1, 127, 128, 129, 100_000, 130_000, 70_000, 90_000, BLOCK_SIZE, 131_072, 5, 64];
        for count in 0..=lengths.len() {
            let inputs: Vec<_> =
                lengths[..count].iter().enumerate().map(|(at, length)| &bytes[at..at + length]).collect();
            let one_by_one: Vec<_> = inputs.iter().map(|input| BlockId::of(input)).collect();
            assert_eq!(BlockId::of_each(&inputs), one_by_one, "{count} inputs");
        }
    }

    #[test]
    fn buffers_are_used_again() {
        let mut plain = Vec::new();
        for content in [&[7; 5000][..], b"short", b"", &[9; 70_000]] {
            let mut sealed = seal(content).unwrap();
            assert_eq!(open_into(&sealed.id, &sealed.key, &mut sealed.stored, &mut plain).unwrap(), content);
        }
        assert_eq!(plain.len(), 70_000);
    }

    #[test]
    fn ids_are_hexadecimal() {
        let id = BlockId::of(b"x");
        assert_eq!(id.to_string().parse::<BlockId>().unwrap(), id);
        assert!("zz".parse::<BlockId>().is_err());
    }
}
