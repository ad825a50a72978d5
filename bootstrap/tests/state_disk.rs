//! The state directory on a real disk that fails: read-only, immutable, full, broken. Needs root.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]
#![allow(unsafe_code, reason = "one system call of the kernel's for breaking a file system")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bootstrap::engine::{Engine, ReleaseTree};
use bootstrap::generation::{RootIdentity, StateDir};
use bootstrap::lock::{self, EngineLock};
use bootstrap::plan::Purpose;
use bootstrap::processes::Uses;
use bootstrap::releases::Releases;
use bootstrap::root::Root;
use bootstrap::source::BlockSource;
use bootstrap::state_place::{Notice, StatePlace, StatePlaceError};
use bootstrap::supervisor::{HeldProcess, Supervisor};
use flist::hub::{Channel, FlistName, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};
use flist::pack::pack;
use flist::path::FlistPath;
use flist::store::DirStore;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use zinit_client::{Error, Refusal, ServiceStatus, UnitName};

/// A supervisor without services.
#[derive(Debug)]
struct NoServices;

fn refused<T>() -> Result<T, Error> {
    Err(Error::Refused { command: "anything".to_owned(), reason: Refusal::ShuttingDown })
}

#[async_trait]
impl Supervisor for NoServices {
    async fn list(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
    async fn status(&self, _: &UnitName) -> Result<ServiceStatus, Error> {
        refused()
    }
    async fn monitor(&self, _: &UnitName) -> Result<(), Error> {
        refused()
    }
    async fn start(&self, _: &UnitName) -> Result<(), Error> {
        refused()
    }
    async fn stop(&self, _: &UnitName) -> Result<(), Error> {
        refused()
    }
    async fn forget(&self, _: &UnitName) -> Result<(), Error> {
        refused()
    }
    fn hold(&self, _: u32) -> Box<dyn HeldProcess> {
        unreachable!("nobody has a process")
    }
    fn in_use(&self, _: &HashMap<(u64, u64), FlistPath>, _: &BTreeMap<UnitName, u32>) -> Uses {
        Uses::default()
    }
}

/// A node with a root and a run directory in RAM, and a state disk of its own: an ext4 image.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        // Mounts of this thread are nobody else's, and go with it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
        let node = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["root", "run", "disk"] {
            fs::create_dir(node.at(name)).unwrap();
        }
        for name in ["root", "run"] {
            let options = Some("size=64m");
            mount(Some("tmpfs"), &node.at(name), Some("tmpfs"), MsFlags::empty(), options).unwrap();
        }
        File::create(node.at("image")).unwrap().set_len(16 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", node.at("image").to_str().unwrap()]);
        node.attach();
        node
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn attach(&self) {
        run("mount", &["-o", "loop", self.at("image").to_str().unwrap(), self.at("disk").to_str().unwrap()]);
    }

    fn detach(&self) {
        nix::mount::umount(&self.at("disk")).unwrap();
    }

    fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.at("disk").to_str().unwrap()]);
    }

    fn state_dir(&self) -> PathBuf {
        self.at("disk/molt")
    }

    fn place(&self) -> StatePlace {
        StatePlace::new(&self.state_dir(), &self.at("run"))
    }

    fn lock(&self) -> EngineLock {
        lock::take(&self.at("run"), "test", Duration::ZERO).unwrap()
    }

    fn settle(&self, need: u64) -> Result<Option<Notice>, StatePlaceError> {
        let identity = RootIdentity::of(&Root::open(&self.at("root")).unwrap()).unwrap();
        self.place().settle(&self.lock(), Some(&identity), need)
    }

    fn engine(&self) -> Engine {
        let state = StateDir::open(&self.place().directory()).unwrap();
        Engine::on(Root::open(&self.at("root")).unwrap(), state, Arc::new(NoServices))
    }

    fn release(&self, version: &str) -> ReleaseTree {
        let directory = self.at(&format!("payload-{version}"));
        fs::create_dir_all(directory.join("bin")).unwrap();
        fs::write(directory.join("bin/app"), version).unwrap();
        let (tree, _) = pack(&directory, &DirStore::new(self.at("store"))).unwrap();
        let bytes = flist::format::fl::to_bytes(&tree).unwrap();
        let location: FlistName = "test/app:latest.flist".parse().unwrap();
        let id = ReleaseId::of([(version, Sha256::of(version.as_bytes()))]);
        let what = (Channel::Flist(location.clone()), id, ReleaseVersion::Text(version.to_owned()));
        let flist = ReleaseFlist { package: "app".to_owned(), sha256: Sha256::of(&bytes), location, bytes };
        ReleaseTree::of(what, "{}".to_owned(), vec![flist]).unwrap()
    }

    /// Installs a release the way both programs do; tells the number of its generation.
    fn install(&self, version: &str, purpose: Purpose) -> u64 {
        let release = self.release(version);
        self.settle(release.records()).unwrap();
        let engine = self.engine();
        let source = Arc::new(BlockSource { store: Arc::new(DirStore::new(self.at("store"))) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let lock = self.lock();
            engine.recover(&lock).await.unwrap();
            let prepared = engine.prepare(&release, purpose, source.clone(), None).await.unwrap();
            engine.apply(&lock, &prepared, source, &|_| {}, &|| Ok(())).await.unwrap();
        });
        assert_eq!(fs::read_to_string(self.at("root/bin/app")).unwrap(), version);
        engine.current().unwrap().unwrap().number
    }

    /// What is recorded of this root where the state is now.
    fn versions(&self) -> Vec<(u64, String)> {
        let listed = self.engine().generations().unwrap();
        listed.into_iter().map(|listed| (listed.number, listed.version)).collect()
    }

    fn judge_bad(&self, version: &str) {
        let mut releases = Releases::load(&self.place().directory().join("releases.json"));
        releases.judged_bad(self.release(version).id, "web is not well").unwrap();
    }

    fn is_bad(&self, version: &str) -> bool {
        let releases = Releases::load(&self.place().directory().join("releases.json"));
        releases.note(&self.release(version).id).is_some_and(|note| note.is_bad())
    }
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn numbered(all: &[(u64, &str)]) -> Vec<(u64, String)> {
    all.iter().map(|(number, version)| (*number, (*version).to_owned())).collect()
}

