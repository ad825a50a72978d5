//! What a reader who takes one file after the other will ask for next. Pure.

use std::ops::Range;

/// So many files in a row have to be asked for before any is read ahead.
const CONVINCED: u32 = 3;

/// Most files that are read ahead at once.
const MOST_FILES: usize = 32;

/// Most plain bytes that are read ahead at once.
const MOST_BYTES: u64 = 4 << 20;

/// A reader with several threads asks for files that are so near each other in any order.
const NEAR: usize = 8;

/// Follows one reader through the files, which are numbered in the order in which a tree is walked. Several
/// readers at once look like none that is worth reading ahead for.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    last: Option<usize>,
    /// Files that were asked for in a row.
    run: u32,
    /// The first file that has not been handed out.
    next: usize,
    /// The file of those that were handed out last which the kernel has to ask for.
    marker: usize,
}

impl Sequence {
    /// The reader asks for the file at `place`. Returns the files to read ahead now; `length` tells the bytes of
    /// a file, `None` for one that is not to be read ahead, at which it ends.
    pub(super) fn asked(&mut self, place: usize, length: impl Fn(usize) -> Option<u64>) -> Range<usize> {
        let nothing = place..place;
        if self.last.is_some_and(|last| (place..=place + NEAR).contains(&last)) {
            return nothing;
        }
        // What has been handed out may never be asked for, because the kernel has it by now.
        let follows = self.last.is_some_and(|last| last < place) && place <= self.next + NEAR;
        self.last = Some(place);
        self.run = if follows { self.run.saturating_add(1) } else { 1 };
        if !follows {
            self.next = place + 1;
        }
        self.next = self.next.max(place + 1);
        if self.run < CONVINCED || self.next - place > MOST_FILES / 2 {
            return nothing;
        }
        let (first, mut bytes) = (self.next, 0);
        while self.next - first < MOST_FILES
            && let Some(length) = length(self.next)
        {
            bytes += length;
            if bytes > MOST_BYTES {
                break;
            }
            self.next += 1;
        }
        self.marker = first + (self.next - first) / 2;
        first..self.next
    }

    /// The file that the kernel has to ask for, so that one hears how far the reader has come.
    pub(super) fn marker(&self) -> usize {
        self.marker
    }

    /// Whether a file has been handed out and the reader has not come to it yet.
    pub(super) fn is_ahead(&self, place: usize) -> bool {
        self.run >= CONVINCED && place < self.next && self.last.is_some_and(|last| last < place)
    }
}

/// Most blocks of one file that are read ahead: beyond what the kernel itself reads ahead, so that blocks are
/// opened a few at a time when it asks for them.
const MOST_BLOCKS: usize = 12;

/// Follows one reader through one long file.
#[derive(Debug, Default)]
pub(super) struct BlockSequence {
    /// The file, by its place.
    file: Option<usize>,
    /// The first block that has not been handed out.
    next: usize,
}

impl BlockSequence {
    /// The reader asks for a block of the file at `place`, which has so many. Returns the blocks to read ahead
    /// now: none, or as many as `at_once`, less at the end of the file.
    pub(super) fn asked(&mut self, place: usize, block: usize, count: usize, at_once: usize) -> Range<usize> {
        let nothing = block..block;
        let near = self.file == Some(place) && block <= self.next && block + 2 * MOST_BLOCKS > self.next;
        if !near {
            // The first block of a file alone does not mean that its other blocks are wanted.
            (self.file, self.next) = (Some(place), block + 1);
            return nothing;
        }
        self.next = self.next.max(block + 1);
        let end = count.min(self.next + at_once);
        if end > block + 1 + MOST_BLOCKS || self.next >= end {
            return nothing;
        }
        let first = std::mem::replace(&mut self.next, end);
        first..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(_: usize) -> Option<u64> {
        Some(1000)
    }

    #[test]
    fn only_a_reader_in_order_is_read_ahead_for() {
        let mut sequence = Sequence::default();
        for place in [5, 3, 9, 1, 0, 7, 20, 2] {
            assert!(sequence.asked(place, short).is_empty(), "{place}");
        }
        assert!(sequence.asked(3, short).is_empty());
        assert_eq!(sequence.asked(4, short), 5..5 + MOST_FILES);
        assert!(sequence.asked(4, short).is_empty(), "more of the same file");
    }

    #[test]
    fn a_reader_with_several_threads_is_one_reader() {
        let mut sequence = Sequence::default();
        let places = [2, 0, 1, 5, 4, 3, 7, 9, 6];
        let files: Vec<_> = places.iter().flat_map(|place| sequence.asked(*place, short)).collect();
        assert_eq!(files, (8..8 + MOST_FILES).collect::<Vec<_>>());
    }

    #[test]
    fn at_the_marker_it_goes_on_where_it_ended() {
        let mut sequence = Sequence::default();
        let mut files = (0..3).map(|place| sequence.asked(place, short)).last().unwrap();
        for _ in 0..100 {
            assert!(files.contains(&sequence.marker()));
            assert!(files.clone().all(|place| sequence.is_ahead(place)) && !sequence.is_ahead(files.end));
            let next = sequence.asked(sequence.marker(), short);
            assert_eq!(next, files.end..files.end + MOST_FILES);
            files = next;
        }
        assert!(sequence.asked(0, short).is_empty(), "the reader has started again");
    }

    #[test]
    fn blocks_are_read_ahead_from_the_second_on_and_not_too_far() {
        let mut sequence = BlockSequence::default();
        assert!(sequence.asked(7, 0, 100, 4).is_empty());
        let mut seen = 1;
        for block in 1..100 {
            for block in sequence.asked(7, block, 100, 4) {
                // Blocks that were asked for before they could be handed out are left out.
                assert!(block >= seen);
                seen = block + 1;
            }
            assert!(seen <= block + 1 + MOST_BLOCKS, "{block}");
        }
        assert_eq!(seen, 100);
        assert!(sequence.asked(8, 99, 200, 4).is_empty(), "another file");
        assert!(sequence.asked(8, 3, 200, 4).is_empty(), "backwards");
        assert!(sequence.asked(8, 50, 200, 4).is_empty(), "somewhere else");
        assert_eq!(sequence.asked(8, 51, 200, 4), 52..56);
    }

    #[test]
    fn files_and_bytes_are_limited() {
        let mut sequence = Sequence::default();
        let long = |_| Some(MOST_BYTES / 4);
        let files = (0..3).map(|place| sequence.asked(place, long)).last().unwrap();
        assert_eq!(files, 3..7);

        // A long file is not read ahead; when it is asked for, what comes after it is.
        let mut sequence = Sequence::default();
        let fifth_is_long = |place| (place != 5 && place < 8).then_some(1);
        let files = (0..3).map(|place| sequence.asked(place, fifth_is_long)).last().unwrap();
        assert_eq!(files, 3..5);
        assert!(sequence.asked(sequence.marker(), fifth_is_long).is_empty());
        assert_eq!(sequence.asked(5, fifth_is_long), 6..8);
        assert!(sequence.asked(7, fifth_is_long).is_empty(), "nothing comes after the last one");
    }
}
