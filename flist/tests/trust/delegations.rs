//! Delegations that are made to confuse.

use flist::hub::RunMode;
use flist::trust::TrustError;
use serde_json::{Value, json};

use crate::forge::{evil_target, next, put, relist, signed};
use crate::rig::{Node, Repo, TODAY};

/// A role file with these targets and delegations, signed with the key of dev.
fn role(repo: &Repo, name: &str, targets: Value, delegations: Option<Value>) {
    let mut body = json!({
        "_type": "targets", "spec_version": "1.0.31", "version": 1, "expires": "2030-01-01T00:00:00Z",
        "targets": targets,
    });
    if let Some(delegations) = delegations {
        body["delegations"] = delegations;
    }
    put(&repo.web, name, &signed(&body, &repo.stolen("dev")));
}

fn delegation(repo: &Repo, roles: &[(&str, &[&str], bool)]) -> Value {
    let keys = repo.stolen("dev");
    let key = keys[0].public();
    let role = |(name, paths, terminating): &(&str, &[&str], bool)| json!({"name": name, "keyids": [key.id()], "threshold": 1, "terminating": terminating, "paths": paths});
    json!({"keys": {key.id(): key.to_json()}, "roles": roles.iter().map(role).collect::<Vec<_>>()})
}

/// Replaces the top-level delegations, and keeps what they were before behind the new ones.
fn delegate_first(repo: &Repo, roles: &[(&str, &[&str], bool)]) -> u64 {
    let new = delegation(repo, roles);
    next(&repo.web, "targets", &repo.stolen("targets"), |targets| {
        let delegations = &mut targets["delegations"];
        let mut all = new["roles"].as_array().unwrap().clone();
        all.extend(delegations["roles"].as_array().unwrap().clone());
        delegations["roles"] = all.into();
        for (id, key) in new["keys"].as_object().unwrap() {
            delegations["keys"][id] = key.clone();
        }
    })
}

#[tokio::test]
async fn behind_a_terminating_delegation_nobody_is_asked() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    role(&repo, "1.first.json", json!({}), None);
    let version = delegate_first(&repo, &[("first", &["prod/*/*"], true)]);
    relist(&repo, &[("targets", version), ("first", 1)]);
    let node = Node::of(&repo);
    let mut fresh = node.refresh(TODAY).await.unwrap();
    // The role `prod` has signed it, but the one before it has the last word and says nothing.
    let path = "prod/tf-zos/zos:v1.0.0.flist";
    assert!(matches!(fresh.target(path).await, Err(TrustError::Unsigned { .. })));
    assert!(fresh.releases(RunMode::Prod).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_role_cannot_delegate_more_than_it_has() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let (path, target) = evil_target(b"evil");
    // dev delegates prod's paths to a role of its own.
    let all = delegation(&repo, &[("more", &["*/*/*"], false)]);
    let dev = next(&repo.web, "dev", &repo.stolen("dev"), |dev| dev["delegations"] = all);
    role(&repo, "1.more.json", json!({path.as_str(): target}), None);
    relist(&repo, &[("dev", dev), ("more", 1)]);
    let mut fresh = Node::of(&repo).refresh(TODAY).await.unwrap();
    assert!(matches!(fresh.target(&path).await, Err(TrustError::Unsigned { .. })));
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "1.0.0");
}

#[tokio::test]
async fn cyclic_delegations_end() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let to_b = delegation(&repo, &[("b", &["*/*/*"], false)]);
    let to_a = delegation(&repo, &[("a", &["*/*/*"], false), ("b", &["*/*/*"], false)]);
    role(&repo, "1.a.json", json!({}), Some(to_b));
    role(&repo, "1.b.json", json!({}), Some(to_a));
    let version = delegate_first(&repo, &[("a", &["*/*/*"], false)]);
    relist(&repo, &[("targets", version), ("a", 1), ("b", 1)]);
    // What is behind the circle is found all the same.
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "1.0.0");
}

