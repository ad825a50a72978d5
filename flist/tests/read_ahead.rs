//! Reading ahead in a mount: it happens, it is limited, and it never shows anything else than the flist says.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

mod observe;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use flist::block::{BLOCK_SIZE, BlockId};
use flist::mount::{MountedFlist, Purpose, mount};
use flist::pack::pack;
use flist::store::{DirStore, Store, StoreError, one_by_one};
use flist::tree::Tree;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::{minor, stat};
use tempfile::TempDir;

/// After so long without an answer there will be none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Short files in some directories, in the order in which the tree is walked.
struct Library {
    dir: TempDir,
    tree: Tree,
    store: Arc<Watched>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

const DIRECTORIES: usize = 6;
const FILES: usize = 50;

impl Library {
    fn new() -> Self {
        observe::require_root();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let mut files = Vec::new();
        for number in 0..DIRECTORIES * FILES {
            let name = PathBuf::from(format!("d{}/f{:02}", number / FILES, number % FILES));
            let content = format!("{} ", name.display()).repeat(1 + number * 7 % 900).into_bytes();
            fs::create_dir_all(dir.path().join("source").join(name.parent().unwrap())).unwrap();
            fs::write(dir.path().join("source").join(&name), &content).unwrap();
            files.push((name, content));
        }
        let blocks = DirStore::new(dir.path().join("store"));
        let (tree, _) = pack(&dir.path().join("source"), &blocks).unwrap();
        let store = Arc::new(Watched { blocks, state: Mutex::default(), changed: Condvar::new() });
        Self { dir, tree, store, files }
    }

    fn mount(&self) -> MountedFlist {
        mount(&self.tree, self.store.clone(), &self.dir.path().join("mnt"), Purpose::General).unwrap()
    }

    fn read(&self, number: usize) -> std::io::Result<Vec<u8>> {
        fs::read(self.dir.path().join("mnt").join(&self.files[number].0))
    }

    fn list(&self, directory: usize) {
        let directory = self.dir.path().join(format!("mnt/d{directory}"));
        assert_eq!(fs::read_dir(directory).unwrap().count(), FILES);
    }

    /// Starts to read files, each on a thread of its own, and sends what is read.
    fn start_reading(&self, numbers: &[usize], answer: &Sender<(usize, std::io::Result<Vec<u8>>)>) {
        for number in numbers.iter().copied() {
            let path = self.dir.path().join("mnt").join(&self.files[number].0);
            let answer = answer.clone();
            thread::spawn(move || answer.send((number, fs::read(path))));
        }
    }

    fn block(&self, number: usize) -> BlockId {
        self.tree.files().nth(number).unwrap().2.blocks[0].id
    }
}

/// A store that can be told to stop answering and to fail, and that remembers what it was asked.
struct Watched {
    blocks: DirStore,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asked: Vec<BlockId>,
    /// Every so many requests one fails.
    fails_each: Option<usize>,
    /// It answers for these blocks only; whoever asks for others waits.
    answers_for: Option<Vec<BlockId>>,
    /// Each block is a request of its own.
    far_away: bool,
}

impl Watched {
    fn asked(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }
}

impl Store for Watched {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut state = self.state.lock().unwrap();
        state.asked.push(*id);
        let number = state.asked.len();
        while state.answers_for.as_ref().is_some_and(|answered| !answered.contains(id)) {
            state = self.changed.wait(state).unwrap();
        }
        if state.fails_each.is_some_and(|each| number.is_multiple_of(each)) {
            let source = ErrorKind::TimedOut.into();
            return Err(StoreError::Answer { url: self.url(), source });
        }
        drop(state);
        self.blocks.get(id)
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        one_by_one(self, ids, buffers)
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        if self.state.lock().unwrap().far_away { 1 } else { ids.len() }
    }
    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        self.blocks.has(id)
    }
    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        self.blocks.put(id, stored)
    }
    fn url(&self) -> String {
        self.blocks.url()
    }
}

#[test]
fn it_happens_for_who_reads_in_order_and_ends_with_the_reader() {
    let library = Library::new();
    let mounted = library.mount();
    library.list(0);
    for number in [40, 3, 20, 11, 30] {
        assert_eq!(library.read(number).unwrap(), library.files[number].1);
    }
    assert_eq!(library.store.asked(), 5, "nobody reads in order");
    for number in 0..5 {
        assert_eq!(library.read(number).unwrap(), library.files[number].1);
    }
    observe::wait_until("files are read ahead", || library.store.asked() > 5 + 20);
    // 32 files are read ahead at once, and no more than that before half of them were asked for.
    for directory in 0..DIRECTORIES {
        library.list(directory);
    }
    assert!(library.store.asked() <= 5 + 5 + 32, "{}", library.store.asked());
    mounted.unmount().unwrap();
    observe::wait_until("nothing is left of it", || Arc::strong_count(&library.store) == 1);
}

