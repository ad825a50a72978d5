//! Wire dialects: what is asked, apart from how it is put on the wire.
//!
//! [`Request`] and the functions here are the same for every dialect. A dialect owns its framing (when an
//! answer is complete), so it takes a socket and not a stream.

mod jsonrpc;
mod line;
mod rpc;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::error::{Error, Malformed};
use crate::status::{ServiceStatus, State, Target};
use crate::unit::{SignalName, UnitName};

pub(crate) use service::Stopped;

/// Most services that a supervisor may have; more is no list of a node's services.
pub const MAX_SERVICES: usize = 10_000;

/// Largest JSON answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// How much of a log is kept, in bytes: its end.
const MAX_LOG_BYTES: usize = 1 << 20;

/// Largest answer that a dialect is recognised by, in bytes.
const MAX_PROBE_BYTES: u64 = 64 << 10;

/// Asks nothing that would change anything, and every dialect answers it in its own way: *service* with its
/// version, *jsonrpc* that it has no such method, *line* that it knows no such command.
const PROBE: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\"}\n";

/// What JSON-RPC 2.0 says when there is no such method.
const METHOD_NOT_FOUND: i64 = -32601;

/// The dialect that a supervisor speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// zinit up to 0.2.19: one line in, one JSON object out, end of stream.
    Line,
    /// zinit 0.2.20 to 0.2.28: JSON-RPC 2.0 with methods such as `service_list`.
    Jsonrpc,
    /// zinit 0.3: JSON-RPC 2.0 in lines, with methods such as `service.list`.
    Service,
}

/// Something to ask of a supervisor. Displayed as `verb arguments`, which is how errors name it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    Detect,
    List,
    Status(&'a UnitName),
    Order(Order<'a>),
    LogSnapshot,
    Discard,
}

/// A request whose only answer is that it was accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order<'a> {
    Start(&'a UnitName),
    Stop(&'a UnitName),
    Forget(&'a UnitName),
    Monitor(&'a UnitName),
    Kill(&'a UnitName, SignalName),
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) socket: &'a Path,
    /// Where unit files are, for the dialect whose supervisor does not read them.
    pub(crate) units: &'a Path,
    /// What is known of services whose supervisor does not tell.
    pub(crate) stopped: &'a Stopped,
}

impl Dialect {
    /// Finds out what the supervisor speaks, by one request that changes nothing.
    pub(crate) async fn detect(socket: &Path) -> Result<Self, Error> {
        let command = || Request::Detect.to_string();
        let mut stream = connect(socket).await?;
        let broken = |received, source| Error::BrokenOff { command: command(), received, source };
        stream.write_all(PROBE).await.map_err(|source| broken(0, Some(source)))?;
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        // Two of the dialects end an answer with a line end, and one with the end of the stream.
        while !answer.contains(&b'\n') && answer.len() as u64 <= MAX_PROBE_BYTES {
            match stream.read(&mut chunk).await {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&chunk[..count]),
                Err(source) => return Err(broken(answer.len(), Some(source))),
            }
        }
        if answer.is_empty() {
            return Err(broken(0, None));
        }
        let parsed = serde_json::from_slice::<ProbeAnswer>(answer.trim_ascii_end());
        parsed
            .ok()
            .and_then(ProbeAnswer::dialect)
            .ok_or_else(|| Error::garbage(command(), &answer, Malformed::NoDialect))
    }

    /// How much longer than another call one of this kind may take: the supervisor answers when it is done.
    pub(crate) fn allowance(self, request: Request<'_>) -> Duration {
        match (self, request) {
            // It measures for half a second, waits for half a second, and kills.
            (Self::Jsonrpc, Request::Order(Order::Stop(_))) => Duration::from_secs(5),
            // It waits five seconds for a process that it believes to be there.
            (Self::Service, Request::Discard | Request::Order(Order::Forget(_) | Order::Monitor(_))) => {
                Duration::from_secs(10)
            }
            // It may take a moment to see what becomes of a service.
            (Self::Service, Request::Status(_)) => service::STATUS_TAKES,
            _ => Duration::ZERO,
        }
    }

    /// All services in the order of the supervisor's table, where it has one.
    pub(crate) async fn list(self, peer: Peer<'_>) -> Result<Vec<(String, State)>, Error> {
        let list: Vec<_> = match self {
            Self::Line => line::list(peer.socket).await?.into_iter().collect(),
            Self::Jsonrpc => jsonrpc::list(peer.socket).await?.into_iter().collect(),
            Self::Service => service::list(peer.socket).await?,
        };
        if list.len() > MAX_SERVICES {
            return Err(Error::TooMany { command: Request::List.to_string(), limit: MAX_SERVICES });
        }
        Ok(list)
    }

    pub(crate) async fn status(self, peer: Peer<'_>, name: &UnitName) -> Result<ServiceStatus, Error> {
        match self {
            Self::Line => line::status(peer.socket, name).await,
            Self::Jsonrpc => jsonrpc::status(peer.socket, name).await,
            Self::Service => service::status(peer, name).await,
        }
    }

    pub(crate) async fn order(self, peer: Peer<'_>, order: Order<'_>) -> Result<(), Error> {
        match self {
            Self::Line => line::order(peer.socket, order).await,
            Self::Jsonrpc => jsonrpc::order(peer.socket, order).await,
            Self::Service => service::order(peer, order).await,
        }
    }

    pub(crate) async fn log_snapshot(self, peer: Peer<'_>) -> Result<String, Error> {
        match self {
            Self::Line => line::log_snapshot(peer.socket).await,
            Self::Jsonrpc => jsonrpc::log_snapshot(peer.socket).await,
            Self::Service => service::log_snapshot(peer.socket).await,
        }
    }

    /// Of these stopped services, forgets those whose unit file is gone or says something else than what the
    /// supervisor has loaded. Where forgetting is safe at any time there is nothing to do here.
    pub(crate) async fn discard(self, peer: Peer<'_>, stopped: &[UnitName]) -> Result<(), Error> {
        match self {
            Self::Line | Self::Jsonrpc => Ok(()),
            Self::Service => service::discard(peer, stopped).await,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Line => "line",
            Self::Jsonrpc => "jsonrpc",
            Self::Service => "service",
        })
    }
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Detect => f.write_str("system.ping"),
            Self::List => f.write_str("list"),
            Self::Status(name) => write!(f, "status {name}"),
            Self::Order(order) => order.fmt(f),
            Self::LogSnapshot => f.write_str("log snapshot"),
            Self::Discard => f.write_str("forget what has changed"),
        }
    }
}

