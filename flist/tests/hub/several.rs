//! Releases of several flists: tags, and a link with a repo of packages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flist::hub::{
    Channel, HubError, Hubs, OfferError, PackageRepo, Packages, Release, ReleaseId, Resolution, RunMode,
    Seen, Sha256, TagName, TaglinkName, resolve, resolve_first,
};

use crate::rig::{TestHub, flist, name};

const PRODUCTION: &str = "zos/production";

async fn put_tag(hub: &TestHub, tag: &str, entries: &[(&str, &str)]) {
    let tag = TagName::new("zos", tag).unwrap();
    let entries: BTreeMap<_, _> =
        entries.iter().map(|(entry, flist)| ((*entry).to_owned(), name(flist))).collect();
    hub.client.put_tag(&tag, &entries, true).await.unwrap();
}

async fn point(hub: &TestHub, tag: &str) {
    let (link, tag) = (TaglinkName::new("zos", "production").unwrap(), TagName::new("zos", tag).unwrap());
    hub.client.put_taglink(&link, &tag).await.unwrap();
}

/// Flists `builds/<package>-<version>.flist`, a tag of them, and the taglink to it.
async fn publish(hub: &TestHub, version: &str) {
    let packages = ["api", "zos", "zz"];
    for package in packages {
        hub.client.upload(&name(&format!("builds/{package}-{version}.flist")), flist(version)).await.unwrap();
    }
    let entries: Vec<_> =
        packages.iter().map(|p| (format!("{p}.flist"), format!("builds/{p}-{version}.flist"))).collect();
    let entries: Vec<_> = entries.iter().map(|(e, f)| (e.as_str(), f.as_str())).collect();
    put_tag(hub, version, &entries).await;
    point(hub, version).await;
}

fn channel(text: &str) -> Channel {
    text.parse().unwrap()
}

async fn found(hub: &TestHub, text: &str, known: Option<&Seen>) -> Result<Resolution, HubError> {
    resolve(&hub.client, &channel(text), &Packages::default(), known).await
}

async fn release(hub: &TestHub, text: &str, known: Option<&Seen>) -> (Release, Seen) {
    match found(hub, text, known).await.unwrap() {
        Resolution::Release(release, seen) => (*release, seen),
        Resolution::Unchanged(_) => panic!("{text} has not changed"),
    }
}

async fn unchanged(hub: &TestHub, text: &str, known: &Seen) -> Seen {
    match found(hub, text, Some(known)).await.unwrap() {
        Resolution::Unchanged(seen) => seen,
        Resolution::Release(release, _) => panic!("{text} changed to {}", release.version),
    }
}

#[tokio::test]
async fn a_taglink_leads_to_all_packages_of_a_tag() {
    let hub = TestHub::start().await;
    publish(&hub, "1.0.0").await;
    let (first, seen) = release(&hub, PRODUCTION, None).await;
    assert_eq!((first.channel.clone(), first.version.to_string()), (channel(PRODUCTION), "1.0.0".into()));
    let names: Vec<_> = first.flists.iter().map(|flist| flist.package.as_str()).collect();
    assert_eq!(names, ["api", "zz", "zos"], "what nodes boot from is the last one");
    let sha256 = Sha256::of(&flist("1.0.0"));
    assert_eq!(first.id, ReleaseId::of([("api", sha256), ("zos", sha256), ("zz", sha256)]));
    assert_eq!(first.flists[2].location, name("builds/zos-1.0.0.flist"));
    assert_eq!(first.info["name"], "zos-1.0.0.flist");
    assert_eq!(
        (first.info["version"].as_str(), first.info["release"].as_str()),
        (Some("1.0.0"), Some(first.id.to_string().as_str()))
    );
    // From the second time on, the ETags say it all.
    let seen = unchanged(&hub, PRODUCTION, &seen).await;
    assert_eq!(unchanged(&hub, PRODUCTION, &seen).await, seen);

    // One package changes: the release is whole all the same.
    hub.client.upload(&name("builds/api-7.flist"), flist("seven")).await.unwrap();
    let entries = [("api.flist", "builds/api-7.flist"), ("zos.flist", "builds/zos-1.0.0.flist")];
    put_tag(&hub, "1.1.0", &entries).await;
    point(&hub, "1.1.0").await;
    let (second, seen) = release(&hub, PRODUCTION, Some(&seen)).await;
    assert_eq!((second.version.to_string(), second.flists.len()), ("1.1.0".into(), 2));
    assert_eq!((&second.flists[0].bytes, &second.flists[1].bytes), (&flist("seven"), &flist("1.0.0")));

    // The same tag gets other entries, and a name that is no version.
    put_tag(&hub, "nightly", &entries[1..]).await;
    point(&hub, "nightly").await;
    let (third, seen) = release(&hub, PRODUCTION, Some(&seen)).await;
    assert_eq!((third.version.to_string(), third.version.semver()), ("nightly".into(), None));
    put_tag(&hub, "nightly", &entries).await;
    let (fourth, seen) = release(&hub, PRODUCTION, Some(&seen)).await;
    assert_eq!((fourth.version.to_string(), fourth.id), ("nightly".into(), second.id));
    unchanged(&hub, PRODUCTION, &seen).await;
    // The tag itself can be followed too.
    assert_eq!(release(&hub, "zos/tags/nightly", None).await.0.id, fourth.id);
}

