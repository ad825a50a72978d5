//! One test for each attack. The attacker owns the network: whatever a node reads, he may have written.

use std::time::Duration;

use flist::hub::{HubClient, RunMode};
use flist::trust::{Downgrade, Pick, TrustError, Verdict, choose, offered};
use serde_json::json;

use crate::forge::{evil_target, file, newest, next, put, relist, signed};
use crate::rig::{DAY, Node, Repo, TODAY, accepts, channel, clocks, facts, impatient};
use crate::web::Answer;

/// A repository with one release, and a node that has seen it.
async fn begun() -> (Repo, Node) {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    assert_eq!(node.version(TODAY).await.unwrap(), "1.0.0");
    (repo, node)
}

async fn verdict(node: &Node, now: i64) -> Verdict {
    match node.refresh(now).await {
        Ok(_) => panic!("the metadata was accepted"),
        Err(error) => error.verdict(),
    }
}

#[tokio::test]
async fn arbitrary_software_is_not_what_was_signed() {
    let (_repo, node) = begun().await;
    let offer = node.offer(TODAY).await.unwrap();
    let fresh = node.refresh(TODAY).await.unwrap();
    let good = Repo::content("1.0.0");
    assert!(accepts(&offer, &good, &fresh));
    let mut evil = good.clone();
    evil[3] ^= 1;
    assert!(!accepts(&offer, &evil, &fresh));
    assert!(!accepts(&offer, &good[1..], &fresh));
    assert!(!accepts(&offer, &[&good[..], b"x"].concat(), &fresh));
    assert!(!accepts(&offer, &Repo::content("2.0.0"), &fresh));
}

#[tokio::test]
async fn rollback_of_the_timestamp() {
    let (repo, node) = begun().await;
    let old = repo.web.bytes("timestamp.json").unwrap();
    repo.refresh(TODAY);
    node.refresh(TODAY).await.unwrap();
    repo.web.put("timestamp.json", Answer::Bytes(old));
    assert_eq!(verdict(&node, TODAY).await, Verdict::Rollback);
}

#[tokio::test]
async fn rollback_of_the_snapshot_by_a_stolen_timestamp_key() {
    let (repo, node) = begun().await;
    repo.release("2.0.0", TODAY);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    next(&repo.web, "timestamp", &repo.stolen("timestamp"), |timestamp| {
        timestamp["meta"]["snapshot.json"] = json!({"version": 2});
    });
    assert_eq!(verdict(&node, TODAY).await, Verdict::Rollback);
}

#[tokio::test]
async fn rollback_of_a_role_by_both_online_keys() {
    let (repo, node) = begun().await;
    let old = file(&repo.web, &newest(&repo.web, "prod"))["signed"]["version"].as_u64().unwrap();
    repo.release("2.0.0", TODAY);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    relist(&repo, &[("prod", old)]);
    assert_eq!(verdict(&node, TODAY).await, Verdict::Rollback);
}

/// The same, with a refresh that he breaks off before it: the node has his timestamp then, and not yet a snapshot
/// that belongs to it.
#[tokio::test]
async fn rollback_of_a_role_after_a_refresh_that_was_broken_off() {
    let (repo, node) = begun().await;
    let old = file(&repo.web, &newest(&repo.web, "prod"))["signed"]["version"].as_u64().unwrap();
    repo.release("2.0.0", TODAY);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    relist(&repo, &[("prod", old)]);
    let snapshot = newest(&repo.web, "snapshot");
    let bytes = repo.web.bytes(&snapshot).unwrap();
    for _ in 0..2 {
        repo.web.put(&snapshot, Answer::Status(500));
        assert_eq!(verdict(&node, TODAY).await, Verdict::Unreachable);
        repo.web.put(&snapshot, Answer::Bytes(bytes.clone()));
        assert_eq!(verdict(&node, TODAY).await, Verdict::Rollback);
    }
    // A snapshot that does not name the role any more is no way around it.
    let version = next(&repo.web, "snapshot", &repo.stolen("snapshot"), |snapshot| {
        snapshot["meta"].as_object_mut().unwrap().remove("prod.json");
    });
    next(&repo.web, "timestamp", &repo.stolen("timestamp"), |timestamp| {
        timestamp["meta"]["snapshot.json"] = json!({"version": version});
    });
    assert_eq!(verdict(&node, TODAY).await, Verdict::Rollback);
    // With new keys the owners begin anew.
    for role in ["snapshot", "timestamp"] {
        repo.rotate(role);
    }
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
}

