//! Mounts by FUSE: what readers see while stores fail, and what is left when a mount goes.
#![cfg(all(feature = "server", feature = "publish"))]
#![allow(clippy::unwrap_used)]

mod observe;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use flist::block::BLOCK_SIZE;
use flist::format;
use flist::mount::{MountedFlist, Purpose, detach, mount};
use flist::pack::pack;
use flist::store::{DirStore, Store};
use flist::tree::{Entry, Kind, Meta, Route, Tree};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// The type of a mounted flist in the kernel's list of mounts.
const FILE_SYSTEM: &str = "fuse.flist";

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 1_600_000_000 };

/// A packed tree with one file `data` of two blocks and 1000 bytes, and a place to mount it on.
struct Packed {
    dir: TempDir,
    plain: Vec<u8>,
    tree: Tree,
    store: DirStore,
}

impl Packed {
    fn new() -> Self {
        observe::require_root();
        let dir = tempfile::tempdir().unwrap();
        let plain = noise(2 * BLOCK_SIZE + 1000);
        fs::create_dir(dir.path().join("source")).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::write(dir.path().join("source/data"), &plain).unwrap();
        let store = DirStore::new(dir.path().join("store"));
        let (tree, _) = pack(&dir.path().join("source"), &store).unwrap();
        Self { dir, plain, tree, store }
    }

    fn mount(&self) -> MountedFlist {
        mount(&self.tree, Arc::new(self.store.clone()), &self.at(), Purpose::General).unwrap()
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn file(&self) -> PathBuf {
        self.at().join("data")
    }

    /// Where the store keeps the block at `index` of the file.
    fn block(&self, index: usize) -> PathBuf {
        let (_, _, content) = self.tree.files().next().unwrap();
        self.store.path_of(&content.blocks[index].id)
    }
}

/// The same bytes every time, that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn parallel_readers_see_every_byte() {
    let packed = Packed::new();
    let mounted = packed.mount();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let packed = &packed;
            scope.spawn(move || {
                let file = File::open(packed.file()).unwrap();
                // Odd strides, so that reads start anywhere and cross the borders of blocks.
                for step in 0..100 {
                    let start = (step * 104_729 + thread * 15_485_863) % packed.plain.len();
                    let wanted = &packed.plain[start..packed.plain.len().min(start + 70_001)];
                    let mut read = vec![0; wanted.len()];
                    file.read_exact_at(&mut read, start as u64).unwrap();
                    assert!(read == wanted, "wrong bytes at {start}");
                }
            });
        }
    });
    assert_eq!(fs::read(packed.file()).unwrap(), packed.plain);
    mounted.unmount().unwrap();
}

#[test]
fn a_missing_block_is_an_error_until_it_appears() {
    let packed = Packed::new();
    let aside = packed.dir.path().join("aside");
    fs::rename(packed.block(1), &aside).unwrap();
    let mounted = packed.mount();
    let file = File::open(packed.file()).unwrap();
    let mut byte = [0];
    for _ in 0..2 {
        let failure = file.read_exact_at(&mut byte, BLOCK_SIZE as u64).unwrap_err();
        assert_eq!(failure.raw_os_error(), Some(nix::libc::EIO), "{failure}");
    }
    assert_eq!(fs::read(packed.file()).unwrap_err().raw_os_error(), Some(nix::libc::EIO));
    let mut last = [0; 1000];
    file.read_exact_at(&mut last, 2 * BLOCK_SIZE as u64).unwrap();
    assert_eq!(last, packed.plain[2 * BLOCK_SIZE..], "the other blocks are not affected");

    fs::rename(&aside, packed.block(1)).unwrap();
    file.read_exact_at(&mut byte, BLOCK_SIZE as u64).unwrap();
    assert_eq!(fs::read(packed.file()).unwrap(), packed.plain);
    mounted.unmount().unwrap();
}

