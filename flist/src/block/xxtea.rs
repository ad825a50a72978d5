//! XXTEA ("Correction to xtea", Wheeler and Needham, 1998) as the libraries xxtea-c and xxtea-go apply it to bytes:
//! the data padded with zeros to whole little-endian words, then one more word with its length in bytes.
//!
//! It is what classic flists have, and protects nothing: what a block holds is authenticated by its id.

/// Length of a word in bytes.
const WORD: usize = 4;

const DELTA: u32 = 0x9e37_79b9;

/// Encrypts `data` of less than 4 GiB.
pub(super) fn encrypt(key: &[u8; 16], mut data: Vec<u8>) -> Vec<u8> {
    let length = data.len() as u32;
    data.resize(data.len().next_multiple_of(WORD), 0);
    data.extend_from_slice(&length.to_le_bytes());
    let (words, _) = data.as_chunks_mut::<WORD>();
    // Empty data is its length alone, and one word cannot be mixed with others.
    if words.len() < 2 {
        return data;
    }
    let key = key_words(key);
    let last = words.len() - 1;
    let (mut sum, mut before) = (0_u32, get(words, last));
    for _ in 0..rounds(words.len()) {
        sum = sum.wrapping_add(DELTA);
        for at in 0..=last {
            let after = get(words, if at == last { 0 } else { at + 1 });
            before = get(words, at).wrapping_add(mix(sum, after, before, at, &key));
            words[at] = before.to_le_bytes();
        }
    }
    data
}

/// Decrypts in place; the data is the beginning of it. `None` when the length inside does not fit, as is almost
/// certain with a wrong key.
pub(super) fn decrypt<'d>(key: &[u8; 16], data: &'d mut [u8]) -> Option<&'d [u8]> {
    let (words, rest) = data.as_chunks_mut::<WORD>();
    if words.is_empty() || !rest.is_empty() {
        return None;
    }
    let last = words.len() - 1;
    if last > 0 {
        let key = key_words(key);
        let (mut sum, mut after) = (rounds(words.len()).wrapping_mul(DELTA), get(words, 0));
        while sum != 0 {
            for at in (0..=last).rev() {
                let before = get(words, if at == 0 { last } else { at - 1 });
                after = get(words, at).wrapping_sub(mix(sum, after, before, at, &key));
                words[at] = after.to_le_bytes();
            }
            sum = sum.wrapping_sub(DELTA);
        }
    }
    let (length, padded) = (get(words, last) as usize, last * WORD);
    (length <= padded && padded - length < WORD).then(|| &data[..length])
}

fn rounds(words: usize) -> u32 {
    6 + 52 / words as u32
}

fn get(words: &[[u8; WORD]], at: usize) -> u32 {
    u32::from_le_bytes(words[at])
}

fn key_words(key: &[u8; 16]) -> [u32; 4] {
    let (words, _) = key.as_chunks::<WORD>();
    std::array::from_fn(|at| u32::from_le_bytes(words[at]))
}

fn mix(sum: u32, after: u32, before: u32, at: usize, key: &[u32; 4]) -> u32 {
    let shifted = ((before >> 5) ^ (after << 2)).wrapping_add((after >> 3) ^ (before << 4));
    let keyed = (sum ^ after).wrapping_add(key[(at & 3) ^ ((sum >> 2) & 3) as usize] ^ before);
    shifted ^ keyed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That these are the bytes that others make is shown by the blocks of the golden flist.
    #[test]
    fn what_is_encrypted_decrypts_again_and_nothing_else_does() {
        let key = *b"0123456789abcdef";
        for length in [0, 1, 2, 3, 4, 5, 11, 12, 13, 1000] {
            let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut encrypted = encrypt(&key, data.clone());
            assert_eq!(encrypted.len(), data.len().next_multiple_of(WORD) + WORD);
            assert_eq!(decrypt(&key, &mut encrypted.clone()).unwrap(), data);
            encrypted.pop();
            assert!(decrypt(&key, &mut encrypted).is_none());
        }
        assert!(decrypt(&key, &mut []).is_none());
        assert!(decrypt(&key, &mut [9, 0, 0, 0]).is_none());
    }
}
