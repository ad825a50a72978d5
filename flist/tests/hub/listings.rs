//! What the hub has, to the byte as the 0-hub says it.

use crate::rig::{TestHub, date, name};
use flist::hub::{HubError, Kind};

/// A repo with everything there is in one.
async fn hub() -> TestHub {
    let hub = TestHub::start().await;
    hub.write("auto/zos-a-1.0.0.flist", &[b'x'; 3876], 1_704_164_645);
    hub.write("zos/zos:v1.2.3.flist", b"abc", 1000);
    hub.write("zos/readme.txt", b"", 1000);
    hub.write("zos/.upload-half", b"", 1000);
    hub.symlink("zos/zos:development:latest.flist", "zos:v1.2.3.flist", 2000);
    hub.symlink("zos/cross.flist", "../auto/zos-a-1.0.0.flist", 3000);
    hub.symlink("zos/dangling.flist", "gone.flist", 4000);
    hub.symlink("zos/.tag-1.0.0/zos.flist", "../../auto/zos-a-1.0.0.flist", 5000);
    hub.symlink("zos/production", "../zos/.tag-1.0.0", 6000);
    for (directory, seconds) in [("auto", 10), ("zos/.tag-1.0.0", 7000), ("zos", 20)] {
        date(&hub.users().join(directory), seconds);
    }
    hub.write(".keep", b"", 0);
    hub
}

#[tokio::test]
async fn listings_are_the_0_hubs() {
    let hub = hub().await;
    let repositories = r#"[{"name": "auto", "official": false, "updated": 10}, {"name": "zos", "official": false, "updated": 20}]"#;
    assert_eq!(hub.text("/api/repositories").await, format!("{repositories}\n"));
    let all = r#"["auto/zos-a-1.0.0.flist", "zos/.tag-1.0.0", "zos/cross.flist", "zos/dangling.flist", "zos/production", "zos/readme.txt", "zos/zos:development:latest.flist", "zos/zos:v1.2.3.flist"]"#;
    assert_eq!(hub.text("/api/flist").await, format!("{all}\n"));
    let zos = hub.text("/api/flist/zos").await;
    for entry in [
        r#"[{"name": "1.0.0", "size": "0 KB", "updated": 7000, "type": "tag"}, "#,
        r#"{"name": "cross.flist", "size": "3.79 KB", "updated": 1704164645, "linktime": 3000, "type": "symlink", "target": "auto/zos-a-1.0.0.flist"}, "#,
        r#"{"name": "dangling.flist", "size": "0.01 KB", "updated": 4000, "linktime": 4000, "type": "symlink", "target": "gone.flist"}, "#,
        r#""linktime": 6000, "type": "taglink", "target": "zos/tags/1.0.0"}, "#,
        r#"{"name": "readme.txt", "size": "0.00 KB", "updated": 1000, "type": "regular"}, "#,
        r#"{"name": "zos:development:latest.flist", "size": "0.00 KB", "updated": 1000, "linktime": 2000, "type": "symlink", "target": "zos:v1.2.3.flist"}, "#,
    ] {
        assert!(zos.contains(entry), "{entry} is missing in: {zos}");
    }
    let kinds: Vec<Kind> = hub.client.list("zos").await.unwrap().iter().map(|entry| entry.kind).collect();
    let (file, link) = (Kind::Regular, Kind::Symlink);
    assert_eq!(kinds, [Kind::Tag, link, link, Kind::Taglink, file, link, file]);
}

#[tokio::test]
async fn lights_are_the_0_hubs() {
    let hub = hub().await;
    let abc = "900150983cd24fb0d6963f7d28e17f72";
    let plain = format!(
        "{{\"name\": \"zos:v1.2.3.flist\", \"size\": 3, \"updated\": 1000, \"type\": \"regular\", \"md5\": \"{abc}\"}}\n"
    );
    assert_eq!(hub.text("/api/flist/zos/zos:v1.2.3.flist/light").await, plain);
    assert_eq!(hub.text("/api/flist/zos/zos:v1.2.3/light").await, plain);
    let link = format!(
        "{{\"name\": \"zos:development:latest.flist\", \"size\": 3, \"updated\": 1000, \"type\": \"symlink\", \"md5\": \"{abc}\", \"linktime\": 2000, \"target\": \"zos:v1.2.3.flist\"}}\n"
    );
    assert_eq!(hub.text("/api/flist/zos/zos:development:latest.flist/light").await, link);
    let cross = hub.text("/api/flist/zos/cross/light").await;
    assert!(cross.ends_with("\"linktime\": 3000, \"target\": \"../auto/zos-a-1.0.0.flist\"}\n"), "{cross}");
    assert!(cross.contains("\"size\": 3876, \"updated\": 1704164645, "), "{cross}");
    let dangling = hub.text("/api/flist/zos/dangling/light").await;
    assert!(dangling.contains("\"type\": \"symlink\", \"md5\": null, \"linktime\": 4000"), "{dangling}");

    let info = reqwest::Method::from_bytes(b"INFO").unwrap();
    let url = format!("{}/api/flist/zos/zos:v1.2.3.flist", hub.url);
    let answer = reqwest::Client::new().request(info, url).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, plain));

    let answer = hub.client.light(&name("zos/cross.flist")).await.unwrap();
    assert_eq!((answer.light.kind, answer.light.size), (Kind::Symlink, 3876));
    assert_eq!(answer.raw["target"], "../auto/zos-a-1.0.0.flist");
}

#[tokio::test]
async fn what_is_missing_is_refused_as_by_the_0_hub() {
    let hub = hub().await;
    for (path, body) in [
        ("/api/flist/zos/nothing/light", r#"{"status": "error", "message": "source not found"}"#),
        ("/api/flist/zos/production/light", r#"{"status": "error", "message": "source not found"}"#),
        ("/api/flist/nobody/zos/light", r#"{"status": "error", "message": "user not found"}"#),
        ("/api/flist/..%2Fusers/zos/light", r#"{"status": "error", "message": "user not found"}"#),
        ("/api/flist/zos/..%2F..%2Fx/light", r#"{"status": "error", "message": "source not found"}"#),
    ] {
        let response = hub.get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        assert_eq!(response.text().await.unwrap(), format!("{body}\n"), "{path}");
    }
    for path in [
        "/api/flist/nobody",
        "/nobody",
        "/nobody/x.flist",
        "/zos/readme.txt",
        "/zos/production/zos.flist",
        "/zos/tags/production/zos.flist",
        "/zos/.tag-1.0.0/zos.flist",
        "/zos/tags/1.0.0/zos.flist.md5",
        "/zos/zos:v1.2.3.flist.json",
        "/api/flist/zos/tags/2.0.0",
        "/api/flist/zos/tags/production",
        "/api/flist/zos/tags/1.0.0/zos.flist/light",
    ] {
        let response = hub.get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
    }
    assert!(matches!(hub.client.list("nobody").await, Err(HubError::NotFound { .. })));
    assert!(matches!(hub.client.light(&name("zos/no.flist")).await, Err(HubError::NotFound { .. })));
    assert!(matches!(hub.client.light(&name("no/no.flist")).await, Err(HubError::NotFound { .. })));
}

#[tokio::test]
async fn every_answer_may_be_read_by_any_page() {
    let hub = hub().await;
    for path in ["/api/flist", "/api/flist/zos/no/light", "/zos/zos:v1.2.3.flist", "/no/no.flist", "/store/x"]
    {
        assert_eq!(hub.get(path).await.headers()["access-control-allow-origin"], "*", "{path}");
    }
    assert_eq!(hub.get("/api/flist").await.headers()["content-type"], "application/json");
}