#[tokio::test]
async fn rollback_of_the_release() {
    let (repo, node) = begun().await;
    repo.release("2.0.0", TODAY);
    let offers = node.refresh(TODAY).await.unwrap().releases(RunMode::Prod).await.unwrap();
    let one = Pick::Version("1.0.0".parse().unwrap());
    let take = |downgrade| choose(&offers, &[channel()], &one, &facts(Some("2.0.0")), downgrade);
    assert!(take(Downgrade::Refused).unwrap_err().to_string().contains("older than 2.0.0"));
    // Only the explicit local switch.
    assert!(take(Downgrade::Allowed).is_ok());
}

#[tokio::test]
async fn freeze_is_noticed_when_the_timestamp_expires() {
    let (repo, node) = begun().await;
    let frozen: Vec<_> =
        repo.web.names().into_iter().map(|name| (repo.web.bytes(&name).unwrap(), name)).collect();
    repo.release("2.0.0", TODAY + DAY);
    for (bytes, name) in frozen {
        repo.web.put(&name, Answer::Bytes(bytes));
    }
    assert_eq!(node.version(TODAY + 6 * DAY).await.unwrap(), "1.0.0");
    let error = node.refresh(TODAY + 8 * DAY).await.err().unwrap();
    assert_eq!(error.verdict(), Verdict::Expired);
    assert!(error.to_string().contains("keeps it back"), "{error}");
}

#[tokio::test]
async fn fast_forward_and_its_recovery() {
    let (repo, node) = begun().await;
    // Both online keys are stolen, and used to sign versions that nobody can go beyond.
    let huge = i64::MAX as u64;
    let mut snapshot = file(&repo.web, &newest(&repo.web, "snapshot"))["signed"].clone();
    snapshot["version"] = huge.into();
    put(&repo.web, &format!("{huge}.snapshot.json"), &signed(&snapshot, &repo.stolen("snapshot")));
    let mut timestamp = file(&repo.web, "timestamp.json")["signed"].clone();
    timestamp["version"] = huge.into();
    timestamp["meta"]["snapshot.json"] = json!({"version": huge});
    put(&repo.web, "timestamp.json", &signed(&timestamp, &repo.stolen("timestamp")));
    node.refresh(TODAY).await.unwrap();

    // The owners' next release is older than that.
    repo.release("2.0.0", TODAY);
    assert_eq!(verdict(&node, TODAY).await, Verdict::Rollback);
    // With new keys for both roles, signed by the root, the node goes on.
    for role in ["snapshot", "timestamp"] {
        repo.rotate(role);
    }
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
}

#[tokio::test]
async fn endless_data_ends_at_the_limit() {
    let (repo, _) = begun().await;
    let roles = ["snapshot", "targets", "prod"].map(|role| newest(&repo.web, role));
    for name in ["2.root.json", "timestamp.json"].into_iter().chain(roles.iter().map(String::as_str)) {
        let before = repo.web.bytes(name);
        repo.web.put(name, Answer::Endless);
        let node = Node::of(&repo);
        let error = node.offer(TODAY).await.unwrap_err();
        assert!(error.contains("longer than the"), "{name}: {error}");
        match before {
            Some(bytes) => repo.web.put(name, Answer::Bytes(bytes)),
            None => repo.web.remove(name),
        }
    }
}

/// Whoever signs a release that no node has the memory for, or means to.
#[tokio::test]
async fn more_than_a_node_takes_is_refused_before_anything_is_fetched() {
    let (repo, node) = begun().await;
    let (facts, channels) = (facts(None), [channel()]);
    let who = flist::trust::director::Who { node: "n".to_owned(), group: None };
    let wanted = crate::rig::newest(&channels, &facts, &who);
    let (flist, content) = (Repo::release_of("1.0.0").flists[0].flist.to_string(), Repo::content("1.0.0"));
    repo.web.put(&flist, Answer::Bytes(content.clone()));
    let length = content.len() as u64;
    let asks = async |most: u64| {
        let hub = HubClient::new(repo.web.url(), "test").unwrap().accepting(most);
        offered(&node.client, None, &hub, &wanted, &clocks(TODAY)).await
    };
    repo.web.asked();
    let error = asks(length - 1).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::Unfit);
    let said = error.to_string();
    for part in [format!("prod/{flist}"), format!("{length} bytes"), format!("at most {}", length - 1)] {
        assert!(said.contains(&part), "{said}");
    }
    assert!(!repo.web.asked().contains(&flist));
    assert!(asks(length).await.is_ok());
    // What the hub sends beyond what was signed is not read.
    repo.web.put(&flist, Answer::Bytes([&content[..], b"x"].concat()));
    let error = flist::report(&asks(length).await.unwrap_err());
    assert!(error.contains(&format!("longer than the {length} bytes")), "{error}");
}

