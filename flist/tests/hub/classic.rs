//! Classic flists on a hub: described, dumped, complete or not, and collected.

use std::process::Command;
use std::time::{Duration, SystemTime};

use flist::format::{self, Format};
use flist::publish::{Publication, publish};
use flist::server::collect;
use flist::store::{HttpStore, Store};
use flist::tree::Limits;
use flist::verify::verify;

use crate::rig::{TestHub, classic_flist, name};

#[tokio::test]
async fn what_the_public_hub_tells_of_one() {
    let hub = TestHub::start().await;
    hub.client.upload(&name("a/golden.flist"), classic_flist()).await.unwrap();
    let metadata: serde_json::Value =
        hub.get("/api/flist/a/golden.flist/metadata").await.json().await.unwrap();
    assert_eq!(metadata["hello"], "world");
    assert_eq!(metadata["entrypoint"], "[\"/bin/app\", \"--flag\"]");
    let full: serde_json::Value = hub.get("/api/flist/a/golden.flist").await.json().await.unwrap();
    let counts = ["regular", "symlink", "directory", "special", "failure", "fullsize"].map(|key| &full[key]);
    assert_eq!(counts, [19, 4, 12, 0, 0, 7_843_120].map(serde_json::Value::from).each_ref());
    let suid = full["content"].as_array().unwrap().iter().find(|entry| entry["path"] == "/bin/suid").unwrap();
    assert_eq!(suid["size"], 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_blocks_are_asked_for_counted_and_collected_as_others_are() {
    let hub = TestHub::start().await;
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), "some content").unwrap();
    let publication = Publication {
        hub: hub.url.clone(),
        repo: "a".to_owned(),
        version: "1.0.0".parse().unwrap(),
        run_mode: None,
        route: None,
        format: Format::Classic,
        replace: false,
        token: None,
        access: flist::hub::Access::default(),
    };
    let at = source.path().to_owned();
    let published = tokio::task::spawn_blocking(move || publish(&publication, "app", &at, &()).unwrap());
    let published = published.await.unwrap();
    let bytes = std::fs::read(hub.users().join("a").join(published.flist.file())).unwrap();
    assert_eq!(Format::of(&bytes), Some(Format::Classic));
    let tree = format::parse(&bytes, &Limits::default()).unwrap();
    let id = tree.files().next().unwrap().2.blocks[0].id;
    let store = format!("{}/store", hub.url);
    let verified = tokio::task::spawn_blocking(move || {
        let store = HttpStore::new(&store).unwrap();
        assert!(store.has(&id).unwrap());
        verify(&tree, &store)
    });
    assert!(verified.await.unwrap().bad.is_empty());

    // A block with another id than its bytes have is refused, as is a flist whose blocks are not here.
    let short = id.to_string();
    assert_eq!(hub.put(&format!("/store/{}/{short}", &short[..2]), "other bytes").await.status(), 400);
    let block = hub.root().join("store").join(&short[..2]).join(&short);
    let kept = std::fs::read(&block).unwrap();
    std::fs::remove_file(&block).unwrap();
    assert_eq!(hub.put("/api/molt/flist/a/again.flist", bytes.clone()).await.status(), 422);
    assert_eq!(hub.put(&format!("/store/{}/{short}", &short[..2]), kept).await.status(), 201);

    // A hub is collected while it is stopped: here, a copy of it.
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-a").arg(hub.root().join(".")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let collected = || {
        let later = SystemTime::now() + Duration::from_secs(9);
        let collected = collect(copy.path(), Duration::ZERO, later, false).unwrap();
        (collected.needed, collected.removed)
    };
    assert_eq!(collected(), (1, 0));
    std::fs::remove_file(copy.path().join("public/users/a").join(published.flist.file())).unwrap();
    assert_eq!(collected(), (0, 1));
}
