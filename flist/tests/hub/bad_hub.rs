//! Servers that are no good hubs.

use std::time::Duration;

use flist::hub::{Download, HubClient, HubError, Packages, Timeouts, Validators, resolve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::name;

const MEBIBYTE: u64 = 1024 * 1024;

/// What a bad server does after it has read a request.
#[derive(Clone)]
enum Habit {
    /// Sends this and closes.
    Say(String),
    /// Sends the head, then chunks until the client hangs up.
    NeverEnd,
    /// Sends this, then nothing more, and stays.
    FallSilent(String),
    /// Sends this, then the rest, byte by byte.
    Drip(String, String),
}

async fn bad_hub(habit: Habit) -> HubClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(misbehave(stream, habit.clone()));
        }
    });
    impatient(&url)
}

fn impatient(url: &str) -> HubClient {
    let timeouts = Timeouts { stall: Duration::from_millis(500), ..Timeouts::default() };
    HubClient::with_timeouts(url, "molt-test", timeouts).unwrap()
}

/// Errors mean that the client has hung up, which is what it should do.
async fn misbehave(mut stream: TcpStream, habit: Habit) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    match habit {
        Habit::Say(text) => stream.write_all(text.as_bytes()).await?,
        Habit::NeverEnd => {
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            loop {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        Habit::Drip(text, rest) => {
            stream.set_nodelay(true)?;
            stream.write_all(text.as_bytes()).await?;
            for byte in rest.as_bytes() {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Habit::FallSilent(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.read_u8().await?;
        }
    }
    Ok(())
}

fn answer(status: &str, content_type: &str, body: &str) -> Habit {
    let length = body.len();
    Habit::Say(format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ))
}

fn headers(text: &str) -> Habit {
    Habit::Say(format!("HTTP/1.1 {text}\r\nConnection: close\r\n\r\n"))
}

async fn light_error(habit: Habit) -> HubError {
    bad_hub(habit).await.light(&name("a/b.flist")).await.unwrap_err()
}

async fn download_error(habit: Habit) -> HubError {
    bad_hub(habit).await.download(&name("a/b.flist"), None, MEBIBYTE).await.unwrap_err()
}

#[tokio::test]
async fn a_web_page_is_not_a_hub() {
    let page = answer("200 OK", "text/html; charset=utf-8", "<html>Welcome</html>");
    let client = bad_hub(page).await;
    let error = client.light(&name("a/b.flist")).await.unwrap_err();
    assert!(matches!(&error, HubError::NotAHub { status: 200, .. }) && !error.is_retryable(), "{error:?}");
    let text = error.to_string();
    for part in [client.url(), "/api/flist/a/b.flist/light", "200", "text/html", "not a hub"] {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
    assert!(matches!(client.list("a").await, Err(HubError::NotAHub { .. })));
    let error = light_error(answer("404 Not Found", "text/html", "<html>nothing here</html>")).await;
    assert!(matches!(error, HubError::NotAHub { status: 404, .. }), "{error:?}");
}

#[tokio::test]
async fn what_a_hub_does_not_have_is_not_found() {
    let missing =
        answer("404 Not Found", "application/json", r#"{"status": "error", "message": "source not found"}"#);
    let client = bad_hub(missing).await;
    let flist = name("a/b.flist");
    let error = client.light(&flist).await.unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }) && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("a/b.flist does not exist on hub http://127.0.0.1"), "{error}");
    assert!(matches!(client.list("a").await, Err(HubError::NotFound { .. })));
    assert!(matches!(client.list("../a").await, Err(HubError::NotFound { .. })));
    assert!(matches!(client.download(&flist, None, 1).await, Err(HubError::NotFound { .. })));
}

#[tokio::test]
async fn failures_of_the_server_are_retryable_and_keep_its_words() {
    let overloaded = answer("503 Unavailable", "application/json", r#"{"message": "come back later"}"#);
    let error = light_error(overloaded.clone()).await;
    assert!(error.is_retryable() && error.to_string().ends_with("answered 503: come back later"), "{error}");
    assert!(download_error(overloaded).await.is_retryable());
    assert!(light_error(answer("500 Oops", "text/html", "<html>")).await.is_retryable());
    assert!(light_error(headers("429 Slow Down\r\nContent-Length: 0")).await.is_retryable());
    let forbidden = light_error(answer("403 No", "text/plain", "no")).await;
    assert!(!forbidden.is_retryable() && forbidden.to_string().ends_with("answered 403"), "{forbidden}");
}

#[tokio::test]
async fn answers_without_end_are_cut() {
    let error = light_error(Habit::NeverEnd).await;
    assert!(matches!(error, HubError::TooLong { limit: 65_536, .. }), "{error:?}");
    let error = bad_hub(Habit::NeverEnd).await.list("a").await.unwrap_err();
    assert!(matches!(error, HubError::TooLong { limit, .. } if limit == 8 * MEBIBYTE), "{error:?}");
    let error = download_error(Habit::NeverEnd).await;
    assert!(matches!(error, HubError::TooLong { limit: MEBIBYTE, .. }), "{error:?}");
}

#[tokio::test]
async fn a_flist_that_is_announced_too_long_is_not_read() {
    let error =
        download_error(Habit::FallSilent("HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n".into())).await;
    assert!(matches!(error, HubError::TooLong { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error() {
    let error = download_error(headers("200 OK\r\nContent-Length: 100")).await;
    assert!(matches!(error, HubError::Request { .. }) && error.is_retryable(), "{error:?}");
    let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let error = download_error(Habit::Say(half.into())).await;
    assert!(matches!(error, HubError::Request { .. }) && error.is_retryable(), "{error:?}");
    let unknown = Habit::Say("HTTP/1.0 200 OK\r\n\r\nhello".into());
    assert!(matches!(download_error(unknown).await, HubError::NoLength { .. }));
}

#[tokio::test]
async fn silence_ends_the_request() {
    let error = light_error(Habit::FallSilent(String::new())).await;
    assert!(matches!(error, HubError::Stalled { .. }) && error.is_retryable(), "{error:?}");
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello";
    let error = download_error(Habit::FallSilent(half.into())).await;
    assert!(matches!(error, HubError::Stalled { .. }), "{error:?}");
}

#[tokio::test]
async fn a_byte_now_and_then_is_too_slow() {
    let body = format!("{}{{}}", " ".repeat(400));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let error = light_error(Habit::Drip(head.clone(), body.clone())).await;
    assert!(matches!(error, HubError::TooSlow { .. }) && error.is_retryable(), "{error:?}");
    let error = download_error(Habit::Drip(head, body)).await;
    assert!(matches!(error, HubError::TooSlow { .. }), "{error:?}");
}

/// A hub that has each thing that it is asked for, and takes its time each time.
async fn slow_hub(pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_slowly(stream, pause));
        }
    });
    url
}

async fn answer_slowly(mut stream: TcpStream, pause: Duration) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let link = |package: &str| {
        format!(r#"{{"name": "{package}.flist", "type": "symlink", "target": "a/{package}-1.flist"}}"#)
    };
    let body = match request.split(' ').nth(1).unwrap_or_default() {
        path if path.ends_with("/light") => r#"{"name": "x", "size": 1, "type": "regular"}"#.to_owned(),
        path if path.contains("/tags/") => {
            format!("[{}]", ["zos", "one", "two", "three", "four"].map(link).join(", "))
        }
        _ => "x".to_owned(),
    };
    tokio::time::sleep(pause).await;
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await
}

#[tokio::test]
async fn a_hub_that_is_slow_each_time_is_too_slow_for_a_release() {
    let url = slow_hub(Duration::from_millis(200)).await;
    let resolved = async |release| {
        let timeouts = Timeouts { release, ..Timeouts::default() };
        let client = HubClient::with_timeouts(&url, "molt-test", timeouts).unwrap();
        resolve(&client, &"a/tags/1.0.0".parse().unwrap(), &Packages::default(), None).await
    };
    let error = resolved(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, HubError::TooLate { seconds: 1, .. }) && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("has not sent all of a/tags/1.0.0 within 1 s"), "{error}");
    resolved(Duration::from_secs(600)).await.unwrap();
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = impatient(&format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, HubError::Request { .. }) && error.is_retryable(), "{error:?}");
    // The cause is in the source, and the address is printed once.
    let source = std::error::Error::source(&error).unwrap();
    assert!(!source.to_string().contains("127.0.0.1"), "{source}");
}

