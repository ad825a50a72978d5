//! From a channel to its release, while the hub changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flist::hub::{
    Channel, FlistName, HubError, Packages, Release, ReleaseId, Resolution, Seen, Sha256, resolve,
};

use crate::rig::{TestHub, flist, name};

async fn publish(hub: &TestHub, version: &str, text: &str) {
    let flist_name = name(&format!("zos/zos:v{version}.flist"));
    hub.client.upload(&flist_name, flist(text)).await.unwrap();
    hub.client.link(&channel(), flist_name.file()).await.unwrap();
}

fn channel() -> FlistName {
    FlistName::channel_link("zos", "zos", "production").unwrap()
}

async fn release(hub: &TestHub, name: &FlistName, known: Option<&Seen>) -> (Release, Seen) {
    let channel = Channel::from(name.clone());
    match resolve(&hub.client, &channel, &Packages::default(), known).await.unwrap() {
        Resolution::Release(release, seen) => (*release, seen),
        Resolution::Unchanged(_) => panic!("{channel} has not changed"),
    }
}

async fn unchanged(hub: &TestHub, name: &FlistName, known: &Seen) -> Seen {
    let channel = Channel::from(name.clone());
    match resolve(&hub.client, &channel, &Packages::default(), Some(known)).await.unwrap() {
        Resolution::Unchanged(seen) => seen,
        Resolution::Release(release, _) => panic!("{channel} changed to {}", release.version),
    }
}

#[tokio::test]
async fn a_link_leads_to_a_release_and_its_next_one() {
    let hub = TestHub::start().await;
    publish(&hub, "1.0.0", "one").await;
    let (first, seen) = release(&hub, &channel(), None).await;
    let sha256 = Sha256::of(&flist("one"));
    assert_eq!((first.channel.clone(), first.version.to_string()), (channel().into(), "1.0.0".into()));
    assert_eq!(first.id, ReleaseId::of([("zos", sha256)]));
    let [only] = &first.flists[..] else { panic!("{:?}", first.flists) };
    assert_eq!((only.package.as_str(), only.location.to_string()), ("zos", "zos/zos:v1.0.0.flist".into()));
    assert_eq!((only.sha256, &only.bytes), (sha256, &flist("one")));
    assert_eq!(first.info["version"], "1.0.0");
    assert_eq!(first.info["release"], first.id.to_string());
    assert_eq!(first.info["name"], channel().file());
    assert_eq!(first.info["size"], flist("one").len());
    assert_eq!(unchanged(&hub, &channel(), &seen).await, seen);

    publish(&hub, "1.1.0", "two").await;
    let (second, seen) = release(&hub, &channel(), Some(&seen)).await;
    assert_eq!(second.version.to_string(), "1.1.0");
    assert_ne!(second.id, first.id);

    // The same content under another version is another release of the same identity.
    publish(&hub, "1.2.0", "two").await;
    let (third, seen) = release(&hub, &channel(), Some(&seen)).await;
    assert_eq!((third.version.to_string(), third.id), ("1.2.0".into(), second.id));

    // The same version with other content is a change.
    hub.client.replace(&name("zos/zos:v1.2.0.flist"), flist("owt")).await.unwrap();
    let (fourth, seen) = release(&hub, &channel(), Some(&seen)).await;
    assert_eq!(fourth.version, third.version);
    assert_ne!(fourth.id, third.id);
    unchanged(&hub, &channel(), &seen).await;
}

#[tokio::test]
async fn a_plain_flist_follows_its_own_content() {
    let hub = TestHub::start().await;
    let plain = name("zos/nightly.flist");
    hub.write("zos/nightly.flist", &flist("one"), 1000);
    let (first, seen) = release(&hub, &plain, None).await;
    assert_eq!((first.version.to_string(), &first.flists[0].location), ("nightly".into(), &plain));
    unchanged(&hub, &plain, &seen).await;
    hub.write("zos/nightly.flist", &flist("two"), 1000);
    let (second, seen) = release(&hub, &plain, Some(&seen)).await;
    assert_ne!(second.id, first.id);

    // A new date without new content is no release, and is remembered.
    hub.write("zos/nightly.flist", &flist("two"), 5000);
    let later = unchanged(&hub, &plain, &seen).await;
    let updated = |seen: &Seen| seen.flists[0].described.as_ref().unwrap().updated;
    assert_eq!((updated(&later), updated(&seen)), (5000, 1000));
    assert_eq!(unchanged(&hub, &plain, &later).await, later);
}

#[tokio::test]
async fn a_link_into_another_repo_is_followed() {
    let hub = TestHub::start().await;
    hub.write("auto/zos-a-1.0.0.flist", &flist("one"), 1000);
    hub.symlink("zos/zos:qa:latest.flist", "../auto/zos-a-1.0.0.flist", 2000);
    let (found, _) = release(&hub, &name("zos/zos:qa:latest.flist"), None).await;
    assert_eq!(found.version.to_string(), "1.0.0");
    assert_eq!(found.flists[0].package, "zos");
    assert_eq!(found.flists[0].location, name("auto/zos-a-1.0.0.flist"));
}

#[tokio::test]
async fn a_channel_that_leads_nowhere_says_so() {
    let hub = TestHub::start().await;
    let resolve = async |name: FlistName| {
        resolve(&hub.client, &name.into(), &Packages::default(), None).await.unwrap_err()
    };
    let missing = resolve(channel()).await;
    assert!(matches!(missing, HubError::NotFound { .. }), "{missing:?}");
    hub.symlink("zos/zos:production:latest.flist", "zos:v9.0.0.flist", 1000);
    let dangling = resolve(channel()).await;
    assert!(matches!(dangling, HubError::Dangling { .. }) && !dangling.is_retryable(), "{dangling:?}");
    let text = dangling.to_string();
    assert!(text.contains("zos/zos:production:latest.flist points to zos/zos:v9.0.0.flist, which"), "{text}");
    hub.symlink("zos/hostile.flist", "../../../../etc/passwd", 1000);
    let hostile = resolve(name("zos/hostile.flist")).await;
    assert!(matches!(hostile, HubError::BadTarget { .. }), "{hostile:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_never_notice_that_a_link_moves() {
    let hub = Arc::new(TestHub::start().await);
    publish(&hub, "1.0.0", "1.0.0").await;
    publish(&hub, "2.0.10", "2.0.10").await;
    hub.symlink("other/cross.flist", "../zos/zos:production:latest.flist", 1000);
    let done = Arc::new(AtomicBool::new(false));
    let reader = |hub: Arc<TestHub>, done: Arc<AtomicBool>| async move {
        let mut reads = 0;
        while !done.load(Ordering::Relaxed) || reads == 0 {
            let (found, _) = release(&hub, &channel(), None).await;
            let text = found.version.to_string();
            assert_eq!(found.flists[0].bytes, flist(&text), "name and content are of two releases");
            assert_eq!(found.info["target"], format!("zos:v{text}.flist"));
            assert_eq!(found.info["size"], flist(&text).len(), "the description is of two releases");
            assert_eq!(hub.get("/other/cross.flist").await.status(), 200);
            reads += 1;
        }
        reads
    };
    let readers: Vec<_> = (0..3).map(|_| tokio::spawn(reader(Arc::clone(&hub), Arc::clone(&done)))).collect();
    for turn in 0..200 {
        let version = ["1.0.0", "2.0.10"][turn % 2];
        hub.client.link(&channel(), &format!("zos:v{version}.flist")).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}
