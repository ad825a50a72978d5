//! The engine on the file systems that a root can have: tmpfs, ramfs, ext4, an overlay. Needs root.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bootstrap::engine::{Engine, EngineError, ReleaseTree};
use bootstrap::generation::StateDir;
use bootstrap::lock::{self, EngineLock};
use bootstrap::plan::Purpose;
use bootstrap::processes::Uses;
use bootstrap::root::Root;
use bootstrap::source::BlockSource;
use bootstrap::supervisor::{HeldProcess, Supervisor};
use flist::hub::{Channel, FlistName, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};
use flist::pack::pack;
use flist::path::FlistPath;
use flist::store::DirStore;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use zinit_client::{Error, Refusal, ServiceStatus, UnitName};

/// A supervisor that has no services and is never given any.
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

/// A node without services, whose root is what was mounted at `root`.
struct Node {
    dir: PathBuf,
    root: PathBuf,
}

impl Node {
    fn engine(&self) -> Engine {
        let state = StateDir::open(&self.dir.join("state")).unwrap();
        Engine::on(Root::open(&self.root).unwrap(), state, Arc::new(NoServices))
    }

    fn lock(&self) -> EngineLock {
        lock::take(&self.dir.join("run"), "test", Duration::ZERO).unwrap()
    }

    fn source(&self) -> Arc<BlockSource> {
        Arc::new(BlockSource { store: Arc::new(DirStore::new(self.dir.join("store"))) })
    }

    fn release(&self, version: &str, files: &[(&str, u32, &str)]) -> ReleaseTree {
        let directory = self.dir.join(format!("payload-{version}"));
        for (path, mode, content) in files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
                None => {
                    std::fs::write(&path, content).unwrap();
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
                }
            }
        }
        let (tree, _) = pack(&directory, &DirStore::new(self.dir.join("store"))).unwrap();
        let bytes = flist::format::fl::to_bytes(&tree).unwrap();
        let location: FlistName = "test/app:latest.flist".parse().unwrap();
        let id = ReleaseId::of([(version, Sha256::of(version.as_bytes()))]);
        let what = (Channel::Flist(location.clone()), id, ReleaseVersion::Text(version.to_owned()));
        let flist = ReleaseFlist { package: "app".to_owned(), sha256: Sha256::of(&bytes), location, bytes };
        ReleaseTree::of(what, "{}".to_owned(), vec![flist]).unwrap()
    }

    async fn apply(&self, release: &ReleaseTree, purpose: Purpose) -> Result<(), EngineError> {
        let engine = self.engine();
        let prepared = engine.prepare(release, purpose, self.source(), None).await?;
        engine.apply(&self.lock(), &prepared, self.source(), &|_| {}, &|| Ok(())).await
    }

    /// Mode and length of the files of the base image, as the overlay shows them.
    fn overlaid(&self) -> Vec<(u32, u64)> {
        let look = |name: &&str| self.root.join("bin").join(name).symlink_metadata().unwrap();
        ["app", "link", "runs"].iter().map(look).map(|there| (there.mode(), there.len())).collect()
    }

    /// Every file with its mode and content, but not our own.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut stack = vec![self.root.clone()];
        while let Some(directory) = stack.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                let name = path.strip_prefix(&self.root).unwrap().display().to_string();
                if [".molt", "tmp", "lost+found"].iter().any(|own| name.starts_with(own)) {
                    continue;
                }
                if metadata.is_dir() {
                    stack.push(path);
                    found.push(format!("{name}/"));
                } else if metadata.is_symlink() {
                    found.push(format!("{name} -> {}", std::fs::read_link(&path).unwrap().display()));
                } else {
                    let content = std::fs::read_to_string(&path).unwrap();
                    found.push(format!("{name} {:o} {content}", metadata.mode() & 0o7777));
                }
            }
        }
        found.sort();
        found
    }
}

