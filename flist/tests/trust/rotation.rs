//! Rotation drills, as docs/trust.md describes them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use flist::hub::{Access, HubClient, RunMode, Timeouts};
use flist::trust::repository::{RepositoryError, RoleName, SecretKey, SignedRelease, Signers};
use flist::trust::{Source, TrustClient, Verdict};

use crate::forge::next;
use crate::rig::{DAY, Node, Repo, TODAY, at, clocks, passphrase};
use crate::web::Answer;

fn role(name: &str) -> RoleName {
    name.parse().unwrap()
}

/// A new key for one of a role's keys.
fn rotate(repo: &Repo, name: &str) {
    let old = repo.trust.key_ids(role(name)).unwrap().remove(0);
    let (key, _) = repo.trust.new_key(role(name), &repo.trust.keys(), &passphrase()).unwrap();
    let outcome =
        repo.trust.change_keys(role(name), &[key], &[old], None, &mut repo.signers(), at(TODAY)).unwrap();
    assert!(outcome.waiting.is_empty(), "{outcome:?}");
    repo.serve();
}

/// The files of a role's keys.
fn key_files(repo: &Repo, name: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(repo.trust.keys()).unwrap().map(|entry| entry.unwrap().path());
    let prefix = format!("{name}-");
    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix)).collect()
}

#[tokio::test]
async fn any_key_can_be_rotated_and_the_old_one_is_worth_nothing() {
    for name in ["root", "targets", "snapshot", "timestamp", "prod"] {
        let repo = Repo::new();
        repo.release("1.0.0", TODAY);
        let node = Node::of(&repo);
        node.refresh(TODAY).await.unwrap();
        let old = repo.stolen(name);
        rotate(&repo, name);
        repo.release("2.0.0", TODAY);
        assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0", "{name}");
        assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "2.0.0", "{name}");
        if name == "timestamp" {
            next(&repo.web, "timestamp", &old, |_| ());
            assert_eq!(node.refresh(TODAY).await.err().unwrap().verdict(), Verdict::Signature);
        }
    }
}

#[tokio::test]
async fn a_root_that_is_many_versions_old_catches_up() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.refresh(TODAY).await.unwrap();
    for _ in 0..20 {
        rotate(&repo, "root");
    }
    // None of the first keys is left.
    repo.release("2.0.0", TODAY);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "2.0.0");
    // One link of the chain taken out: nobody jumps over it, and who is past it goes on.
    repo.web.remove("9.root.json");
    let new = Node::of(&repo);
    new.refresh(TODAY).await.unwrap();
    let root: serde_json::Value =
        serde_json::from_slice(&std::fs::read(new.state.join("root.json")).unwrap()).unwrap();
    assert_eq!(root["signed"]["version"], 8);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
}

#[tokio::test]
async fn a_lost_timestamp_key_is_replaced_by_the_root() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.refresh(TODAY).await.unwrap();
    key_files(&repo, "timestamp").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let stuck = repo.trust.refresh(&[], &mut repo.signers(), at(TODAY)).unwrap();
    assert_eq!(stuck.waiting[0].role, RoleName::Timestamp);
    std::fs::remove_dir_all(repo.trust.staged()).ok();
    rotate(&repo, "timestamp");
    repo.release("2.0.0", TODAY);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
}

#[tokio::test]
async fn a_lost_root_key_is_replaced_by_the_others() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.refresh(TODAY).await.unwrap();
    let lost = repo.trust.key_ids(role("root")).unwrap().remove(0);
    let file = key_files(&repo, "root").into_iter().find(|path| path.to_string_lossy().contains(&lost[..12]));
    std::fs::remove_file(file.unwrap()).unwrap();
    rotate(&repo, "root");
    assert!(!repo.trust.key_ids(role("root")).unwrap().contains(&lost));
    repo.release("2.0.0", TODAY);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
}

#[tokio::test]
async fn below_the_threshold_a_change_waits_and_nothing_is_served() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let before = repo.trust.served().unwrap();
    // One holder has one root key, another one has another.
    let elsewhere = tempfile::tempdir().unwrap();
    let files = key_files(&repo, "root");
    for file in &files[..2] {
        std::fs::rename(file, elsewhere.path().join(file.file_name().unwrap())).unwrap();
    }
    let (key, _) = repo.trust.new_key(role("timestamp"), &repo.trust.keys(), &passphrase()).unwrap();
    let old = repo.trust.key_ids(role("timestamp")).unwrap();
    let staged = repo
        .trust
        .change_keys(role("timestamp"), &[key], &old, None, &mut repo.signers(), at(TODAY))
        .unwrap();
    assert!(staged.waiting.iter().any(|waiting| waiting.role == RoleName::Root && waiting.signed.len() == 1));
    assert_eq!(repo.trust.served().unwrap(), before);
    // Meanwhile nodes get what does not need those who are missing: the news that nothing is kept from them, and
    // releases of other roles. What would have to wait beside it cannot be changed.
    repo.refresh(TODAY + DAY);
    let dev = SignedRelease { run_mode: RunMode::Dev, ..Repo::release_of("7.0.0") };
    let dev = repo.trust.release(&dev, &mut repo.signers(), at(TODAY + DAY)).unwrap();
    assert!(dev.waiting.is_empty(), "{dev:?}");
    let other = repo.trust.refresh(&[role("root")], &mut repo.signers(), at(TODAY));
    assert!(matches!(other, Err(RepositoryError::Staged(_))));
    std::fs::rename(&key_files(&repo, "qa")[0], elsewhere.path().join("qa.key")).unwrap();
    let other = repo.trust.refresh(&[role("qa")], &mut repo.signers(), at(TODAY));
    assert!(matches!(other, Err(RepositoryError::Staged(_))), "{other:?}");
    let versions = repo.trust.states().unwrap();
    let of = |name| versions.iter().find(|state| state.role == role(name)).unwrap().version;
    assert_eq!((of("root"), of("dev"), of("qa"), of("timestamp")), (1, 2, 1, 4));
    // The second holder signs; then it is done.
    let directories = [elsewhere.path().to_owned(), repo.trust.keys()];
    let mut both = Signers::find(&directories, Some(passphrase())).unwrap();
    let done = repo.sign(&mut both, TODAY).unwrap();
    assert!(done.waiting.is_empty(), "{done:?}");
    repo.serve();
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "1.0.0");
    assert!(matches!(repo.sign(&mut both, TODAY), Err(RepositoryError::NothingStaged(_))));
}

