//! The client: one method per verb of zinit, each with a deadline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::dialect::{Dialect, Order, Peer, Request, Stopped};
use crate::error::Error;
use crate::status::{ServiceStatus, State};
use crate::unit::{SignalName, UnitName};

/// Where zinit listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/zinit.sock";

/// Where unit files are unless the client is told otherwise.
pub const DEFAULT_UNITS: &str = "/etc/zinit";

/// How long one call may take unless the client is told otherwise, connecting included.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// A client of the supervisor that listens on one unix socket.
///
/// Making one does nothing; every call connects anew, so a client outlives restarts of the
/// supervisor, is cheap to clone, and may be used from many tasks at once. The methods need a tokio
/// runtime with I/O and time enabled.
///
/// The first call finds out which [`Dialect`] the supervisor speaks. That is remembered, by all clones, until
/// a conversation fails: another zinit may listen then.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    units: PathBuf,
    deadline: Duration,
    fixed: Option<Dialect>,
    found: Arc<Mutex<Option<Dialect>>>,
    stopped: Arc<Stopped>,
}

impl Client {
    /// A client of the supervisor at `socket`, with the [`DEFAULT_DEADLINE`] and [`DEFAULT_UNITS`].
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            units: PathBuf::from(DEFAULT_UNITS),
            deadline: DEFAULT_DEADLINE,
            fixed: None,
            found: Arc::default(),
            stopped: Arc::default(),
        }
    }

    /// The same client for a supervisor that is known to speak this dialect.
    #[must_use]
    pub fn speaking(mut self, dialect: Dialect) -> Self {
        self.fixed = Some(dialect);
        self
    }

    /// The same client with unit files elsewhere. Only zinit 0.3 is told what is in them; the others read
    /// their own directory.
    #[must_use]
    pub fn with_units(mut self, directory: impl Into<PathBuf>) -> Self {
        self.units = directory.into();
        self
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

    /// What the supervisor speaks, found out if nobody has yet.
    ///
    /// # Errors
    /// A fault of the conversation; [`Malformed::NoDialect`](crate::Malformed::NoDialect) when what listens
    /// there is no zinit.
    pub async fn dialect(&self) -> Result<Dialect, Error> {
        self.within(Request::Detect, |dialect| async move { Ok(dialect) }).await
    }

    /// Every monitored service and its state.
    ///
    /// Names are given as the supervisor has them: zinit takes any file name for a unit, and one
    /// that is no [`UnitName`] must not hide all the others.
    ///
    /// # Errors
    /// Everything of [`Error`] but a refusal; see there for what may be tried again.
    pub async fn list(&self) -> Result<BTreeMap<String, State>, Error> {
        Ok(self.table().await?.into_iter().collect())
    }

    /// As [`list`](Self::list), in the order in which zinit 0.3 keeps them; of the others, by name.
    ///
    /// # Errors
    /// Those of [`list`](Self::list).
    pub async fn table(&self) -> Result<Vec<(String, State)>, Error> {
        self.within(Request::List, |dialect| dialect.list(self.peer())).await
    }

    /// What the supervisor knows of one service.
    ///
    /// zinit 0.3 says the same of a service that was stopped and of one that is about to be started again, where
    /// both have ended with 0. Then this waits up to three seconds to see which it is, once.
    ///
    /// # Errors
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService), or a fault of the conversation.
    pub async fn status(&self, name: &UnitName) -> Result<ServiceStatus, Error> {
        self.within(Request::Status(name), |dialect| dialect.status(self.peer(), name)).await
    }

    /// Wants the service up. Returns before it is; a running service stays as it is.
    ///
    /// # Errors
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService),
    /// [`Refusal::ShuttingDown`](crate::Refusal::ShuttingDown), or a fault of the conversation.
    pub async fn start(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Order::Start(name)).await
    }

    /// Wants the service down and sends its stop signal to its process group.
    ///
    /// What comes of that depends on the [`Dialect`]. *line* returns at once and never escalates: a process
    /// that ignores the signal lives on for ever. *jsonrpc* returns when the process has ended, and kills it
    /// after half a second, whatever its unit says. *service* returns at once, kills after the unit's time, and
    /// stops everything that depends on the service, too. Ask [`status`](Self::status) until there is no pid.
    ///
    /// # Errors
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService), or a fault of the conversation.
    pub async fn stop(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Order::Stop(name)).await
    }

    /// Removes a stopped service from the supervisor's table.
    ///
    /// # Errors
    /// [`Error::Unsafe`] where zinit 0.3 would take others along; [`Refusal::IsUp`](crate::Refusal::IsUp) until it is wanted down and its process is gone,
    /// [`Refusal::UnknownService`](crate::Refusal::UnknownService), or a fault of the conversation.
    pub async fn forget(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Order::Forget(name)).await
    }

    /// Loads the unit `NAME.yaml` from the supervisor's directory and starts it. zinit 0.3 is given what is in
    /// that file of [`with_units`](Self::with_units).
    ///
    /// A changed unit takes effect only by [`stop`](Self::stop), waiting,
    /// [`forget`](Self::forget), and this.
    ///
    /// # Errors
    /// [`Refusal::AlreadyMonitored`](crate::Refusal::AlreadyMonitored),
    /// [`Refusal::ConfigLoad`](crate::Refusal::ConfigLoad), [`Error::UnitFile`],
    /// [`Refusal::Unit`](crate::Refusal::Unit),
    /// [`Refusal::ShuttingDown`](crate::Refusal::ShuttingDown), or a fault of the conversation.
    pub async fn monitor(&self, name: &UnitName) -> Result<(), Error> {
        self.order(Order::Monitor(name)).await
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
        self.order(Order::Kill(name, signal)).await
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
        self.within(Request::LogSnapshot, |dialect| dialect.log_snapshot(self.peer())).await
    }

    /// Of these stopped services, forgets those whose unit file is gone or says something else than what the
    /// supervisor has loaded, so that [`monitor`](Self::monitor) loads them anew.
    ///
    /// For zinit 0.3 only, which cannot forget one service at a time safely; the others forget at any time, so
    /// this does nothing there.
    ///
    /// # Errors
    /// Those of [`forget`](Self::forget), and [`Error::UnitFile`].
    pub async fn discard_changed(&self, stopped: &[UnitName]) -> Result<(), Error> {
        self.within(Request::Discard, |dialect| dialect.discard(self.peer(), stopped)).await
    }

    async fn order(&self, order: Order<'_>) -> Result<(), Error> {
        self.within(Request::Order(order), |dialect| dialect.order(self.peer(), order)).await
    }

    fn peer(&self) -> Peer<'_> {
        Peer { socket: &self.socket, units: &self.units, stopped: &self.stopped }
    }

    /// Makes a call in the right dialect, and ends it at the deadline.
    async fn within<T, F: Future<Output = Result<T, Error>>>(
        &self,
        request: Request<'_>,
        call: impl FnOnce(Dialect) -> F,
    ) -> Result<T, Error> {
        let started = tokio::time::Instant::now();
        let too_late = |after| Error::Deadline { command: request.to_string(), after };
        let answer = match tokio::time::timeout(self.deadline, self.detected()).await {
            Ok(Ok(dialect)) => {
                let deadline = self.deadline + dialect.allowance(request);
                let answer = tokio::time::timeout_at(started + deadline, call(dialect)).await;
                answer.unwrap_or_else(|_| Err(too_late(deadline)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(too_late(self.deadline)),
        };
        if answer.as_ref().is_err_and(Error::is_of_the_conversation) {
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.stopped.clear();
        }
        answer
    }

    async fn detected(&self) -> Result<Dialect, Error> {
        let found = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.fixed.or(*found());
        if let Some(dialect) = known {
            return Ok(dialect);
        }
        let dialect = Dialect::detect(&self.socket).await?;
        *found() = Some(dialect);
        Ok(dialect)
    }
}
