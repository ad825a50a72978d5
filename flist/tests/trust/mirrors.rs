//! Several carriers of the same metadata, of which one lags behind or tells another story.

use flist::hub::RunMode;
use flist::trust::{Source, Standing, TrustClient, TrustError, Verdict};
use serde_json::json;

use crate::forge::{file, next, put, signed};
use crate::rig::{DAY, Node, Repo, TODAY, at, clocks};
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

/// A hub of somebody who has stolen both online keys, and signs fresh metadata over the releases so far again and again.
struct Frozen<'r> {
    repo: &'r Repo,
    hub: Web,
}

impl Frozen<'_> {
    fn sign(&self, day: i64) {
        let [now, later] = [day, day + 30].map(|day| at(TODAY + day * DAY).to_string());
        let version = next(&self.hub, "snapshot", &self.repo.stolen("snapshot"), |snapshot| {
            snapshot["expires"] = later.clone().into();
        });
        next(&self.hub, "timestamp", &self.repo.stolen("timestamp"), |timestamp| {
            timestamp["expires"] = later.into();
            timestamp["x-molt-signed"] = now.into();
            timestamp["meta"]["snapshot.json"] = json!({"version": version});
        });
    }

    /// The newest release that a node finds there.
    async fn version(&self, node: &Node, day: i64) -> Result<String, TrustError> {
        let there = client(self.repo, node, &self.hub);
        let mut fresh = there.refresh(&clocks(TODAY + day * DAY)).await?;
        Ok(fresh.releases(RunMode::Prod).await?.pop().unwrap().version.to_string())
    }
}

#[tokio::test]
async fn a_freeze_by_both_online_keys_is_noticed_when_a_role_expires() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let (node, frozen) = (Node::of(&repo), Frozen { hub: mirror(&repo), repo: &repo });
    repo.release("2.0.0", TODAY);
    for day in [1, 20, 100, 200, 300, 364] {
        frozen.sign(day);
        assert_eq!(frozen.version(&node, day).await.unwrap(), "1.0.0", "{day}");
    }
    frozen.sign(366);
    let error = frozen.version(&node, 366).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::Expired, "{error}");
    assert!(!error.to_string().contains("timestamp metadata"), "{error}");
}

#[tokio::test]
async fn a_freeze_by_both_online_keys_is_noticed_at_once_by_a_second_hub() {
    for ahead in [1, 2, 5] {
        let repo = Repo::new();
        repo.release("1.0.0", TODAY);
        let (node, frozen) = (Node::of(&repo), Frozen { hub: mirror(&repo), repo: &repo });
        // However many versions he is ahead of what the owners have signed.
        for day in 1..=ahead {
            frozen.sign(day);
        }
        assert_eq!(frozen.version(&node, ahead).await.unwrap(), "1.0.0");
        let other = client(&repo, &node, &repo.web);
        // Until there are news, the other hub only looks as if it lagged behind.
        assert_eq!(other.compare().await.unwrap(), Some(Standing::Behind(ahead.unsigned_abs())));
        repo.release("2.0.0", TODAY);
        match other.compare().await.unwrap() {
            Some(Standing::Fork { why, evidence }) => {
                assert_eq!(evidence.len(), 2, "{why}");
                assert!(ahead == 1 || why.contains("of prod.json"), "{why}");
            }
            other => panic!("{ahead}: {other:?}"),
        }
        // New keys end it.
        repo.rotate("timestamp");
        repo.rotate("snapshot");
        assert_eq!(client(&repo, &node, &repo.web).compare().await.unwrap(), Some(Standing::Rotated));
        assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    }
}

/// A mirror that only lags is nobody's attack.
#[tokio::test]
async fn a_mirror_that_lags_tells_no_other_story() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    let old = mirror(&repo);
    repo.release("2.0.0", TODAY);
    repo.refresh(TODAY);
    node.refresh(TODAY).await.unwrap();
    assert_eq!(client(&repo, &node, &old).compare().await.unwrap(), Some(Standing::Behind(2)));
}
