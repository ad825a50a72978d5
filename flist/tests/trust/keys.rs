//! Thresholds mean as many keys as they say.

use flist::hub::RunMode;
use flist::trust::repository::{Plan, RoleName, RolePlan, SecretKey};
use flist::trust::{TrustError, Verdict};
use serde_json::{Value, json};

use crate::forge::{evil_target, file, newest, next, put, relist, signed};
use crate::rig::{Node, Repo, TODAY};

/// Two of three keys sign for prod.
fn two_of_three() -> Repo {
    let role = RoleName::Mode(RunMode::Prod);
    let repo = Repo::with(Plan::releases().with(RolePlan { role, keys: 3, threshold: 2 }));
    repo.release("1.0.0", TODAY);
    repo
}

fn forged(repo: &Repo, keys: &[SecretKey], signatures: impl FnOnce(&mut Value)) {
    let (path, target) = evil_target(b"evil");
    let version = next(&repo.web, "prod", keys, |prod| prod["targets"][path.as_str()] = target);
    let name = newest(&repo.web, "prod");
    let mut envelope = file(&repo.web, &name);
    signatures(&mut envelope["signatures"]);
    put(&repo.web, &name, &envelope);
    relist(repo, &[("prod", version)]);
}

#[tokio::test]
async fn fewer_signatures_than_the_threshold() {
    let repo = two_of_three();
    let node = Node::of(&repo);
    let one = repo.stolen("prod").pop().unwrap();
    forged(&repo, &[one], |_| ());
    assert!(node.offer(TODAY).await.unwrap_err().contains("1/2 valid signatures"));
    // Two of them are enough, so the test is about the number.
    let repo = two_of_three();
    let two = repo.stolen("prod").split_off(1);
    forged(&repo, &two, |_| ());
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "6.6.6");
}

#[tokio::test]
async fn a_threshold_met_by_duplicate_signatures() {
    let repo = two_of_three();
    let one = repo.stolen("prod").pop().unwrap();
    forged(&repo, &[one], |signatures| {
        let first = signatures[0].clone();
        signatures.as_array_mut().unwrap().push(first);
    });
    assert!(Node::of(&repo).offer(TODAY).await.is_err());
}

#[tokio::test]
async fn a_threshold_met_by_duplicate_key_ids_of_a_delegation() {
    let repo = two_of_three();
    let one = repo.stolen("prod").pop().unwrap();
    // The same key under another id: two signers by the letter of the specification.
    let version = next(&repo.web, "targets", &repo.stolen("targets"), |targets| {
        let delegations = &mut targets["delegations"];
        delegations["keys"]["another"] = one.public().to_json();
        let roles = delegations["roles"].as_array_mut().unwrap();
        let prod = roles.iter_mut().find(|role| role["name"] == "prod").unwrap();
        prod["keyids"] = json!([one.public().id(), "another"]);
    });
    forged(&repo, &[one], |signatures| {
        let mut second = signatures[0].clone();
        second["keyid"] = "another".into();
        signatures.as_array_mut().unwrap().push(second);
    });
    let prod = file(&repo.web, &newest(&repo.web, "prod"))["signed"]["version"].as_u64().unwrap();
    relist(&repo, &[("targets", version), ("prod", prod)]);
    match Node::of(&repo).refresh(TODAY).await {
        Err(TrustError::SameKeyTwice { role }) => assert_eq!(role, "prod"),
        Err(error) => panic!("{}", flist::report(&error)),
        Ok(_) => panic!("one key counted twice"),
    }
}

#[tokio::test]
async fn a_threshold_met_by_duplicate_key_ids_of_the_root() {
    let repo = two_of_three();
    let node = Node::of(&repo);
    let root = repo.stolen("root");
    next(&repo.web, "root", &root, |root| {
        let key = root["keys"].as_object().unwrap().values().next().unwrap().clone();
        root["keys"]["another"] = key;
        let first = root["roles"]["root"]["keyids"][0].clone();
        root["roles"]["timestamp"]["keyids"] = json!([first, "another"]);
        root["roles"]["timestamp"]["threshold"] = 1.into();
        let keys = root["keys"].as_object().unwrap().clone();
        root["keys"]["another"] = keys[first.as_str().unwrap()].clone();
    });
    let name = newest(&repo.web, "timestamp");
    let timestamp = file(&repo.web, &name);
    put(&repo.web, &name, &signed(&timestamp["signed"], &repo.stolen("root")));
    assert_eq!(node.refresh(TODAY).await.err().unwrap().verdict(), Verdict::Signature);
}

#[tokio::test]
async fn a_threshold_of_zero_is_met_by_nobody() {
    let repo = two_of_three();
    next(&repo.web, "root", &repo.stolen("root"), |root| root["roles"]["timestamp"]["threshold"] = 0.into());
    assert!(Node::of(&repo).refresh(TODAY).await.is_err());
}
