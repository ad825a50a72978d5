//! Tags and taglinks, taking things away, and what a hub does not take.

use std::collections::BTreeMap;
use std::fs;

use flist::hub::{FlistName, HubError, Removal, TagName, TaglinkName};

use crate::rig::{TestHub, flist, flist_with_block, name};

fn tag(text: &str) -> TagName {
    text.parse().unwrap()
}

fn taglink(text: &str) -> TaglinkName {
    text.parse().unwrap()
}

fn entries(pairs: &[(&str, &str)]) -> BTreeMap<String, FlistName> {
    pairs.iter().map(|(entry, flist)| ((*entry).to_owned(), name(flist))).collect()
}

/// The reason of a refusal with this status.
fn refusal(result: Result<(), HubError>, wanted: u16) -> String {
    match result {
        Err(HubError::Status { status, message, .. }) if status == wanted => message,
        other => panic!("not refused with {wanted}: {other:?}"),
    }
}

async fn hub_with_two_flists() -> TestHub {
    let hub = TestHub::start().await;
    hub.client.upload(&name("bins/zos:v1.0.0.flist"), flist("one")).await.unwrap();
    hub.client.upload(&name("bins/net.flist"), flist("net")).await.unwrap();
    hub
}

#[tokio::test]
async fn a_tag_is_made_replaced_and_followed() {
    let hub = hub_with_two_flists().await;
    let (rolling, version) = (tag("zos/tags/rolling"), tag("zos/tags/1.0.0"));
    let one = entries(&[("zos.flist", "bins/zos:v1.0.0.flist")]);
    let two = entries(&[("zos.flist", "bins/zos:v1.0.0.flist"), ("net.flist", "bins/net.flist")]);
    let early = refusal(hub.client.put_taglink(&taglink("zos/qa"), &rolling).await, 404);
    assert!(early.contains("zos/tags/rolling is not a tag of this hub"), "{early}");
    let missing = entries(&[("zos.flist", "bins/none.flist")]);
    let missing = refusal(hub.client.put_tag(&rolling, &missing, false).await, 404);
    assert!(missing.contains("bins/none.flist is not a flist of this hub"), "{missing}");
    assert!(!hub.users().join("zos").exists(), "a refused tag made a repo");

    for (tag, content) in [(&rolling, &one), (&rolling, &two), (&version, &one), (&version, &one)] {
        hub.client.put_tag(tag, content, false).await.unwrap();
    }
    hub.client.put_taglink(&taglink("zos/qa"), &rolling).await.unwrap();
    let names = |listing: Vec<flist::hub::ListingEntry>| {
        listing.into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(hub.client.tag(&rolling).await.unwrap()), "net.flist zos.flist");
    let stored = fs::read_link(hub.users().join("zos/.tag-rolling/zos.flist")).unwrap();
    assert_eq!(stored.to_str(), Some("../../bins/zos:v1.0.0.flist"), "as the 0-hub stores it");
    let stored = fs::read_link(hub.users().join("zos/qa")).unwrap();
    assert_eq!(stored.to_str(), Some("../zos/.tag-rolling"), "as the 0-hub stores it");
    assert_eq!(hub.client.taglink(&taglink("zos/qa")).await.unwrap(), rolling);

    let changed = refusal(hub.client.put_tag(&version, &two, false).await, 409);
    assert!(changed.contains("exists with other"), "{changed}");
    hub.client.put_tag(&version, &two, true).await.unwrap();
    assert_eq!(hub.client.tag(&version).await.unwrap().len(), 2);
    hub.client.put_taglink(&taglink("zos/qa"), &version).await.unwrap();
    assert_eq!(hub.client.taglink(&taglink("zos/qa")).await.unwrap(), version);
    let left: Vec<_> =
        fs::read_dir(hub.users().join("zos")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "something was left behind: {left:?}");
}

