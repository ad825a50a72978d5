//! What every test of this kind needs: a root, a state and a store of their own, and no services.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
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
use bootstrap::state_place::StatePlace;
use bootstrap::supervisor::{HeldProcess, Supervisor};
use flist::hub::{Channel, FlistName, Release, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};
use flist::pack::pack;
use flist::path::FlistPath;
use flist::store::DirStore;
use flist::trust::for_tests::unchecked;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use zinit_client::{Error, Refusal, ServiceStatus, UnitName};

/// A root, a state and a store of their own.
pub(crate) struct Place {
    dir: TempDir,
    /// The state directory.
    pub(crate) state: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let place = Self { dir, state };
        for name in ["root", "run"] {
            std::fs::create_dir(place.at(name)).unwrap();
        }
        place
    }

    /// Something beside the root.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.at("root")
    }

    pub(crate) fn state_place(&self) -> StatePlace {
        StatePlace::new(&self.state, &self.at("run"))
    }

    pub(crate) fn engine(&self) -> Engine {
        let state = StateDir::open(&self.state_place().directory()).unwrap();
        Engine::on(Root::open(&self.root()).unwrap(), state, Arc::new(NoServices))
    }

    pub(crate) fn lock(&self) -> EngineLock {
        lock::take(&self.at("run"), "test", Duration::ZERO).unwrap()
    }

    pub(crate) fn store(&self) -> DirStore {
        DirStore::new(self.at("store"))
    }

    pub(crate) fn source(&self) -> Arc<BlockSource> {
        Arc::new(BlockSource { store: Arc::new(self.store()) })
    }

    /// A release of these files; a content of `-> x` is a symlink, and scripts may be executed.
    pub(crate) fn release(&self, version: &str, files: &[(&str, &str)]) -> ReleaseTree {
        let mode = |content: &str| if content.starts_with("#!") { 0o755 } else { 0o644 };
        let files: Vec<_> = files.iter().map(|(path, content)| (*path, mode(content), *content)).collect();
        self.release_with(version, &files)
    }

    /// As [`Place::release`], with permission bits.
    pub(crate) fn release_with(&self, version: &str, files: &[(&str, u32, &str)]) -> ReleaseTree {
        let directory = self.at(&format!("payload-{version}"));
        for (path, mode, content) in files {
            let path = directory.join(path);
            match content.strip_prefix("-> ") {
                Some(target) => {
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    symlink(target, &path).unwrap();
                }
                None => {
                    put(&path, content);
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
                }
            }
        }
        ReleaseTree::read(unchecked(self.packed(version, &directory))).unwrap()
    }

    /// What a hub would offer of this directory.
    pub(crate) fn packed(&self, version: &str, directory: &Path) -> Release {
        let (tree, _) = pack(directory, &self.store()).unwrap();
        let bytes = flist::format::fl::to_bytes(&tree).unwrap();
        let location: FlistName = "test/app:latest.flist".parse().unwrap();
        let id = ReleaseId::of([(version, Sha256::of(version.as_bytes()))]);
        let channel = Channel::Flist(location.clone());
        let flist = ReleaseFlist { package: "app".to_owned(), sha256: Sha256::of(&bytes), location, bytes };
        let info = [("version".to_owned(), version.into())].into_iter().collect();
        let version = ReleaseVersion::Text(version.to_owned());
        Release { channel, id, version, info, flists: vec![flist] }
    }

    /// Installs a release; of a self-update, all of its paths.
    pub(crate) async fn apply(&self, release: &ReleaseTree, purpose: Purpose) -> Result<(), EngineError> {
        let engine = self.engine();
        let only = release.tree().iter().map(|(path, _)| path.clone()).collect();
        let prepared = match purpose {
            Purpose::Revert => engine.prepare_revert(release, self.source()).await?,
            Purpose::SelfUpdate => engine.prepare(release, purpose, self.source(), Some(&only)).await?,
            _ => engine.prepare(release, purpose, self.source(), None).await?,
        };
        engine.apply(&self.lock(), &prepared, self.source(), &|_| {}, &|| Ok(())).await
    }

    /// What a file of the root says, or why it says nothing.
    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap_or_else(|error| error.kind().to_string())
    }

    /// Every file of the root with its mode and content, but not our own.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut stack = vec![self.root()];
        while let Some(directory) = stack.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                let name = path.strip_prefix(self.root()).unwrap().display().to_string();
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

/// Makes a file, and the directories above it.
pub(crate) fn put(at: &Path, content: &str) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, content).unwrap();
}

/// Waits for `future` on this thread, so that it sees the mounts of this thread.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Mounts of this thread are nobody else's from here on, and go with it.
pub(crate) fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
}

/// Mounts an empty file system of this kind.
pub(crate) fn mount_empty(kind: &str, at: &Path, options: Option<&str>) {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options).unwrap();
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An empty ext4 in a file, without blocks that are kept for root.
pub(crate) fn make_ext4(image: &Path, bytes: u64) {
    std::fs::File::create(image).unwrap().set_len(bytes).unwrap();
    run("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
}

pub(crate) fn mount_image(image: &Path, at: &Path) {
    run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
}

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
