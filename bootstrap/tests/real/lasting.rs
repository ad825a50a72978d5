//! What hooks and services did is there afterwards, whatever fails.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bootstrap::engine::{Engine, EngineError};
use bootstrap::plan::Purpose;
use bootstrap::programs::{Call, Ended, InRoot, Programs};
use bootstrap::transaction::Recovery;
use nix::mount::{MsFlags, mount, umount};
use tokio::sync::Notify;

use crate::packages::{DESCRIPTION, MIGRATE, UNDO, layout};
use crate::place::{Place, make_ext4, mount_image};

/// Unmounts it at the end, whatever the end is.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount(&self.0);
    }
}

/// A disk of its own for a directory of the root, as a file; what is on it.
fn mount_disk(place: &Place, at: &str) -> (Mounted, PathBuf) {
    let (image, at) = (place.at("disk"), place.root().join(at));
    std::fs::create_dir_all(&at).unwrap();
    make_ext4(&image, 16 << 20);
    mount_image(&image, &at);
    (Mounted(at), image)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_wrote_to_another_disk_is_on_it_when_the_release_is_installed() {
    let place = Place::with_shell();
    let (_disk, image) = mount_disk(&place, "data");
    let hook = "#!/bin/sh\necho \"a mark that nobody else $1\" > /data/made\n";
    let description =
        "hooks: [{name: make, when: before-start, run: [/bin/make, writes], undo: [/bin/make, back]}]";
    let one = place.release("1", &[("bin/make", hook), (DESCRIPTION, description)]);
    place.apply(&one, Purpose::Boot).await.unwrap();
    let on_disk = std::fs::read(&image).unwrap();
    let mark = b"a mark that nobody else writes";
    assert!(on_disk.windows(mark.len()).any(|part| part == mark), "it would not outlive a power cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_on_another_disk_is_on_it_when_the_release_is_installed() {
    let place = Place::with_shell();
    let (_disk, image) = mount_disk(&place, "data");
    let name = "a-directory-of-the-release";
    // Nothing is staged for it.
    std::fs::create_dir_all(place.at("payload-1").join("data").join(name)).unwrap();
    place.apply(&place.release("1", &[("bin/v", "1")]), Purpose::Boot).await.unwrap();
    let on_disk = std::fs::read(&image).unwrap();
    assert!(
        on_disk.windows(name.len()).any(|part| part == name.as_bytes()),
        "a power cut would take it away"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_identityd_is_on_its_disk_before_it_counts() {
    let place = Place::with_shell();
    let (_disk, image) = mount_disk(&place, "data");
    let name = "the-new-identityd";
    let release = place.release("1", &[(&format!("data/{name}"), "new")]);
    let only = release.tree().iter().map(|(path, _)| path.clone()).collect();
    let (engine, lock) = (place.engine(), place.lock());
    let prepared = engine.prepare(&release, Purpose::SelfUpdate, place.source(), Some(&only)).await.unwrap();
    engine.apply(&lock, &prepared, place.source(), &|_| {}, &|| Ok(())).await.unwrap();
    let is_on_disk =
        || std::fs::read(&image).unwrap().windows(name.len()).any(|part| part == name.as_bytes());
    assert!(!is_on_disk(), "this test would prove nothing");
    assert!(engine.commit_pending(&lock, prepared.generation()).await.unwrap());
    assert!(is_on_disk(), "after a power cut the old one would be there, and nobody would know");
}

/// Stops before a program of this name, for good.
#[derive(Debug)]
struct StopsAt {
    name: &'static str,
    programs: InRoot,
    reached: Arc<Notify>,
}

#[async_trait]
impl Programs for StopsAt {
    async fn run(&self, call: &Call) -> std::io::Result<Ended> {
        if call.words[0].ends_with(self.name) {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
        self.programs.run(call).await
    }

    async fn end_leftovers(&self, mark: &str) -> std::io::Result<()> {
        self.programs.end_leftovers(mark).await
    }

    async fn sync(&self) -> std::io::Result<()> {
        self.programs.sync().await
    }
}

impl Place {
    /// Upgrades, and is killed when the program of this name would be run.
    async fn killed_at(&self, name: &'static str, release: &bootstrap::engine::ReleaseTree) {
        let reached = Arc::new(Notify::new());
        let programs = InRoot::new(&self.root());
        let engine = self.engine().running(Arc::new(StopsAt { name, programs, reached: reached.clone() }));
        let prepared = engine.prepare(release, Purpose::Upgrade, self.source(), None).await.unwrap();
        let lock = self.lock();
        let (quiet, ready) = (|_| {}, || Ok(()));
        let upgrade = engine.apply(&lock, &prepared, self.source(), &quiet, &ready);
        tokio::select! {
            done = upgrade => panic!("it was to be killed: {done:?}"),
            () = reached.notified() => {}
        }
    }

    /// Not in RAM.
    fn keeps_what_was_written(&self) -> bool {
        !self.engine().identity().unwrap().volatile
    }

    async fn recover(&self) -> Result<Recovery, EngineError> {
        let engine: Engine = self.engine();
        engine.recover(&self.lock()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_not_mounted_when_the_node_starts_again_keeps_the_journal() {
    let place = Place::with_shell();
    let (disk, at) = (place.at("disk"), place.root().join("srv/app"));
    std::fs::create_dir_all(disk.join("own")).unwrap();
    std::fs::create_dir_all(place.root().join("srv")).unwrap();
    let srv = place.root().join("srv");
    let bind = || {
        mount(Some(&disk), &srv, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        Mounted(srv.clone())
    };
    let mounted = bind();
    place.with_state(1, "").await;
    let park = "  - {name: park, when: before-start, run: [/bin/park], undo: []}\n";
    let description = format!("{}hooks:\n{park}", layout(2, UNDO));
    let files =
        [("bin/migrate", MIGRATE), ("bin/park", "#!/bin/sh\n"), ("bin/v", "2"), (DESCRIPTION, &description)];
    let two = place.release("2", &files);
    place.killed_at("park", &two).await;
    assert_eq!((place.read("srv/app/data"), place.read("bin/v")), ("2\n".into(), "2".into()));

    drop(mounted);
    for _ in 0..2 {
        let error = place.recover().await.unwrap_err();
        let said = flist::report(&error);
        assert!(said.contains("nothing is mounted at /srv") && said.contains("state/journal"), "{said}");
    }
    // What can be undone is.
    assert_eq!((place.read("bin/v"), at.exists()), ("1".into(), false));
    let _mounted = bind();
    assert!(matches!(place.recover().await.unwrap(), Recovery::Undone { .. }));
    assert_eq!((place.read("srv/app/data"), place.read("bin/v")), ("1\n".into(), "1".into()));
    assert_eq!(place.recover().await.unwrap(), Recovery::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_migrated_state_is_put_aside_when_that_is_put_back() {
    // As a service of the new release does before it turns out not to do.
    let works = "#!/bin/sh\necho precious > /srv/app/deep/order\nexit 1\n";
    for kept in [true, false] {
        let place = Place::with_shell();
        place.with_state(1, "").await;
        let work = "  - {name: work, when: after-start, run: [/bin/work], undo: []}\n";
        let description = format!("{}hooks:\n{work}", layout(2, UNDO));
        let script = if kept { works } else { "#!/bin/sh\nexit 1\n" };
        let files =
            [("bin/migrate", MIGRATE), ("bin/work", script), ("bin/v", "2"), (DESCRIPTION, &description)];
        let failed = place.apply(&place.release("2", &files), Purpose::Upgrade).await.unwrap_err();
        let said = flist::report(&failed);
        assert_eq!((place.read("srv/app/data"), place.read("bin/v")), ("1\n".into(), "1".into()));
        assert_eq!(place.read("srv/app/deep/order"), "entity not found");
        let told = "what was written to /srv/app since it was migrated";
        assert_eq!(said.contains(told), kept, "{said}");
        let aside = kept && place.keeps_what_was_written();
        assert_eq!(said.contains("lies in /.molt/left-2-0"), aside, "{said}");
        let order = if aside { "precious\n" } else { "entity not found" };
        assert_eq!(place.read(".molt/left-2-0/deep/order"), order);
        assert!(matches!(&failed, EngineError::Transaction(error) if error.is_judged()), "{said}");
        // The next failure has the same number, and takes nothing of this one away.
        place.apply(&place.release("2", &files), Purpose::Upgrade).await.unwrap_err();
        for left in [".molt/left-2-0/deep/order", ".molt/left-2-0-1/deep/order"] {
            assert_eq!(place.read(left), order);
        }
        // Once there is something else to go on with, nobody waits for it any more.
        let files = [("bin/migrate", MIGRATE), ("bin/v", "3"), (DESCRIPTION, &layout(2, UNDO))];
        place.apply(&place.release("3", &files), Purpose::Upgrade).await.unwrap();
        assert_eq!(place.read("srv/app/data"), "2\n");
        assert!(!place.root().join(".molt/left-2-0").exists());
        assert!(!place.root().join(".molt/left-2-0-1").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_migrated_state_is_put_aside_after_a_kill_too() {
    let place = Place::with_shell();
    place.with_state(1, "").await;
    let hooks = "hooks:
  - {name: work, when: after-start, run: [/bin/work], undo: []}
  - {name: park, when: after-start, run: [/bin/park], undo: []}
";
    let description = format!("{}{hooks}", layout(2, UNDO));
    let work = "#!/bin/sh\necho precious > /srv/app/deep/order\n";
    let files = [
        ("bin/migrate", MIGRATE),
        ("bin/work", work),
        ("bin/park", "#!/bin/sh\n"),
        ("bin/v", "2"),
        (DESCRIPTION, &description),
    ];
    place.killed_at("park", &place.release("2", &files)).await;
    assert_eq!(place.read("srv/app/deep/order"), "precious\n");
    for expected in [true, false] {
        let recovered = place.recover().await.unwrap();
        assert_eq!(matches!(recovered, Recovery::Undone { .. }), expected);
        assert_eq!(place.read("srv/app/data"), "1\n");
        if place.keeps_what_was_written() {
            assert_eq!(place.read(".molt/left-2-0/deep/order"), "precious\n");
        }
    }
}
