//! The client: one method per verb of zinit, each with a deadline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dialect::{Dialect, Request};
use crate::error::Error;
use crate::status::{ServiceStatus, State};
use crate::unit::{SignalName, UnitName};

/// Where zinit listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/zinit.sock";

/// How long one call may take unless the client is told otherwise, connecting included.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// A client of the supervisor that listens on one unix socket.
///
/// Making one does nothing; every call connects anew, so a client outlives restarts of the
/// supervisor, is cheap to clone, and may be used from many tasks at once. The methods need a tokio
/// runtime with I/O and time enabled.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    deadline: Duration,
    dialect: Dialect,
}

impl Client {
    /// A client of the supervisor at `socket`, with the [`DEFAULT_DEADLINE`].
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), deadline: DEFAULT_DEADLINE, dialect: Dialect::Line }
    }

    /// The same client with another limit on the time a whole call may take.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The socket this client talks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Every monitored service and its state.
    ///
    /// Names are given as the supervisor has them: zinit takes any file name for a unit, and one
    /// that is no [`UnitName`] must not hide all the others.
    ///
    /// # Errors
    /// Everything of [`Error`] but a refusal; see there for what may be tried again.
    pub async fn list(&self) -> Result<BTreeMap<String, State>, Error> {
        self.within(Request::List, self.dialect.list(&self.socket)).await
    }

    /// What the supervisor knows of one service.
    ///
    /// # Errors
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService), or a fault of the conversation.
    pub async fn status(&self, name: &UnitName) -> Result<ServiceStatus, Error> {
        self.within(Request::Status(name), self.dialect.status(&self.socket, name)).await
    }

    /// Wants the service up. Returns before it is; a running service stays as it is.
    ///
    /// # Errors
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService),
    /// [`Refusal::ShuttingDown`](crate::Refusal::ShuttingDown), or a fault of the conversation.
    pub async fn start(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Request::Start(name)).await
    }

    /// Wants the service down and sends its stop signal to its process group.
    ///
    /// Returns at once. The process may take its time, and one that ignores the signal lives on for
    /// ever: zinit never escalates. Ask [`status`](Self::status) until there is no pid.
    ///
    /// # Errors
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService), or a fault of the conversation.
    pub async fn stop(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Request::Stop(name)).await
    }

    /// Removes a stopped service from the supervisor's table.
    ///
    /// # Errors
    /// [`Refusal::IsUp`](crate::Refusal::IsUp) until it is wanted down and its process is gone,
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService), or a fault of the conversation.
    pub async fn forget(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Request::Forget(name)).await
    }

    /// Loads the unit `NAME.yaml` from the supervisor's directory and starts it.
    ///
    /// A changed unit takes effect only by [`stop`](Self::stop), waiting,
    /// [`forget`](Self::forget), and this.
    ///
    /// # Errors
    /// [`Refusal::AlreadyMonitored`](crate::Refusal::AlreadyMonitored),
    /// [`Refusal::ConfigLoad`](crate::Refusal::ConfigLoad),
    /// [`Refusal::ShuttingDown`](crate::Refusal::ShuttingDown), or a fault of the conversation.
    pub async fn monitor(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Request::Monitor(name)).await
    }

    /// Sends `signal` to the process group of the service. What it wants is not changed, so a
    /// process that dies of it is started again.
    ///
    /// # Errors
    /// [`Refusal::IsDown`](crate::Refusal::IsDown),
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService),
    /// [`Refusal::BadSignal`](crate::Refusal::BadSignal) from a supervisor on another platform, or
    /// a fault of the conversation.
    pub async fn kill(&self, name: &UnitName, signal: SignalName) -> Result<(), Error> {
        self.order(Request::Kill(name, signal)).await
    }

    /// The lines that services wrote lately, oldest first: `[+] name: line` for standard output,
    /// `[-] name: line` for standard error.
    ///
    /// At most the last MiB is kept, beginning with a whole line: the newest lines are the ones
    /// one asks for. Bytes that are no UTF-8 come as U+FFFD.
    ///
    /// # Errors
    /// A fault of the conversation.
    pub async fn log_snapshot(&self) -> Result<String, Error> {
        self.within(Request::LogSnapshot, self.dialect.log_snapshot(&self.socket)).await
    }

    async fn order(&self, request: Request<'_>) -> Result<(), Error> {
        self.within(request, self.dialect.order(&self.socket, request)).await
    }

    async fn within<T>(
        &self,
        request: Request<'_>,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Deadline { command: request.to_string(), after: self.deadline }),
        }
    }
}
