//! Opening what a reader will ask for next: short files, which are given to the kernel, and blocks of a long
//! one, which are kept until the kernel asks for them.
//!
//! A reader of many short files waits for each of them; by this, mostly the kernel's page cache answers. Blocks
//! that are opened together take less time than one by one.
//! Nothing depends on it: what fails or comes too late is asked for as if there were no reading ahead.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use fuser::{INodeNo, Notifier};

use super::blocks::Blocks;
use super::inodes::InodeTable;
use super::sequence::{BlockSequence, Sequence};
use crate::block::BLOCK_SIZE;
use crate::store::Batch;
use crate::tree::{Content, Kind};

/// Threads that read ahead: for a local store one would do, but one far away answers several at a time.
const THREADS: usize = 2;

/// Most batches that wait for a thread; what is beyond that is not read ahead.
const MOST_WAITING: usize = 64;

/// What the session's threads and those that read ahead share.
pub(super) struct Shared {
    pub(super) table: InodeTable,
    pub(super) blocks: Blocks,
    /// By inode: the kernel knows it, so that it can be given its content.
    told: Vec<AtomicBool>,
    /// The session is over.
    ended: AtomicBool,
}

impl Shared {
    pub(super) fn new(table: InodeTable, blocks: Blocks) -> Self {
        let told = (0..table.len()).map(|_| AtomicBool::new(false)).collect();
        Self { table, blocks, told, ended: AtomicBool::new(false) }
    }

    /// The kernel has been told of an inode, or has forgotten it.
    pub(super) fn tell(&self, ino: u64, told: bool) {
        if let Some(known) = ino.checked_sub(1).and_then(|index| self.told.get(index as usize)) {
            known.store(told, Ordering::Relaxed);
        }
    }

    fn is_told(&self, ino: u64) -> bool {
        ino.checked_sub(1)
            .and_then(|index| self.told.get(index as usize))
            .is_some_and(|known| known.load(Ordering::Relaxed))
    }

    fn content(&self, ino: u64) -> Option<&Content> {
        match &self.table.get(ino)?.entry.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// The content of a file that is read ahead: one of a single block.
    fn short(&self, place: usize) -> Option<(u64, &Content)> {
        let ino = *self.table.reading_order.get(place)?;
        Some((ino, self.content(ino).filter(|content| content.blocks.len() == 1)?))
    }
}

/// What is opened together, at most [`Batch::SIZE`] blocks.
enum Job {
    /// Short files in reading order, and the one of them that the kernel must ask for.
    Files { places: Vec<usize>, marker: usize },
    /// Blocks of a long file, for which the kernel will ask.
    Blocks { ino: u64, blocks: Range<usize> },
}

/// Decides what to read ahead and hands it to the threads, which end when this is dropped.
pub(super) struct ReadAhead {
    shared: Arc<Shared>,
    sequences: Mutex<(Sequence, BlockSequence)>,
    jobs: SyncSender<Job>,
}

/// The other end: becomes threads when there is a session.
pub(super) struct Waiting {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
}

pub(super) fn read_ahead(shared: Arc<Shared>) -> (ReadAhead, Waiting) {
    let (sender, receiver) = sync_channel(MOST_WAITING);
    let waiting = Waiting { shared: shared.clone(), jobs: receiver };
    (ReadAhead { shared, sequences: Mutex::default(), jobs: sender }, waiting)
}

impl ReadAhead {
    /// The kernel asks for a part of this file, from `offset` on.
    pub(super) fn asked(&self, ino: u64, offset: u64) {
        let Some(place) = self.shared.table.place_of(ino) else { return };
        let Some(content) = self.shared.content(ino) else { return };
        // Behind the end there is nothing to learn.
        let block = usize::try_from(offset / BLOCK_SIZE as u64).ok();
        let Some(block) = block.filter(|block| *block < content.blocks.len()) else { return };
        let length = |place| self.shared.short(place).map(|(_, content)| content.size);
        let (files, marker, blocks) = {
            let mut sequences = self.sequences();
            let blocks = sequences.1.asked(place, block, content.blocks.len(), Batch::SIZE);
            (sequences.0.asked(place, length), sequences.0.marker(), blocks)
        };
        // A queue that is full means that there is no time for reading ahead.
        if !blocks.is_empty() {
            let _ = self.jobs.try_send(Job::Blocks { ino, blocks });
        }
        self.files(&files.collect::<Vec<_>>(), marker);
    }

    /// The kernel lists a directory from the `offset`-th entry on, so it knows what comes before. Files there
    /// that were opened ahead, but could not be given to it, can be now.
    pub(super) fn lists(&self, directory: u64, offset: u64) {
        let shared = &self.shared;
        // A long directory is listed in pieces; those before this one are known already.
        let listed = shared.table.listed_before(directory, offset);
        let mut new: Vec<_> = listed.take_while(|ino| !shared.is_told(*ino)).collect();
        new.reverse();
        new.iter().for_each(|ino| shared.tell(*ino, true));
        let (places, marker) = {
            let sequences = self.sequences();
            let places = new.iter().filter_map(|ino| shared.table.place_of(*ino));
            let places: Vec<_> = places.filter(|place| sequences.0.is_ahead(*place)).collect();
            (places, sequences.0.marker())
        };
        self.files(&places, marker);
    }

    fn files(&self, places: &[usize], marker: usize) {
        for places in places.chunks(Batch::SIZE) {
            let _ = self.jobs.try_send(Job::Files { places: places.to_vec(), marker });
        }
    }

    fn sequences(&self) -> MutexGuard<'_, (Sequence, BlockSequence)> {
        self.sequences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Waiting {
    /// Starts the threads. Nobody waits for their end: a store that does not answer must not delay an unmount.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn start(self, kernel: &Notifier) -> std::io::Result<()> {
        let jobs = Arc::new(Mutex::new(self.jobs));
        for _ in 0..THREADS {
            let (shared, jobs, kernel) = (self.shared.clone(), jobs.clone(), kernel.clone());
            thread::Builder::new().name("read-ahead".to_owned()).spawn(move || {
                let mut batch = Batch::default();
                let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(job) = next() {
                    if !shared.ended.load(Ordering::Relaxed) {
                        open_ahead(&shared, job, &mut batch, &kernel);
                    }
                }
            })?;
        }
        Ok(())
    }
}

fn open_ahead(shared: &Shared, job: Job, batch: &mut Batch, kernel: &Notifier) {
    let (places, marker) = match job {
        Job::Files { places, marker } => (places, marker),
        Job::Blocks { ino, blocks } => {
            let Some(content) = shared.content(ino) else { return };
            let blocks: Vec<_> = blocks.map(|index| (content, index)).collect();
            // The kernel is about to ask for them: in its cache they could be in each other's way.
            return shared.blocks.open_ahead(&blocks, batch, |_| true, |_, _| {});
        }
    };
    let files: Vec<_> = places.into_iter().filter_map(|place| Some((place, shared.short(place)?))).collect();
    let blocks: Vec<_> = files.iter().map(|(_, (_, content))| (*content, 0)).collect();
    let keep = |number: usize| {
        let (place, (ino, _)) = files[number];
        place == marker || !shared.is_told(ino)
    };
    shared.blocks.open_ahead(&blocks, batch, keep, |number, plain| {
        let (_, (ino, _)) = files[number];
        // A kernel that does not take it asks for it.
        if let Err(error) = kernel.store(INodeNo(ino), 0, plain) {
            tracing::debug!(ino, %error, "the kernel did not take what was read ahead");
        }
    });
}
