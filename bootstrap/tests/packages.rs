//! Package descriptions on a real directory: what is asked of a node, hooks, migrations. Needs root.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bootstrap::engine::{Engine, EngineError, ReleaseTree};
use bootstrap::source::BlockSource;
use flist::hub::{FlistName, ReleaseId, ReleaseVersion};
use flist::pack::pack;
use flist::store::DirStore;
use nix::mount::{MsFlags, mount, umount};
use tempfile::TempDir;

const DESCRIPTION: &str = "usr/lib/molt/packages/app.yaml";

/// A root, a state and a store of their own.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(place.root()).unwrap();
        place
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn engine(&self) -> Engine {
        let at = |name: &str| self.0.path().join(name);
        Engine::open_at(&self.root(), &at("state"), &at("no zinit")).unwrap()
    }

    fn source(&self) -> Arc<BlockSource> {
        Arc::new(BlockSource { store: Arc::new(DirStore::new(self.0.path().join("store"))) })
    }

    fn release(&self, version: &str, files: &[(&str, &str)]) -> ReleaseTree {
        let directory = self.0.path().join(format!("payload-{version}"));
        for (path, content) in files {
            put(&directory.join(path), content);
        }
        let (tree, _) = pack(&directory, &DirStore::new(self.0.path().join("store"))).unwrap();
        let channel: FlistName = "test/app:latest.flist".parse().unwrap();
        ReleaseTree {
            channel,
            id: ReleaseId::of([(version, flist::hub::Sha256::of(version.as_bytes()))]),
            version: ReleaseVersion::Text(version.to_owned()),
            info: "{}".to_owned(),
            flist: Arc::new(flist::format::fl::to_bytes(&tree).unwrap()),
            tree: Arc::new(tree),
        }
    }

    /// Whether a release with this description may be installed.
    async fn admitted(&self, description: &str) -> Result<(), EngineError> {
        let release = self.release("1", &[(DESCRIPTION, description)]);
        let engine = self.engine();
        let packages = engine.packages_of(&release, self.source()).await?;
        engine.admit(&packages)
    }
}

fn put(at: &Path, content: &str) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, content).unwrap();
}

#[tokio::test]
async fn a_node_that_is_not_as_a_package_needs_it_is_told_what_and_why() {
    let place = Place::new();
    put(&place.root().join("here/file"), "x");
    std::fs::create_dir_all(place.root().join("ro")).unwrap();
    let read_only = place.root().join("ro");
    mount(Some("none"), &read_only, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    let mut wrong = Vec::new();
    for (text, code) in [
        ("kernel: '2.6', memory_mib: 1, paths: [/here/file], writable: [/here], mounts: [/ro]", ""),
        ("kernel: '999.0'", "kernel-too-old"),
        ("memory_mib: 16777216", "memory-too-small"),
        ("architectures: [vax]", "wrong-architecture"),
        ("molt: 999.0.0", "molt-too-old"),
        ("paths: [/here/nothing]", "path-missing"),
        ("mounts: [/here]", "not-mounted"),
        ("writable: [/ro]", "not-writable"),
        // Nothing is installed, so it comes from nowhere.
        ("installed: 999.0.0", ""),
    ] {
        match place.admitted(&format!("requires: {{{text}}}")).await {
            Ok(()) if code.is_empty() => {}
            Err(EngineError::Unmet(unmet)) if unmet.len() == 1 && unmet[0].code == code => {
                assert!(!unmet[0].have.is_empty() && unmet[0].package == "app", "{unmet:?}");
            }
            other => wrong.push(format!("{text}: {other:?}")),
        }
    }
    umount(&read_only).unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn a_description_with_a_mistake_is_refused_with_its_place() {
    let place = Place::new();
    let error = place.admitted("requires: {}\nhook: []\n").await.unwrap_err();
    let said = flist::report(&error);
    assert!(said.contains("/usr/lib/molt/packages/app.yaml") && said.contains("line 2 column 1"), "{said}");
    assert!(error.is_about_molt(), "a newer version may know the key");
}

#[tokio::test]
async fn state_that_nobody_described_has_schema_0() {
    let place = Place::new();
    let text = |floor| format!("state: {{schema: 2, floor: {floor}, paths: [/var/lib/app]}}");
    place.admitted(&text(2)).await.unwrap();
    std::fs::create_dir_all(place.root().join("var/lib/app")).unwrap();
    place.admitted(&text(2)).await.unwrap();
    put(&place.root().join("var/lib/app/data"), "x");
    place.admitted(&text(0)).await.unwrap();
    let refused = place.admitted(&text(1)).await.unwrap_err();
    assert!(
        matches!(&refused, EngineError::Schema(refused) if refused[0].code == "schema-too-old"),
        "{refused:?}"
    );
}
