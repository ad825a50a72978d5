//! JSON-RPC 2.0 over a unix socket, as both newer dialects frame it: one request a line, one answer a line.
//!
//! Answers are matched by their id: zinit 0.2.28 answers pipelined requests in any order, and a
//! notification has none. The writing side stays open, because 0.2.28 drops the request of a client that
//! closes it.

use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Request, connect};
use crate::error::{Error, Malformed};

/// Most lines with another id that are passed over while waiting for an answer.
const MAX_STRANGERS: usize = 64;

/// What the supervisor says when it refuses.
#[derive(Debug, Deserialize)]
pub(super) struct RpcError {
    pub(super) code: i64,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) data: Value,
}

/// A conversation with the supervisor on behalf of one request of the library.
pub(super) struct Conversation<'r> {
    stream: BufReader<UnixStream>,
    request: Request<'r>,
    last_id: u64,
    limit: usize,
}

/// An answer without its result.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    id: Id,
    #[serde(default)]
    result: Present,
    error: Option<RpcError>,
}

/// The id of an answer; ours are numbers.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Other(IgnoredAny),
    #[default]
    None,
}

/// Whether a member is there, be it `null`.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

#[derive(Deserialize)]
struct Body<T> {
    result: T,
}

impl<'r> Conversation<'r> {
    /// Connects. No answer may be longer than `limit` bytes.
    pub(super) async fn begin(socket: &Path, request: Request<'r>, limit: usize) -> Result<Self, Error> {
        Ok(Self { stream: BufReader::new(connect(socket).await?), request, last_id: 0, limit })
    }

    /// Calls one method. The outer error is a fault of the conversation, the inner one the supervisor's no.
    pub(super) async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: Value,
    ) -> Result<Result<T, RpcError>, Error> {
        self.last_id += 1;
        let id = self.last_id;
        let mut line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        line.push('\n');
        let written = self.stream.get_mut().write_all(line.as_bytes()).await;
        written.map_err(|source| self.broken_off(0, Some(source)))?;
        let (answer, head) = self.answer_to(id).await?;
        if let Some(error) = head.error {
            return Ok(Err(error));
        }
        if !head.result.0 {
            return Err(self.garbage(&answer, Malformed::NoResult));
        }
        match serde_json::from_slice::<Body<T>>(&answer) {
            Ok(body) => Ok(Ok(body.result)),
            Err(error) => Err(self.garbage(&answer, Malformed::Json(error))),
        }
    }

    async fn answer_to(&mut self, id: u64) -> Result<(Vec<u8>, Head), Error> {
        for _ in 0..=MAX_STRANGERS {
            let answer = self.line().await?;
            let head: Head = serde_json::from_slice(&answer)
                .map_err(|error| self.garbage(&answer, Malformed::Json(error)))?;
            match (&head.id, &head.error) {
                (Id::Number(answered), _) if *answered == id => return Ok((answer, head)),
                // Whoever cannot read a request does not know its id either.
                (Id::Other(_) | Id::None | Id::Number(0), Some(error)) => {
                    let source = Malformed::NotUnderstood { message: error.message.clone() };
                    return Err(self.garbage(&answer, source));
                }
                _ => {}
            }
        }
        Err(self.garbage(b"", Malformed::NoAnswer { passed_over: MAX_STRANGERS }))
    }

    async fn line(&mut self) -> Result<Vec<u8>, Error> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(self.limit as u64 + 1).read_until(b'\n', &mut line).await;
        if let Err(source) = read {
            return Err(self.broken_off(line.len(), Some(source)));
        }
        if line.last() != Some(&b'\n') {
            return Err(match line.len() > self.limit {
                true => Error::TooLarge { command: self.request.to_string(), limit: self.limit },
                false => self.broken_off(line.len(), None),
            });
        }
        match std::str::from_utf8(&line) {
            Ok(_) => Ok(line),
            Err(error) => Err(self.garbage(&line, Malformed::Encoding(error))),
        }
    }

    fn broken_off(&self, received: usize, source: Option<std::io::Error>) -> Error {
        Error::BrokenOff { command: self.request.to_string(), received, source }
    }

    fn garbage(&self, answer: &[u8], source: Malformed) -> Error {
        Error::garbage(self.request.to_string(), answer, source)
    }
}
