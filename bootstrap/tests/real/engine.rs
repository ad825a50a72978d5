//! On a real directory: swaps, undo, recovery. Needs root, because owners are set.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use bootstrap::engine::{EngineError, ReleaseTree};
use bootstrap::generation::Standing;
use bootstrap::plan::{FileChange, Purpose};
use bootstrap::transaction::{Recovery, TransactionError};
use flist::trust::for_tests::unchecked;

use crate::place::Place;

const OLD: &[(&str, &str)] =
    &[("bin/app", "old"), ("bin/link", "-> app"), ("lib/gone/deep", "x"), ("same", "same")];
const NEW: &[(&str, &str)] =
    &[("bin/app", "new, and longer"), ("bin/link", "-> other"), ("opt/new/deep", "y"), ("same", "same")];

#[tokio::test(flavor = "multi_thread")]
async fn what_was_swapped_and_not_committed_is_undone_by_the_next_start_and_only_once() {
    let place = Place::new();
    place.apply(&place.release("1", OLD), Purpose::SelfUpdate).await.unwrap();
    let engine = place.engine();
    let generation = match engine.commit_pending(&place.lock(), 1).await.unwrap() {
        true => engine.current().unwrap().unwrap(),
        false => panic!("nothing was pending"),
    };
    assert_eq!(generation.number, 1);
    let before = place.files();
    assert!(before.contains(&"bin/app 644 old".to_owned()), "{before:?}");

    // The engine stops after the swap.
    place.apply(&place.release("2", NEW), Purpose::SelfUpdate).await.unwrap();
    let swapped = place.files();
    assert!(swapped.contains(&"bin/app 644 new, and longer".to_owned()), "{swapped:?}");
    assert!(swapped.contains(&"opt/new/deep 644 y".to_owned()), "{swapped:?}");

    let undone = Recovery::Undone { purpose: Purpose::SelfUpdate, generation: 2 };
    assert_eq!(place.engine().recover(&place.lock()).await.unwrap(), undone);
    assert_eq!(place.files(), before);
    assert_eq!(place.engine().recover(&place.lock()).await.unwrap(), Recovery::Clean);
    assert_eq!(place.files(), before);
    assert!(!place.root().join(".molt").exists());
    assert!(!place.engine().commit_pending(&place.lock(), 2).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_owners_set_uid_bits_and_capabilities_are_installed() {
    let place = Place::new();
    place.release("1", &[("bin/su", "x"), ("etc/shadow", "y")]);
    let payload = place.at("payload-1");
    std::fs::set_permissions(payload.join("bin/su"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(payload.join("etc/shadow"), Some(7), Some(42)).unwrap();
    std::os::unix::fs::chown(payload.join("bin/su"), Some(3), Some(4)).unwrap();
    std::fs::set_permissions(payload.join("bin/su"), PermissionsExt::from_mode(0o4755)).unwrap();
    // cap_net_raw+ep, version 2 (capability.h).
    let capability = [&[1, 0, 0, 2, 0, 0x20][..], &[0; 14]].concat();
    let rights = [(b"security.capability".to_vec(), capability)].into();
    flist::xattr::write(&payload.join("etc/shadow"), &rights).unwrap();
    let release = ReleaseTree::read(unchecked(place.packed("1", &payload))).unwrap();
    place.apply(&release, Purpose::SelfUpdate).await.unwrap();
    let at = |path: &str| place.root().join(path).metadata().unwrap();
    assert_eq!((at("bin/su").mode() & 0o7777, at("bin/su").uid(), at("bin/su").gid()), (0o4755, 3, 4));
    assert_eq!((at("etc/shadow").uid(), at("etc/shadow").gid()), (7, 42));
    assert_eq!(flist::xattr::read(&place.root().join("etc/shadow")).unwrap(), rights);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_somebody_else_ends_the_upgrade_and_stays() {
    let place = Place::new();
    place.apply(&place.release("1", OLD), Purpose::SelfUpdate).await.unwrap();
    let engine = place.engine();
    engine.commit_pending(&place.lock(), 1).await.unwrap();
    let release = place.release("2", NEW);
    let only: BTreeSet<_> = release.tree().iter().map(|(path, _)| path.clone()).collect();
    let prepared = engine.prepare(&release, Purpose::SelfUpdate, place.source(), Some(&only)).await.unwrap();
    let edit = || Ok(std::fs::write(place.root().join("bin/app"), "mine")?);
    let failed = engine.apply(&place.lock(), &prepared, place.source(), &|_| {}, &edit).await.unwrap_err();
    assert!(flist::report(&failed).contains("/bin/app was changed by somebody else"), "{failed:?}");
    assert!(matches!(&failed, EngineError::Transaction(error) if !error.is_the_releases_fault()));
    let files = place.files();
    assert!(files.contains(&"bin/app 644 mine".to_owned()), "{files:?}");
    assert!(files.contains(&"bin/link -> app".to_owned()) && !place.root().join("opt").exists(), "{files:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_files_that_cannot_be_fetched_the_first_is_named() {
    let place = Place::new();
    let names: Vec<_> = (0..40).map(|number| format!("usr/f{number:02}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let release = place.release("1", &files);
    let store = place.store();
    for (path, _, content) in release.tree().files() {
        if ["usr/f11", "usr/f12", "usr/f30"].contains(&path.to_string().as_str()) {
            store.remove(&content.blocks[0].id).unwrap();
        }
    }
    let failed = place.apply(&release, Purpose::SelfUpdate).await.unwrap_err();
    let said = flist::report(&failed);
    assert!(said.contains("the content of /usr/f11 cannot be had") && said.contains("missing"), "{said}");
    assert_eq!(place.files(), Vec::<String>::new());
    place.release("1", &files);
    place.apply(&release, Purpose::SelfUpdate).await.unwrap();
    let expected = names.iter().map(|name| format!("{name} 644 {name}"));
    assert_eq!(place.files(), ["usr/".to_owned()].into_iter().chain(expected).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_ready_stops_it_before_anything_is_touched() {
    let place = Place::new();
    let engine = place.engine();
    let release = place.release("1", OLD);
    let only: BTreeSet<_> = release.tree().iter().map(|(path, _)| path.clone()).collect();
    let prepared = engine.prepare(&release, Purpose::SelfUpdate, place.source(), Some(&only)).await.unwrap();
    let refuse = || Err("not today".into());
    let failed = engine.apply(&place.lock(), &prepared, place.source(), &|_| {}, &refuse).await.unwrap_err();
    assert!(matches!(failed, EngineError::Transaction(TransactionError::NotReady(_))), "{failed:?}");
    assert_eq!(place.files(), Vec::<String>::new());
    assert_eq!(engine.recover(&place.lock()).await.unwrap(), Recovery::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_became_a_symlink_loses_nothing() {
    let place = Place::new();
    let files = [("opt/app/f", "x"), ("opt/app/g", "y")];
    place.apply(&place.release("1", &files), Purpose::SelfUpdate).await.unwrap();
    place.engine().commit_pending(&place.lock(), 1).await.unwrap();
    std::fs::create_dir(place.root().join("data")).unwrap();
    std::fs::rename(place.root().join("opt/app"), place.root().join("data/app")).unwrap();
    symlink("/data/app", place.root().join("opt/app")).unwrap();

    let again = place.release("2", &files);
    let only: BTreeSet<_> = again.tree().iter().map(|(path, _)| path.clone()).collect();
    let engine = place.engine();
    let prepared = engine.prepare(&again, Purpose::SelfUpdate, place.source(), Some(&only)).await.unwrap();
    let removed = |change: &&FileChange| matches!(change, FileChange::Remove { .. });
    assert!(!prepared.plan.files.changes.iter().any(|change| removed(&change)), "{}", prepared.plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_stays_as_it_is_also_where_a_link_leads_to_it() {
    use std::os::unix::fs::symlink;

    let place = Place::new();
    let at = |path: &str| place.root().join(path);
    std::fs::create_dir_all(at("var/lib")).unwrap();
    std::fs::create_dir_all(at("data/app")).unwrap();
    std::fs::create_dir_all(at("data/later")).unwrap();
    symlink("/data/app", at("var/lib/app")).unwrap();
    std::fs::write(at("data/app/there"), "precious").unwrap();
    let seeds = |text| {
        let paths = ["var/lib/app/there", "var/lib/app/seed", "var/lib/later/seed", "bin/app"];
        paths.map(|path| (path, text))
    };
    place.apply(&place.release("1", &seeds("1")), Purpose::Boot).await.unwrap();
    assert_eq!((place.read("data/app/there"), place.read("data/app/seed")), ("precious".into(), "1".into()));
    // It is moved to the data disk once it is large.
    std::fs::rename(at("var/lib/later"), at("data/moved")).unwrap();
    symlink("/data/moved", at("var/lib/later")).unwrap();
    for (path, text) in [("data/app/seed", "used"), ("data/moved/seed", "used as well")] {
        std::fs::write(at(path), text).unwrap();
    }
    let state = || {
        ["data/app/there", "data/app/seed", "data/moved/seed", "bin/app"]
            .map(|path| place.read(path))
            .join(" ")
    };
    place.apply(&place.release("2", &seeds("2")), Purpose::Upgrade).await.unwrap();
    assert_eq!(state(), "precious used used as well 2");
    place.apply(&place.release("3", &[("bin/app", "3")]), Purpose::Upgrade).await.unwrap();
    assert_eq!(state(), "precious used used as well 3");
    let (_, target) = place.engine().revert_target(None).unwrap();
    place.apply(&target, Purpose::Revert).await.unwrap();
    assert_eq!(state(), "precious used used as well 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_state_a_self_update_does_not_pass_for_the_release() {
    let place = Place::new();
    place.apply(&place.release("1", OLD), Purpose::SelfUpdate).await.unwrap();
    place.engine().commit_pending(&place.lock(), 1).await.unwrap();
    std::fs::write(place.state.join("generations/1.json"), "{").unwrap();
    assert_eq!(place.engine().standing().unwrap(), Standing::Damaged);

    let release = place.release("2", NEW);
    place.apply(&release, Purpose::SelfUpdate).await.unwrap();
    place.engine().commit_pending(&place.lock(), 2).await.unwrap();
    assert_ne!(place.engine().current().unwrap().unwrap().release, release.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_one_file_are_refused() {
    let place = Place::new();
    std::fs::create_dir_all(place.root().join("usr/bin")).unwrap();
    symlink("usr/bin", place.root().join("bin")).unwrap();
    let release = place.release("1", &[("bin/sh", "a"), ("usr/bin/sh", "b")]);
    let only: BTreeSet<_> = release.tree().iter().map(|(path, _)| path.clone()).collect();
    let refused = place.engine().prepare(&release, Purpose::SelfUpdate, place.source(), Some(&only)).await;
    let said = flist::report(&refused.err().unwrap());
    assert!(said.contains("'bin/sh'") && said.contains("'usr/bin/sh'"), "{said}");
    assert!(Path::new(&place.root().join("usr/bin")).read_dir().unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_identityd_could_not_start_with_is_refused() {
    let place = Place::new();
    let with = |version: &str, config: &str| {
        place.release(version, &[("bin/app", "app"), ("etc/molt/config.yaml", config)])
    };
    place.apply(&with("1", "poll_interval: 60\n"), Purpose::Boot).await.unwrap();
    for (version, config) in [
        ("2", "pol_interval: 60\n"),
        ("3", "poll_interval: 0\n"),
        ("4", "- x\n"),
        ("4", "maintenance: {windows: []}\n"),
    ] {
        let before = place.files();
        let refused = place.apply(&with(version, config), Purpose::Upgrade).await.unwrap_err();
        let said = flist::report(&refused);
        assert!(said.contains("could not start with it"), "{said}");
        assert_eq!(place.files(), before);
    }
    // What a node was given by its administrator is not this release's fault.
    place.apply(&with("5", "poll_interval: 61\n"), Purpose::Upgrade).await.unwrap();
    std::fs::write(place.root().join("etc/molt/config.yaml"), "nonsense: 1\n").unwrap();
    place.apply(&with("6", "poll_interval: 61\n"), Purpose::Upgrade).await.unwrap();
    assert_eq!(place.read("etc/molt/config.yaml"), "nonsense: 1\n");
}

/// A journal that cannot be read keeps a node down only where it is about what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_counts_only_in_the_root_that_it_is_about() {
    let place = Place::new();
    place.apply(&place.release("1", OLD), Purpose::Boot).await.unwrap();
    place.apply(&place.release("2", NEW), Purpose::SelfUpdate).await.unwrap();
    let journal = place.state.join("journal");
    let mut lines = std::fs::read(&journal).unwrap();
    let second = lines.iter().position(|byte| *byte == b'\n').unwrap() + 30;
    lines[second] ^= 1;
    lines.extend_from_slice(b"0 torn\n");
    std::fs::write(&journal, &lines).unwrap();
    let recovered = place.engine().recover(&place.lock()).await;
    let error = flist::report(&recovered.unwrap_err());
    assert!(error.contains("damaged in line 2") && error.contains("doctor --fix"), "{error}");
    assert!(journal.exists());

    // As after a start of the machine whose root lies in RAM.
    std::fs::remove_dir_all(place.root()).unwrap();
    std::fs::create_dir(place.root()).unwrap();
    assert_eq!(place.engine().recover(&place.lock()).await.unwrap(), Recovery::Discarded);
    assert!(!journal.exists());
    // Also where nothing of it can be read.
    lines[30] ^= 1;
    std::fs::write(&journal, &lines).unwrap();
    assert_eq!(place.engine().recover(&place.lock()).await.unwrap(), Recovery::Discarded);
    place.apply(&place.release("3", NEW), Purpose::Boot).await.unwrap();
}