impl Order<'_> {
    /// The service that it is about.
    fn service(&self) -> &UnitName {
        match self {
            Self::Start(name)
            | Self::Stop(name)
            | Self::Forget(name)
            | Self::Monitor(name)
            | Self::Kill(name, _) => name,
        }
    }
}

impl fmt::Display for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(name) => write!(f, "start {name}"),
            Self::Stop(name) => write!(f, "stop {name}"),
            Self::Forget(name) => write!(f, "forget {name}"),
            Self::Monitor(name) => write!(f, "monitor {name}"),
            Self::Kill(name, signal) => write!(f, "kill {name} {signal}"),
        }
    }
}

/// The answer to [`PROBE`], whoever gives it.
#[derive(Deserialize)]
struct ProbeAnswer {
    jsonrpc: Option<String>,
    result: Option<Ping>,
    error: Option<ProbeError>,
    state: Option<String>,
}

#[derive(Deserialize)]
struct Ping {
    version: String,
}

#[derive(Deserialize)]
struct ProbeError {
    code: i64,
}

impl ProbeAnswer {
    fn dialect(self) -> Option<Dialect> {
        match (self.jsonrpc.is_some(), self.result, self.error, self.state) {
            (true, Some(Ping { version }), None, _) if !version.is_empty() => Some(Dialect::Service),
            (true, None, Some(ProbeError { code: METHOD_NOT_FOUND }), _) => Some(Dialect::Jsonrpc),
            (false, _, _, Some(state)) if state == "error" => Some(Dialect::Line),
            _ => None,
        }
    }
}

/// The body of a status as 0.2 gives it, in both of its dialects.
#[derive(Deserialize)]
struct StatusBody {
    name: String,
    pid: u32,
    state: State,
    target: Target,
    after: BTreeMap<String, State>,
}

impl StatusBody {
    fn about(self, name: &UnitName) -> Result<ServiceStatus, Error> {
        check_name(name, &self.name)?;
        Ok(ServiceStatus {
            name: name.clone(),
            pid: (self.pid != 0).then_some(self.pid),
            state: self.state,
            target: self.target,
            after: self.after,
        })
    }
}

/// An answer about another service is none.
fn check_name(asked: &UnitName, answered: &str) -> Result<(), Error> {
    if answered == asked.as_str() {
        return Ok(());
    }
    let source = Malformed::OtherService { answered: answered.to_owned() };
    Err(Error::garbage(Request::Status(asked).to_string(), answered.as_bytes(), source))
}

async fn connect(socket: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(socket).await.map_err(|source| {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Error::NoSocket { socket, source },
            _ => Error::Connect { socket, source },
        }
    })
}

/// Cuts a log to its last lines, at most `keep` bytes of them; `whole` says that nothing was cut before.
fn cut_to_tail(tail: &mut Vec<u8>, keep: usize, whole: bool) {
    if !whole || tail.len() > keep {
        let cut = tail.len().saturating_sub(keep);
        let line = tail[cut..].iter().position(|byte| *byte == b'\n').map_or(tail.len(), |at| cut + at + 1);
        tail.drain(..line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_known_by_its_answer() {
        let dialect = |text: &str| serde_json::from_str::<ProbeAnswer>(text).ok()?.dialect();
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{"version":"0.3.9"}}"#, Some(Dialect::Service)),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#,
                Some(Dialect::Jsonrpc),
            ),
            (
                r#"{"state":"error","body":"unknown command '{jsonrpc:2.0,id:1}' or wrong arguments count"}"#,
                Some(Dialect::Line),
            ),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"x"}}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, None),
            (r#"{"state":"ok","body":null}"#, None),
            ("{}", None),
            ("[]", None),
            ("HTTP/1.1 400 Bad Request", None),
        ] {
            assert_eq!(dialect(text), expected, "{text}");
        }
    }
}