#[tokio::test]
async fn slow_retrieval_is_given_up() {
    let (repo, _) = begun().await;
    let node = Node::with_limits(&repo, impatient());
    for answer in [Answer::Drip(Duration::from_millis(50)), Answer::Silence] {
        repo.web.put("timestamp.json", answer);
        // It is given up at all; without a limit both would go on for ever.
        let verdict = tokio::time::timeout(Duration::from_secs(120), verdict(&node, TODAY)).await;
        assert_eq!(verdict.expect("it is still waited for"), Verdict::Unreachable);
    }
}

#[tokio::test]
async fn extraneous_files_are_never_looked_at() {
    let (repo, node) = begun().await;
    let (path, target) = evil_target(b"evil");
    // In a file of a role that nobody delegates to, and in the file of another version.
    let evil = json!({"signed": {"targets": {path: target}}, "signatures": []});
    for name in ["1.evil.json", "99.prod.json", "prod.json", "targets.json"] {
        put(&repo.web, name, &evil);
    }
    assert_eq!(node.version(TODAY).await.unwrap(), "1.0.0");
    let asked = repo.web.asked();
    assert!(!asked.iter().any(|name| name.contains("evil") || name.starts_with("99")), "{asked:?}");
}

#[tokio::test]
async fn mix_and_match_of_two_states() {
    let (repo, node) = begun().await;
    let old = repo.web.bytes(&newest(&repo.web, "prod")).unwrap();
    repo.release("2.0.0", TODAY);
    // The newest snapshot, with the role's file of the state before it.
    repo.web.put(&newest(&repo.web, "prod"), Answer::Bytes(old));
    let error = node.offer(TODAY).await.unwrap_err();
    assert!(
        error.contains("mismatch") || error.contains("does not match") || error.contains("!= pinned"),
        "{error}"
    );
}

#[tokio::test]
async fn mix_and_match_of_the_flists_of_two_releases() {
    let repo = Repo::new();
    let mut release = Repo::release_of("1.0.0");
    let mut other = release.flists[0].clone();
    other.package = "netd".to_owned();
    other.flist = "tf-zos/netd:v1.0.0.flist".parse().unwrap();
    release.flists.insert(0, other);
    repo.trust.release(&release, &mut repo.signers(), crate::rig::at(TODAY)).unwrap();
    repo.serve();
    let node = Node::of(&repo);
    assert_eq!(node.offer(TODAY).await.unwrap().flists.len(), 2);
    // One of the two is signed anew with other content, under the old release's id.
    let role = newest(&repo.web, "prod");
    let version = next(&repo.web, "prod", &repo.stolen("prod"), |prod| {
        prod["targets"]["prod/tf-zos/netd:v1.0.0.flist"]["hashes"]["sha256"] = "00".repeat(32).into();
    });
    assert_ne!(role, newest(&repo.web, "prod"));
    relist(&repo, &[("prod", version)]);
    assert!(node.offer(TODAY).await.unwrap_err().contains("nobody has signed a release"));
}

#[tokio::test]
async fn wrong_role_key() {
    let (repo, node) = begun().await;
    // The key of dev signs for prod.
    let (path, target) = evil_target(b"evil");
    let version =
        next(&repo.web, "prod", &repo.stolen("dev"), |prod| prod["targets"][path.as_str()] = target.clone());
    relist(&repo, &[("prod", version)]);
    assert!(node.offer(TODAY).await.unwrap_err().contains("threshold not met"));
    // And lists a flist of prod among its own.
    let (repo, node) = begun().await;
    let version = next(&repo.web, "dev", &repo.stolen("dev"), |dev| dev["targets"][path.as_str()] = target);
    relist(&repo, &[("dev", version)]);
    assert_eq!(node.version(TODAY).await.unwrap(), "1.0.0");
    let mut fresh = node.refresh(TODAY).await.unwrap();
    assert!(fresh.releases(RunMode::Dev).await.unwrap().is_empty());
    assert!(matches!(fresh.target(&path).await, Err(TrustError::Unsigned { .. })));
}

#[tokio::test]
async fn unsigned_metadata() {
    let (repo, node) = begun().await;
    repo.release("2.0.0", TODAY);
    for role in ["timestamp", "snapshot", "targets", "prod"] {
        let name = newest(&repo.web, role);
        let before = repo.web.bytes(&name).unwrap();
        let mut envelope = file(&repo.web, &name);
        envelope["signatures"] = json!([]);
        put(&repo.web, &name, &envelope);
        let fresh = Node::of(&repo);
        assert!(fresh.offer(TODAY).await.is_err(), "{role}");
        assert!(role == "targets" || node.offer(TODAY).await.is_err(), "{role}");
        repo.web.put(&name, Answer::Bytes(before));
    }
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
}