#[test]
fn in_order_each_block_is_fetched_about_once_and_every_file_is_right() {
    let library = Library::new();
    let mounted = library.mount();
    for directory in 0..DIRECTORIES {
        library.list(directory);
        for number in directory * FILES..(directory + 1) * FILES {
            assert_eq!(library.read(number).unwrap(), library.files[number].1, "{number}");
        }
    }
    mounted.unmount().unwrap();
    // A file that the reader asks for while it is on its way to the kernel is fetched twice.
    let (asked, files) = (library.store.asked(), DIRECTORIES * FILES);
    assert!((files..2 * files).contains(&asked), "{asked}");
}

#[test]
fn failures_meanwhile_are_errors_or_nothing_but_never_wrong_bytes() {
    let library = Library::new();
    let broken: Vec<_> = (0..DIRECTORIES * FILES).filter(|number| number % 7 == 5).collect();
    for number in &broken {
        // Another block of the same store, or nothing.
        let (path, other) = (
            library.store.blocks.path_of(&library.block(*number)),
            library.store.blocks.path_of(&library.block(number - 1)),
        );
        match number % 2 {
            0 => fs::copy(other, path).map(drop).unwrap(),
            _ => fs::remove_file(path).unwrap(),
        }
    }
    library.store.set(|state| state.fails_each = Some(4));
    let mounted = library.mount();
    for directory in 0..DIRECTORIES {
        library.list(directory);
        for number in directory * FILES..(directory + 1) * FILES {
            match library.read(number) {
                Ok(read) => {
                    assert!(!broken.contains(&number), "{number}");
                    assert_eq!(read, library.files[number].1, "{number}");
                }
                Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{number}"),
            }
        }
    }
    library.store.set(|state| state.fails_each = None);
    for number in &broken {
        let _ = library.store.blocks.remove(&library.block(*number));
    }
    pack(&library.dir.path().join("source"), &library.store.blocks).unwrap();
    for (number, (_, content)) in library.files.iter().enumerate() {
        assert_eq!(library.read(number).unwrap(), *content, "an error is not remembered");
    }
    mounted.unmount().unwrap();
}

#[test]
fn a_store_that_does_not_answer_what_is_read_ahead_keeps_no_unmount_waiting() {
    let library = Library::new();
    let answered = (0..3).map(|number| library.block(number)).collect();
    library.store.set(|state| state.answers_for = Some(answered));
    let mounted = library.mount();
    library.list(0);
    for number in 0..3 {
        assert_eq!(library.read(number).unwrap(), library.files[number].1);
    }
    observe::wait_until("files are read ahead", || library.store.asked() > 3);
    mounted.unmount().unwrap();
    library.store.set(|state| state.answers_for = None);
    observe::wait_until("nothing is left of it", || Arc::strong_count(&library.store) == 1);
}

/// What the kernel tells of the connections of all mounts by FUSE.
struct Connections(TempDir);

