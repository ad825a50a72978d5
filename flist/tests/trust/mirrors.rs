//! Several carriers of the same metadata, of which one lags behind or tells another story.

use flist::trust::{Source, Standing, TrustClient, Verdict};
use serde_json::json;

use crate::forge::{file, put, signed};
use crate::rig::{Node, Repo, TODAY};
use crate::web::{Answer, Web};

/// A mirror that has what the repository has now.
fn mirror(repo: &Repo) -> Web {
    let mirror = Web::start();
    for name in repo.web.names() {
        mirror.put(&name, Answer::Bytes(repo.web.bytes(&name).unwrap()));
    }
    mirror
}

/// A client of the mirror, with the state of the node.
fn client(repo: &Repo, node: &Node, mirror: &Web) -> TrustClient {
    let source = Source::new(mirror.url(), reqwest::Client::new()).unwrap();
    TrustClient::open(&repo.root, &node.state, source).unwrap()
}

#[tokio::test]
async fn a_mirror_that_lags_is_behind_and_one_that_is_newer_is_ahead() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let old = mirror(&repo);
    let node = Node::of(&repo);
    let there = client(&repo, &node, &old);
    // Before anything was accepted there is nothing to compare with.
    assert_eq!(there.compare().await.unwrap(), None);
    node.refresh(TODAY).await.unwrap();
    assert_eq!(there.compare().await.unwrap(), Some(Standing::Same));
    repo.refresh(TODAY);
    repo.release("2.0.0", TODAY);
    let here = client(&repo, &node, &repo.web);
    assert_eq!(here.compare().await.unwrap(), Some(Standing::Ahead(2)));
    node.refresh(TODAY).await.unwrap();
    assert_eq!(there.compare().await.unwrap(), Some(Standing::Behind(2)));
    // Looking accepts nothing, also from one that is nobody's mirror.
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    let his = Repo::new();
    let strange = client(&repo, &node, &his.web).compare().await.unwrap_err();
    assert_eq!(strange.verdict(), Verdict::Signature);
}

#[tokio::test]
async fn keys_that_were_replaced_are_news_and_the_old_ones_hide_nothing() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let old = mirror(&repo);
    let node = Node::of(&repo);
    node.refresh(TODAY).await.unwrap();
    repo.rotate("timestamp");
    repo.release("2.0.0", TODAY);
    let here = client(&repo, &node, &repo.web);
    assert_eq!(here.compare().await.unwrap(), Some(Standing::Rotated));
    // A root that only its own keys have signed is none.
    let his = Repo::new();
    let forged = mirror(&repo);
    his.rotate("timestamp");
    forged.put("2.root.json", Answer::Bytes(his.web.bytes("2.root.json").unwrap()));
    let refused = client(&repo, &node, &forged).compare().await.unwrap_err();
    assert_eq!(refused.verdict(), Verdict::Signature);
    node.refresh(TODAY).await.unwrap();
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    // What the old key has signed says nothing any more.
    assert_eq!(client(&repo, &node, &old).compare().await.unwrap_err().verdict(), Verdict::Signature);
}

#[tokio::test]
async fn another_story_with_the_same_version_is_kept_as_evidence() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let split = mirror(&repo);
    let node = Node::of(&repo);
    node.refresh(TODAY).await.unwrap();
    // Whoever has stolen the key shows others another world under the same number.
    let mut timestamp = file(&split, "timestamp.json")["signed"].clone();
    timestamp["meta"]["snapshot.json"] = json!({"version": 99});
    put(&split, "timestamp.json", &signed(&timestamp, &repo.stolen("timestamp")));
    for _ in 0..2 {
        match client(&repo, &node, &split).compare().await.unwrap() {
            Some(Standing::Fork { why, evidence }) => {
                assert!(why.contains("two different timestamps have version"), "{why}");
                let kept: Vec<_> = evidence.iter().map(|path| std::fs::read(path).unwrap()).collect();
                let both = [&repo.web, &split].map(|web| web.bytes("timestamp.json").unwrap());
                assert_eq!(kept, both);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(std::fs::read_dir(node.state.join("evidence")).unwrap().count(), 2);
}