#[tokio::test]
async fn a_key_in_a_token_signs_by_a_command() {
    let repo = Repo::new();
    let secret = SecretKey::generate().unwrap();
    // A command that keeps what it is given, and prints the signature that it finds.
    let place = tempfile::tempdir().unwrap();
    let (script, asked, answer) =
        (place.path().join("sign"), place.path().join("asked"), place.path().join("answer"));
    let text = format!("#!/bin/sh\ncat > {}\ncat {}\n", asked.display(), answer.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let words = vec![script.display().to_string()];
    let signers = || {
        let mut signers = repo.signers();
        signers.add_command(secret.public().id(), &words);
        signers
    };

    let old = repo.trust.key_ids(role("prod")).unwrap();
    let key = [secret.public().clone()];
    let change = || repo.trust.change_keys(role("prod"), &key, &old, None, &mut signers(), at(TODAY));
    let error = flist::report(&change().unwrap_err());
    assert!(error.contains("did not sign"), "{error}");
    std::fs::write(&answer, hex::encode(secret.sign(&std::fs::read(&asked).unwrap()))).unwrap();
    assert!(change().unwrap().waiting.is_empty());
    repo.serve();
    // A signature of something else counts as none.
    let outcome = repo.trust.release(&Repo::release_of("1.0.0"), &mut signers(), at(TODAY + DAY)).unwrap();
    assert_eq!(outcome.waiting[0].role, role("prod"));
    std::fs::write(&answer, hex::encode(secret.sign(&std::fs::read(&asked).unwrap()))).unwrap();
    assert!(repo.sign(&mut signers(), TODAY + DAY).unwrap().waiting.is_empty());
    repo.serve();
    assert_eq!(Node::of(&repo).version(TODAY + DAY).await.unwrap(), "1.0.0");
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let repo = Repo::new();
    let ids = repo.trust.key_ids(role("root")).unwrap();
    let change = |remove: &[String], threshold| {
        repo.trust.change_keys(role("root"), &[], remove, threshold, &mut repo.signers(), at(TODAY))
    };
    assert!(matches!(change(&ids[..2], None), Err(RepositoryError::Threshold { .. })));
    assert!(matches!(change(&[], Some(4)), Err(RepositoryError::Threshold { .. })));
    assert!(matches!(change(&[], Some(0)), Err(RepositoryError::Threshold { .. })));
    assert!(matches!(change(&["ff".repeat(40)], None), Err(RepositoryError::NoKey { .. })));
    assert!(matches!(change(&[String::new()], None), Err(RepositoryError::NoKey { .. })));
}

/// Stores that may not be listed say of what is not there what a hub says to readers whom it refuses.
#[tokio::test]
async fn a_refusal_ends_the_chain_of_roots_only_for_those_who_do_not_say_who_they_are() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    repo.web.put("2.root.json", Answer::Status(403));
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "1.0.0");

    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    repo.web.names().iter().for_each(|name| {
        let answer = repo.web.bytes(name).map_or(Answer::Status(403), Answer::Bytes);
        repo.web.put(&format!("trust/{name}"), answer);
    });
    let url = repo.web.url().to_owned();
    let client = |token: Option<&std::path::Path>, name: &str| {
        let access = Access::read(std::slice::from_ref(&url), token, None).unwrap();
        let hub = HubClient::with_access(&url, "test", Timeouts::default(), &access).unwrap();
        let source = Source::of_hub(&hub, "trust").unwrap();
        TrustClient::open(&repo.root, &dir.path().join(name), source).unwrap()
    };
    let refused = async |client: TrustClient, file: &str| {
        let error = client.refresh(&clocks(TODAY)).await.err().unwrap();
        let said = flist::report(&error);
        assert!(said.contains(&format!("{file} answered 403")), "{said}");
        assert_eq!(flist::exit::Exit::of(&error), flist::exit::Exit::Refused, "{said}");
    };
    client(None, "unknown").refresh(&clocks(TODAY)).await.unwrap();
    refused(client(Some(&token), "known"), "2.root.json").await;
    // What has to be there is refused to everybody.
    repo.web.put("trust/timestamp.json", Answer::Status(403));
    refused(client(None, "other"), "timestamp.json").await;
}
