//! What those are shown who are asked for a signature, and what is not signed at all.

use std::path::{Path, PathBuf};

use flist::hub::RunMode;
use flist::trust::repository::{
    Plan, RepositoryError, RoleName, RolePlan, Settings, Signers, Subject, TrustDirectory,
};
use serde_json::{Value, json};

use crate::forge::{evil_target, signed};
use crate::rig::{DAY, Repo, TODAY, at, passphrase};

const PROD: RoleName = RoleName::Mode(RunMode::Prod);

/// A repository in which a release waits for the second of two signatures, and a copy of it without its keys.
struct Rig {
    repo: Repo,
    copy: TrustDirectory,
    place: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let repo = Repo::with(Plan::releases().with(RolePlan { role: PROD, keys: 2, threshold: 2 }));
        repo.release("1.0.0", TODAY);
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("usb")).unwrap();
        let key = keys_of(&repo.trust, "prod").remove(0);
        std::fs::rename(&key, place.path().join("usb/prod.key")).unwrap();
        let outcome = repo.release("2.0.0", TODAY + DAY);
        assert_eq!((outcome.waiting[0].role, outcome.waiting[0].signed.len()), (PROD, 1));
        let copy = place.path().join("copy");
        for directory in ["metadata", "staged"] {
            copy_files(&repo.trust.path().join(directory), &copy.join(directory));
        }
        copy_files(repo.trust.path(), &copy);
        Self { repo, copy: TrustDirectory::open(&copy).unwrap(), place }
    }

    /// The keys of the second holder.
    fn holder(&self) -> Signers {
        Signers::find(&[self.place.path().join("usb")], Some(passphrase())).unwrap()
    }

    /// Another content for a file of the copy.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.copy.path().join(name);
        let mut envelope: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut envelope);
        std::fs::write(&path, envelope.to_string()).unwrap();
    }

    /// Why the copy is not signed, with the root that the holder has.
    fn refusal(&self) -> RepositoryError {
        let root = self.repo.trust.root();
        match self.copy.waiting(Some(&root)).and_then(|waiting| waiting.sign(&mut self.holder(), at(TODAY))) {
            Ok(outcome) => panic!("{outcome:?}"),
            Err(error) => error,
        }
    }
}

fn keys_of(trust: &TrustDirectory, role: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(trust.keys()).unwrap().map(|entry| entry.unwrap().path());
    let is_its = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(role);
    files.filter(is_its).collect()
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for path in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[test]
fn what_waits_is_shown_as_it_differs_from_what_is_in_force_and_so_it_is_signed() {
    let rig = Rig::new();
    let shown = rig.copy.differences(None).unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].role, shown[0].versions), (PROD, [2, 3]));
    assert_eq!(shown[0].expires.map(|at| at.unwrap().as_second()), [TODAY + 365 * DAY, TODAY + 366 * DAY]);
    let path = "prod/tf-zos/zos:v2.0.0.flist".to_owned();
    assert_eq!(shown[0].edits.len(), 1);
    assert_eq!((&shown[0].edits[0].subject, &shown[0].edits[0].before), (&Subject::Target(path), &None));
    let waiting = rig.copy.waiting(Some(&rig.repo.trust.root())).unwrap();
    assert_eq!(waiting.differences(), shown);
    // What is changed after it was shown is not what is signed.
    let (evil, target) = evil_target(b"evil");
    rig.edit("staged/3.prod.json", |prod| prod["signed"]["targets"][evil.as_str()] = target);
    let outcome = waiting.sign(&mut rig.holder(), at(TODAY)).unwrap();
    assert!(outcome.waiting.iter().all(|waiting| waiting.role != PROD), "{outcome:?}");
    let staged = std::fs::read_to_string(rig.copy.staged().join("3.prod.json")).unwrap();
    assert!(!staged.contains(&evil), "{staged}");
    // It is what the owners get back, and can publish.
    copy_files(&rig.copy.staged(), &rig.repo.trust.staged());
    assert!(rig.repo.sign(&mut rig.repo.signers(), TODAY + DAY).unwrap().waiting.is_empty());
}

