//! Wire dialects: what is asked, apart from how it is put on the wire.
//!
//! [`Request`] and the methods of [`Dialect`] are the same for every dialect. A dialect owns its
//! framing (when an answer is complete), so its functions take a socket and not a stream.

mod line;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::error::Error;
use crate::status::{ServiceStatus, State};
use crate::unit::{SignalName, UnitName};

/// The dialect that a supervisor speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// zinit up to 0.2.19: one line in, one JSON object out, end of stream.
    Line,
}

/// Something to ask of a supervisor. Displayed as `verb arguments`, which is how errors name it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    List,
    Status(&'a UnitName),
    Start(&'a UnitName),
    Stop(&'a UnitName),
    Forget(&'a UnitName),
    Monitor(&'a UnitName),
    Kill(&'a UnitName, SignalName),
    LogSnapshot,
}

impl Dialect {
    pub(crate) async fn list(self, socket: &Path) -> Result<BTreeMap<String, State>, Error> {
        match self {
            Self::Line => line::list(socket).await,
        }
    }

    pub(crate) async fn status(self, socket: &Path, name: &UnitName) -> Result<ServiceStatus, Error> {
        match self {
            Self::Line => line::status(socket, name).await,
        }
    }

    /// Makes a request whose only answer is that it was accepted.
    pub(crate) async fn order(self, socket: &Path, request: Request<'_>) -> Result<(), Error> {
        match self {
            Self::Line => line::order(socket, request).await,
        }
    }

    pub(crate) async fn log_snapshot(self, socket: &Path) -> Result<String, Error> {
        match self {
            Self::Line => line::log_snapshot(socket).await,
        }
    }
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List => f.write_str("list"),
            Self::Status(name) => write!(f, "status {name}"),
            Self::Start(name) => write!(f, "start {name}"),
            Self::Stop(name) => write!(f, "stop {name}"),
            Self::Forget(name) => write!(f, "forget {name}"),
            Self::Monitor(name) => write!(f, "monitor {name}"),
            Self::Kill(name, signal) => write!(f, "kill {name} {signal}"),
            Self::LogSnapshot => f.write_str("log snapshot"),
        }
    }
}