/// Every read and write of an ext4 fails with EIO from here on, until it is mounted again.
fn break_ext4(top: &Path) {
    // EXT4_IOC_SHUTDOWN and EXT4_GOING_FLAGS_LOGFLUSH of the kernel's fs/ext4/ext4.h.
    let (request, flags) = (0x8004_587d_u32, 1_u32);
    run("sync", &["-f", top.to_str().unwrap()]);
    let directory = File::open(top).unwrap();
    // SAFETY: the request reads one u32 from the pointer, which outlives the call.
    let done = unsafe { nix::libc::ioctl(directory.as_raw_fd(), request as _, &raw const flags) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Boots from the disk, then the disk fails: an upgrade works from RAM with everything that was known, and comes back
/// with the disk.
fn survives(node: &Node, fail: impl FnOnce(), heal: impl FnOnce()) {
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.judge_bad("bad-before");
    fs::write(node.state_dir().join("orders.json"), r#"{"schema":1,"holds":[{"release":"9"}]}"#).unwrap();
    fs::write(node.state_dir().join("attempt.json"), "{}").unwrap();
    assert_eq!((node.settle(0).unwrap(), node.place().directory()), (None, node.state_dir()));

    fail();
    let notice = node.settle(0).unwrap().unwrap();
    assert_eq!(node.place().notice().as_ref(), Some(&notice));
    assert!(notice.reason.contains(node.state_dir().to_str().unwrap()), "{notice:?}");
    assert_eq!((&notice.unread[..], node.place().directory()), (&[][..], node.at("run/state")));
    use std::os::unix::fs::PermissionsExt;
    let mode = node.at("run/state").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert!(node.is_bad("bad-before"));
    assert!(fs::read_to_string(node.at("run/state/orders.json")).unwrap().contains("\"9\""));
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.judge_bad("bad-meanwhile");
    fs::remove_file(node.at("run/state/attempt.json")).unwrap();
    fs::write(node.at("run/state/history.jsonl"), "{}\n").unwrap();
    // It stays there as long as the disk fails, also for a program that has just started.
    assert!(node.settle(0).unwrap().is_some());
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));

    heal();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!((node.place().directory(), node.place().notice()), (node.state_dir(), None));
    assert!(!node.at("run/state").exists());
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));
    assert!(node.is_bad("bad-before") && node.is_bad("bad-meanwhile"));
    assert!(fs::read_to_string(node.state_dir().join("orders.json")).unwrap().contains("\"9\""));
    assert!(!node.state_dir().join("attempt.json").exists(), "the attempt has ended in RAM");
    assert_eq!(fs::read_to_string(node.state_dir().join("history.jsonl")).unwrap(), "{}\n");
    assert_eq!(node.install("3", Purpose::Upgrade), 3);
    assert_eq!(node.place().directory(), node.state_dir());
}

#[test]
fn a_read_only_disk() {
    let node = Node::new();
    survives(&node, || node.remount("ro"), || node.remount("rw"));
    node.detach();
}

#[test]
fn a_read_only_bind_mount() {
    let node = Node::new();
    let at = node.state_dir();
    let bind = || {
        let path = at.to_str().unwrap();
        run("mount", &["--bind", path, path]);
        run("mount", &["-o", "remount,bind,ro", path]);
    };
    survives(&node, bind, || nix::mount::umount(&at).unwrap());
    node.detach();
}