/// Whoever brings the copy puts what he wants to have signed into what is said to be in force already.
#[test]
fn what_nobody_has_signed_is_not_taken_to_be_in_force() {
    let rig = Rig::new();
    let (evil, target) = evil_target(b"evil");
    for name in ["metadata/2.prod.json", "staged/3.prod.json"] {
        rig.edit(name, |prod| prod["signed"]["targets"][evil.as_str()] = target.clone());
    }
    assert!(matches!(rig.refusal(), RepositoryError::NotInForce { role: PROD, version: 2, .. }));
    // Nor where the last root was taken away, or everything.
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.copy.metadata()).unwrap();
    assert!(matches!(rig.refusal(), RepositoryError::NotInForce { role: RoleName::Root, .. }));
}

/// Or he makes a repository of his own, in which the holder has a key, and everything evil is in force.
#[test]
fn a_past_with_other_roots_is_refused_by_the_root_of_the_holder() {
    let rig = Rig::new();
    let place = rig.place.path().join("his");
    let his = TrustDirectory::init(&place, Settings::default(), &Plan::releases(), &passphrase(), at(TODAY));
    let (his, _) = his.unwrap();
    keys_of(&his, "prod").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let mut others = Signers::find(&[his.keys()], Some(passphrase())).unwrap();
    his.refresh(&[PROD], &mut others, at(TODAY)).unwrap();
    assert!(his.differences(None).is_ok());
    let root = rig.repo.trust.root();
    assert!(matches!(his.differences(Some(&root)), Err(RepositoryError::OtherRoot { .. })));
    // The right one follows from every root of the holder's.
    let first = rig.repo.trust.metadata().join("1.root.json");
    rig.repo.rotate("qa");
    rig.repo.rotate("timestamp");
    for root in [first, rig.repo.trust.root()] {
        assert!(rig.repo.trust.differences(Some(&root)).is_ok(), "{}", root.display());
    }
    // And one that is behind the holder's is not followed.
    assert!(matches!(rig.copy.differences(Some(&root)), Err(RepositoryError::OtherRoot { .. })));
}

#[test]
fn what_does_not_follow_or_counts_a_key_twice_is_not_signed() {
    let rig = Rig::new();
    // Nobody could go beyond this number any more.
    rig.edit("staged/3.prod.json", |prod| prod["signed"]["version"] = 1_000_000.into());
    assert!(matches!(rig.refusal(), RepositoryError::NotNext { version: 1_000_000, before: 2, .. }));

    let rig = Rig::new();
    std::fs::remove_dir_all(rig.copy.staged()).unwrap();
    std::fs::create_dir(rig.copy.staged()).unwrap();
    let mut root: Value = serde_json::from_slice(&rig.repo.root).unwrap();
    root["signed"]["version"] = 2.into();
    let first = root["signed"]["roles"]["root"]["keyids"][0].as_str().unwrap().to_owned();
    root["signed"]["keys"]["another"] = root["signed"]["keys"][first.as_str()].clone();
    root["signed"]["roles"]["root"]["keyids"] = json!([first, "another"]);
    std::fs::write(rig.copy.staged().join("2.root.json"), signed(&root["signed"], &[]).to_string()).unwrap();
    assert!(matches!(rig.refusal(), RepositoryError::SameKeyTwice { role: RoleName::Root, .. }));
}

#[test]
fn who_cannot_add_a_signature_is_told() {
    let rig = Rig::new();
    let waiting = rig.copy.waiting(None).unwrap();
    let error = waiting.sign(&mut Signers::default(), at(TODAY)).unwrap_err();
    assert!(matches!(&error, RepositoryError::NoKeyAtHand { missing } if missing.len() == 1), "{error}");
    // With a signature on it already, it is the same the second time.
    rig.copy.waiting(None).unwrap().sign(&mut rig.holder(), at(TODAY)).unwrap();
    assert!(matches!(rig.refusal(), RepositoryError::NoKeyAtHand { .. }));
}
