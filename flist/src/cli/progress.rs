//! How far a pack, an unpack, a verification is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flist::block::BlockId;
use flist::progress::Observer;
use flist::store::{Store, StoreError};
use flist::tree::Tree;
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Least time from one line to the next, where no bar can be drawn.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

const TEMPLATE: &str =
    "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// Tells people how far a work is; a bar goes away with this.
pub(super) struct Progress {
    doing: &'static str,
    total: AtomicU64,
    done: AtomicU64,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    /// The time of the last line; of the start before the first one.
    Lines(Mutex<Instant>),
    Nothing,
}

impl Progress {
    /// Tells nobody.
    pub(super) fn silent() -> Self {
        Self::new("", Shown::Nothing)
    }

    /// Draws this bar on standard error.
    pub(super) fn bar(doing: &'static str, bar: ProgressBar) -> Self {
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(doing);
        bar.set_draw_target(ProgressDrawTarget::stderr());
        Self::new(doing, Shown::Bar(bar))
    }

    /// Writes a line to standard error now and then.
    pub(super) fn lines(doing: &'static str) -> Self {
        Self::new(doing, Shown::Lines(Mutex::new(Instant::now())))
    }

    fn new(doing: &'static str, shown: Shown) -> Self {
        Self { doing, total: AtomicU64::new(0), done: AtomicU64::new(0), shown }
    }

    /// The line that is due, if one is.
    fn due(&self, last: &mut Instant, now: Instant) -> Option<String> {
        if now.saturating_duration_since(*last) < BETWEEN_LINES {
            return None;
        }
        *last = now;
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
        Some(format!("{}: {} of {} ({percent} %)", self.doing, BinaryBytes(done), BinaryBytes(total)))
    }
}

impl Observer for Progress {
    fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        if let Shown::Bar(bar) = &self.shown {
            bar.set_length(bytes);
        }
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        match &self.shown {
            Shown::Bar(bar) => bar.inc(bytes),
            Shown::Lines(last) => {
                if let Some(line) = self.due(&mut lock(last), Instant::now()) {
                    eprintln!("flist: {line}");
                }
            }
            Shown::Nothing => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// A store whose readers' progress is told. A block counts for all files that need it when it is first
/// asked for, so that it does not matter whether it is fetched once or for each of them.
pub(super) struct ObservedStore {
    store: Arc<dyn Store>,
    /// Plain bytes of the blocks that were not asked for yet, in all files together.
    waiting: Mutex<HashMap<BlockId, u64>>,
    progress: Progress,
}

impl ObservedStore {
    /// The store, of which all blocks of the tree are about to be read.
    pub(super) fn new(store: Arc<dyn Store>, tree: &Tree, progress: Progress) -> Self {
        let mut waiting = HashMap::new();
        for (_, _, content) in tree.files() {
            for (index, block) in content.blocks.iter().enumerate() {
                *waiting.entry(block.id).or_default() += content.block_len(index) as u64;
            }
        }
        progress.total(waiting.values().sum());
        Self { store, waiting: Mutex::new(waiting), progress }
    }

    fn asked(&self, id: &BlockId) {
        let bytes = lock(&self.waiting).remove(id);
        if let Some(bytes) = bytes {
            self.progress.advance(bytes);
        }
    }
}

impl Store for ObservedStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let got = self.store.get(id);
        self.asked(id);
        got
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        let got = self.store.get_each(ids, buffers);
        ids.iter().for_each(|id| self.asked(id));
        got
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        self.store.at_once(ids)
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        self.store.has(id)
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        self.store.put(id, stored)
    }

    fn url(&self) -> String {
        self.store.url()
    }
}

/// Whoever panicked had only counted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_every_few_seconds_and_say_how_far_it_is() {
        let progress = Progress::silent();
        progress.total(4 << 20);
        progress.advance(1 << 20);
        let start = Instant::now();
        let mut last = start;
        assert_eq!(progress.due(&mut last, start + BETWEEN_LINES / 2), None);
        let line = progress.due(&mut last, start + BETWEEN_LINES).unwrap();
        assert_eq!(line, ": 1.00 MiB of 4.00 MiB (25 %)");
        assert_eq!(progress.due(&mut last, start + BETWEEN_LINES * 3 / 2), None);
        assert!(progress.due(&mut last, start + BETWEEN_LINES * 2).is_some());
    }

    #[test]
    fn an_observed_store_is_asked_for_several_blocks_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(flist::store::DirStore::new(dir.path()));
        let sealed: Vec<_> = (0..3_u8).map(|seed| flist::block::seal(&[seed; 10]).unwrap()).collect();
        let waiting = sealed.iter().map(|sealed| (sealed.id, 10)).collect();
        let observed = ObservedStore { store, waiting: Mutex::new(waiting), progress: Progress::silent() };
        sealed[..2].iter().for_each(|sealed| observed.put(&sealed.id, &sealed.stored).unwrap());
        let ids: Vec<_> = sealed.iter().map(|sealed| sealed.id).collect();
        // A directory opens and reads into the buffers that it is given; one by one they would be replaced.
        let mut buffers: Vec<_> = (0..3).map(|_| Vec::with_capacity(1000)).collect();
        let answers = observed.get_each(&ids, &mut buffers);
        assert!(matches!(answers.as_slice(), [Ok(true), Ok(true), Ok(false)]), "{answers:?}");
        assert!(buffers.iter().all(|buffer| buffer.capacity() >= 1000));
        assert_eq!(observed.at_once(&ids), 3);
        assert_eq!(observed.progress.done.load(Ordering::Relaxed), 30);
    }

    #[test]
    fn an_empty_tree_is_done_at_once() {
        let progress = Progress::silent();
        let start = Instant::now();
        let line = progress.due(&mut start.clone(), start + BETWEEN_LINES).unwrap();
        assert!(line.ends_with("(100 %)"), "{line}");
    }
}