#[tokio::test]
async fn anything_that_answers_can_be_pinged() {
    for habit in
        [answer("500 Oops", "text/html", "<html>"), answer("404 No", "text/plain", ""), Habit::NeverEnd]
    {
        bad_hub(habit).await.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_circle_of_redirects_ends() {
    let error =
        light_error(headers("302 Found\r\nLocation: /api/flist/a/b.flist/light\r\nContent-Length: 0")).await;
    assert!(matches!(error, HubError::Request { .. }) && !error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn json_that_is_something_else_is_a_bad_answer() {
    for body in ["{\"name\": ", "[]", "{}", "{\"name\": \"x\", \"type\": 3}"] {
        let error = light_error(answer("200 OK", "application/json", body)).await;
        assert!(matches!(error, HubError::BadAnswer { .. }) && !error.is_retryable(), "{body}: {error:?}");
    }
}

#[tokio::test]
async fn not_modified_counts_only_when_it_was_asked_for() {
    let client = bad_hub(headers("304 Not Modified\r\nETag: \"x\"")).await;
    let flist = name("a/b.flist");
    for known in [None, Some(Validators::default())] {
        let error = client.download(&flist, known.as_ref(), 1).await.unwrap_err();
        assert!(matches!(error, HubError::Status { status: 304, .. }), "{error:?}");
    }
    let known = Validators { etag: Some("\"x\"".into()), last_modified: None };
    assert_eq!(client.download(&flist, Some(&known), 1).await.unwrap(), Download::NotModified);
}
