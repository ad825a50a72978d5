//! Downloads, conditions, hostile paths, and the limits on connections.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use flist::hub::{Download, HubError, Sha256, Validators};
use reqwest::Client;

use crate::rig::{TestHub, name};

const DATE: &str = "Thu, 01 Jan 1970 00:16:40 GMT";

#[tokio::test]
async fn a_download_has_the_headers_of_the_0_hub_and_a_tag() {
    let hub = TestHub::start().await;
    let content: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    hub.write("a/x.flist", &content, 1000);
    hub.symlink("b/link.flist", "../a/x.flist", 2000);
    for path in ["/a/x.flist", "/b/link.flist"] {
        let head = Client::new().head(format!("{}{path}", hub.url)).send().await.unwrap();
        let get = hub.get(path).await;
        for response in [&head, &get] {
            assert_eq!(response.status(), 200);
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("content-length"), "1000000");
            assert_eq!(header("content-type"), "application/octet-stream");
            assert_eq!(header("content-disposition"), "inline");
            assert_eq!(header("cache-control"), "no-cache");
            assert_eq!(header("last-modified"), DATE);
            assert_eq!(header("etag"), format!("\"{}\"", Sha256::of(&content)));
        }
        assert!(head.bytes().await.unwrap().is_empty());
        assert!(get.bytes().await.unwrap() == content);
    }
}

#[tokio::test]
async fn a_known_content_is_not_sent_again() {
    let hub = TestHub::start().await;
    hub.write("a/x.flist", b"first", 1000);
    let flist = name("a/x.flist");
    let Download::Content { bytes, validators } = hub.client.download(&flist, None, 5).await.unwrap() else {
        panic!("nothing was known");
    };
    assert_eq!(bytes, b"first");
    assert_eq!(validators.last_modified.as_deref(), Some(DATE));
    let again = hub.client.download(&flist, Some(&validators), 5).await.unwrap();
    assert_eq!(again, Download::NotModified);
    let date_only = Validators { etag: None, ..validators.clone() };
    assert_eq!(hub.client.download(&flist, Some(&date_only), 5).await.unwrap(), Download::NotModified);

    // Same length, same second, other content: the tag tells, the date cannot.
    hub.write("a/next.flist", b"other", 1000);
    std::fs::rename(hub.users().join("a/next.flist"), hub.users().join("a/x.flist")).unwrap();
    let changed = hub.client.download(&flist, Some(&validators), 5).await.unwrap();
    assert!(matches!(changed, Download::Content { bytes, .. } if bytes == b"other"));

    let too_long = hub.client.download(&flist, None, 4).await.unwrap_err();
    assert!(matches!(too_long, HubError::TooLong { limit: 4, .. }), "{too_long:?}");
    let missing = hub.client.download(&name("a/y.flist"), None, 5).await.unwrap_err();
    assert!(matches!(missing, HubError::NotFound { .. }), "{missing:?}");
}

#[tokio::test]
async fn an_empty_flist_is_served() {
    let hub = TestHub::start().await;
    hub.write("a/x.flist", b"", 1000);
    let empty = hub.client.download(&name("a/x.flist"), None, 5).await.unwrap();
    assert!(matches!(empty, Download::Content { bytes, .. } if bytes.is_empty()));
}

#[tokio::test]
async fn no_path_and_no_link_leaves_the_hub() {
    let hub = TestHub::start().await;
    std::fs::write(hub.root().join("secret.flist"), "SECRET").unwrap();
    hub.write("a/x.flist", b"x", 1000);
    hub.symlink("a/out.flist", "../../../secret.flist", 0);
    hub.symlink("a/absolute.flist", hub.root().join("secret.flist").to_str().unwrap(), 0);
    hub.symlink("a/magic.flist", "/proc/self/root/etc/passwd", 0);
    hub.symlink("a/circle.flist", "circle.flist", 0);
    hub.symlink("escape", "../..", 0);
    for path in [
        "/../../secret.flist",
        "/a/../../../secret.flist",
        "/a/..%2F..%2F..%2Fsecret.flist",
        "/a/%2e%2e/%2e%2e/%2e%2e/secret.flist",
        "/..%2F../secret.flist",
        "/%2e%2e%2f%2e%2e/secret.flist",
        "/%2Fetc/passwd",
        "/a/x.flist%00.flist",
        "/a%00/x.flist",
        "/a/%ff.flist",
        "/a/out.flist",
        "/a/absolute.flist",
        "/a/magic.flist",
        "/a/circle.flist",
        "/escape/secret.flist",
        "/api/flist/escape",
        "/api/flist/escape/secret.flist/light",
        "/api/flist/..%2F..",
        "/store/..%2F../secret.flist",
        "/store/..%2Fsecret.flist",
        "/store/..%2Fpublic/users",
    ] {
        let answer = hub.raw(&format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
        assert!(!answer.contains("SECRET") && !answer.contains("root:"), "{path}: {answer}");
    }
    let light = hub.client.light(&name("a/out.flist")).await.unwrap().light;
    assert_eq!(light.md5, None, "a link out of the hub is a dangling one");
}

#[tokio::test]
async fn silent_connections_make_room_for_others() {
    let hub = TestHub::start_with(|config| {
        config.max_connections = 1;
        config.stall = Duration::from_millis(300);
    })
    .await;
    let mut silent = TcpStream::connect(hub.address).unwrap();
    silent.set_nonblocking(true).unwrap();
    let answer = hub.raw("GET /api/flist HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Only one connection is served at a time, so the silent one, which came first, is closed by now.
    assert_eq!(silent.read(&mut [0]).expect("the silent connection is still open"), 0);
}

#[tokio::test]
async fn a_hub_that_shuts_down_finishes_what_it_sends() {
    let hub = TestHub::start().await;
    hub.write("a/x.flist", &vec![b'x'; 20_000_000], 1000);
    let mut response = hub.get("/a/x.flist").await;
    let first = response.chunk().await.unwrap().unwrap().len();
    let (client, url) = (hub.client.clone(), hub.url.clone());
    let stopping = tokio::spawn(hub.stop());
    let mut length = first;
    while let Some(chunk) = response.chunk().await.unwrap() {
        length += chunk.len();
    }
    assert_eq!(length, 20_000_000);
    drop(response);
    stopping.await.unwrap().unwrap();
    assert!(client.ping().await.is_err(), "{url} still answers");
}
