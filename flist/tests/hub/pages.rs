//! What a person with a browser sees.

use reqwest::Url;

use crate::rig::{TestHub, flist, flist_with_block, name};

async fn page(hub: &TestHub, path: &str) -> String {
    let response = hub.get(path).await;
    assert_eq!(response.status(), 200, "{path}");
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let html = response.text().await.unwrap();
    assert!(!html.contains("<script"), "{html}");
    html
}

/// Where the links of a page lead to, seen from `base`.
fn links(html: &str, base: &str) -> Vec<Url> {
    let base = Url::parse(base).unwrap();
    html.split("href=\"").skip(1).map(|rest| base.join(rest.split('"').next().unwrap()).unwrap()).collect()
}

async fn hub() -> TestHub {
    let hub = TestHub::start().await;
    let release = name("zos/zos:v1.0.0.flist");
    let (bytes, _) = flist_with_block(b"content", "http://me:secret@127.0.0.1:1/store?key=secret");
    hub.client.upload(&release, bytes).await.unwrap();
    hub.client.link(&name("zos/zos:production:latest.flist"), release.file()).await.unwrap();
    let entries = [("zos.flist".to_owned(), release)].into();
    let tag = "zos/tags/1.0.0".parse().unwrap();
    hub.client.put_tag(&tag, &entries, false).await.unwrap();
    hub.client.put_taglink(&"zos/production".parse().unwrap(), &tag).await.unwrap();
    hub.client.upload(&name("a repo/x+y @z.flist"), flist("<b>bold</b>")).await.unwrap();
    hub.symlink("zos/<script>alert(1)<.flist", "<img src=x>", 1000);
    hub.symlink("zos/dangling.flist", "gone.flist", 1000);
    hub
}

#[tokio::test]
async fn a_slash_at_the_end_leads_to_the_page_without_it() {
    let hub = hub().await;
    for (path, without) in
        [("/zos/", "/zos"), ("/a%20repo/", "/a%20repo"), ("/zos/tags/1.0.0/", "/zos/tags/1.0.0")]
    {
        let response = hub.get(path).await;
        assert_eq!((response.status().as_u16(), response.url().path()), (200, without), "{path}");
    }
    assert_eq!(hub.get("/nobody/").await.status(), 404);
}

#[tokio::test]
async fn pages_say_what_there_is() {
    let hub = hub().await;
    let start = page(&hub, "/").await;
    assert!(start.contains(">zos</a>") && start.contains(">a repo</a>"), "{start}");
    let repo = page(&hub, "/zos").await;
    for part in [
        ">zos:v1.0.0.flist</a>",
        ">zos/tags/1.0.0</a>",
        "zos:production:latest.flist",
        "&lt;script&gt;alert(1)&lt;",
    ] {
        assert!(repo.contains(part), "'{part}' is missing in {repo}");
    }
    let tag = page(&hub, "/zos/tags/1.0.0").await;
    assert!(tag.contains(">zos/zos:v1.0.0.flist</a>"), "{tag}");
    for path in ["/zos/zos:v1.0.0.flist.md", "/zos/zos:production:latest.flist.md"] {
        let release = page(&hub, path).await;
        for part in [
            "<dt>Version</dt><dd>1.0.0</dd>",
            "<dd>1 (7 B)</dd>",
            "00-ff http://127.0.0.1:1/store",
            "<dt>Blocks</dt><dd>1</dd>",
        ] {
            assert!(release.contains(part), "'{part}' is missing in {release}");
        }
        assert!(!release.contains("secret"), "{release}");
    }
    let other = page(&hub, "/a%20repo/x+y%20@z.flist.md").await;
    assert!(other.contains("&lt;b&gt;bold&lt;/b&gt;"), "{other}");
    let dangling = page(&hub, "/zos/dangling.flist.md").await;
    assert!(dangling.contains("no such flist"), "{dangling}");
    for path in ["/nobody", "/zos/none.flist.md", "/zos/tags/none", "/zos/.tag-1.0.0", "/..%2Fx"] {
        assert_eq!(hub.get(path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn every_link_leads_somewhere_also_under_a_prefix() {
    let hub = hub().await;
    let mut seen = 0;
    for path in [
        "/",
        "/zos",
        "/a%20repo",
        "/zos/tags/1.0.0",
        "/zos/zos:v1.0.0.flist.md",
        "/zos/zos:production:latest.flist.md",
    ] {
        let html = page(&hub, path).await;
        // As a browser resolves them when a proxy shows the hub under /hub/.
        for link in links(&html, &format!("http://proxy.example/hub{path}")) {
            let beneath = link.path().strip_prefix("/hub").unwrap_or_else(|| panic!("{link} leaves the hub"));
            assert_eq!(link.host_str(), Some("proxy.example"));
            if beneath.contains("gone.flist") || beneath.contains("script") {
                continue;
            }
            assert_eq!(hub.get(beneath).await.status(), 200, "{link} on {path}");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} links");
}