#[tokio::test]
async fn what_has_not_changed_counts_too_when_a_release_has_too_many_bytes() {
    let hub = TestHub::start().await;
    let most = flist("1.0.0").len() as u64 * 3;
    let client = hub.client.clone().accepting(most);
    let found = async |known| resolve(&client, &channel(PRODUCTION), &Packages::default(), known).await;
    publish(&hub, "1.0.0").await;
    let Resolution::Release(_, seen) = found(None).await.unwrap() else { panic!("nothing was known") };
    // Three that are known, and one more.
    hub.client.upload(&name("builds/more-1.flist"), flist("more")).await.unwrap();
    let mut entries: Vec<_> =
        ["api", "zos", "zz"].map(|p| (format!("{p}.flist"), format!("builds/{p}-1.0.0.flist"))).into();
    entries.push(("more.flist".to_owned(), "builds/more-1.flist".to_owned()));
    let entries: Vec<_> = entries.iter().map(|(e, f)| (e.as_str(), f.as_str())).collect();
    put_tag(&hub, "2.0.0", &entries).await;
    point(&hub, "2.0.0").await;
    for known in [Some(&seen), None] {
        let error = found(known).await.unwrap_err();
        assert!(matches!(error, HubError::TooLong { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_tag_that_is_no_release_says_so() {
    let hub = TestHub::start().await;
    let missing = found(&hub, PRODUCTION, None).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing:?}");
    publish(&hub, "1.0.0").await;
    std::fs::remove_file(hub.users().join("builds/api-1.0.0.flist")).unwrap();
    let text = found(&hub, PRODUCTION, None).await.unwrap_err().to_string();
    assert!(
        text.starts_with("zos/tags/1.0.0/api.flist points to builds/api-1.0.0.flist, which does"),
        "{text}"
    );
    std::fs::remove_dir_all(hub.users().join("zos/.tag-1.0.0")).unwrap();
    let text = found(&hub, PRODUCTION, None).await.unwrap_err().to_string();
    assert!(text.starts_with("zos/production points to zos/tags/1.0.0, which does not exist"), "{text}");
    std::fs::create_dir(hub.users().join("zos/.tag-1.0.0")).unwrap();
    let empty = found(&hub, PRODUCTION, None).await.unwrap_err();
    assert!(matches!(&empty, HubError::BadOffer { source: OfferError::Empty, .. }), "{empty:?}");
}

#[tokio::test]
async fn a_link_and_a_repo_of_packages_are_one_release() {
    let hub = TestHub::start().await;
    let boot = name("zos/zos:v1.0.0.flist");
    hub.client.upload(&boot, flist("boot")).await.unwrap();
    hub.client.link(&name("zos/zos:testing:latest.flist"), boot.file()).await.unwrap();
    hub.client.upload(&name("bins.test/redis.flist"), flist("redis")).await.unwrap();
    hub.client.upload(&name("builds/net-7.flist"), flist("net")).await.unwrap();
    hub.client.link_to(&name("bins.test/net.flist"), &name("builds/net-7.flist")).await.unwrap();
    let packages =
        Packages { boot: "zos".to_owned(), repo: Some(PackageRepo::of("bins", RunMode::Test).unwrap()) };
    let link = channel("zos/zos:testing:latest.flist");
    let ask = async |known: Option<&Seen>| resolve(&hub.client, &link, &packages, known).await;
    let Ok(Resolution::Release(first, seen)) = ask(None).await else { panic!("no release") };
    let names: Vec<_> = first.flists.iter().map(|flist| flist.package.as_str()).collect();
    assert_eq!((names, first.version.to_string()), (vec!["net", "redis", "zos"], "1.0.0".into()));
    assert_eq!(first.flists[0].location, name("builds/net-7.flist"));
    assert_eq!(first.info["name"], "zos:testing:latest.flist");
    assert!(matches!(ask(Some(&seen)).await, Ok(Resolution::Unchanged(_))));

    hub.client.upload(&name("builds/net-8.flist"), flist("net 8")).await.unwrap();
    hub.client.link_to(&name("bins.test/net.flist"), &name("builds/net-8.flist")).await.unwrap();
    let Ok(Resolution::Release(second, _)) = ask(Some(&seen)).await else { panic!("no release") };
    assert_eq!(second.version, first.version);
    assert_ne!(second.id, first.id);

    // A repo that is gone takes no package away.
    std::fs::remove_dir_all(hub.users().join("bins.test")).unwrap();
    let gone = ask(Some(&seen)).await.unwrap_err();
    assert!(gone.is_not_found() && gone.to_string().contains("repo bins.test"), "{gone:?}");
    hub.client.upload(&name("bins.test/zos.flist"), flist("another")).await.unwrap();
    let twice = ask(Some(&seen)).await.unwrap_err();
    assert!(matches!(&twice, HubError::BadOffer { source: OfferError::Ambiguous { .. }, .. }), "{twice:?}");
}

#[tokio::test]
async fn the_first_channel_that_the_hub_has_is_followed() {
    let hub = TestHub::start().await;
    let channels = ["zos/production", "zos/zos:production:latest.flist"]
        .map(|text| (channel(text), Packages::default()));
    let missing = resolve_first(&hub.client, &channels, None).await.unwrap_err();
    let text = missing.to_string();
    assert!(text.starts_with("zos/production or zos/zos:production:latest.flist does not exist"), "{text}");
    hub.client.upload(&name("zos/zos:v1.0.0.flist"), flist("one")).await.unwrap();
    hub.client.link(&name("zos/zos:production:latest.flist"), "zos:v1.0.0.flist").await.unwrap();
    for expected in ["zos/zos:production:latest.flist", PRODUCTION] {
        let Ok(Resolution::Release(release, _)) = resolve_first(&hub.client, &channels, None).await else {
            panic!("no release");
        };
        assert_eq!(release.channel, channel(expected));
        publish(&hub, "2.0.0").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_never_get_a_mixture_while_a_taglink_and_a_tag_change() {
    let hub = Arc::new(TestHub::start().await);
    for version in ["1.0.0", "2.0.10"] {
        publish(&hub, version).await;
    }
    let entries = |version: &str| {
        let package =
            |package: &str| (format!("{package}.flist"), name(&format!("builds/{package}-{version}.flist")));
        BTreeMap::from(["api", "zos", "zz"].map(package))
    };
    let rolling = TagName::new("zos", "rolling").unwrap();
    hub.client.put_tag(&rolling, &entries("1.0.0"), true).await.unwrap();
    let whole = |release: &Release| {
        release.flists.len() == 3 && release.flists.iter().all(|flist| flist.bytes == release.flists[0].bytes)
    };
    let done = Arc::new(AtomicBool::new(false));
    let reader = |hub: Arc<TestHub>, done: Arc<AtomicBool>, text: &'static str| async move {
        let mut reads = 0;
        while !done.load(Ordering::Relaxed) || reads == 0 {
            match found(&hub, text, None).await {
                Ok(Resolution::Release(release, _)) => {
                    assert!(whole(&release), "{text} was read as a mixture");
                    if text == PRODUCTION {
                        assert_eq!(release.flists[0].bytes, flist(&release.version.to_string()));
                    }
                    reads += 1;
                }
                Err(HubError::Moving { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        reads
    };
    let readers: Vec<_> = [PRODUCTION, "zos/tags/rolling", PRODUCTION]
        .map(|text| tokio::spawn(reader(Arc::clone(&hub), Arc::clone(&done), text)))
        .into();
    for turn in 0..100 {
        let version = ["1.0.0", "2.0.10"][turn % 2];
        point(&hub, version).await;
        hub.client.put_tag(&rolling, &entries(version), true).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn the_next_hub_is_asked_when_one_fails_and_the_first_one_once_it_is_back() {
    let (first, second) = (TestHub::start().await, TestHub::start().await);
    for hub in [&first, &second] {
        publish(hub, "1.0.0").await;
    }
    let urls = [first.url.clone(), second.url.clone()];
    let hubs = Hubs::new(&urls, "molt-test").unwrap().looking_back_every(std::time::Duration::ZERO);
    let channels = [(channel(PRODUCTION), Packages::default())];
    let ask = async || hubs.resolve(&channels, None).await;
    ask().await.unwrap();
    assert_eq!(hubs.working().trim_end_matches('/'), first.url);
    let address = first.address;
    first.stop().await.unwrap();
    ask().await.unwrap();
    assert_eq!(hubs.working().trim_end_matches('/'), second.url);
    // It is there again, but has nothing yet: a hub that answers is preferred, and what it lacks is not.
    let back = TestHub::start_at(address).await;
    ask().await.unwrap();
    assert_eq!(hubs.working().trim_end_matches('/'), second.url);
    publish(&back, "1.0.0").await;
    ask().await.unwrap();
    assert_eq!(hubs.working().trim_end_matches('/'), back.url);
    let remembered = Hubs::new(&urls, "molt-test").unwrap().beginning_with(&format!("{}/", second.url));
    assert_eq!(remembered.working().trim_end_matches('/'), second.url);
    second.stop().await.unwrap();
    back.stop().await.unwrap();
    let none = ask().await.unwrap_err();
    let text = none.to_string();
    assert!(none.is_retryable() && urls.iter().all(|url| text.contains(url.as_str())), "{text}");
}