const OLD: &[(&str, u32, &str)] = &[
    ("bin/app", 0o4755, "old"),
    ("bin/link", 0, "-> app"),
    ("lib/gone/deep", 0o644, "x"),
    ("same", 0o644, "same"),
];
const NEW: &[(&str, u32, &str)] = &[
    ("bin/app", 0o755, "new, and longer"),
    ("bin/link", 0, "-> other"),
    ("opt/new/deep", 0o600, "y"),
    ("same", 0o644, "same"),
];

/// What the engine has to see of a file system.
#[derive(Debug, PartialEq, Eq)]
enum Nature {
    InRam,
    OnDisk,
    CopiesUp,
}

/// Boots, upgrades, breaks off an upgrade, goes back.
fn live_a_life(dir: &Path, root: &Path, nature: Nature) {
    let node = Node { dir: dir.to_owned(), root: root.to_owned() };
    let seen = node.engine().root().disk().filesystem(&FlistPath::root()).unwrap();
    assert_eq!((seen.in_ram, seen.copies_up), (nature == Nature::InRam, nature == Nature::CopiesUp));
    assert!(seen.available.is_some_and(|bytes| bytes > 0), "{seen:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (old, new) = (node.release("1", OLD), node.release("2", NEW));
        node.apply(&old, Purpose::Boot).await.unwrap();
        let first = node.files();
        assert!(first.contains(&"bin/app 4755 old".to_owned()), "{first:?}");

        let engine = node.engine();
        let prepared = engine.prepare(&new, Purpose::Upgrade, node.source(), None).await.unwrap();
        let not_ready = || Err("not today".into());
        let broken = engine.apply(&node.lock(), &prepared, node.source(), &|_| {}, &not_ready).await;
        assert!(broken.is_err());
        assert_eq!(node.files(), first);

        node.apply(&new, Purpose::Upgrade).await.unwrap();
        let second = node.files();
        assert!(second.contains(&"bin/app 755 new, and longer".to_owned()), "{second:?}");
        assert!(!second.iter().any(|file| file.starts_with("lib/gone")), "{second:?}");
        // What lies ready for going back gives rights to nobody.
        let slots = node.root.join(".molt/2").read_dir().unwrap();
        assert!(slots.map(|slot| slot.unwrap().metadata().unwrap().mode()).all(|mode| mode & 0o6000 == 0));

        // Everything that is needed is kept on the node.
        std::fs::rename(node.dir.join("store"), node.dir.join("away")).unwrap();
        let engine = node.engine();
        let (number, target) = engine.revert_target(None).unwrap();
        assert_eq!(number, 1);
        let prepared = engine.prepare_revert(&target, node.source()).await.unwrap();
        engine.apply(&node.lock(), &prepared, node.source(), &|_| {}, &|| Ok(())).await.unwrap();
        assert_eq!(node.files(), first);
    });
}

/// Mounts of this thread are nobody else's, and go with it.
fn own_mounts() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
}

fn on(kind: &str) {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    mount(Some(kind), &root, Some(kind), MsFlags::empty(), None::<&str>).unwrap();
    live_a_life(dir.path(), &root, Nature::InRam);
    nix::mount::umount(&root).unwrap();
}

#[test]
fn on_tmpfs() {
    on("tmpfs");
}

#[test]
fn on_ramfs() {
    on("ramfs");
}

#[test]
fn on_ext4() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let (image, root) = (dir.path().join("image"), dir.path().join("root"));
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    std::fs::create_dir(&root).unwrap();
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let done = Command::new(program).args(arguments).output().unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    run("mkfs.ext4", &["-q".as_ref(), image.as_os_str()]);
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), root.as_os_str()]);
    live_a_life(dir.path(), &root, Nature::OnDisk);
    nix::mount::umount(&root).unwrap();
}

