//! Uploads and links.

use std::fs;

use flist::hub::{Download, HubError};
use reqwest::Client;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::rig::{TestHub, classic_flist, eventually, flist, name};

async fn content(hub: &TestHub, flist: &str) -> Vec<u8> {
    match hub.client.download(&name(flist), None, 100_000).await.unwrap() {
        Download::Content { bytes, .. } => bytes,
        Download::NotModified => panic!("nothing was known"),
    }
}

fn conflict(result: Result<(), HubError>) -> String {
    match result {
        Err(error @ HubError::Status { status: 409, .. }) => error.to_string(),
        other => panic!("no conflict: {other:?}"),
    }
}

#[tokio::test]
async fn a_flist_is_published_before_its_link() {
    let hub = TestHub::start().await;
    let (v1, v2) = (name("zos/zos:v1.0.0.flist"), name("zos/zos:v2.0.0.flist"));
    let link = name("zos/zos:testing:latest.flist");
    let early = match hub.client.link(&link, v1.file()).await {
        Err(error @ HubError::Status { status: 404, .. }) => error.to_string(),
        other => panic!("it leads nowhere: {other:?}"),
    };
    assert!(early.contains("zos/zos:v1.0.0.flist is not a flist of this hub; publish it first"), "{early}");
    assert!(!hub.users().join("zos").exists(), "a refused link made a repo");
    hub.client.upload(&v1, flist("one")).await.unwrap();
    hub.client.link(&link, v1.file()).await.unwrap();
    assert_eq!(content(&hub, "zos/zos:testing:latest.flist").await, flist("one"));
    hub.client.upload(&v2, flist("two")).await.unwrap();
    assert_eq!(content(&hub, "zos/zos:testing:latest.flist").await, flist("one"));
    hub.client.link(&link, v2.file()).await.unwrap();
    hub.client.link(&link, v2.file()).await.unwrap();
    assert_eq!(content(&hub, "zos/zos:testing:latest.flist").await, flist("two"));
    let stored = fs::read_link(hub.users().join("zos/zos:testing:latest.flist")).unwrap();
    assert_eq!(stored.to_str(), Some("zos:v2.0.0.flist"), "as the 0-hub stores it");
    let names: Vec<String> =
        hub.client.list("zos").await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [link.file(), v1.file(), v2.file()]);
    let mode =
        std::os::unix::fs::MetadataExt::mode(&fs::metadata(hub.users().join("zos").join(v1.file())).unwrap());
    assert_eq!(mode & 0o777, 0o644, "other servers can read it");
}

#[tokio::test]
async fn a_version_keeps_its_content_unless_it_is_replaced_on_purpose() {
    let hub = TestHub::start().await;
    let version = name("zos/zos:v1.0.0.flist");
    hub.client.upload(&version, flist("one")).await.unwrap();
    hub.client.upload(&version, flist("one")).await.unwrap();
    let refused = conflict(hub.client.upload(&version, flist("other")).await);
    assert!(refused.contains("exists with other"), "{refused}");
    assert_eq!(content(&hub, "zos/zos:v1.0.0.flist").await, flist("one"));
    hub.client.replace(&version, flist("other")).await.unwrap();
    assert_eq!(content(&hub, "zos/zos:v1.0.0.flist").await, flist("other"));
    // A name without a version is there to be overwritten.
    for text in ["one", "two"] {
        hub.client.upload(&name("zos/nightly.flist"), flist(text)).await.unwrap();
        assert_eq!(content(&hub, "zos/nightly.flist").await, flist(text));
    }
}

#[tokio::test]
async fn files_and_links_do_not_take_each_others_names() {
    let hub = TestHub::start().await;
    let (file, link) = (name("zos/nightly.flist"), name("zos/latest.flist"));
    hub.client.upload(&file, flist("one")).await.unwrap();
    hub.client.link(&link, file.file()).await.unwrap();
    conflict(hub.client.upload(&link, flist("two")).await);
    conflict(hub.client.replace(&link, flist("two")).await);
    conflict(hub.client.link(&file, link.file()).await);
    conflict(hub.client.link(&name("zos/other.flist"), link.file()).await);
    conflict(hub.client.link(&name("zos/zos:v1.0.0.flist"), file.file()).await);
    conflict(hub.client.link(&link, link.file()).await);
    assert_eq!(content(&hub, "zos/latest.flist").await, flist("one"));
}

