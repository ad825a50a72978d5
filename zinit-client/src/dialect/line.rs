//! The line dialect, as measured on zinit 0.2.11.
//!
//! A request is one line of shell words; the answer is one JSON object `{"state", "body"}` without
//! a line end, closed by the end of the stream; a connection carries one request. Only the log
//! comes as bare text.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{MAX_ANSWER_BYTES, MAX_LOG_BYTES, Order, Request, StatusBody, connect, cut_to_tail};
use crate::error::{Error, Malformed, Refusal};
use crate::status::{ServiceStatus, State};
use crate::unit::UnitName;

#[derive(Deserialize)]
#[serde(tag = "state", content = "body", rename_all = "lowercase")]
enum Envelope<T> {
    Ok(T),
    Error(String),
}

pub(super) async fn list(socket: &Path) -> Result<BTreeMap<String, State>, Error> {
    call(socket, Request::List).await
}

pub(super) async fn status(socket: &Path, name: &UnitName) -> Result<ServiceStatus, Error> {
    call::<StatusBody>(socket, Request::Status(name)).await?.about(name)
}

pub(super) async fn order(socket: &Path, order: Order<'_>) -> Result<(), Error> {
    // The body is null in every version measured; what a newer one adds is of no interest.
    call::<IgnoredAny>(socket, Request::Order(order)).await.map(drop)
}

pub(super) async fn log_snapshot(socket: &Path) -> Result<String, Error> {
    let request = Request::LogSnapshot;
    let mut stream = send(socket, request).await?;
    let log = read_tail(&mut stream, MAX_LOG_BYTES).await.map_err(|(received, source)| Error::BrokenOff {
        command: request.to_string(),
        received,
        source: Some(source),
    })?;
    // Lines of a log begin with "[+] " or "[-] ", so an answer in an envelope is a refusal.
    match serde_json::from_slice::<Envelope<IgnoredAny>>(&log) {
        Ok(Envelope::Error(body)) => Err(refused(request, &body)),
        _ => Ok(String::from_utf8_lossy(&log).into_owned()),
    }
}

async fn call<T: DeserializeOwned>(socket: &Path, request: Request<'_>) -> Result<T, Error> {
    let stream = send(socket, request).await?;
    let mut answer = Vec::new();
    let read = stream.take(MAX_ANSWER_BYTES as u64 + 1).read_to_end(&mut answer).await;
    if let Err(source) = read {
        let command = request.to_string();
        return Err(Error::BrokenOff { command, received: answer.len(), source: Some(source) });
    }
    if answer.len() > MAX_ANSWER_BYTES {
        return Err(Error::TooLarge { command: request.to_string(), limit: MAX_ANSWER_BYTES });
    }
    decode(request, &answer)
}

async fn send(socket: &Path, request: Request<'_>) -> Result<UnixStream, Error> {
    let mut stream = connect(socket).await?;
    // A name has no character that shell words would have to quote, so the request is its own text.
    stream.write_all(format!("{request}\n").as_bytes()).await.map_err(|source| Error::BrokenOff {
        command: request.to_string(),
        received: 0,
        source: Some(source),
    })?;
    Ok(stream)
}

fn decode<T: DeserializeOwned>(request: Request<'_>, answer: &[u8]) -> Result<T, Error> {
    let garbage = |source| Error::garbage(request.to_string(), answer, source);
    let text = match std::str::from_utf8(answer) {
        Ok(text) => text,
        Err(error) => return Err(garbage(Malformed::Encoding(error))),
    };
    match serde_json::from_str(text) {
        Ok(Envelope::Ok(body)) => Ok(body),
        Ok(Envelope::Error(body)) => Err(refused(request, &body)),
        Err(error) if error.is_eof() => {
            Err(Error::BrokenOff { command: request.to_string(), received: answer.len(), source: None })
        }
        Err(error) => Err(garbage(Malformed::Json(error))),
    }
}

fn refused(request: Request<'_>, body: &str) -> Error {
    Error::Refused { command: request.to_string(), reason: Refusal::from_line_body(body) }
}

/// Reads to the end of the stream and returns its last lines, at most `keep` bytes of them. On an
/// error, says also how many bytes had come.
async fn read_tail(stream: &mut UnixStream, keep: usize) -> Result<Vec<u8>, (usize, io::Error)> {
    let mut tail = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut received = 0;
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(count) => {
                tail.extend_from_slice(&chunk[..count]);
                received += count;
            }
            Err(error) => return Err((received, error)),
        }
        // Cutting at twice the size and not at every chunk keeps the copying linear.
        if tail.len() > 2 * keep {
            tail.drain(..tail.len() - keep);
        }
    }
    cut_to_tail(&mut tail, keep, received <= keep);
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::SignalName;

    #[test]
    fn requests_are_lines_of_words() {
        let name: UnitName = "redis".parse().unwrap();
        for (request, text) in [
            (Request::List, "list"),
            (Request::Status(&name), "status redis"),
            (Request::Order(Order::Start(&name)), "start redis"),
            (Request::Order(Order::Stop(&name)), "stop redis"),
            (Request::Order(Order::Forget(&name)), "forget redis"),
            (Request::Order(Order::Monitor(&name)), "monitor redis"),
            (Request::Order(Order::Kill(&name, SignalName::KILL)), "kill redis SIGKILL"),
            (Request::LogSnapshot, "log snapshot"),
        ] {
            assert_eq!(request.to_string(), text);
        }
    }

    #[test]
    fn half_an_answer_and_another_answer_are_told_apart() {
        let decode = |text: &str| decode::<BTreeMap<String, State>>(Request::List, text.as_bytes());
        assert!(matches!(decode(""), Err(Error::BrokenOff { received: 0, .. })));
        assert!(matches!(decode(r#"{"state":"ok","bo"#), Err(Error::BrokenOff { received: 17, .. })));
        for text in [
            "hello",
            "[]",
            r#"{"state":"maybe","body":null}"#,
            r#"{"state":"ok","body":3}"#,
            r#"{"state":"error","body":{}}"#,
            r#"{"state":"ok","body":{}}{"#,
        ] {
            assert!(matches!(decode(text), Err(Error::Garbage { .. })), "{text}");
        }
        assert_eq!(decode(r#"{"state":"ok","body":{"a":"Running"}}"#).unwrap()["a"], State::Running);
    }

    #[tokio::test]
    async fn a_tail_begins_with_a_whole_line() {
        for (text, keep, expected) in [
            ("one\ntwo\nthree\n", 100, "one\ntwo\nthree\n"),
            ("one\ntwo\nthree\n", 14, "one\ntwo\nthree\n"),
            ("one\ntwo\nthree\n", 8, "three\n"),
            ("without any line end", 5, ""),
            ("", 5, ""),
        ] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(text.as_bytes()).await.unwrap();
            drop(theirs);
            let tail = read_tail(&mut ours, keep).await.unwrap();
            assert_eq!(String::from_utf8(tail).unwrap(), expected, "{text:?} {keep}");
        }
    }
}
