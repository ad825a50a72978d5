//! On the file systems that a root can have: tmpfs, ramfs, ext4, an overlay.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use bootstrap::plan::Purpose;
use flist::path::FlistPath;
use nix::mount::umount;

use crate::place::{Place, make_ext4, mount_empty, mount_image, own_mounts, wait_for};

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
fn live_a_life(place: &Place, nature: Nature) {
    let seen = place.engine().root().disk().filesystem(&FlistPath::root()).unwrap();
    assert_eq!((seen.in_ram, seen.copies_up), (nature == Nature::InRam, nature == Nature::CopiesUp));
    assert!(seen.available.is_some_and(|bytes| bytes > 0), "{seen:?}");
    wait_for(async {
        let (old, new) = (place.release_with("1", OLD), place.release_with("2", NEW));
        place.apply(&old, Purpose::Boot).await.unwrap();
        let first = place.files();
        assert!(first.contains(&"bin/app 4755 old".to_owned()), "{first:?}");

        let engine = place.engine();
        let prepared = engine.prepare(&new, Purpose::Upgrade, place.source(), None).await.unwrap();
        let not_ready = || Err("not today".into());
        let broken = engine.apply(&place.lock(), &prepared, place.source(), &|_| {}, &not_ready).await;
        assert!(broken.is_err());
        assert_eq!(place.files(), first);

        place.apply(&new, Purpose::Upgrade).await.unwrap();
        let second = place.files();
        assert!(second.contains(&"bin/app 755 new, and longer".to_owned()), "{second:?}");
        assert!(!second.iter().any(|file| file.starts_with("lib/gone")), "{second:?}");
        // What lies ready for going back gives rights to nobody.
        let slots = place.root().join(".molt/2").read_dir().unwrap();
        assert!(slots.map(|slot| slot.unwrap().metadata().unwrap().mode()).all(|mode| mode & 0o6000 == 0));

        // Everything that is needed is kept on the node.
        std::fs::rename(place.at("store"), place.at("away")).unwrap();
        let (number, target) = place.engine().revert_target(None).unwrap();
        assert_eq!(number, 1);
        place.apply(&target, Purpose::Revert).await.unwrap();
        assert_eq!(place.files(), first);
    });
}

fn in_ram(kind: &str) {
    own_mounts();
    let place = Place::new();
    mount_empty(kind, &place.root(), None);
    live_a_life(&place, Nature::InRam);
    umount(&place.root()).unwrap();
}

#[test]
fn on_tmpfs() {
    in_ram("tmpfs");
}

#[test]
fn on_ramfs() {
    in_ram("ramfs");
}

#[test]
fn on_ext4() {
    own_mounts();
    let place = Place::new();
    make_ext4(&place.at("image"), 64 << 20);
    mount_image(&place.at("image"), &place.root());
    live_a_life(&place, Nature::OnDisk);
    umount(&place.root()).unwrap();
}

/// A root whose lower layer has these directories.
fn on_overlay(directories: &[&str]) -> Place {
    own_mounts();
    let place = Place::new();
    for name in directories.iter().chain(&["ram"]) {
        std::fs::create_dir_all(place.at(name)).unwrap();
    }
    mount_empty("tmpfs", &place.at("ram"), None);
    for name in ["ram/upper", "ram/work"] {
        std::fs::create_dir(place.at(name)).unwrap();
    }
    place
}

/// Puts the overlay together, once everything is in its lower layer.
fn mount_overlay(place: &Place) {
    let layers = ["lowerdir=", ",upperdir=", ",workdir="].iter().zip(["lower", "ram/upper", "ram/work"]);
    let options: String = layers.map(|(key, name)| format!("{key}{}", place.at(name).display())).collect();
    mount_empty("overlay", &place.root(), Some(&options));
}

fn umount_overlay(place: &Place) {
    umount(&place.root()).unwrap();
    umount(&place.at("ram")).unwrap();
}

/// The base image is the lower layer, so what is replaced first has to be copied up.
#[test]
fn on_an_overlay() {
    let place = on_overlay(&["lower/bin", "lower/same.d"]);
    std::fs::write(place.at("lower/bin/app"), "of the base image").unwrap();
    std::fs::write(place.at("lower/same"), "same").unwrap();
    mount_overlay(&place);
    live_a_life(&place, Nature::CopiesUp);
    umount_overlay(&place);
}

/// Mode and length of the files of the base image, as the overlay shows them.
fn overlaid(place: &Place) -> Vec<(u32, u64)> {
    let look = |name: &&str| place.root().join("bin").join(name).symlink_metadata().unwrap();
    ["app", "link", "runs"].iter().map(look).map(|there| (there.mode(), there.len())).collect()
}

/// Between the first stop and the last start there are only renames: what has to be copied up for them is in the
/// upper layer before, the file with its content and rights, links, and the directories too. Nothing of it is a
/// change, so the upgrade goes on, and is undone.
#[test]
fn an_overlay_copies_up_before_the_swap() {
    let place = on_overlay(&["lower/bin", "lower/opt/deep"]);
    let at = |name: &str| place.at(name);
    std::fs::write(at("lower/bin/app"), "of the base image").unwrap();
    std::fs::set_permissions(at("lower/bin/app"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::os::unix::fs::symlink("app", at("lower/bin/link")).unwrap();
    // A program that runs cannot be opened for writing.
    std::fs::copy("/bin/sleep", at("lower/bin/runs")).unwrap();
    mount_overlay(&place);
    let mut runs = Command::new(at("root/bin/runs")).arg("600").spawn().unwrap();

    let upper = |name: &str| at("ram/upper").join(name);
    wait_for(async {
        let files = [("bin/app", 0o755, "new"), ("bin/link", 0, "-> other"), ("bin/runs", 0o755, "new")];
        let more = [("opt/deep/added", 0o644, "x"), ("other", 0o644, "x")];
        let release = place.release_with("1", &[&files[..], &more].concat());
        place.apply(&place.release("0", &[("other", "x")]), Purpose::Boot).await.unwrap();
        let before = overlaid(&place);
        let engine = place.engine();
        let prepared = engine.prepare(&release, Purpose::Upgrade, place.source(), None).await.unwrap();
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
        assert!(engine.apply(&place.lock(), &prepared, place.source(), &|_| {}, &look).await.is_err());
        let copied = at_the_swap.lock().unwrap().clone();
        assert_eq!(copied.len(), 5, "copied up when the first service would have stopped: {copied:?}");
        assert_eq!(copied[0].0 & 0o7777, 0o4755, "the copy keeps its rights");
        assert_eq!(overlaid(&place), before);

        // What lies in the slots afterwards are these very copies: the swap made no others.
        place.apply(&release, Purpose::Upgrade).await.unwrap();
        assert_eq!(std::fs::read(at("root/bin/app")).unwrap(), b"new");
        let slots = upper(".molt").join(place.engine().current().unwrap().unwrap().number.to_string());
        let mut kept: Vec<_> =
            slots.read_dir().unwrap().map(|slot| slot.unwrap().metadata().unwrap().ino()).collect();
        let mut expected: Vec<_> = copied[..3].iter().map(|(_, inode)| *inode).collect();
        kept.sort_unstable();
        expected.sort_unstable();
        assert_eq!(kept, expected);
    });
    runs.kill().unwrap();
    runs.wait().unwrap();
    umount_overlay(&place);
}
