//! One block: its id, its key, and how it is sealed and opened.
//!
//! Each format of flists has its own codec. Either way Snappy compresses, a key made from the plain bytes
//! encrypts, and the id is a hash of the stored bytes. The id alone authenticates the stored bytes, because it
//! comes from the flist; the key is derived from the content, so anyone who knows the content can seal it.

mod classic;
mod fl;
mod xxtea;

use std::fmt;
use std::str::FromStr;

use blake2::{Blake2b256, Digest};
use blake2b_simd::Params;
use blake2b_simd::many::{HashManyJob, hash_many};

/// Length of a full plain block in bytes; only the last block of a file may be shorter.
pub const BLOCK_SIZE: usize = 512 * 1024;

/// Largest stored block that is accepted, in bytes: Snappy's worst case for [`BLOCK_SIZE`] and what either codec
/// adds.
pub const MAX_STORED: usize = 32 + BLOCK_SIZE + BLOCK_SIZE / 6 + 16;

/// Why a block could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The text is not 64 hexadecimal digits, or 32.
    #[error("'{0}' is not a block id: expected 64 hexadecimal digits, or 32 of a classic flist")]
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

/// How blocks are sealed, and how long their ids and keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Codec {
    /// Of fl flists: AES-256-GCM, BLAKE2b-256.
    #[default]
    Fl,
    /// Of classic flists: XXTEA, BLAKE2b-128.
    Classic,
}

impl Codec {
    /// The id of these stored bytes.
    pub fn id_of(self, stored: &[u8]) -> BlockId {
        BlockId(self.digest(stored))
    }

    /// The key of these plain bytes.
    pub fn key_of(self, plain: &[u8]) -> BlockKey {
        BlockKey(self.digest(plain))
    }

    fn digest(self, bytes: &[u8]) -> Bytes {
        match self {
            Self::Fl => Bytes::Fl(Blake2b256::digest(bytes).into()),
            Self::Classic => Bytes::Classic(classic::digest(bytes)),
        }
    }

    /// Compresses and encrypts one plain block of at most [`BLOCK_SIZE`] bytes.
    ///
    /// # Errors
    /// [`BlockError::TooLong`].
    pub fn seal(self, plain: &[u8]) -> Result<Sealed, BlockError> {
        // Snappy fails only beyond 4 GiB and AES-GCM only beyond 64 GiB, so neither can fail here.
        let unsealable = || BlockError::TooLong(plain.len());
        if plain.len() > BLOCK_SIZE {
            return Err(unsealable());
        }
        let key = self.key_of(plain);
        let compressed = snap::raw::Encoder::new().compress_vec(plain).map_err(|_| unsealable())?;
        let stored = match &key.0 {
            Bytes::Fl(key) => fl::encrypt(key, compressed).ok_or_else(unsealable)?,
            Bytes::Classic(key) => classic::encrypt(key, compressed),
        };
        Ok(Sealed { id: self.id_of(&stored), key, stored })
    }
}

