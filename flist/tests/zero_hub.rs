//! The hub client against the recorded answers of a real 0-hub. The test at the end runs against one, if
//! `MOLT_ZERO_HUB_URL` has the address of a hub with the same content; see fixtures/0-hub/README.md.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flist::hub::{
    Channel, Download, FlistName, HubClient, HubError, Kind, PackageRepo, Packages, Release, Resolution,
    RunMode, Seen, Sha256, TagName, TaglinkName, Validators, resolve,
};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One answer, as it was recorded.
#[derive(Deserialize)]
struct Answer {
    path: String,
    /// Headers of the request that lead to this answer.
    request: BTreeMap<String, String>,
    status: u16,
    headers: BTreeMap<String, String>,
    body: Option<String>,
    /// The body is this file.
    file: Option<String>,
    /// The body is so much of the end of this file.
    tail_of: Option<(String, usize)>,
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0-hub").join(name)).unwrap()
}

impl Answer {
    fn bytes(&self) -> Vec<u8> {
        match (&self.body, &self.file, &self.tail_of) {
            (_, Some(file), _) => fixture(file),
            (_, _, Some((file, length))) => {
                let whole = fixture(file);
                whole[whole.len() - length..].to_vec()
            }
            (body, ..) => body.clone().unwrap_or_default().into_bytes(),
        }
    }
}

/// The recorded hub. The first whole flist of each name breaks off after 40000 bytes if `breaks_off`.
struct Recorded {
    answers: Vec<Answer>,
    breaks_off: AtomicBool,
}

async fn recorded(breaks_off: bool) -> HubClient {
    let answers = serde_json::from_slice(&fixture("answers.json")).unwrap();
    let hub = Arc::new(Recorded { answers, breaks_off: AtomicBool::new(breaks_off) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let hub = Arc::clone(&hub);
            // An error is a client that has hung up.
            tokio::spawn(async move { hub.answer(stream).await });
        }
    });
    HubClient::new(&url, "molt-test").unwrap()
}

impl Recorded {
    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        let request = String::from_utf8(request).unwrap();
        let path = request.split(' ').nth(1).unwrap().to_owned();
        let sent = |name: &str, value: &str| {
            request.lines().any(|line| line.eq_ignore_ascii_case(&format!("{name}: {value}")))
        };
        let fits = |answer: &&Answer| {
            answer.path == path && answer.request.iter().all(|(name, value)| sent(name, value))
        };
        let found = self.answers.iter().filter(fits).max_by_key(|answer| answer.request.len());
        let answer = found.unwrap_or_else(|| panic!("nobody has recorded {request}"));
        let mut bytes = answer.bytes();
        let mut head = format!("HTTP/1.0 {} WHATEVER\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if answer.file.is_some() && self.breaks_off.swap(false, Ordering::Relaxed) {
            bytes.truncate(40_000);
        }
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(b"\r\n").await?;
        stream.write_all(&bytes).await
    }
}

fn channel(text: &str) -> Channel {
    text.parse().unwrap()
}

fn bins() -> Packages {
    Packages { boot: "zos".to_owned(), repo: Some(PackageRepo::of("tf-zos-bins", RunMode::Prod).unwrap()) }
}

async fn release(hub: &HubClient, text: &str, packages: &Packages) -> (Release, Seen) {
    match resolve(hub, &channel(text), packages, None).await.unwrap() {
        Resolution::Release(release, seen) => (*release, seen),
        Resolution::Unchanged(_) => panic!("nothing was known"),
    }
}

async fn is_unchanged(hub: &HubClient, text: &str, packages: &Packages, seen: &Seen) -> bool {
    let answer = resolve(hub, &channel(text), packages, Some(seen)).await.unwrap();
    matches!(answer, Resolution::Unchanged(_))
}

fn packages(release: &Release) -> Vec<(String, String)> {
    let of = |flist: &flist::hub::ReleaseFlist| (flist.package.clone(), flist.location.to_string());
    release.flists.iter().map(of).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(package, at)| ((*package).to_owned(), (*at).to_owned())).collect()
}

