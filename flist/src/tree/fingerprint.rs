//! What identifies the content of a file.

use std::io::Read;

use blake2::{Blake2b256, Digest};

use crate::block::{BLOCK_SIZE, BlockKey, Codec};

/// Identifies the plain content of a file: BLAKE2b-256 over its size and the keys of its blocks, so that
/// it can be computed both from a flist, without fetching a byte, and from a file on disk.
///
/// Formats have keys of their own, so the same content has another fingerprint in each: only fingerprints of one
/// codec can be compared. An empty file has no keys and the same fingerprint in all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint {
    codec: Codec,
    digest: [u8; 32],
}

/// Before the digits of fingerprints with the keys of classic flists.
const CLASSIC_PREFIX: &str = "classic:";

impl Fingerprint {
    /// From the size in bytes and the key of each [`BLOCK_SIZE`] piece, all of one codec.
    pub fn of(size: u64, keys: impl Iterator<Item = BlockKey>) -> Self {
        let (mut hasher, mut codec) = (Blake2b256::new(), Codec::default());
        hasher.update(size.to_le_bytes());
        for key in keys {
            codec = key.codec();
            hasher.update(key.as_bytes());
        }
        Self { codec, digest: hasher.finalize().into() }
    }

    /// Reads all of `reader`; by the keys of `codec`.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of_reader(reader: impl Read, codec: Codec) -> std::io::Result<Self> {
        let [fingerprint] = Self::each_of_reader(reader, [codec])?;
        Ok(fingerprint)
    }

    /// As [`Fingerprint::of_reader`], by several codecs at once.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn each_of_reader<const N: usize>(
        mut reader: impl Read,
        codecs: [Codec; N],
    ) -> std::io::Result<[Self; N]> {
        let mut buffer = Vec::with_capacity(BLOCK_SIZE);
        let (mut size, mut keys) = (0, codecs.map(|_| Vec::new()));
        loop {
            buffer.clear();
            let read = reader.by_ref().take(BLOCK_SIZE as u64).read_to_end(&mut buffer)?;
            if read == 0 {
                return Ok(keys.map(|keys| Self::of(size, keys.into_iter())));
            }
            size += read as u64;
            for (codec, keys) in codecs.iter().zip(&mut keys) {
                keys.push(codec.key_of(&buffer));
            }
        }
    }

    /// By whose keys it is; any of an empty file.
    pub fn codec(&self) -> Codec {
        self.codec
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.codec == Codec::Classic {
            f.write_str(CLASSIC_PREFIX)?;
        }
        f.write_str(&hex::encode(self.digest))
    }
}

impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        let (codec, digits) = match text.strip_prefix(CLASSIC_PREFIX) {
            Some(digits) => (Codec::Classic, digits),
            None => (Codec::Fl, text.as_str()),
        };
        let mut digest = [0; 32];
        hex::decode_to_slice(digits, &mut digest).map_err(serde::de::Error::custom)?;
        Ok(Self { codec, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Block, Content};

    #[test]
    fn fingerprints_agree_between_tree_and_reader() {
        let plain: Vec<u8> = (0..BLOCK_SIZE + 17).map(|i| (i % 251) as u8).collect();
        let content = |codec: Codec| {
            let block = |piece: &[u8]| Block { id: codec.id_of(piece), key: codec.key_of(piece) };
            Content { size: plain.len() as u64, blocks: plain.chunks(BLOCK_SIZE).map(block).collect() }
        };
        let codecs = [Codec::Fl, Codec::Classic];
        let [fl, classic] = Fingerprint::each_of_reader(&plain[..], codecs).unwrap();
        assert_ne!(fl, classic);
        for (codec, fingerprint) in codecs.into_iter().zip([fl, classic]) {
            assert_eq!(content(codec).fingerprint(), fingerprint);
            assert_eq!(Fingerprint::of_reader(&plain[..], codec).unwrap(), fingerprint);
            assert_eq!(Content::default().fingerprint(), Fingerprint::of_reader(&b""[..], codec).unwrap());
            let text = serde_json::to_string(&fingerprint).unwrap();
            assert_eq!(serde_json::from_str::<Fingerprint>(&text).unwrap(), fingerprint);
        }
        let content = content(Codec::Fl);
        assert_eq!((content.block_len(0), content.block_len(1)), (BLOCK_SIZE, 17));
    }
}
