//! A director chooses, and can do nothing else.

use flist::hub::{HubClient, RunMode};
use flist::trust::director::{Choice, NotChosen, Rule, Wave, Who, chosen};
use flist::trust::repository::{Passphrase, Plan, RoleName, SecretKey, Settings, Signers, TrustDirectory};
use flist::trust::{Fresh, SignedOffer, Source, TrustClient, Verdict, What, earliest, offered};
use serde_json::json;
use tempfile::TempDir;

use crate::forge::{evil_target, file, next, relist};
use crate::rig::{DAY, Node, Repo, TODAY, at, channel, clocks, facts, newest, passphrase};
use crate::web::{Answer, Web};

struct Director {
    trust: TrustDirectory,
    web: Web,
    root: Vec<u8>,
    dir: TempDir,
}

impl Director {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("director");
        let secret: Passphrase = passphrase();
        let (trust, _) =
            TrustDirectory::init(&path, Settings::default(), &Plan::director(), &secret, at(TODAY)).unwrap();
        let root = std::fs::read(trust.root()).unwrap();
        let director = Self { trust, web: Web::start(), root, dir };
        director.serve();
        director
    }

    fn serve(&self) {
        for (name, bytes) in self.trust.served().unwrap() {
            self.web.put(&name, Answer::Bytes(bytes));
        }
    }

    fn choose(&self, version: &str, choice: &Choice) {
        let flist = Repo::release_of(version).flists.remove(0);
        let custom = serde_json::to_value(choice).unwrap();
        self.sign(&format!("prod/{}", flist.flist), flist.length, &flist.sha256.to_string(), custom);
    }

    fn sign(&self, path: &str, length: u64, sha256: &str, custom: serde_json::Value) {
        let mut signers = Signers::find(&[self.trust.keys()], Some(passphrase())).unwrap();
        let targets = [(path.to_owned(), length, sha256.to_owned(), custom)];
        self.trust.add_targets(RoleName::Targets, &targets, &mut signers, at(TODAY)).unwrap();
        self.serve();
    }

    /// The keys of a role, as somebody who has stolen them uses them.
    fn stolen(&self, role: &str) -> Vec<SecretKey> {
        let files = std::fs::read_dir(self.trust.keys()).unwrap().map(|entry| entry.unwrap().path());
        let of_role = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(role));
        of_role.map(|path| SecretKey::open(&path, &passphrase()).unwrap()).collect()
    }

    fn client(&self) -> TrustClient {
        let source = Source::new(self.web.url(), reqwest::Client::new()).unwrap();
        TrustClient::open(&self.root, &self.dir.path().join("state"), source).unwrap()
    }

    async fn fresh(&self) -> Fresh {
        self.client().refresh(&clocks(TODAY)).await.unwrap()
    }
}

fn who(node: &str, group: Option<&str>) -> Who {
    Who { node: node.to_owned(), group: group.map(str::to_owned) }
}

fn to(rules: Vec<Rule>) -> Choice {
    Choice { rules, ..Choice::default() }
}

fn everybody() -> Rule {
    Rule::Wave(Wave { start: TODAY - 10, seconds: 0, percent: 100 })
}

/// Two releases, of which the second one is for the group `canary`, and the first one for all.
fn canary() -> (Repo, Director) {
    let (repo, director) = (Repo::new(), Director::new());
    repo.release("1.0.0", TODAY);
    repo.release("2.0.0", TODAY);
    director.choose("1.0.0", &to(vec![everybody()]));
    director.choose("2.0.0", &to(vec![Rule::Group("canary".into())]));
    (repo, director)
}

async fn offers(repo: &Repo) -> Vec<SignedOffer> {
    Node::of(repo).refresh(TODAY).await.unwrap().releases(RunMode::Prod).await.unwrap()
}

async fn versions(repo: &Repo, director: &Director, who: &Who) -> Vec<String> {
    let choices = director.fresh().await.choices().await.unwrap();
    let (kept, _) = chosen(offers(repo).await, &choices, who, TODAY);
    kept.iter().map(|offer| offer.version.to_string()).collect()
}