#[tokio::test]
async fn what_is_no_flist_or_no_name_is_refused() {
    let hub = TestHub::start().await;
    hub.client.upload(&name("a/classic.flist"), classic_flist()).await.unwrap();
    assert_eq!(hub.put("/api/molt/flist/a/x.flist", vec![0x1f, 0x8b, 8, 0]).await.status(), 422);
    for (path, body) in [
        ("/api/molt/flist/a/x.flist", "<html>"),
        ("/api/molt/flist/a/x.flist", ""),
        ("/api/molt/flist/a/x.flist?replace=yes", "SQLite format 3\0"),
        ("/api/molt/flist/a/x.txt", "SQLite format 3\0"),
        ("/api/molt/flist/..%2Fa/x.flist", "SQLite format 3\0"),
        ("/api/molt/flist/a/..%2F..%2Fx.flist", "SQLite format 3\0"),
        ("/api/molt/flist/.tag-1/x.flist", "SQLite format 3\0"),
        ("/api/molt/flist/store/x.flist", "SQLite format 3\0"),
        ("/api/molt/flist/api/x.flist", "SQLite format 3\0"),
        ("/api/molt/link/a/x.flist", "{\"target\": \"../../etc/passwd\"}"),
        ("/api/molt/link/a/x.flist", "{\"target\": \"../.tag-1/x.flist\"}"),
        ("/api/molt/link/a/x.flist", "{\"target\": \"classic.flist\", \"other\": 1}"),
        ("/api/molt/link/a/x.flist", "classic.flist"),
    ] {
        let response = hub.put(path, body).await;
        assert_eq!(response.status(), 400, "{path} {body}");
        let text = response.text().await.unwrap();
        assert!(text.starts_with("{\"status\": \"error\", \"message\": \""), "{text}");
    }
    let long = format!("{{\"target\": \"{}\"}}", "x".repeat(5000));
    assert_eq!(hub.put("/api/molt/link/a/x.flist", long).await.status(), 413);
    let names: Vec<String> =
        hub.client.list("a").await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["classic.flist"]);
    assert_eq!(fs::read_dir(hub.users()).unwrap().count(), 1, "only the repo 'a' is there");
}

#[tokio::test]
async fn uploads_that_are_too_long_or_break_off_leave_nothing() {
    let hub = TestHub::start().await;
    let head = |length: u64| {
        format!(
            "PUT /api/molt/flist/a/x.flist HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let answer = hub.raw(&head(256 * 1024 * 1024 + 1)).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    let uploads = || fs::read_dir(hub.users()).unwrap().count();
    let mut half = TcpStream::connect(hub.address).await.unwrap();
    half.write_all(format!("{}SQLite format 3\0", head(1000)).as_bytes()).await.unwrap();
    eventually("the upload starts", || uploads() == 1).await;
    drop(half);
    eventually("the temporary file is gone", || uploads() == 0).await;
    assert!(matches!(hub.client.light(&name("a/x.flist")).await, Err(HubError::NotFound { .. })));
}

#[tokio::test]
async fn changes_for_somebody_else_are_refused() {
    let hub = TestHub::start().await;
    for header in ["Origin", "X-Forwarded-For", "Forwarded", "X-Real-IP"] {
        for path in ["/api/molt/flist/a/x.flist", "/api/molt/link/a/y.flist", "/store/00/00"] {
            let request =
                Client::new().put(format!("{}{path}", hub.url)).header(header, "http://example.com");
            let response = request.body(flist("x")).send().await.unwrap();
            assert_eq!(response.status(), 403, "{header} {path}");
            assert!(response.text().await.unwrap().contains("only from programs on its own machine"));
        }
    }
    let delete = Client::new().delete(format!("{}/a/x.flist", hub.url)).send().await.unwrap();
    assert_eq!(delete.status(), 405);
}
