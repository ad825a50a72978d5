//! A damaged flist is an error, or the same tree; and damage within the archive an error or some tree. Never anything
//! else: no panic, no crash.
//!
//! Here is a sample. `MOLT_EVERY_BYTE=1 cargo nextest run -p flist --all-features --test classic --release damaged`
//! takes every byte and every length.

use std::fs;

use flist::format;
use flist::tree::Limits;

use crate::forge::{database_of, with_database};
use crate::golden::golden_tree;
use crate::observe::golden;

/// Every byte, or every so manyth.
fn every(nth: usize) -> usize {
    if std::env::var_os("MOLT_EVERY_BYTE").is_some() { 1 } else { nth }
}

fn limits() -> Limits {
    Limits { flist_bytes: 1 << 20, entries: 10_000, blocks: 10_000, ..Limits::default() }
}

#[test]
fn a_flipped_byte_is_an_error_or_changes_nothing() {
    let whole = fs::read(golden("classic/golden.flist")).unwrap();
    let wanted = golden_tree();
    let (mut refused, mut same) = (0, 0);
    for place in (0..whole.len()).step_by(every(5)) {
        for mask in [0xff, 1, 0x80] {
            let mut damaged = whole.clone();
            damaged[place] ^= mask;
            match format::parse(&damaged, &limits()) {
                Ok(tree) => {
                    assert_eq!(tree, wanted, "byte {place} with {mask:#x}");
                    same += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    // The time and the system in gzip's header count for nothing.
    assert!(refused > 50 * same && same > 0, "{refused} refused, {same} the same");
}

#[test]
fn a_flist_cut_anywhere_is_an_error() {
    let whole = fs::read(golden("classic/golden.flist")).unwrap();
    for length in (0..whole.len()).step_by(every(7)) {
        assert!(format::parse(&whole[..length], &limits()).is_err(), "{length} bytes");
    }
}

#[test]
fn damage_within_the_archive_is_an_error_or_a_sound_tree() {
    let database = database_of(&fs::read(golden("classic/golden.flist")).unwrap());
    let (mut refused, mut read) = (0, 0);
    for (place, round) in (0..database.len()).step_by(every(61)).zip((0_u8..=255).cycle()) {
        for value in [0, 255, round, database[place] ^ 0x80] {
            let mut damaged = database.clone();
            damaged[place] = value;
            match format::parse(&with_database(&damaged), &limits()) {
                Ok(tree) => {
                    assert!(tree.len() < 10_000);
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0 && read > 0, "{refused} refused, {read} read");
}
