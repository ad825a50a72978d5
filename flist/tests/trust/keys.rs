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
    for written in [str::to_owned, str::to_uppercase] {
        one_key_for_two(written).await;
    }
}

/// The same key under another id, and maybe written in another way: two signers by the letter of the specification.
async fn one_key_for_two(written: fn(&str) -> String) {
    let repo = two_of_three();
    let one = repo.stolen("prod").pop().unwrap();
    let version = next(&repo.web, "targets", &repo.stolen("targets"), |targets| {
        let delegations = &mut targets["delegations"];
        delegations["keys"]["another"] = one.public().to_json();
        let public = &mut delegations["keys"]["another"]["keyval"]["public"];
        *public = written(public.as_str().unwrap()).into();
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

/// A root that lists a key twice, in the middle of a chain whose last one does not.
#[tokio::test]
async fn a_threshold_met_by_duplicate_key_ids_of_a_root_in_between() {
    let repo = two_of_three();
    let node = Node::of(&repo);
    node.refresh(TODAY).await.unwrap();
    let owners = repo.stolen("root");
    next(&repo.web, "root", &owners, |root| {
        let first = root["roles"]["root"]["keyids"][0].as_str().unwrap().to_owned();
        root["keys"]["another"] = root["keys"][first.as_str()].clone();
        root["roles"]["root"]["keyids"].as_array_mut().unwrap().push("another".into());
    });
    // Now one holder is two, and signs a root that looks well.
    let first = file(&repo.web, "2.root.json")["signed"]["roles"]["root"]["keyids"][0].clone();
    let one = owners.into_iter().find(|key| key.public().id() == first).unwrap();
    let mut after = file(&repo.web, "2.root.json")["signed"].clone();
    after["version"] = 3.into();
    after["keys"].as_object_mut().unwrap().remove("another");
    after["roles"]["root"] = json!({"keyids": [first], "threshold": 1});
    let mut envelope = signed(&after, &[one]);
    let mut second = envelope["signatures"][0].clone();
    second["keyid"] = "another".into();
    envelope["signatures"].as_array_mut().unwrap().push(second);
    put(&repo.web, "3.root.json", &envelope);
    for _ in 0..2 {
        assert_eq!(node.refresh(TODAY).await.err().unwrap().verdict(), Verdict::Signature);
    }
    let new = Node::of(&repo);
    assert_eq!(new.refresh(TODAY).await.err().unwrap().verdict(), Verdict::Signature);
}

/// A role below the run mode's lists a key twice.
#[tokio::test]
async fn a_threshold_met_by_duplicate_key_ids_of_a_nested_delegation() {
    let repo = two_of_three();
    let (path, target) = evil_target(b"evil");
    let path = path.replace("v6.6.6", "v6.6.7");
    let one = repo.stolen("dev").pop().unwrap();
    let mut body = json!({
        "_type": "targets", "spec_version": "1.0.31", "version": 1, "expires": "2030-01-01T00:00:00Z",
        "targets": {path.as_str(): target},
    });
    let mut envelope = signed(&body, std::slice::from_ref(&one));
    let mut second = envelope["signatures"][0].clone();
    second["keyid"] = "another".into();
    envelope["signatures"].as_array_mut().unwrap().push(second);
    put(&repo.web, "1.below.json", &envelope);
    body = json!({
        "keys": {one.public().id(): one.public().to_json(), "another": one.public().to_json()},
        "roles": [{"name": "below", "keyids": [one.public().id(), "another"], "threshold": 2,
            "terminating": false, "paths": ["prod/*/*"]}],
    });
    let version =
        next(&repo.web, "prod", &repo.stolen("prod").split_off(1), |prod| prod["delegations"] = body);
    relist(&repo, &[("prod", version), ("below", 1)]);
    let node = Node::of(&repo);
    // With what is kept as well as without, and not only the first time.
    for _ in 0..2 {
        let mut fresh = node.refresh(TODAY).await.unwrap();
        for _ in 0..2 {
            let error = fresh.target(&path).await.unwrap_err();
            assert!(matches!(&error, TrustError::SameKeyTwice { role } if role == "below"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_threshold_of_zero_is_met_by_nobody() {
    let repo = two_of_three();
    next(&repo.web, "root", &repo.stolen("root"), |root| root["roles"]["timestamp"]["threshold"] = 0.into());
    assert!(Node::of(&repo).refresh(TODAY).await.is_err());
}