#[tokio::test]
async fn an_unsigned_root_is_no_root() {
    let (repo, node) = begun().await;
    next(&repo.web, "root", &[], |root| root["roles"]["timestamp"]["threshold"] = 1.into());
    assert_eq!(verdict(&node, TODAY).await, Verdict::Signature);
}

#[tokio::test]
async fn metadata_of_the_wrong_type() {
    let (repo, _) = begun().await;
    // Signed by the right key, but as something else.
    for (role, kind) in [("timestamp", "snapshot"), ("snapshot", "targets"), ("root", "timestamp")] {
        let (repo2, node) = begun().await;
        next(&repo2.web, role, &repo2.stolen(role), |signed| signed["_type"] = kind.into());
        if role == "snapshot" {
            let version = file(&repo2.web, &newest(&repo2.web, "snapshot"))["signed"]["version"].clone();
            next(&repo2.web, "timestamp", &repo2.stolen("timestamp"), |timestamp| {
                timestamp["meta"]["snapshot.json"] = json!({"version": version});
            });
        }
        assert!(node.refresh(TODAY).await.is_err(), "{role}");
    }
    // The roles that have targets, listed by those who may.
    for (role, kind) in [("targets", "snapshot"), ("targets", "root"), ("prod", "snapshot"), ("prod", "root")]
    {
        let (repo2, node) = begun().await;
        let version = next(&repo2.web, role, &repo2.stolen(role), |signed| signed["_type"] = kind.into());
        relist(&repo2, &[(role, version)]);
        for node in [node, Node::of(&repo2)] {
            let error = node.offer(TODAY).await.unwrap_err();
            assert!(error.contains("_type") || error.contains("type"), "{role} as {kind}: {error}");
        }
    }
    // Whole files of other roles.
    for (name, other) in [("timestamp.json", "snapshot"), ("2.root.json", "targets")] {
        let bytes = repo.web.bytes(&newest(&repo.web, other)).unwrap();
        let before = repo.web.bytes(name);
        repo.web.put(name, Answer::Bytes(bytes));
        assert!(Node::of(&repo).refresh(TODAY).await.is_err(), "{name}");
        match before {
            Some(bytes) => repo.web.put(name, Answer::Bytes(bytes)),
            None => repo.web.remove(name),
        }
    }
    for junk in
        [&b""[..], b"{}", b"[]", b"null", b"{\"signed\":{},\"signatures\":[]}", b"<html>", b"\xff\xfe"]
    {
        repo.web.put("timestamp.json", Answer::Bytes(junk.to_vec()));
        assert!(Node::of(&repo).refresh(TODAY).await.is_err());
    }
}

/// Whoever owns the hub, and with it the link that nodes without trust follow, but no key.
#[tokio::test]
async fn the_hub_alone_compromised() {
    let (repo, node) = begun().await;
    repo.release("2.0.0", TODAY);
    // He can say nothing, and say old things, until they expire.
    repo.web.clear();
    assert_eq!(verdict(&node, TODAY).await, Verdict::Unreachable);
    repo.serve();
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    // He can make a repository of his own; nodes know whose it is not.
    let his = Repo::new();
    his.release("6.6.6", TODAY);
    repo.web.clear();
    for name in his.web.names() {
        repo.web.put(&name, Answer::Bytes(his.web.bytes(&name).unwrap()));
    }
    assert_eq!(verdict(&node, TODAY).await, Verdict::Signature);
    let new = Node::of(&repo);
    assert_eq!(verdict(&new, TODAY).await, Verdict::Signature);
}

#[tokio::test]
async fn both_online_keys_compromised() {
    let (repo, node) = begun().await;
    let (path, target) = evil_target(b"evil");
    // Snapshot and timestamp keys sign whatever role file the attacker makes, but not the role itself.
    let online: Vec<_> = repo.stolen("snapshot").into_iter().chain(repo.stolen("timestamp")).collect();
    for role in ["prod", "targets"] {
        let version =
            next(&repo.web, role, &online, |signed| signed["targets"][path.as_str()] = target.clone());
        relist(&repo, &[(role, version)]);
        assert!(node.offer(TODAY).await.is_err(), "{role}");
        assert!(Node::of(&repo).offer(TODAY).await.is_err(), "{role}");
        // Gone again: what was signed before is found by a new node.
        repo.web.clear();
        repo.serve();
    }
    assert_eq!(Node::of(&repo).version(TODAY).await.unwrap(), "1.0.0");
}
