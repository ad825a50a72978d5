//! Downloads whose connection breaks off.

use std::sync::{Arc, Mutex};

use flist::hub::{Download, HubClient, HubError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::name;

const CONTENT: &[u8] = b"0123456789abcdef";
const MODIFIED: &str = "Sat, 28 Nov 2026 00:00:00 GMT";

/// What is sent in answer to the next requests.
type Script = Vec<Vec<u8>>;

/// A server that answers each request as the script says, and what it was asked.
async fn scripted(script: Script) -> (HubClient, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in script {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, &answer, &requests).await.unwrap();
        }
    });
    (HubClient::new(&url, "molt-test").unwrap(), asked)
}

async fn serve(mut stream: TcpStream, answer: &[u8], requests: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).to_lowercase();
    requests.lock().unwrap().push(request);
    stream.write_all(answer).await
}

/// An answer as a 0-hub sends it, of which only `sent` bytes of the body arrive.
fn whole(content: &[u8], sent: usize) -> Vec<u8> {
    let length = content.len();
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\nLast-Modified: {MODIFIED}\r\n\r\n");
    [head.as_bytes(), &content[..sent]].concat()
}

fn part(from: usize, until: usize, range: &str) -> Vec<u8> {
    let length = CONTENT.len() - from;
    let head =
        format!("HTTP/1.0 206 PARTIAL CONTENT\r\nContent-Length: {length}\r\nContent-Range: {range}\r\n\r\n");
    [head.as_bytes(), &CONTENT[from..until]].concat()
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.0 {line}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

async fn downloaded(client: &HubClient) -> Result<Vec<u8>, HubError> {
    match client.download(&name("a/b.flist"), None, 1000).await? {
        Download::Content { bytes, .. } => Ok(bytes),
        Download::NotModified => panic!("nothing was known"),
    }
}

#[tokio::test]
async fn what_is_missing_is_asked_for() {
    let script = vec![whole(CONTENT, 5), part(5, 9, "bytes 5-15/16"), part(9, 16, "bytes 9-15/16")];
    let (client, asked) = scripted(script).await;
    assert_eq!(downloaded(&client).await.unwrap(), CONTENT);
    let asked = asked.lock().unwrap();
    for (request, range) in asked[1..].iter().zip(["range: bytes=5-", "range: bytes=9-"]) {
        assert!(request.contains(range), "{request}");
        assert!(request.contains(&format!("if-range: {}", MODIFIED.to_lowercase())), "{request}");
    }
}

#[tokio::test]
async fn another_content_is_not_added_to_what_came_before() {
    const OTHER: &[u8] = b"another content";
    // The hub has another one by now, and sends all of it.
    let (client, _) = scripted(vec![whole(CONTENT, 5), whole(OTHER, OTHER.len())]).await;
    assert_eq!(downloaded(&client).await.unwrap(), OTHER);
    // It sends another part than was asked for, or the same part of something longer, or refuses.
    for wrong in ["bytes 4-14/16", "bytes 5-15/17", "bytes 5-9/16", "nonsense"] {
        let script = vec![whole(CONTENT, 5), part(5, 16, wrong), whole(OTHER, OTHER.len())];
        assert_eq!(downloaded(&scripted(script).await.0).await.unwrap(), OTHER, "{wrong}");
    }
    // It goes on with what it has by now, says so, and nobody asked for that.
    let newer = String::from_utf8(part(5, 16, "bytes 5-15/16")).unwrap();
    let newer = newer.replace("\r\n\r\n", "\r\nLast-Modified: Sat, 28 Nov 2026 00:00:01 GMT\r\n\r\n");
    let script = vec![whole(CONTENT, 5), newer.into_bytes(), whole(OTHER, OTHER.len())];
    assert_eq!(downloaded(&scripted(script).await.0).await.unwrap(), OTHER);
    // Its part ends early, and well.
    let short = "HTTP/1.1 206 PARTIAL CONTENT\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 5-15/16\r\n\r\n4\r\n5678\r\n0\r\n\r\n";
    let script = vec![whole(CONTENT, 5), short.into(), whole(OTHER, OTHER.len())];
    assert_eq!(downloaded(&scripted(script).await.0).await.unwrap(), OTHER);
    let script = vec![whole(CONTENT, 5), status("416 RANGE NOT SATISFIABLE"), whole(OTHER, OTHER.len())];
    assert_eq!(downloaded(&scripted(script).await.0).await.unwrap(), OTHER);
}

#[tokio::test]
async fn a_refusal_on_the_way_is_an_error() {
    let (client, _) = scripted(vec![whole(CONTENT, 5), status("404 NOT FOUND")]).await;
    let error = downloaded(&client).await.unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error:?}");
}
