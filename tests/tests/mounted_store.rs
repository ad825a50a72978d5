//! Mounts over stores that fail, mounts whose process was killed, and the tools that people use in mounts.
#![allow(clippy::unwrap_used)]

mod packed;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flist::format;
use flist::mount::{MountedFlist, Purpose, mount};
use flist::pack::pack;
use flist::store::Store;
use flist::tree::{Route, Tree};
use molt_tests::{Binaries, BlockServer, Fault, FaultProxy, RedisServer, require_root, scratch};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use packed::{http, installed, patiently, redis, shell, source};
use tempfile::TempDir;

/// A source tree, and a place to mount what was packed of it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        require_root("a mount").unwrap();
        let directory = scratch("mounted").unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        source(&directory.path().join("source"));
        Self { directory }
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn at(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn pack(&self, store: &dyn Store) -> Tree {
        pack(&self.source(), store).unwrap().0
    }

    fn mount(&self, tree: &Tree, store: Arc<dyn Store>) -> MountedFlist {
        mount(tree, store, &self.at(), Purpose::General).unwrap()
    }

    /// File systems mounted here, one above the other.
    fn mounts(&self) -> Vec<String> {
        let at = self.at().canonicalize().unwrap_or(self.at());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = mounts.lines().filter(|line| line.split(' ').nth(4) == at.to_str());
        here.filter_map(|line| Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failed test has left: the directory could not be removed under it.
        while umount2(&self.at(), MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn is(result: io::Result<Vec<u8>>, errno: Errno) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(errno as i32))
}

/// Reads a file of its own under every fault, and again when the fault is over.
fn reads_under_faults(place: &Place, proxy: &mut FaultProxy, length_at: usize) {
    let flip = |at, bits| Fault::Flip { at, bits };
    let faults = [
        Fault::Refuse,
        Fault::Drop,
        Fault::Truncate(0),
        Fault::Truncate(length_at),
        Fault::Truncate(800),
        Fault::Reset(0),
        Fault::Reset(800),
        flip(length_at, 1),
        flip(800, 0x80),
        Fault::Delay(Duration::from_millis(30)),
    ];
    // The last one first, so that none has been read ahead of.
    for (number, fault) in faults.into_iter().enumerate().rev() {
        let name = format!("deep/er/{number}");
        let (file, right) = (place.at().join(&name), fs::read(place.source().join(&name)).unwrap());
        proxy.set(fault).unwrap();
        let read = fs::read(&file);
        match fault {
            Fault::Delay(_) => assert_eq!(read.unwrap(), right),
            _ => assert!(is(read, Errno::EIO), "{fault:?}"),
        }
        proxy.set(Fault::Pass).unwrap();
        assert_eq!(fs::read(&file).unwrap(), right, "after {fault:?}");
    }
}

#[test]
fn a_reader_sees_an_error_or_the_truth_when_redis_fails() {
    let place = Place::new();
    let server = RedisServer::start(None).unwrap();
    let mut proxy = FaultProxy::start(server.address()).unwrap();
    let tree = place.pack(&redis(server.address()));
    let mounted = place.mount(&tree, patiently(redis(proxy.address())));
    reads_under_faults(&place, &mut proxy, 1);
    // A program whose pages are mapped from a store that was down and came back.
    proxy.set(Fault::Refuse).unwrap();
    assert!(Command::new(place.at().join("program")).status().is_err());
    proxy.set(Fault::Pass).unwrap();
    assert!(Command::new(place.at().join("program")).status().unwrap().success());
    mounted.unmount().unwrap();
}

#[test]
fn a_reader_sees_an_error_or_the_truth_when_the_hub_fails() {
    let place = Place::new();
    let server = BlockServer::start().unwrap();
    let mut proxy = FaultProxy::start(server.address()).unwrap();
    let tree = place.pack(&http(server.address()));
    let mounted = place.mount(&tree, patiently(http(proxy.address())));
    reads_under_faults(&place, &mut proxy, 9);
    mounted.unmount().unwrap();
}

#[test]
fn a_store_that_goes_while_a_file_is_read_and_comes_back() {
    let place = Place::new();
    let server = RedisServer::start(None).unwrap();
    let mut proxy = FaultProxy::start(server.address()).unwrap();
    let tree = place.pack(&redis(server.address()));
    let mounted = place.mount(&tree, patiently(redis(proxy.address())));
    let right = fs::read(place.source().join("big")).unwrap();
    // Answers stop in the middle of a block, each time.
    proxy.set(Fault::Truncate(300_000)).unwrap();
    let mut file = File::open(place.at().join("big")).unwrap();
    let mut read = Vec::new();
    let failure = file.read_to_end(&mut read).unwrap_err();
    assert_eq!(failure.raw_os_error(), Some(Errno::EIO as i32));
    assert!(right.starts_with(&read), "what came before the error is right");
    proxy.set(Fault::Pass).unwrap();
    file.read_to_end(&mut read).unwrap();
    assert!(read == right, "the same open file goes on where it was");
    mounted.unmount().unwrap();
}

/// A process that does not outlive the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `flist mount` and waits until it says that the tree is mounted. What one sees at the place says
/// nothing: the kernel remembers much of a mount that is dead.
fn mount_command(place: &Place, flist: &Path) -> Running {
    let mut command = Command::new(Binaries::ensure().unwrap().flist());
    command.args(["mount", "-m"]).args([flist, &place.at()]);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("is mounted on"), "{line:?}");
    running
}

#[test]
fn the_next_mount_takes_away_what_a_killed_one_left() {
    let place = Place::new();
    let server = RedisServer::start(None).unwrap();
    let mut tree = place.pack(&redis(server.address()));
    tree.routes = vec![Route::everything(server.url(0))];
    let flist = place.directory.path().join("tree.fl");
    format::write(&tree, &flist).unwrap();
    let right = fs::read(place.source().join("big")).unwrap();
    for _ in 0..2 {
        let mut killed = mount_command(&place, &flist);
        assert_eq!(place.mounts(), ["fuse.flist"], "nothing is left below");
        assert_eq!(fs::read(place.at().join("big")).unwrap(), right);
        killed.signal(Signal::SIGKILL);
        killed.0.wait().unwrap();
        let listed = fs::read_dir(place.at()).map(|_| Vec::new());
        assert!(is(listed, Errno::ENOTCONN), "a dead mount is left");
    }
    let mut last = mount_command(&place, &flist);
    assert_eq!(place.mounts(), ["fuse.flist"]);
    last.signal(Signal::SIGTERM);
    assert!(last.0.wait().unwrap().success());
    assert!(place.mounts().is_empty());
}

#[test]
fn a_mount_that_lives_is_not_taken_for_a_dead_one() {
    let place = Place::new();
    let server = RedisServer::start(None).unwrap();
    let tree = place.pack(&redis(server.address()));
    let below = place.mount(&tree, patiently(redis(server.address())));
    let above = place.mount(&tree, patiently(redis(server.address())));
    assert_eq!(place.mounts().len(), 2);
    above.unmount().unwrap();
    assert_eq!(fs::read(place.at().join("empty")).unwrap(), b"");
    below.unmount().unwrap();
}

#[test]
fn everyday_tools_see_in_a_mount_what_was_packed() {
    let place = Place::new();
    let (source, at) = (place.source(), place.at());
    let with_git = installed("git");
    if with_git {
        shell(
            &source,
            "git init --quiet \"$AT\"; cd \"$AT\"; git add .
             git -c user.name=a -c user.email=a@b commit --quiet --message first; git gc --quiet
             echo changed > empty; echo new > untracked",
        );
    }
    let server = RedisServer::start(None).unwrap();
    let store = patiently(redis(server.address()));
    let tree = place.pack(store.as_ref());
    let mounted = place.mount(&tree, store);
    let same = |line: &str| {
        let wanted = shell(&source, line);
        assert!(!wanted.is_empty(), "`{line}` says something");
        assert_eq!(shell(&at, line), wanted, "`{line}`");
    };
    same("cd \"$AT\"; find . -printf '%P %y %m %U %G %l\\n' | sort");
    same("tar --sort=name --numeric-owner --format=gnu -C \"$AT\" -cf - . | sha256sum");
    same("cd \"$AT\"; grep --recursive --count --text a . | sort");
    let copy = place.directory.path().join("copy");
    fs::create_dir(&copy).unwrap();
    shell(&at, &format!("cp --reflink=never \"$AT/big\" '{0}'; cmp \"$AT/big\" '{0}/big'", copy.display()));
    assert!(shell(&at, "df --output=fstype,itotal \"$AT\"").contains("fuse.flist"));
    let figures = nix::sys::statvfs::statvfs(&at).unwrap();
    assert!(figures.blocks() * figures.fragment_size() >= tree.total_bytes());
    assert_eq!(
        fs::metadata(at.join("big")).unwrap().size(),
        fs::metadata(source.join("big")).unwrap().size()
    );
    if with_git {
        // git maps its packs and its index into memory.
        same("git -C \"$AT\" status --porcelain");
        same("git -C \"$AT\" log --format='%H %s' --stat");
        shell(&at, "git -C \"$AT\" fsck --full --strict");
    }
    mounted.unmount().unwrap();
}
