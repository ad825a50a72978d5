//! The engine with flists of both formats. Needs root, because owners are set.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bootstrap::engine::{Engine, Prepared, ReleaseTree};
use bootstrap::lock;
use bootstrap::plan::Purpose;
use bootstrap::source::BlockSource;
use flist::format::{self, Format};
use flist::hub::{Channel, FlistName, Release, ReleaseFlist, ReleaseId, ReleaseVersion, Sha256};
use flist::pack::pack_observed;
use flist::store::DirStore;
use flist::trust::for_tests::unchecked;
use tempfile::TempDir;

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let place = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(place.at("root")).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn engine(&self) -> Engine {
        // No plan of these tests has services, so nobody asks zinit.
        Engine::open_at(&self.at("root"), &self.at("state"), &self.at("no zinit")).unwrap()
    }

    fn source(&self) -> Arc<BlockSource> {
        Arc::new(BlockSource { store: Arc::new(DirStore::new(self.at("store"))) })
    }

    fn release(&self, version: &str, format: Format, files: &[(&str, &str)]) -> ReleaseTree {
        let directory = self.at(&format!("payload-{version}"));
        for (path, content) in files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
        }
        let store = DirStore::new(self.at("store"));
        let (tree, _) = pack_observed(&directory, &store, format.codec(), &()).unwrap();
        let bytes = format::to_bytes(&tree, format).unwrap();
        let location: FlistName = "test/app:latest.flist".parse().unwrap();
        let id = ReleaseId::of([(version, Sha256::of(version.as_bytes()))]);
        let channel = Channel::Flist(location.clone());
        let flist = ReleaseFlist { package: "app".to_owned(), sha256: Sha256::of(&bytes), location, bytes };
        let (version, info) = (ReleaseVersion::Text(version.to_owned()), serde_json::Map::new());
        let release = Release { channel, id, version, info, flists: vec![flist] };
        ReleaseTree::read(unchecked(release)).unwrap()
    }

    async fn prepare(&self, release: &ReleaseTree) -> Prepared {
        let only: BTreeSet<_> = release.tree().iter().map(|(path, _)| path.clone()).collect();
        self.engine().prepare(release, Purpose::SelfUpdate, self.source(), Some(&only)).await.unwrap()
    }

    async fn install(&self, release: &ReleaseTree, number: u64) {
        let engine = self.engine();
        let lock = lock::take(&self.at("run"), "test", std::time::Duration::ZERO).unwrap();
        let prepared = self.prepare(release).await;
        engine.apply(&lock, &prepared, self.source(), &|_| {}, &|| Ok(())).await.unwrap();
        assert!(engine.commit_pending(&lock, number).await.unwrap());
    }

    async fn changes(&self, release: &ReleaseTree) -> Vec<String> {
        let prepared = self.prepare(release).await;
        prepared.plan.files.changes.iter().map(|change| change.path().to_string()).collect()
    }
}

const OLD: &[(&str, &str)] =
    &[("bin/app", "old"), ("bin/same", "same"), ("empty", ""), ("etc/conf", "1"), ("etc/mine", "1")];
const NEW: &[(&str, &str)] =
    &[("bin/app", "new"), ("bin/same", "same"), ("empty", ""), ("etc/conf", "2"), ("etc/mine", "1")];

#[tokio::test(flavor = "multi_thread")]
async fn content_is_the_same_in_both_formats() {
    for (first, second) in [(Format::Fl, Format::Classic), (Format::Classic, Format::Fl)] {
        let place = Place::new();
        place.install(&place.release("1", first, OLD), 1).await;
        assert_eq!(place.changes(&place.release("2", second, OLD)).await, Vec::<String>::new());
        let new = place.release("3", second, NEW);
        // What was installed by the other format and is untouched is no user's work.
        assert_eq!(place.changes(&new).await, ["bin/app", "etc/conf"]);

        // A user's work stays. The release has what it had: nothing has to be told.
        std::fs::write(place.at("root/etc/mine"), "mine").unwrap();
        assert_eq!(place.changes(&new).await, ["bin/app", "etc/conf"]);
        // What a release changes comes beside it.
        let files: Vec<_> =
            NEW.iter().map(|file| if file.0 == "etc/mine" { ("etc/mine", "2") } else { *file }).collect();
        let other = place.release("3", second, &files);
        assert_eq!(place.changes(&other).await, ["bin/app", "etc/conf", "etc/mine.new"]);
        place.install(&new, 2).await;
        let read = |path: &str| std::fs::read_to_string(place.at("root").join(path)).unwrap();
        assert_eq!(read("etc/mine"), "mine");
        assert!(!place.at("root/etc/mine.new").exists());
        assert_eq!((read("bin/app").as_str(), read("etc/conf").as_str()), ("new", "2"));
        // From now on both are of one format.
        assert_eq!(place.changes(&place.release("4", second, NEW)).await, Vec::<String>::new());
        let third = place.release("5", second, &[("etc/mine", "1"), ("bin/app", "new")]);
        assert_eq!(place.changes(&third).await, Vec::<String>::new());
    }
}