/// The bytes of an id or a key, as long as its codec has them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Bytes {
    Fl([u8; 32]),
    Classic([u8; 16]),
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Bytes);

        impl $name {
            /// Wraps the 32 raw bytes of an fl flist.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(Bytes::Fl(bytes))
            }

            /// Wraps the 16 raw bytes of a classic flist.
            pub const fn from_classic(bytes: [u8; 16]) -> Self {
                Self(Bytes::Classic(bytes))
            }

            /// The raw bytes: 32 or 16.
            pub const fn as_bytes(&self) -> &[u8] {
                match &self.0 {
                    Bytes::Fl(bytes) => bytes,
                    Bytes::Classic(bytes) => bytes,
                }
            }

            /// The codec of the block.
            pub const fn codec(&self) -> Codec {
                match self.0 {
                    Bytes::Fl(_) => Codec::Fl,
                    Bytes::Classic(_) => Codec::Classic,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
    /// Names the stored bytes of a block: BLAKE2b of them, of 256 bits or, in a classic flist, 128.
    BlockId
);
digest_newtype!(
    /// Opens a block: BLAKE2b of its plain bytes. It also identifies the plain content, so a local file can be
    /// compared with a flist without fetching anything.
    BlockKey
);

impl BlockId {
    /// The id of these stored bytes of an fl flist.
    pub fn of(stored: &[u8]) -> Self {
        Codec::Fl.id_of(stored)
    }
}

impl FromStr for BlockId {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let refuse = |_| BlockError::NotAnId(text.chars().take(80).collect());
        let (mut long, mut short) = ([0; 32], [0; 16]);
        if text.len() == 2 * short.len() {
            hex::decode_to_slice(text, &mut short).map_err(refuse)?;
            return Ok(Self::from_classic(short));
        }
        hex::decode_to_slice(text, &mut long).map_err(refuse)?;
        Ok(Self::from_bytes(long))
    }
}

impl BlockKey {
    /// The key of these plain bytes in an fl flist.
    pub fn of(plain: &[u8]) -> Self {
        Codec::Fl.key_of(plain)
    }

    /// Whether it is the key of these plain bytes.
    pub fn is_of(&self, plain: &[u8]) -> bool {
        self.codec().key_of(plain) == *self
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

/// Seals one plain block of at most [`BLOCK_SIZE`] bytes for an fl flist.
///
/// # Errors
/// [`BlockError::TooLong`].
pub fn seal(plain: &[u8]) -> Result<Sealed, BlockError> {
    Codec::Fl.seal(plain)
}

/// Checks stored bytes against their id, without opening them.
///
/// # Errors
/// [`BlockError::WrongId`].
pub fn verify(id: &BlockId, stored: &[u8]) -> Result<(), BlockError> {
    compare(id, id.codec().id_of(stored))
}

/// Checks several blocks as [`verify`] does, in their order. Blocks of similar length are hashed side by side
/// where the processor can, which takes about half the time of one after the other.
pub fn verify_each(ids: &[BlockId], stored: &[&[u8]]) -> Vec<Result<(), BlockError>> {
    if ids.iter().any(|id| id.codec() != Codec::Fl) {
        return ids.iter().zip(stored).map(|(id, stored)| verify(id, stored)).collect();
    }
    let found = digests(stored).into_iter().map(BlockId::from_bytes);
    ids.iter().zip(found).map(|(id, found)| compare(id, found)).collect()
}

fn compare(wanted: &BlockId, found: BlockId) -> Result<(), BlockError> {
    if found == *wanted { Ok(()) } else { Err(BlockError::WrongId { wanted: *wanted, found }) }
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
    let compressed = match &key.0 {
        Bytes::Fl(key) => fl::decrypt(key, stored).ok_or("the AES-256-GCM tag does not match"),
        Bytes::Classic(key) => classic::decrypt(key, stored).ok_or("the XXTEA length does not match"),
    };
    let opened = decompress(compressed.map_err(failed)?, plain).map_err(failed)?;
    // XXTEA opens with any key, and then to something else.
    if key.codec() == Codec::Classic && !key.is_of(opened) {
        return Err(failed("the content has another key"));
    }
    Ok(opened)
}

fn decompress<'p>(compressed: &[u8], plain: &'p mut Vec<u8>) -> Result<&'p [u8], &'static str> {
    let not_snappy = |_| "the content is not Snappy data";
    let length = snap::raw::decompress_len(compressed).map_err(not_snappy)?;
    if length > BLOCK_SIZE {
        return Err("the content is longer than a block");
    }
    if plain.len() < length {
        plain.resize(length, 0);
    }
    let length = snap::raw::Decoder::new().decompress(compressed, plain).map_err(not_snappy)?;
    Ok(&plain[..length])
}

#[cfg(test)]
mod tests;