#[tokio::test]
async fn a_fresh_boot_outside_the_canary_group_does_not_get_the_canary() {
    let (repo, director) = canary();
    assert_eq!(versions(&repo, &director, &who("a", Some("canary"))).await, ["1.0.0", "2.0.0"]);
    assert_eq!(versions(&repo, &director, &who("a", Some("others"))).await, ["1.0.0"]);
    assert_eq!(versions(&repo, &director, &who("a", None)).await, ["1.0.0"]);
}

#[tokio::test]
async fn the_director_alone_compromised() {
    let (repo, director) = canary();
    // He signs what the release keys have not: another content, and a release of his own.
    let flist = Repo::release_of("2.0.0").flists.remove(0);
    let all = serde_json::to_value(to(vec![everybody()])).unwrap();
    director.sign(&format!("prod/{}", flist.flist), flist.length, &"00".repeat(32), all.clone());
    let (path, target) = evil_target(b"evil");
    director.sign(&path, 4, target["hashes"]["sha256"].as_str().unwrap(), all);
    assert_eq!(versions(&repo, &director, &who("a", Some("canary"))).await, ["1.0.0"]);
    let choices = director.fresh().await.choices().await.unwrap();
    let (_, others) = chosen(offers(&repo).await, &choices, &who("a", None), TODAY);
    assert!(matches!(others.as_slice(), [(_, NotChosen::Disagree(_))]), "{others:?}");
    // He chooses an older one: nodes do not go back.
    let hub = HubClient::new(repo.web.url(), "test").unwrap();
    let (node, who) = (facts(Some("2.0.0")), who("a", None));
    let channels = [channel()];
    let wanted = newest(&channels, &node, &who);
    let client = Node::of(&repo);
    let answer =
        offered(&client.client, Some(&director.client()), &hub, &wanted, &clocks(TODAY)).await.unwrap();
    assert_eq!(answer.what, What::Nothing);
}

/// Whoever has stolen every key that is online: snapshot, timestamp, and all of the director's.
#[tokio::test]
async fn both_online_keys_and_all_of_the_directors_compromised() {
    let (repo, director) = canary();
    let hub = HubClient::new(repo.web.url(), "test").unwrap();
    let (who, channels) = (who("a", None), [channel()]);
    let (installed, none) = (facts(Some("2.0.0")), facts(None));
    let asks = async |node: &Node, facts| {
        let wanted = newest(&channels, facts, &who);
        offered(&node.client, Some(&director.client()), &hub, &wanted, &clocks(TODAY)).await
    };
    // The node has 2.0.0, which the director had chosen for it then.
    director.choose("2.0.0", &to(vec![everybody()]));
    assert_eq!(versions(&repo, &director, &who).await, ["1.0.0", "2.0.0"]);

    // He has the director choose what is evil, and lists a role that names it, signed by all the keys that he has.
    let (path, target) = evil_target(b"evil");
    repo.web.put("tf-zos/zos:v6.6.6.flist", Answer::Bytes(b"evil".to_vec()));
    let all = serde_json::to_value(to(vec![everybody()])).unwrap();
    director.sign(&path, 4, target["hashes"]["sha256"].as_str().unwrap(), all);
    let roles = ["snapshot", "timestamp"].into_iter().flat_map(|role| repo.stolen(role));
    let his = ["root", "targets", "snapshot", "timestamp"].into_iter().flat_map(|role| director.stolen(role));
    let keys: Vec<SecretKey> = roles.chain(his).collect();
    assert!(keys.len() >= 6, "{} keys", keys.len());
    let good: Vec<_> =
        repo.web.names().into_iter().map(|name| (repo.web.bytes(&name).unwrap(), name)).collect();
    for role in ["prod", "targets"] {
        let node = Node::of(&repo);
        assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
        let version =
            next(&repo.web, role, &keys, |signed| signed["targets"][path.as_str()] = target.clone());
        relist(&repo, &[(role, version)]);
        for (node, facts) in [(&node, &installed), (&Node::of(&repo), &none)] {
            let error = asks(node, facts).await.unwrap_err();
            assert_eq!(error.verdict(), Verdict::Signature, "{role}: {error}");
        }
        repo.web.clear();
        good.iter().for_each(|(bytes, name)| repo.web.put(name, Answer::Bytes(bytes.clone())));
    }

    // He has the director choose the older release only: no node goes back.
    director.choose("2.0.0", &Choice { aborted: true, ..to(vec![everybody()]) });
    assert_eq!(versions(&repo, &director, &who).await, ["1.0.0"]);
    let node = Node::of(&repo);
    assert_eq!(asks(&node, &installed).await.unwrap().what, What::Nothing);
    // And lists the role as it was before the newer one was signed: who has seen it since takes that for a rollback.
    let old =
        file(&repo.web, &crate::forge::newest(&repo.web, "prod"))["signed"]["version"].as_u64().unwrap();
    relist(&repo, &[("prod", old - 1)]);
    assert_eq!(asks(&node, &installed).await.unwrap_err().verdict(), Verdict::Rollback);
    // Who has not, and knows what it runs, is offered nothing that is older.
    let error = asks(&Node::of(&repo), &installed).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::Rollback, "{error}");
}