#[test]
fn flipped_bytes_in_the_store_are_never_served() {
    let packed = Packed::new();
    let good = fs::read(packed.block(0)).unwrap();
    let mut bad = good.clone();
    bad[1234] ^= 1;
    fs::write(packed.block(0), &bad).unwrap();
    let mounted = packed.mount();
    assert_eq!(fs::read(packed.file()).unwrap_err().raw_os_error(), Some(nix::libc::EIO));
    fs::write(packed.block(0), &good).unwrap();
    assert_eq!(fs::read(packed.file()).unwrap(), packed.plain);
    mounted.unmount().unwrap();
}

#[test]
fn a_directory_of_ten_thousand_entries_is_listed_completely() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    let mut tree = Tree::new(META);
    let names: BTreeSet<String> =
        (0..10_000).map(|number| format!("{:x<1$}{number}", "", number % 40)).collect();
    for name in &names {
        let kind = if name.len() % 2 == 0 { Kind::Directory } else { Kind::File(Default::default()) };
        tree.insert(name.parse().unwrap(), Entry { meta: META, kind }).unwrap();
    }
    let store = Arc::new(DirStore::new(dir.path().join("store")));
    let mounted = mount(&tree, store, dir.path(), Purpose::Install).unwrap();
    let list =
        || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(list().count(), names.len(), "nothing is listed twice");
    assert_eq!(list().collect::<BTreeSet<_>>(), names);
    for name in names.iter().step_by(997) {
        assert_eq!(fs::symlink_metadata(dir.path().join(name)).unwrap().is_dir(), name.len() % 2 == 0);
    }
    mounted.unmount().unwrap();
}

#[test]
fn times_before_1970_and_absurd_ones_do_not_break_a_mount() {
    observe::require_root();
    let dir = tempfile::tempdir().unwrap();
    let mut tree = Tree::new(META);
    let times = [("before", -1), ("earliest", i64::MIN), ("latest", i64::MAX)];
    for (name, mtime) in times {
        let meta = Meta { mtime, ..META };
        tree.insert(name.parse().unwrap(), Entry { meta, kind: Kind::Directory }).unwrap();
    }
    let store = Arc::new(DirStore::new(dir.path().join("store")));
    let mounted = mount(&tree, store, dir.path(), Purpose::Install).unwrap();
    let mtime =
        |name: &str| std::os::unix::fs::MetadataExt::mtime(&fs::metadata(dir.path().join(name)).unwrap());
    assert_eq!(mtime("before"), -1);
    mtime("earliest");
    mtime("latest");
    mounted.unmount().unwrap();
}

#[test]
fn nothing_is_left_of_a_mount() {
    let packed = Packed::new();
    let store: Arc<dyn Store> = Arc::new(packed.store.clone());
    for _ in 0..3 {
        let mounted = mount(&packed.tree, store.clone(), &packed.at(), Purpose::General).unwrap();
        assert_eq!(observe::mounts_at(&packed.at()), [FILE_SYSTEM]);
        mounted.unmount().unwrap();
        assert!(observe::mounts_at(&packed.at()).is_empty());
        observe::wait_until("the session has ended", || Arc::strong_count(&store) == 1);

        drop(mount(&packed.tree, store.clone(), &packed.at(), Purpose::Install).unwrap());
        assert!(observe::mounts_at(&packed.at()).is_empty(), "dropping it unmounts");
        observe::wait_until("the session has ended", || Arc::strong_count(&store) == 1);
    }
}

