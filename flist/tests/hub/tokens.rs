//! Publishing with tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flist::hub::{HubError, Removal, Token};
use flist::report;
use flist::store::{HttpStore, Store, StoreError};
use reqwest::{Client, Method};

use crate::rig::{TestHub, flist, flist_with_block, name};

const ALL: &str = "all-0123456789abcdef";
const SOME: &str = "some-0123456789abcdef";

fn write(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::set_permissions(&next, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(next, path).unwrap();
}

async fn hub(directory: &tempfile::TempDir) -> TestHub {
    let path = directory.path().join("tokens");
    write(&path, &format!("# publishers\n{ALL}\n{SOME} zos\n"));
    TestHub::start_with(|config| config.token_file = Some(path)).await
}

fn token(text: &str) -> Option<Token> {
    Some(text.parse().unwrap())
}

fn status(result: &Result<(), HubError>) -> u16 {
    match result {
        Ok(()) => 200,
        Err(HubError::Status { status, .. }) => *status,
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn changes_need_a_token_from_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let hub = hub(&directory).await;
    let (zos, other) = (name("zos/x.flist"), name("other/x.flist"));
    let none = hub.client.upload(&zos, flist("x")).await;
    assert_eq!(status(&none), 401);
    assert!(none.unwrap_err().to_string().contains("--token-file or FLIST_TOKEN"));
    for (secret, repo_of_its_own, another) in
        [(ALL, 200, 200), (SOME, 200, 403), ("unknown-0123456789abcdef", 401, 401)]
    {
        let client = hub.client.clone().with_token(token(secret));
        assert_eq!(status(&client.upload(&zos, flist("x")).await), repo_of_its_own, "{secret}");
        assert_eq!(status(&client.upload(&other, flist("x")).await), another, "{secret}");
        assert_eq!(status(&client.link(&name("other/l.flist"), "x.flist").await), another, "{secret}");
        assert_eq!(status(&client.link_to(&name("zos/l.flist"), &other).await), repo_of_its_own, "{secret}");
        let removal = Removal::Flist(name("other/x.flist"));
        let expected = if another == 200 { 409 } else { another };
        assert_eq!(status(&client.remove(&removal, false).await), expected, "{secret}");
    }
    assert_eq!(hub.get("/api/flist/zos/x.flist/light").await.status(), 200, "reading is open to all");
}

#[tokio::test]
async fn a_token_counts_through_a_proxy_and_only_in_its_form() {
    let directory = tempfile::tempdir().unwrap();
    let hub = hub(&directory).await;
    let send = async |method: Method, path: &str, authorization: &str| {
        let request = Client::new().request(method, format!("{}{path}", hub.url));
        let request = request.header("X-Forwarded-For", "192.0.2.1").header("Authorization", authorization);
        request.body(flist("x")).send().await.unwrap().status().as_u16()
    };
    let path = "/api/molt/flist/zos/x.flist";
    assert_eq!(send(Method::PUT, path, &format!("Bearer {ALL}")).await, 201);
    for bad in [
        format!("Basic {ALL}"),
        ALL.to_owned(),
        format!("Bearer {ALL}x"),
        "Bearer ".to_owned(),
        String::new(),
    ] {
        assert_eq!(send(Method::PUT, path, &bad).await, 401, "{bad}");
    }
    for (method, path) in [
        (Method::PUT, "/api/molt/link/zos/y.flist"),
        (Method::PUT, "/api/molt/tag/zos/y"),
        (Method::PUT, "/api/molt/taglink/zos/y"),
        (Method::DELETE, "/api/molt/flist/zos/x.flist"),
        (Method::DELETE, "/api/molt/link/zos/x.flist"),
        (Method::DELETE, "/api/molt/tag/zos/y"),
        (Method::DELETE, "/api/molt/taglink/zos/y"),
        (Method::PUT, "/store/00/00"),
        (Method::POST, "/"),
    ] {
        assert_eq!(
            send(method.clone(), path, "Bearer nobody-0123456789abcdef").await,
            401,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn blocks_need_a_token_and_the_store_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let hub = hub(&directory).await;
    let (_, sealed) = flist_with_block(&[7; 400_000], "http://hub/store");
    let url = format!("{}/store", hub.url);
    let done = tokio::task::spawn_blocking(move || {
        let refused = HttpStore::new(&url).unwrap().put(&sealed.id, &sealed.stored).unwrap_err();
        let allowed = HttpStore::new(&url).unwrap().with_token(token(SOME)).put(&sealed.id, &sealed.stored);
        (refused, allowed)
    });
    let (refused, allowed) = done.await.unwrap();
    assert!(matches!(refused, StoreError::Refused { status: 401, .. }), "{refused:?}");
    let text = report(&refused);
    assert!(text.contains("only with a token"), "{text}");
    allowed.unwrap();
}

#[tokio::test]
async fn a_changed_token_file_counts_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let hub = hub(&directory).await;
    let path = directory.path().join("tokens");
    let client = hub.client.clone().with_token(token(ALL));
    let flist_name = name("zos/x.flist");
    client.upload(&flist_name, flist("1")).await.unwrap();
    write(&path, SOME);
    assert_eq!(status(&client.upload(&flist_name, flist("2")).await), 401);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o604)).unwrap();
    let locked = client.clone().with_token(token(SOME)).upload(&flist_name, flist("2")).await;
    assert_eq!(status(&locked), 503, "others can read the tokens");
    write(&path, ALL);
    client.upload(&flist_name, flist("2")).await.unwrap();
}

#[tokio::test]
async fn a_hub_does_not_start_with_tokens_that_others_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    fs::write(&path, ALL).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut config = flist::server::ServerConfig::new(directory.path().join("root"));
    config.token_file = Some(path);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = flist::server::serve(listener, config, std::future::pending()).await.unwrap_err();
    let text = report(&error);
    assert!(text.contains("chmod 600") && !text.contains(ALL), "{text}");
}
