//! The rest of the 0-hub's public interface: tags, taglinks, digests, metadata, contents and parts.

use flist::block::seal;
use flist::format::fl;
use flist::hub::{HubError, TagName};
use flist::tree::{Block, Content, Entry, Kind, Meta, Tree};
use reqwest::Client;

use crate::rig::{TestHub, flist};

const META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 1_600_000_000 };

/// One tag in `zos` with entries in two repos, and taglinks to it and to nothing.
async fn hub() -> TestHub {
    let hub = TestHub::start().await;
    hub.write("auto/zos-a-1.0.0.flist", &[b'x'; 3876], 1_704_164_645);
    hub.write("zos/zos:v1.2.3.flist", b"abc", 1000);
    hub.symlink("zos/.tag-1.0.0/zos.flist", "../../auto/zos-a-1.0.0.flist", 5000);
    hub.symlink("zos/.tag-1.0.0/gone.flist", "../../auto/gone.flist", 6000);
    hub.symlink("zos/production", "../zos/.tag-1.0.0", 7000);
    hub.symlink("zos/qa", "../zos/.tag-9.9.9", 7000);
    hub.symlink("zos/plain.flist", "zos:v1.2.3.flist", 7000);
    hub
}

async fn refused(hub: &TestHub, path: &str, status: u16, message: &str) {
    let response = hub.get(path).await;
    assert_eq!(response.status().as_u16(), status, "{path}");
    let body = response.text().await.unwrap();
    assert_eq!(body, format!("{{\"status\": \"error\", \"message\": \"{message}\"}}\n"), "{path}");
}

#[tokio::test]
async fn tags_are_listed_and_served() {
    let hub = hub().await;
    let gone = r#"{"name": "gone.flist", "size": "0.02 KB", "updated": 6000, "linktime": 6000, "type": "symlink", "target": "auto/gone.flist"}"#;
    let zos = r#"{"name": "zos.flist", "size": "3.79 KB", "updated": 1704164645, "linktime": 5000, "type": "symlink", "target": "auto/zos-a-1.0.0.flist"}"#;
    assert_eq!(hub.text("/api/flist/zos/tags/1.0.0").await, format!("[{gone}, {zos}]\n"));
    let download = hub.get("/zos/tags/1.0.0/zos.flist").await;
    assert_eq!(download.headers()["content-length"], "3876");
    assert_eq!(download.headers()["content-disposition"], "inline");
    assert!(download.headers().contains_key("etag"));
    assert_eq!(hub.get("/zos/tags/1.0.0/gone.flist").await.status(), 404);

    let tag = TagName::new("zos", "1.0.0").unwrap();
    assert_eq!(hub.client.tag(&tag).await.unwrap().len(), 2);
    let none = hub.client.tag(&TagName::new("zos", "production").unwrap()).await;
    assert!(matches!(none, Err(HubError::NotFound { .. })), "{none:?}");
}

#[tokio::test]
async fn taglinks_lead_to_tags_also_when_these_are_gone() {
    let hub = hub().await;
    for path in ["/api/flist/zos/production/taglink", "/api/flist/zos/production.flist/taglink"] {
        assert_eq!(hub.text(path).await, "{\"target\": \"zos/tags/1.0.0\"}\n");
    }
    assert_eq!(hub.text("/api/flist/zos/qa/taglink").await, "{\"target\": \"zos/tags/9.9.9\"}\n");
    for path in [
        "/api/flist/zos/plain.flist/taglink",
        "/api/flist/zos/x/taglink",
        "/api/flist/zos/.tag-1.0.0/taglink",
    ] {
        refused(&hub, path, 404, "source not found").await;
    }
    refused(&hub, "/api/flist/nobody/production/taglink", 404, "user not found").await;
    let link = "zos/production".parse().unwrap();
    assert_eq!(hub.client.taglink(&link).await.unwrap(), TagName::new("zos", "1.0.0").unwrap());
}