#[test]
fn what_was_mounted_there_before_stays() {
    let packed = Packed::new();
    nix::mount::mount(Some("below"), &packed.at(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    packed.mount().unmount().unwrap();
    let after_unmount = observe::mounts_at(&packed.at());
    drop(packed.mount());
    let after_drop = observe::mounts_at(&packed.at());
    while umount2(&packed.at(), MntFlags::MNT_DETACH).is_ok() {}
    assert_eq!(after_unmount, ["tmpfs"]);
    assert_eq!(after_drop, ["tmpfs"]);
}

#[test]
fn a_busy_mount_is_detached_and_still_serves_who_uses_it() {
    let packed = Packed::new();
    let store: Arc<dyn Store> = Arc::new(packed.store.clone());
    let mounted = mount(&packed.tree, store.clone(), &packed.at(), Purpose::General).unwrap();
    let mut file = File::open(packed.file()).unwrap();
    mounted.unmount().unwrap();
    assert!(observe::mounts_at(&packed.at()).is_empty());
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert_eq!(read, packed.plain);
    drop(file);
    observe::wait_until("the session has ended", || Arc::strong_count(&store) == 1);

    let mounted = packed.mount();
    let file = File::open(packed.file()).unwrap();
    drop(mounted);
    assert!(observe::mounts_at(&packed.at()).is_empty(), "dropping it detaches it too");
    drop(file);
}

#[test]
fn a_mount_that_somebody_else_took_away_is_no_error() {
    let packed = Packed::new();
    let mounted = packed.mount();
    let file = File::open(packed.file()).unwrap();
    detach(&packed.at()).unwrap();
    let other = packed.mount();
    // It is neither an error, nor a reason to wait for the reader, nor may it take the other mount away.
    mounted.unmount().unwrap();
    assert_eq!(observe::mounts_at(&packed.at()), [FILE_SYSTEM]);
    drop(file);
    other.unmount().unwrap();
    assert!(detach(&packed.at()).unwrap_err().to_string().contains("cannot unmount"));
}

#[test]
fn a_mount_below_another_one_stays_and_says_so() {
    let packed = Packed::new();
    let (below, above) = (packed.mount(), packed.mount());
    let error = flist::report(&below.unmount().unwrap_err());
    assert!(error.contains("cannot unmount") && error.contains("busy"), "{error}");
    assert_eq!(observe::mounts_at(&packed.at()), [FILE_SYSTEM; 2]);
    above.unmount().unwrap();
    detach(&packed.at()).unwrap();
    assert!(observe::mounts_at(&packed.at()).is_empty());
}

#[test]
fn a_copy_in_another_mount_namespace_does_not_keep_an_unmount_waiting() {
    let packed = Packed::new();
    let store: Arc<dyn Store> = Arc::new(packed.store.clone());
    let mounted = mount(&packed.tree, store.clone(), &packed.at(), Purpose::General).unwrap();
    let sleeper = Command::new("unshare").args(["--mount", "sleep", "1000"]).spawn().unwrap();
    let sleeper = Running { child: sleeper };
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).unwrap();
    let other = sleeper.child.id().to_string();
    observe::wait_until("the other namespace is there", || namespace(&other) != namespace("self"));
    mounted.unmount().unwrap();
    assert!(observe::mounts_at(&packed.at()).is_empty());
    drop(sleeper);
    observe::wait_until("the session has ended", || Arc::strong_count(&store) == 1);
}

#[test]
fn a_place_that_does_not_exist_is_named() {
    let packed = Packed::new();
    let nowhere = packed.dir.path().join("nowhere");
    let Err(error) = mount(&packed.tree, Arc::new(packed.store.clone()), &nowhere, Purpose::General) else {
        panic!("mounted on {}", nowhere.display());
    };
    assert_eq!(error.to_string(), format!("cannot mount on {}", nowhere.display()));
}

#[test]
fn the_command_unmounts_and_exits_when_told_to() {
    let packed = Packed::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut command = mount_command(&packed);
        assert_eq!(fs::read(packed.file()).unwrap(), packed.plain);
        command.signal(signal);
        assert!(command.child.wait().unwrap().success(), "after {signal}");
        assert!(observe::mounts_at(&packed.at()).is_empty());
    }
    let mut command = mount_command(&packed);
    umount2(&packed.at(), MntFlags::empty()).unwrap();
    assert!(command.child.wait().unwrap().success(), "after umount");
}

/// A process that does not outlive the test.
struct Running {
    child: Child,
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `flist mount` and waits until it says that the tree is mounted.
fn mount_command(packed: &Packed) -> Running {
    let flist = packed.dir.path().join("tree.fl");
    let mut tree = packed.tree.clone();
    tree.routes = vec![Route::everything(packed.store.url())];
    format::write(&tree, &flist).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_flist"))
        .args(["mount".as_ref(), "-m".as_ref(), flist.as_os_str(), packed.at().as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut command = Running { child };
    let mut line = String::new();
    BufReader::new(command.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("is mounted on"), "{line:?}");
    assert_eq!(observe::mounts_at(&packed.at()), [FILE_SYSTEM]);
    command
}
