use super::*;

const CODECS: [Codec; 2] = [Codec::Fl, Codec::Classic];

#[test]
fn what_is_sealed_opens_again() {
    let long: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for codec in CODECS {
        for plain in [&b""[..], b"x", b"xyz", &[0; BLOCK_SIZE], &long] {
            let sealed = codec.seal(plain).unwrap();
            assert!(sealed.id.codec() == codec && sealed.key.is_of(plain));
            verify(&sealed.id, &sealed.stored).unwrap();
            assert_eq!(open(&sealed.id, &sealed.key, sealed.stored).unwrap(), plain);
        }
    }
}

#[test]
fn a_flipped_bit_is_found() {
    for codec in CODECS {
        let mut sealed = codec.seal(b"some content").unwrap();
        sealed.stored[3] ^= 1;
        assert!(matches!(verify(&sealed.id, &sealed.stored), Err(BlockError::WrongId { .. })));
        assert!(matches!(open(&sealed.id, &sealed.key, sealed.stored), Err(BlockError::Sealed { .. })));
    }
}

#[test]
fn a_key_of_other_content_opens_nothing() {
    for codec in CODECS {
        let sealed = codec.seal(b"some content").unwrap();
        for other in [codec.key_of(b"other content"), Codec::Fl.key_of(b""), Codec::Classic.key_of(b"")] {
            let opened = open(&sealed.id, &other, sealed.stored.clone());
            assert!(matches!(opened, Err(BlockError::Sealed { .. })), "{other}");
        }
    }
}

#[test]
fn blocks_of_both_codecs_are_verified_together() {
    let sealed: Vec<_> =
        (0..8_u8).map(|seed| CODECS[usize::from(seed % 2)].seal(&[seed; 3000]).unwrap()).collect();
    let ids: Vec<_> = sealed.iter().map(|block| block.id).collect();
    let mut stored: Vec<_> = sealed.iter().map(|block| block.stored.as_slice()).collect();
    stored[3] = stored[5];
    let wrong: Vec<_> = verify_each(&ids, &stored).into_iter().map(|verified| verified.is_err()).collect();
    assert_eq!(wrong, [false, false, false, true, false, false, false, false]);
}

#[test]
fn a_block_longer_than_the_format_allows_is_refused() {
    assert!(matches!(seal(&vec![0; BLOCK_SIZE + 1]), Err(BlockError::TooLong(_))));
    let compressed = || snap::raw::Encoder::new().compress_vec(&vec![0; BLOCK_SIZE + 1]).unwrap();
    let fl = (BlockKey::from_bytes([7; 32]), fl::encrypt(&[7; 32], compressed()).unwrap());
    let classic = (BlockKey::from_classic([7; 16]), classic::encrypt(&[7; 16], compressed()));
    for (key, stored) in [fl, classic] {
        let error = open(&key.codec().id_of(&stored), &key, stored).unwrap_err();
        assert!(error.to_string().contains("longer than a block"), "{error}");
    }
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
        let side_by_side: Vec<_> = digests(&inputs).into_iter().map(BlockId::from_bytes).collect();
        assert_eq!(side_by_side, one_by_one, "{count} inputs");
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
    for id in CODECS.map(|codec| codec.id_of(b"x")) {
        assert_eq!(id.to_string().parse::<BlockId>().unwrap(), id);
    }
    for bad in ["zz", &"z".repeat(32), &"0".repeat(48), &"é".repeat(16)] {
        assert!(bad.parse::<BlockId>().is_err(), "{bad}");
    }
}