impl Connections {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        nix::mount::mount(Some("fusectl"), dir.path(), Some("fusectl"), MsFlags::empty(), None::<&str>)
            .unwrap();
        Self(dir)
    }

    /// How many requests of a mount have no answer yet.
    fn waiting(&self, mounted: &MountedFlist) -> usize {
        let connection = minor(stat(mounted.path()).unwrap().st_dev).to_string();
        fs::read_to_string(self.0.path().join(connection).join("waiting")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn reads_that_nobody_has_taken_yet_do_not_hold_up_those_that_wait_for_what_is_read_ahead() {
    let library = Library::new();
    library.store.set(|state| state.answers_for = Some((0..3).map(|number| library.block(number)).collect()));
    let (connections, mounted) = (Connections::new(), library.mount());
    library.list(0);
    for number in 0..3 {
        assert_eq!(library.read(number).unwrap(), library.files[number].1);
    }
    // Files 3 to 6 and 7 to 10 are being read ahead.
    observe::wait_until("files are read ahead", || library.store.asked() == 3 + 2);
    let (answer, answers) = channel();
    // They keep every thread of the mount busy, so that the kernel has pages locked for reads nobody is at.
    let at_once = [5, 6, 9, 10];
    library.start_reading(&at_once, &answer);
    observe::wait_until("the reads have come", || connections.waiting(&mounted) == at_once.len());
    let later = [3, 7, 4, 8];
    library.start_reading(&later, &answer);
    let all = at_once.len() + later.len();
    observe::wait_until("the other reads have come", || connections.waiting(&mounted) == all);
    library.store.set(|state| state.answers_for = None);
    for _ in 0..all {
        let (number, read) = answers.recv_timeout(PATIENCE).expect("a reader waits for ever");
        assert_eq!(read.unwrap(), library.files[number].1);
    }
    mounted.unmount().unwrap();
}

#[test]
fn from_far_away_nobody_waits_for_a_block_that_he_has_not_asked_for() {
    let library = Library::new();
    let answered = (0..4).map(|number| library.block(number)).collect();
    library.store.set(|state| (state.far_away, state.answers_for) = (true, Some(answered)));
    let mounted = library.mount();
    library.list(0);
    for number in 0..3 {
        assert_eq!(library.read(number).unwrap(), library.files[number].1);
    }
    // Files 4 and 7 do not come, 3 is there, and nobody is at 5 and 6.
    observe::wait_until("files are read ahead", || library.store.asked() == 3 + 3);
    library.store.set(|state| state.answers_for.as_mut().unwrap().extend([5, 6].map(|n| library.block(n))));
    let (answer, answers) = channel();
    library.start_reading(&[3, 5, 6], &answer);
    for _ in 0..3 {
        let (number, read) = answers.recv_timeout(PATIENCE).expect("a reader waits for what others want");
        assert_eq!(read.unwrap(), library.files[number].1);
    }
    library.store.set(|state| state.answers_for = None);
    mounted.unmount().unwrap();
}

#[test]
fn many_readers_in_order_get_every_file() {
    let library = Library::new();
    let mounted = library.mount();
    for directory in 0..DIRECTORIES {
        library.list(directory);
    }
    let library = Arc::new(library);
    let (answer, answers) = channel();
    let next = Arc::new(Mutex::new(0..DIRECTORIES * FILES));
    for _ in 0..12 {
        let (library, answer, next) = (library.clone(), answer.clone(), next.clone());
        let take = move || next.lock().unwrap().next();
        thread::spawn(move || {
            while let Some(number) = take() {
                answer.send((number, library.read(number))).unwrap();
            }
        });
    }
    for _ in 0..DIRECTORIES * FILES {
        let (number, read) = answers.recv_timeout(PATIENCE).expect("a reader waits for ever");
        assert_eq!(read.unwrap(), library.files[number].1);
    }
    mounted.unmount().unwrap();
}

#[test]
fn a_long_file_is_right_up_to_the_block_that_is_not() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    let plain: Vec<u8> = (0..12 * BLOCK_SIZE as u32).map(|i| (i ^ (i >> 9) ^ (i >> 19)) as u8).collect();
    fs::create_dir_all(dir.path().join("source")).unwrap();
    fs::create_dir_all(dir.path().join("mnt")).unwrap();
    fs::write(dir.path().join("source/long"), &plain).unwrap();
    let store = DirStore::new(dir.path().join("store"));
    let (tree, _) = pack(&dir.path().join("source"), &store).unwrap();
    let block = |index: usize| store.path_of(&tree.files().next().unwrap().2.blocks[index].id);
    let good = fs::read(block(8)).unwrap();
    fs::copy(block(7), block(8)).unwrap();
    let mounted = mount(&tree, Arc::new(store.clone()), &dir.path().join("mnt"), Purpose::General).unwrap();
    let file = File::open(dir.path().join("mnt/long")).unwrap();
    let mut read = vec![0; BLOCK_SIZE];
    for (index, expected) in plain.chunks(BLOCK_SIZE).enumerate() {
        let result = file.read_exact_at(&mut read, (index * BLOCK_SIZE) as u64);
        match index {
            8 => assert_eq!(result.unwrap_err().raw_os_error(), Some(nix::libc::EIO)),
            _ => {
                result.unwrap();
                assert!(read == expected, "block {index}");
            }
        }
    }
    fs::write(block(8), good).unwrap();
    assert!(fs::read(dir.path().join("mnt/long")).unwrap() == plain, "an error is not remembered");
    mounted.unmount().unwrap();
}