#[tokio::test]
async fn digests_and_texts() {
    let hub = hub().await;
    for path in ["/zos/zos:v1.2.3.flist.md5", "/zos/plain.flist.md5"] {
        let response = hub.get(path).await;
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
        assert_eq!(response.text().await.unwrap(), "900150983cd24fb0d6963f7d28e17f72\n");
    }
    let text = hub.text("/zos/plain.flist.txt").await;
    for line in ["File:     plain.flist\n", "Uploader: zos\n", "Checksum: 900150983cd24fb0d6963f7d28e17f72\n"]
    {
        assert!(text.contains(line), "{text}");
    }
    for path in
        ["/zos/none.flist.md5", "/zos/none.flist.txt", "/zos/zos:v1.2.3.flist.exe", "/zos/production.md5"]
    {
        assert_eq!(hub.get(path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn what_is_in_a_flist() {
    let hub = hub().await;
    let mut tree = Tree::new(META);
    let sealed = seal(b"hello").unwrap();
    let content = Content { size: 5, blocks: vec![Block { id: sealed.id, key: sealed.key }] };
    for (path, kind) in [
        ("bin", Kind::Directory),
        ("bin/hello", Kind::File(content)),
        ("bin/link", Kind::Symlink(b"hello".to_vec())),
        ("pipe", Kind::Fifo),
    ] {
        tree.insert(path.parse().unwrap(), Entry { meta: META, kind }).unwrap();
    }
    tree.tags.insert("version".to_owned(), "1.0.0".to_owned());
    hub.write("zos/full.flist", &fl::to_bytes(&tree).unwrap(), 1000);
    let content = r#"{"content": [{"size": 0, "path": "/bin"}, {"size": 5, "path": "/bin/hello"}, {"size": 5, "path": "/bin/link"}, {"size": 0, "path": "/pipe"}], "regular": 1, "symlink": 1, "directory": 1, "special": 1, "failure": 0, "fullsize": 5}"#;
    for path in ["/api/flist/zos/full.flist", "/api/flist/zos/full"] {
        let response = hub.get(path).await;
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.text().await.unwrap(), format!("{content}\n"));
    }
    assert_eq!(hub.text("/api/flist/zos/full/metadata").await, "{\"version\": \"1.0.0\"}\n");
    hub.write("zos/bare.flist", &fl::to_bytes(&Tree::new(META)).unwrap(), 1000);
    assert_eq!(hub.text("/api/flist/zos/bare/metadata").await, "{}\n");
    for path in ["/api/flist/zos/none", "/api/flist/zos/none/metadata", "/api/flist/zos/production"] {
        refused(&hub, path, 404, "source not found").await;
    }
    refused(&hub, "/api/flist/nobody/zos", 404, "user not found").await;
    let broken = hub.get("/api/flist/zos/zos:v1.2.3").await;
    assert_eq!(broken.status(), 422);
    assert!(broken.text().await.unwrap().contains("cannot read flist zos/zos:v1.2.3.flist"));
    let put = hub.put("/api/flist/zos/full", "").await;
    assert_eq!((put.status().as_u16(), put.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD, INFO"));
}

#[tokio::test]
async fn parts_of_a_flist() {
    let hub = hub().await;
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    hub.write("zos/long.flist", &content, 1000);
    let get = async |headers: &[(&str, &str)]| {
        let mut request = Client::new().get(format!("{}/zos/long.flist", hub.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    };
    let whole = get(&[]).await;
    assert!(!whole.headers().contains_key("accept-ranges"), "announced with parts only, as by the 0-hub");
    let etag = whole.headers()["etag"].to_str().unwrap().to_owned();
    for (range, first, last) in
        [("bytes=10-19", 10, 19), ("bytes=99990-", 99_990, 99_999), ("bytes=-5", 99_995, 99_999)]
    {
        for condition in [None, Some(("If-Range", etag.as_str()))] {
            let part =
                get(&[Some(("Range", range)), condition].into_iter().flatten().collect::<Vec<_>>()).await;
            assert_eq!(part.status(), 206);
            assert_eq!(part.headers()["content-range"], format!("bytes {first}-{last}/100000"));
            assert_eq!(part.headers()["accept-ranges"], "bytes");
            assert_eq!(part.headers()["etag"], etag);
            assert_eq!(part.headers()["content-length"], (last - first + 1).to_string());
            assert_eq!(part.bytes().await.unwrap(), content[first..=last]);
        }
    }
    let beyond = get(&[("Range", "bytes=100000-")]).await;
    assert_eq!(
        (beyond.status().as_u16(), &beyond.headers()["content-range"]),
        (416, &"bytes */100000".parse().unwrap())
    );
    let changed = get(&[("Range", "bytes=10-19"), ("If-Range", "\"other\"")]).await;
    assert_eq!((changed.status().as_u16(), changed.bytes().await.unwrap().len()), (200, 100_000));
    let known = get(&[("Range", "bytes=10-19"), ("If-None-Match", &etag)]).await;
    assert_eq!(known.status(), 304);
}

#[tokio::test]
async fn links_into_other_repos_are_made_and_described() {
    let hub = TestHub::start().await;
    let (flist_name, link) =
        ("auto/zos-a-1.0.0.flist".parse().unwrap(), "zos/zos:qa:latest.flist".parse().unwrap());
    hub.client.upload(&flist_name, flist("one")).await.unwrap();
    hub.client.link_to(&link, &flist_name).await.unwrap();
    let stored = std::fs::read_link(hub.users().join("zos/zos:qa:latest.flist")).unwrap();
    assert_eq!(stored.to_str(), Some("../auto/zos-a-1.0.0.flist"), "as the 0-hub stores it");
    let light = hub.client.light(&link).await.unwrap().light;
    assert_eq!(light.target.as_deref(), Some("../auto/zos-a-1.0.0.flist"));
    assert!(hub.text("/api/flist/zos").await.contains("\"target\": \"auto/zos-a-1.0.0.flist\""));
}
