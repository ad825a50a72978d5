//! Somebody else fills the disk while an upgrade is under way.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use bootstrap::engine::EngineError;
use bootstrap::plan::Purpose;
use bootstrap::transaction::Recovery;
use nix::errno::Errno;
use nix::mount::umount;

use crate::packages::DESCRIPTION;
use crate::place::{Place, make_ext4, mount_image, own_mounts, wait_for};

// No directory goes: its block would be free again.
const OLD: &[(&str, &str)] = &[("bin/app", "old"), ("lib/gone", "x"), ("lib/kept", "k"), ("tmp/kept", "z")];
const NEW: &[(&str, &str)] =
    &[("bin/app", "new, and longer"), ("lib/kept", "k"), ("opt/new/deep", "y"), ("tmp/kept", "z")];

/// Takes every block that is left, those of directories too.
fn fill(at: &Path) {
    std::fs::create_dir(at).unwrap();
    let mut filler = File::create(at.join("filler")).unwrap();
    let full = |error: &std::io::Error| error.raw_os_error() == Some(Errno::ENOSPC as i32);
    for piece in [&[0; 1 << 16][..], &[0; 1 << 10]] {
        let stopped = std::iter::repeat_with(|| filler.write_all(piece)).find_map(Result::err).unwrap();
        assert!(full(&stopped), "{stopped}");
    }
    // What is written later has no block any more.
    filler.sync_all().unwrap_or_else(|error| assert!(full(&error), "{error}"));
    let mut number = 0;
    while std::fs::create_dir(at.join(number.to_string())).is_ok() {
        number += 1;
    }
}

/// A place whose root and state are on a small disk of their own.
fn on_a_disk() -> Place {
    own_mounts();
    let mut place = Place::new();
    make_ext4(&place.at("image"), 64 << 20);
    mount_image(&place.at("image"), &place.root());
    place.state = place.root().join("var/lib/molt");
    std::fs::create_dir_all(&place.state).unwrap();
    place
}

/// Takes what has become free on a full disk meanwhile, and fails.
const HOOK: &str = "#!/bin/sh
if [ $1 = back ]; then exit 0; fi
number=0
while echo x > /var/filler/more$number; do number=$((number + 1)); done
[ $number -gt 0 ] || exit 9
exit 7
";

#[test]
fn a_disk_that_is_full_does_not_keep_a_directory_from_being_put_back() {
    let place = on_a_disk();
    place.put_shell();
    wait_for(async {
        let hook = "hooks: [{name: fill, when: before-start, run: [/bin/hook, go], undo: [/bin/hook, back]}]";
        let old = place.release("1", &[("bin/hook", HOOK), ("lib/gone/deep/file", "x")]);
        let new = place.release("2", &[("bin/hook", HOOK), (DESCRIPTION, hook)]);
        place.apply(&old, Purpose::Boot).await.unwrap();
        let engine = place.engine();
        let prepared = engine.prepare(&new, Purpose::Upgrade, place.source(), None).await.unwrap();
        let fill_it = || {
            fill(&place.root().join("var/filler"));
            Ok(())
        };
        let failed = engine.apply(&place.lock(), &prepared, place.source(), &|_| {}, &fill_it).await;
        let failed = failed.unwrap_err();
        let said = flist::report(&failed);
        for part in ["half-way and was undone", "code 7", "no room left"] {
            assert!(said.contains(part), "{said}");
        }
        // A program that fails where nobody can write says nothing about its release.
        let EngineError::Transaction(error) = &failed else { panic!("{failed:?}") };
        assert!(!error.is_judged() && !error.is_the_releases_fault(), "{failed:?}");

        std::fs::remove_dir_all(place.root().join("var/filler")).unwrap();
        assert_eq!(place.read("lib/gone/deep/file"), "x");
        assert!(!place.root().join(DESCRIPTION).exists());
        assert_eq!(place.engine().recover(&place.lock()).await.unwrap(), Recovery::Clean);
    });
    umount(&place.root()).unwrap();
}

#[test]
fn a_disk_that_is_filled_right_before_the_swap_does_not_make_it_fail() {
    let place = on_a_disk();
    wait_for(async {
        let (old, new) = (place.release("1", OLD), place.release("2", NEW));
        place.apply(&old, Purpose::Boot).await.unwrap();
        let engine = place.engine();
        let prepared = engine.prepare(&new, Purpose::Upgrade, place.source(), None).await.unwrap();
        let filler = place.root().join("var/filler");
        let fill_it = || {
            fill(&filler);
            assert!(std::fs::write(place.root().join("var/more"), "more").is_err());
            Ok(())
        };
        engine.apply(&place.lock(), &prepared, place.source(), &|_| {}, &fill_it).await.unwrap();

        assert_eq!(place.read("bin/app"), "new, and longer");
        assert_eq!(place.read("opt/new/deep"), "y");
        assert!(!place.root().join("lib/gone").exists());
        assert_eq!(place.read("tmp/flist.info"), "{\"version\":\"2\"}");
        let current = place.engine().current().unwrap().unwrap();
        assert_eq!((current.number, current.version.to_string()), (2, "2".to_owned()));

        // It can be gone back from, once there is room again.
        std::fs::remove_dir_all(&filler).unwrap();
        let (_, target) = place.engine().revert_target(None).unwrap();
        place.apply(&target, Purpose::Revert).await.unwrap();
        assert_eq!((place.read("bin/app"), place.read("lib/gone")), ("old".into(), "x".into()));
        assert!(!place.root().join("opt").exists());
    });
    umount(&place.root()).unwrap();
}