#[test]
fn an_immutable_directory() {
    let node = Node::new();
    let at = node.state_dir();
    let mark = |how: &str| run("chattr", &[how, at.to_str().unwrap()]);
    survives(&node, || mark("+i"), || mark("-i"));
    node.detach();
}

#[test]
fn a_full_disk() {
    let node = Node::new();
    let filler = node.at("disk/filler");
    let fill = || {
        let mut file = File::create(&filler).unwrap();
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok() {}
    };
    survives(&node, fill, || fs::remove_file(&filler).unwrap());
    node.detach();
}

/// Enough for a probe is not enough for an upgrade.
#[test]
fn a_disk_that_is_nearly_full() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    assert_eq!(node.settle(1 << 20).unwrap(), None);
    let notice = node.settle(14 << 20).unwrap().unwrap();
    assert!(notice.reason.contains("bytes left"), "{notice:?}");
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));
    node.detach();
}

/// A disk that cannot even be read: what was known is not, which is said, and nothing of it is mixed up with what
/// comes to be meanwhile.
#[test]
fn a_broken_disk() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.judge_bad("bad-before");
    fs::write(node.state_dir().join("orders.json"), r#"{"schema":1,"holds":[{"release":"9"}]}"#).unwrap();
    break_ext4(&node.at("disk"));

    let notice = node.settle(0).unwrap().unwrap();
    for name in ["current", "releases.json", "orders.json"] {
        assert!(notice.unread.iter().any(|unread| unread == name), "{name}: {notice:?}");
    }
    // The root is no new one, although nobody knows what is installed.
    assert_eq!(node.engine().standing().unwrap(), bootstrap::generation::Standing::Damaged);
    let third = node.install("3", Purpose::Upgrade);
    assert!(third > 1000, "no number that a generation on the disk has: {third}");
    node.judge_bad("bad-meanwhile");

    node.detach();
    node.attach();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2"), (third, "3")]));
    assert!(node.is_bad("bad-before") && node.is_bad("bad-meanwhile"));
    assert!(fs::read_to_string(node.state_dir().join("orders.json")).unwrap().contains("\"9\""));
    assert_eq!(node.install("4", Purpose::Upgrade), third + 1);
    node.detach();
}

/// A disk that breaks and comes back without anything having been installed meanwhile says what it said.
#[test]
fn a_disk_that_was_away() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    break_ext4(&node.at("disk"));
    assert!(node.settle(0).unwrap().is_some());
    node.detach();
    node.attach();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1")]));
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.detach();
}

/// What the disk has of this root is newer, because a program that does not know of RAM went on with it: that counts.
#[test]
fn the_newer_generation_counts() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.remount("ro");
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    node.remount("rw");
    let aside = node.at("run/elsewhere");
    fs::rename(node.at("run/state"), &aside).unwrap();
    for (version, number) in [("2b", 2), ("3b", 3)] {
        assert_eq!(node.install(version, Purpose::Upgrade), number);
    }
    fs::rename(&aside, node.at("run/state")).unwrap();
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.engine().current().unwrap().unwrap().version.to_string(), "3b");
    node.detach();
}

/// There has to be memory for it: otherwise nothing moves, and the error says what is missing.
#[test]
fn without_memory_nothing_moves() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.remount("ro");
    let error = node.settle(100 << 20).unwrap_err();
    let StatePlaceError::NoMemory { need, have, .. } = &error else { panic!("{error}") };
    assert!(*need > 100 << 20 && *have <= 64 << 20, "{error}");
    assert!(error.to_string().contains("run/state needs"), "{error}");
    assert_eq!((node.place().directory(), node.place().notice()), (node.state_dir(), None));
    node.detach();
}

/// A transaction that is under way in RAM ends there.
#[test]
fn the_state_does_not_move_under_a_transaction() {
    let node = Node::new();
    assert_eq!(node.install("1", Purpose::Boot), 1);
    node.remount("ro");
    assert!(node.settle(0).unwrap().is_some());
    fs::write(node.at("run/state/journal"), "torn").unwrap();
    node.remount("rw");
    assert!(node.settle(0).unwrap().is_some());
    assert_eq!(node.install("2", Purpose::Upgrade), 2);
    assert_eq!(node.settle(0).unwrap(), None);
    assert_eq!(node.versions(), numbered(&[(1, "1"), (2, "2")]));
    node.detach();
}

/// What a newer version wrote into the notice is no obstacle.
#[test]
fn a_notice_of_another_version_is_understood() {
    let node = Node::new();
    fs::create_dir_all(node.at("run/state")).unwrap();
    let marker = node.at("run/state/in-force");
    fs::write(&marker, r#"{"schema":2,"since":7,"reason":"x","colour":[1]}"#).unwrap();
    assert_eq!(node.place().notice().unwrap().since, 7);
    fs::write(&marker, "torn").unwrap();
    assert!(node.place().notice().is_some());
    assert_eq!(node.place().directory(), node.at("run/state"));
    node.detach();
}