/// The base image is the lower layer, so what is replaced first has to be copied up.
#[test]
fn on_an_overlay() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["root", "lower/bin", "lower/same.d", "ram"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("lower/bin/app"), "of the base image").unwrap();
    std::fs::write(at("lower/same"), "same").unwrap();
    mount(Some("tmpfs"), &at("ram"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for name in ["ram/upper", "ram/work"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let layers = ["lowerdir=", ",upperdir=", ",workdir="].iter().zip(["lower", "ram/upper", "ram/work"]);
    let options: String = layers.map(|(key, name)| format!("{key}{}", at(name).display())).collect();
    mount(Some("overlay"), &at("root"), Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    live_a_life(dir.path(), &at("root"), Nature::CopiesUp);
    nix::mount::umount(&at("root")).unwrap();
    nix::mount::umount(&at("ram")).unwrap();
}

/// Between the first stop and the last start there are only renames: what has to be copied up for them is in the
/// upper layer before, the file with its content and rights, links, and the directories too. Nothing of it is a
/// change, so the upgrade goes on, and is undone.
#[test]
fn an_overlay_copies_up_before_the_swap() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["root", "lower/bin", "lower/opt/deep", "ram"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("lower/bin/app"), "of the base image").unwrap();
    std::fs::set_permissions(at("lower/bin/app"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::os::unix::fs::symlink("app", at("lower/bin/link")).unwrap();
    // A program that runs cannot be opened for writing.
    std::fs::copy("/bin/sleep", at("lower/bin/runs")).unwrap();
    mount(Some("tmpfs"), &at("ram"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    for name in ["ram/upper", "ram/work"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let layers = ["lowerdir=", ",upperdir=", ",workdir="].iter().zip(["lower", "ram/upper", "ram/work"]);
    let options: String = layers.map(|(key, name)| format!("{key}{}", at(name).display())).collect();
    mount(Some("overlay"), &at("root"), Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    let mut runs = Command::new(at("root/bin/runs")).arg("600").spawn().unwrap();

    let node = Node { dir: dir.path().to_owned(), root: at("root") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let upper = |name: &str| at("ram/upper").join(name);
    runtime.block_on(async {
        let files = [("bin/app", 0o755, "new"), ("bin/link", 0, "-> other"), ("bin/runs", 0o755, "new")];
        let release = node
            .release("1", &[&files[..], &[("opt/deep/added", 0o644, "x"), ("other", 0o644, "x")]].concat());
        node.apply(&node.release("0", &[("other", 0o644, "x")]), Purpose::Boot).await.unwrap();
        let before = node.overlaid();
        let engine = node.engine();
        let prepared = engine.prepare(&release, Purpose::Upgrade, node.source(), None).await.unwrap();
        assert!(!upper("bin").exists());
        let at_the_swap = std::sync::Mutex::new(Vec::new());
        let look = || {
            let mode =
                |name: &str| upper(name).symlink_metadata().map(|there| (there.mode(), there.ino())).ok();
            let found = ["bin/app", "bin/link", "bin/runs", "bin", "opt/deep"].map(mode);
            assert_eq!(std::fs::read(upper("bin/app")).unwrap(), b"of the base image");
            *at_the_swap.lock().unwrap() = found.into_iter().flatten().collect();
            Err("not today".into())
        };
        assert!(engine.apply(&node.lock(), &prepared, node.source(), &|_| {}, &look).await.is_err());
        let copied = at_the_swap.lock().unwrap().clone();
        assert_eq!(copied.len(), 5, "copied up when the first service would have stopped: {copied:?}");
        assert_eq!(copied[0].0 & 0o7777, 0o4755, "the copy keeps its rights");
        assert_eq!(node.overlaid(), before);

        // What lies in the slots afterwards are these very copies: the swap made no others.
        node.apply(&release, Purpose::Upgrade).await.unwrap();
        assert_eq!(std::fs::read(at("root/bin/app")).unwrap(), b"new");
        let slots = upper(".molt").join(node.engine().current().unwrap().unwrap().number.to_string());
        let mut kept: Vec<_> =
            slots.read_dir().unwrap().map(|slot| slot.unwrap().metadata().unwrap().ino()).collect();
        let mut expected: Vec<_> = copied[..3].iter().map(|(_, inode)| *inode).collect();
        kept.sort_unstable();
        expected.sort_unstable();
        assert_eq!(kept, expected);
    });
    runs.kill().unwrap();
    runs.wait().unwrap();
    nix::mount::umount(&at("root")).unwrap();
    nix::mount::umount(&at("ram")).unwrap();
}