#[tokio::test]
async fn bad_tags_are_refused() {
    let hub = hub_with_two_flists().await;
    for (path, body) in [
        ("/api/molt/tag/zos/1.0.0", "{\"entries\": {}}"),
        ("/api/molt/tag/zos/1.0.0", "{\"entries\": {\"../x.flist\": \"bins/net.flist\"}}"),
        ("/api/molt/tag/zos/1.0.0", "{\"entries\": {\"x\": \"bins/net.flist\"}}"),
        ("/api/molt/tag/zos/1.0.0", "{\"entries\": {\"x.flist\": \"../bins/net.flist\"}}"),
        ("/api/molt/tag/zos/..%2Fx", "{\"entries\": {\"x.flist\": \"bins/net.flist\"}}"),
        ("/api/molt/tag/api/x", "{\"entries\": {\"x.flist\": \"bins/net.flist\"}}"),
        ("/api/molt/taglink/zos/x.flist", "{\"target\": \"zos/tags/1.0.0\"}"),
        ("/api/molt/taglink/zos/tags", "{\"target\": \"zos/tags/1.0.0\"}"),
        ("/api/molt/taglink/zos/x", "{\"target\": \"../zos/.tag-1.0.0\"}"),
    ] {
        assert_eq!(hub.put(path, body).await.status(), 400, "{path} {body}");
    }
    let long = format!("{{\"entries\": \"{}\"}}", "x".repeat(600 * 1024));
    assert_eq!(hub.put("/api/molt/tag/zos/1.0.0", long).await.status(), 413);
}

#[tokio::test]
async fn what_others_point_to_stays() {
    let hub = hub_with_two_flists().await;
    let flist_name = name("bins/zos:v1.0.0.flist");
    let (release, link) = (tag("zos/tags/1.0.0"), name("zos/zos:latest.flist"));
    hub.client.put_tag(&release, &entries(&[("zos.flist", "bins/zos:v1.0.0.flist")]), false).await.unwrap();
    hub.client.put_taglink(&taglink("other/qa"), &release).await.unwrap();
    hub.client.link_to(&link, &flist_name).await.unwrap();
    let remove = async |removal: &Removal, force| hub.client.remove(removal, force).await;
    let flist_removal = Removal::Flist(flist_name.clone());
    let needed = refusal(remove(&flist_removal, false).await, 409);
    assert!(needed.contains("needed by zos/tags/1.0.0, zos/zos:latest.flist;"), "{needed}");
    let needed = refusal(remove(&Removal::Tag(release.clone()), false).await, 409);
    assert!(needed.contains("needed by other/qa;"), "{needed}");
    refusal(remove(&Removal::Link(flist_name.clone()), false).await, 409);
    refusal(remove(&Removal::Flist(link.clone()), false).await, 409);

    for removal in [
        Removal::Taglink(taglink("other/qa")),
        Removal::Tag(release.clone()),
        Removal::Link(link.clone()),
        flist_removal.clone(),
    ] {
        remove(&removal, false).await.unwrap();
        let gone = remove(&removal, false).await;
        assert!(matches!(gone, Err(HubError::NotFound { .. })), "{gone:?}");
    }
    assert_eq!(hub.text("/api/flist").await, "[\"bins/net.flist\"]\n");
    for repo in ["zos", "other"] {
        assert_eq!(fs::read_dir(hub.users().join(repo)).unwrap().count(), 0, "{repo} is not empty");
    }

    hub.client.link_to(&link, &name("bins/net.flist")).await.unwrap();
    remove(&Removal::Flist(name("bins/net.flist")), true).await.unwrap();
    assert_eq!(hub.client.light(&link).await.unwrap().light.md5, None, "forced, so the link dangles");
}