#[tokio::test]
async fn a_chain_of_delegations_has_a_limit() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let mut listed = Vec::new();
    let names: Vec<String> = (0..100).map(|number| format!("r{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let after = names.get(number + 1);
        let onwards = after.map(|after| delegation(&repo, &[(after.as_str(), &["*/*/*"], false)]));
        role(&repo, &format!("1.{name}.json"), json!({}), onwards);
        listed.push((name.as_str(), 1));
    }
    let version = delegate_first(&repo, &[("r0", &["*/*/*"], false)]);
    listed.push(("targets", version));
    relist(&repo, &listed);
    repo.web.asked();
    assert!(Node::of(&repo).offer(TODAY).await.is_err());
    let asked = repo.web.asked().iter().filter(|name| name.starts_with("1.r")).count();
    assert!(asked <= 40, "{asked} roles were fetched");
}

/// Names of roles that whoever may delegate could think of, and what asking for them does.
const ODD_ROLES: [&str; 11] =
    ["../x", "?", "#", "/x", "..", ".", "a/../../b", "%2e%2e", "clock", "root_history/3.root", "\u{0}"];

/// Delegates to a role of this name before all others, and serves its file where TUF has it: `1.<quoted>.json`.
fn odd_role(name: &str, is_served: bool) -> Repo {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let quoted = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    if is_served {
        let quoted: String = name.bytes().map(quoted).collect();
        role(&repo, &format!("1.{quoted}.json"), json!({}), None);
    }
    let version = delegate_first(&repo, &[(name, &["*/*/*"], false)]);
    relist(&repo, &[("targets", version), (name, 1)]);
    repo
}

#[tokio::test]
async fn odd_names_of_roles_stay_in_the_directory_of_the_state() {
    for name in ODD_ROLES {
        let repo = odd_role(name, true);
        let node = Node::of(&repo);
        // The odd role is asked for by its quoted name, which leads nowhere else, and says nothing; what the others
        // have signed is found, the second time with what is kept of it as well.
        for _ in 0..2 {
            assert_eq!(node.version(TODAY).await.as_deref(), Ok("1.0.0"), "{name:?}");
        }
        let parent = node.state.parent().unwrap();
        assert_eq!(std::fs::read_dir(parent).unwrap().count(), 1, "{name:?}");
        let clock = std::fs::read_to_string(node.state.join("clock")).unwrap_or("{\"floor\"".to_owned());
        assert!(clock.starts_with("{\"floor\""), "{name:?}: {clock}");
    }
}

/// As with any role: whoever may sign for a path before the others has to be heard, so that nobody can keep a role
/// from a node that says no. Only those who sign the delegations can put one there.
#[tokio::test]
async fn an_odd_role_that_cannot_be_had_is_refused_as_any_other() {
    for name in ODD_ROLES.into_iter().chain(["plain"]) {
        let error = Node::of(&odd_role(name, false)).offer(TODAY).await.unwrap_err();
        assert!(error.contains("does not exist") || error.contains("not found"), "{name:?}: {error}");
    }
}

#[tokio::test]
async fn odd_names_of_targets_are_no_releases() {
    for flist in
        ["../x", "tf-zos/../../etc/passwd.flist", "tf-zos/?.flist\u{0}", "#", "tf-zos/.flist", "/etc/x.flist"]
    {
        let repo = Repo::new();
        repo.release("1.0.0", TODAY);
        let (_, mut target) = evil_target(b"evil");
        target["custom"]["flist"] = flist.into();
        let path = format!("prod/{flist}");
        let version =
            next(&repo.web, "prod", &repo.stolen("prod"), |prod| prod["targets"][path.as_str()] = target);
        relist(&repo, &[("prod", version)]);
        // One odd target does not take the others along.
        assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "1.0.0", "{flist}");
    }
}

#[tokio::test]
async fn a_target_that_says_it_is_another_one() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let (_, target) = evil_target(b"evil");
    let path = "prod/tf-zos/zos:v0.0.1.flist";
    let version = next(&repo.web, "prod", &repo.stolen("prod"), |prod| prod["targets"][path] = target);
    relist(&repo, &[("prod", version)]);
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "1.0.0");
}
