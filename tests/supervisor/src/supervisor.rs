//! The one task that owns all services: it takes requests, signals and the time, one by one.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::console::{Chain, Console};
use crate::lifecycle::Services;
use crate::machine::Ending;
use crate::protocol::{Refusal, Request};
use crate::shutdown::Shutdown;
use crate::timers::Timers;
use crate::unit::{self, Unit};

/// How long the end is put off for the reply to the request that asked for it.
const REPLY_PATIENCE: Duration = Duration::from_secs(1);

/// A request on its way to the supervisor.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Result<Value, Refusal>>,
    /// Its sender goes when the reply has been written to the client.
    pub(crate) written: oneshot::Receiver<()>,
}

/// The signals that the supervisor acts on.
#[derive(Debug)]
pub(crate) struct Signals {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    services: Services,
    directory: PathBuf,
    console: Console,
    shutdown: Option<Shutdown>,
    ending: Ending,
    /// Until when a shutdown waits for each service.
    patience: Timers<String>,
    unwritten: Vec<oneshot::Receiver<()>>,
}

impl Signals {
    /// Handles the signals from now on. Must come before the first child.
    pub(crate) fn register() -> std::io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl Supervisor {
    /// A supervisor whose units are the files in `directory`.
    pub(crate) fn new(services: Services, directory: PathBuf, console: Console) -> Self {
        let (patience, unwritten) = (Timers::new(), Vec::new());
        let ending = Ending::PowerOff;
        Self { services, directory, console, shutdown: None, ending, patience, unwritten }
    }

    /// Monitors every unit in the directory; one that cannot be used is reported and left out.
    pub(crate) fn monitor_all(&mut self) -> std::io::Result<()> {
        for (name, path) in unit::find(&self.directory)? {
            match Unit::load(&path) {
                Err(error) => {
                    self.console
                        .error(format_args!("failed to load config file {path:?}: {}", Chain(&error)));
                }
                Ok(unit) => {
                    if let Err(refusal) = self.services.monitor(&name, unit) {
                        self.console.error(format_args!("could not monitor {name}: {refusal}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Supervises until a request or a signal has asked for the end and the services are stopped. Tells which
    /// end that was.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut signals: Signals) -> Ending {
        while !self.shutdown.as_ref().is_some_and(Shutdown::is_finished) {
            tokio::select! {
                Some(message) = messages.recv() => self.serve(message),
                _ = signals.child.recv() => self.reap(),
                () = self.services.wait() => self.services.wake(),
                () = self.patience.wait() => self.lose_patience(),
                _ = signals.terminate.recv() => self.shut_down("SIGTERM", Ending::PowerOff),
                _ = signals.interrupt.recv() => self.shut_down("SIGINT", Ending::Reboot),
                _ = signals.hangup.recv() => self.shut_down("SIGHUP", Ending::PowerOff),
            }
        }
        for written in self.unwritten {
            // An error says that the sender went, which is all we wait for.
            let _ = tokio::time::timeout(REPLY_PATIENCE, written).await;
        }
        self.ending
    }

    fn serve(&mut self, message: Message) {
        let result = self.answer(message.request);
        if self.shutdown.is_some() {
            self.unwritten.push(message.written);
            self.unwritten
                .retain_mut(|written| matches!(written.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        }
        // A client that hung up gets no reply; what it asked for was done all the same.
        let _ = message.reply.send(result);
    }

    fn answer(&mut self, request: Request) -> Result<Value, Refusal> {
        match request {
            Request::List => return Ok(self.services.list()),
            Request::Status(name) => return self.services.status(&name),
            Request::Start(name) => self.services.start(&name)?,
            Request::Stop(name) => self.services.stop(&name)?,
            Request::Lower(name) => self.services.lower(&name)?,
            Request::Forget(name) => self.services.forget(&name)?,
            Request::Monitor(name) => self.monitor(&name)?,
            Request::Kill { name, signal } => {
                let signal = unit::parse_signal(&signal).ok_or(Refusal::BadSignal)?;
                self.services.kill(&name, signal)?;
            }
            Request::Shutdown => self.shut_down("a client", Ending::PowerOff),
            Request::Reboot => self.shut_down("a client", Ending::Reboot),
            // The connection answers it from the ring.
            Request::Log { .. } => return Err(Refusal::LogArguments),
        }
        Ok(Value::Null)
    }

    fn monitor(&mut self, name: &str) -> Result<(), Refusal> {
        // Loaded first, like zinit: a broken file is that, whatever else is the matter.
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(Refusal::ConfigLoad);
        }
        let path = self.directory.join(format!("{name}.yaml"));
        let unit = Unit::load(&path).map_err(|error| {
            self.console.error(format_args!("failed to load config file {path:?}: {}", Chain(&error)));
            Refusal::ConfigLoad
        })?;
        self.services.monitor(name, unit)
    }

    fn reap(&mut self) {
        for name in self.services.reap() {
            if let Some(shutdown) = &mut self.shutdown {
                shutdown.done(&name);
            }
        }
        self.stop_next();
    }

    fn shut_down(&mut self, by: &str, ending: Ending) {
        if self.shutdown.is_none() {
            self.ending = ending;
            self.console.info(format_args!("shutting down, asked by {by}"));
            self.shutdown = Some(Shutdown::new(self.services.freeze()));
            self.stop_next();
        }
    }

    /// Stops the services whose turn it is.
    fn stop_next(&mut self) {
        let Some(shutdown) = &mut self.shutdown else { return };
        loop {
            let ready = shutdown.take_ready();
            if ready.is_empty() {
                return;
            }
            for name in ready {
                // One that was forgotten meanwhile, or cannot be signalled, is not waited for.
                let stopped = self.services.stop(&name);
                if let Err(refusal) = &stopped {
                    self.console.error(format_args!("could not stop {name}: {refusal}"));
                }
                if stopped.is_ok() && self.services.has_process(&name) {
                    self.patience.add(self.services.shutdown_timeout(&name), name);
                } else {
                    shutdown.done(&name);
                }
            }
        }
    }

    fn lose_patience(&mut self) {
        while let Some(name) = self.patience.take_due() {
            if let Some(shutdown) = &mut self.shutdown
                && shutdown.is_stopping(&name)
            {
                self.console.error(format_args!("service {name} did not stop in time and is left alone"));
                shutdown.done(&name);
            }
        }
        self.stop_next();
    }
}