#[tokio::test]
async fn a_flist_is_refused_while_a_block_is_missing() {
    let hub = TestHub::start().await;
    let (here, sealed) = flist_with_block(b"content", &format!("{}/store/", hub.url));
    let (elsewhere, _) = flist_with_block(b"content", "http://127.0.0.1:1/store");
    let path = "/api/molt/flist/zos/zos:v1.0.0.flist";
    let refused = hub.put(path, here.clone()).await;
    assert_eq!(refused.status(), 422);
    let answer: serde_json::Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!(answer["missing"], serde_json::json!([{"block": sealed.id.to_string(), "file": "file"}]));
    let message = refusal(hub.client.upload(&name("zos/zos:v1.0.0.flist"), here.clone()).await, 422);
    assert!(message.contains(&format!("{} of file", sealed.id)), "{message}");
    assert_eq!(fs::read_dir(hub.users()).unwrap().count(), 0, "a refused flist left something");

    let id = sealed.id.to_string();
    assert_eq!(hub.put(&format!("/store/{}/{id}", &id[..2]), sealed.stored).await.status(), 201);
    assert_eq!(hub.put(path, here).await.status(), 201);
    assert_eq!(hub.put("/api/molt/flist/zos/elsewhere.flist", elsewhere).await.status(), 201);
    let broken = hub.put("/api/molt/flist/zos/broken.flist", "SQLite format 3\0 and nothing more").await;
    assert_eq!(broken.status(), 422);
}

#[tokio::test]
async fn a_strict_hub_wants_every_block() {
    let hub = TestHub::start_with(|config| config.strict = true).await;
    let (elsewhere, _) = flist_with_block(b"content", "http://127.0.0.1:1/store");
    refusal(hub.client.upload(&name("zos/a.flist"), elsewhere).await, 422);
    refusal(hub.client.upload(&name("zos/b.flist"), vec![0x1f, 0x8b, 8, 0]).await, 422);
    hub.client.upload(&name("zos/c.flist"), flist("no blocks")).await.unwrap();
}

#[tokio::test]
async fn a_hub_knows_its_public_address() {
    let public = "https://hub.example/under";
    let hub = TestHub::start_with(|config| config.public_url = Some(public.parse().unwrap())).await;
    let (here, _) = flist_with_block(b"content", "https://hub.example/under/store");
    refusal(hub.client.upload(&name("zos/a.flist"), here).await, 422);
}

#[tokio::test]
async fn a_full_hub_says_so() {
    let (_, sealed) = flist_with_block(b"some content", "http://hub/store");
    let (_, other) = flist_with_block(b"other content", "http://hub/store");
    let room = sealed.stored.len() as u64;
    let hub = TestHub::start_with(|config| {
        config.quota_bytes = Some(room);
        config.max_names = 2;
    })
    .await;
    let put = async |sealed: &flist::block::Sealed| {
        let id = sealed.id.to_string();
        hub.put(&format!("/store/{}/{id}", &id[..2]), sealed.stored.clone()).await
    };
    assert_eq!(put(&sealed).await.status(), 201);
    assert_eq!(put(&sealed).await.status(), 200, "what is there needs no room");
    let full = put(&other).await;
    assert_eq!(full.status(), 507);
    let text = full.text().await.unwrap();
    assert!(text.contains(&format!("{room} of {room} bytes are used")), "{text}");

    for text in ["a", "b"] {
        hub.client.upload(&name(&format!("zos/{text}.flist")), flist(text)).await.unwrap();
    }
    let full = refusal(hub.client.upload(&name("zos/c.flist"), flist("c")).await, 507);
    assert!(full.contains("repo zos has 2 names"), "{full}");
    refusal(hub.client.link(&name("zos/c.flist"), "a.flist").await, 507);
    let one = entries(&[("a.flist", "zos/a.flist")]);
    refusal(hub.client.put_tag(&tag("zos/tags/x"), &one, false).await, 507);
    hub.client.upload(&name("zos/a.flist"), flist("other")).await.unwrap();
    hub.client.put_tag(&tag("else/tags/x"), &one, false).await.unwrap();
}