/// Both layouts, and that a second poll finds nothing new.
async fn both_layouts(hub: &HubClient) {
    let plain = Packages::default();
    let (tagged, seen) = release(hub, "tf-zos/production", &plain).await;
    let expected = [("net", "tf-autobuilder/net-1.0.0.flist"), ("zos", "tf-autobuilder/zos-1.0.0.flist")];
    assert_eq!((tagged.version.to_string(), packages(&tagged)), ("1.0.0".to_owned(), pairs(&expected)));
    assert_eq!(tagged.info["name"], "zos-1.0.0.flist");
    assert!(tagged.flists.iter().all(|flist| flist.sha256 == Sha256::of(&flist.bytes)));
    assert!(is_unchanged(hub, "tf-zos/production", &plain, &seen).await);

    for (link, location) in [
        ("tf-zos/zos:production:latest.flist", "tf-zos/zos:v1.0.0.flist"),
        ("tf-zos/zos:testing:latest.flist", "tf-autobuilder/zos-1.0.0.flist"),
    ] {
        let (linked, seen) = release(hub, link, &bins()).await;
        let expected = [
            ("net", "tf-zos-bins/net.flist"),
            ("net-link", "tf-autobuilder/net-1.0.0.flist"),
            ("zos", location),
        ];
        assert_eq!((linked.version.to_string(), packages(&linked)), ("1.0.0".to_owned(), pairs(&expected)));
        assert!(is_unchanged(hub, link, &bins(), &seen).await);
    }
}

#[tokio::test]
async fn releases_are_found_in_both_layouts() {
    both_layouts(&recorded(false).await).await;
}

#[tokio::test]
async fn its_oddities_are_understood() {
    let hub = recorded(false).await;
    let name = |text: &str| text.parse::<FlistName>().unwrap();
    let listing = hub.list("tf-zos").await.unwrap();
    let of = |wanted: &str| listing.iter().find(|entry| entry.name == wanted).unwrap();
    assert_eq!(
        (of("zos:v1.0.0.flist").size.as_str(), of("zos:v1.0.0.flist").kind),
        ("44.00 KB", Kind::Regular)
    );
    assert_eq!((of("1.0.0").kind, of("production").kind), (Kind::Tag, Kind::Taglink));
    assert_eq!(of("production").target.as_deref(), Some("tf-zos/tags/1.0.0"));
    // The same link, as the listing and as its description have it.
    let link = name("tf-zos/zos:testing:latest.flist");
    assert_eq!(of(link.file()).target.as_deref(), Some("tf-autobuilder/zos-1.0.0.flist"));
    let light = hub.light(&link).await.unwrap().light;
    assert_eq!(light.target.as_deref(), Some("../tf-autobuilder/zos-1.0.0.flist"));
    assert_eq!((light.size, light.md5.map(|md5| md5.len())), (45_056, Some(32)));

    // What is not there is told in JSON or in HTML.
    for missing in ["tf-zos/nothing.flist", "nobody/x.flist"] {
        assert!(hub.light(&name(missing)).await.unwrap_err().is_not_found(), "{missing}");
    }
    assert!(hub.list("nobody").await.unwrap_err().is_not_found());
    for tag in ["9.9.9", "production"] {
        assert!(hub.tag(&TagName::new("tf-zos", tag).unwrap()).await.unwrap_err().is_not_found(), "{tag}");
    }
    let taglink = async |text: &str| hub.taglink(&TaglinkName::new("tf-zos", text).unwrap()).await;
    assert_eq!(taglink("dangling").await.unwrap().to_string(), "tf-zos/tags/9.9.9");
    assert!(taglink("nothing").await.unwrap_err().is_not_found());
    for (text, packages) in
        [("tf-zos/dangling", Packages::default()), ("tf-zos/dangling.flist", Packages::default())]
    {
        let error = resolve(&hub, &channel(text), &packages, None).await.unwrap_err();
        assert!(matches!(error, HubError::Dangling { .. }), "{text}: {error:?}");
    }
}

#[tokio::test]
async fn without_an_etag_the_time_decides() {
    let hub = recorded(false).await;
    let flist = "tf-autobuilder/zos-1.0.0.flist".parse().unwrap();
    let Download::Content { validators, .. } = hub.download(&flist, None, 1 << 20).await.unwrap() else {
        panic!("nothing was known");
    };
    let modified = Some("Sun, 01 Nov 2026 12:00:00 GMT".to_owned());
    assert_eq!(validators, Validators { etag: None, last_modified: modified });
    assert_eq!(hub.download(&flist, Some(&validators), 1 << 20).await.unwrap(), Download::NotModified);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_with_a_range() {
    let hub = recorded(true).await;
    let flist = "tf-autobuilder/zos-1.0.0.flist".parse().unwrap();
    let Download::Content { bytes, .. } = hub.download(&flist, None, 1 << 20).await.unwrap() else {
        panic!("nothing was known");
    };
    assert_eq!(bytes, fixture("zos-1.0.0.flist"));
}

#[tokio::test]
async fn a_real_one_answers_alike() {
    let Ok(url) = std::env::var("MOLT_ZERO_HUB_URL") else {
        eprintln!("SKIPPED: MOLT_ZERO_HUB_URL names no hub");
        return;
    };
    both_layouts(&HubClient::new(&url, "molt-test").unwrap()).await;
}