/// Whoever has stolen the director's timestamp key signs that it is the year 9998.
#[tokio::test]
async fn the_director_does_not_say_what_time_it_is() {
    let (repo, director) = canary();
    next(&director.web, "timestamp", &director.stolen("timestamp"), |timestamp| {
        timestamp["expires"] = "9998-12-31T23:59:59Z".into();
        timestamp["x-molt-signed"] = "9998-01-01T00:00:00Z".into();
    });
    let hub = HubClient::new(repo.web.url(), "test").unwrap();
    let (facts, who, channels) = (facts(None), who("a", None), [channel()]);
    let wanted = newest(&channels, &facts, &who);
    let node = Node::of(&repo);
    for _ in 0..2 {
        let _refused = offered(&node.client, Some(&director.client()), &hub, &wanted, &clocks(TODAY)).await;
    }
    // By its own time nothing of the director's holds any more, so it was believed.
    assert!(director.client().floor(&clocks(TODAY)) > TODAY + 7900 * 365 * DAY);
    // The releases and the maintenance windows go by another one, and so does whoever does without this director.
    assert!(earliest(&node.state, &clocks(TODAY)) <= TODAY);
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
}

#[tokio::test]
async fn without_the_directors_signature_nothing_is_installed() {
    let (repo, director) = canary();
    let hub = HubClient::new(repo.web.url(), "test").unwrap();
    let (node, who, channels) = (facts(None), who("a", None), [channel()]);
    let wanted = newest(&channels, &node, &who);
    let releases = Node::of(&repo);
    let mut timestamp = crate::forge::file(&director.web, "timestamp.json");
    timestamp["signatures"] = json!([]);
    crate::forge::put(&director.web, "timestamp.json", &timestamp);
    let error =
        offered(&releases.client, Some(&director.client()), &hub, &wanted, &clocks(TODAY)).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::Signature);
    // The hub has the flist of neither.
    director.serve();
    let error =
        offered(&releases.client, Some(&director.client()), &hub, &wanted, &clocks(TODAY)).await.unwrap_err();
    assert_eq!(error.verdict(), Verdict::Unreachable);
}

#[tokio::test]
async fn an_aborted_release_is_for_nobody_who_does_not_have_it() {
    let (repo, director) = canary();
    director
        .choose("2.0.0", &Choice { aborted: true, ..to(vec![Rule::Group("canary".into()), everybody()]) });
    assert_eq!(versions(&repo, &director, &who("a", Some("canary"))).await, ["1.0.0"]);
}
