//! The table of services and what happens to them.
//!
//! ```text
//!           monitor, start            dependencies up          started
//!   Idle ───────────────────► Blocked ───────────────► process ───────► Alive
//!    ▲  ▲                        │ stop                   │ cannot        │ process ends
//!    │  └────────────────────────┴────────────────────────┘               │
//!    ├───────────────────────── oneshot ──────────────────────────────────┤
//!    └── wanted down ── Resting ◄─────────────────────────────────────────┘
//!                          └── wanted up: as from Idle
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use tokio::net::unix::pipe;

use crate::console::{Chain, Console};
use crate::process::{self, Environment, Started};
use crate::protocol::Refusal;
use crate::ring::{Ring, capture};
use crate::service::{Ended, Phase, Service, State, Target};
use crate::timers::Timers;
use crate::unit::Unit;

/// How long a `test` rests before it is run again.
const TEST_DELAY: Duration = Duration::from_secs(2);

/// Every monitored service and the processes that belong to them.
#[derive(Debug)]
pub(crate) struct Services {
    table: BTreeMap<String, Service>,
    /// What a child of ours is; any other child was an orphan.
    children: BTreeMap<i32, Child>,
    timers: Timers<Wake>,
    serial: u64,
    /// Set by a shutdown: no process is started any more.
    frozen: bool,
    environment: Environment,
    /// How long a service rests before it is started again.
    respawn_delay: Duration,
    ring: Ring,
    console: Console,
}

#[derive(Debug)]
enum Child {
    Service(String),
    Test { name: String, of: i32 },
}

#[derive(Debug)]
enum Wake {
    Rested { name: String, serial: u64 },
    Test { name: String, of: i32 },
}

impl Services {
    /// An empty table; `environment` is what services get on top of our own.
    pub(crate) fn new(
        environment: Environment,
        respawn_delay: Duration,
        ring: Ring,
        console: Console,
    ) -> Self {
        Self {
            table: BTreeMap::new(),
            children: BTreeMap::new(),
            timers: Timers::new(),
            serial: 0,
            frozen: false,
            environment,
            respawn_delay,
            ring,
            console,
        }
    }

    pub(crate) fn monitor(&mut self, name: &str, unit: Unit) -> Result<(), Refusal> {
        if self.frozen {
            return Err(Refusal::ShuttingDown);
        }
        if self.table.contains_key(name) {
            return Err(Refusal::AlreadyMonitored(name.to_owned()));
        }
        self.serial += 1;
        self.table.insert(name.to_owned(), Service::new(self.serial, unit));
        self.schedule(name);
        self.release();
        Ok(())
    }

    pub(crate) fn start(&mut self, name: &str) -> Result<(), Refusal> {
        if self.frozen {
            return Err(Refusal::ShuttingDown);
        }
        let service = self.service(name)?;
        service.target = Target::Up;
        // Of a resting one this is all: it is started when it has rested.
        if service.phase == Phase::Idle {
            self.schedule(name);
            self.release();
        }
        Ok(())
    }

    /// Wants it down, and leaves its process alone.
    pub(crate) fn lower(&mut self, name: &str) -> Result<(), Refusal> {
        let service = self.service(name)?;
        service.target = Target::Down;
        if service.phase == Phase::Blocked {
            service.phase = Phase::Idle;
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self, name: &str) -> Result<(), Refusal> {
        self.lower(name)?;
        let service = self.service(name)?;
        match service.pid {
            Some(pid) => process::signal_group(pid, service.unit.signal.stop).map_err(Refusal::System),
            None => Ok(()),
        }
    }

    pub(crate) fn forget(&mut self, name: &str) -> Result<(), Refusal> {
        let service = self.service(name)?;
        if service.target == Target::Up || service.pid.is_some() {
            return Err(Refusal::IsUp(name.to_owned()));
        }
        self.table.remove(name);
        Ok(())
    }

    pub(crate) fn kill(&mut self, name: &str, signal: Signal) -> Result<(), Refusal> {
        match self.service(name)?.pid {
            Some(pid) => process::signal_group(pid, signal).map_err(Refusal::System),
            None => Err(Refusal::IsDown(name.to_owned())),
        }
    }

    pub(crate) fn list(&self) -> Value {
        let states =
            self.table.iter().map(|(name, service)| (name.clone(), service.state.to_string().into()));
        Value::Object(states.collect())
    }

    pub(crate) fn status(&mut self, name: &str) -> Result<Value, Refusal> {
        let service = self.service(name)?;
        let (pid, state, target) =
            (service.pid.unwrap_or(0), service.state.to_string(), service.target.to_string());
        let names = service.unit.after.clone();
        let after: Map<String, Value> = names
            .into_iter()
            .map(|name| {
                let state =
                    self.table.get(&name).map_or(&State::Unknown, |service| &service.state).to_string();
                (name, state.into())
            })
            .collect();
        Ok(json!({"after": after, "name": name, "pid": pid, "state": state, "target": target}))
    }

    /// Starts nothing from now on, and gives every service with what it comes after.
    pub(crate) fn freeze(&mut self) -> impl Iterator<Item = (&str, &[String])> + Clone {
        self.frozen = true;
        self.table.iter().map(|(name, service)| (name.as_str(), service.unit.after.as_slice()))
    }

    pub(crate) fn has_process(&self, name: &str) -> bool {
        self.table.get(name).is_some_and(|service| service.pid.is_some())
    }

    /// How long a shutdown waits for the service.
    pub(crate) fn shutdown_timeout(&self, name: &str) -> Duration {
        Duration::from_secs(self.table.get(name).map_or(0, |service| service.unit.shutdown_timeout))
    }

    /// Waits until [`wake`](Self::wake) has something to do.
    pub(crate) async fn wait(&self) {
        self.timers.wait().await;
    }

    /// Does what is due.
    pub(crate) fn wake(&mut self) {
        while let Some(wake) = self.timers.take_due() {
            match wake {
                Wake::Rested { name, serial } => self.rested(&name, serial),
                Wake::Test { name, of } => self.test(&name, of),
            }
        }
        self.release();
    }

    /// Reaps every child that ended, and returns the services whose process it was.
    pub(crate) fn reap(&mut self) -> Vec<String> {
        let mut services = Vec::new();
        while let Some(ended) = process::reap() {
            match self.children.remove(&ended.pid) {
                Some(Child::Service(name)) => {
                    self.service_ended(&name, ended);
                    services.push(name);
                }
                Some(Child::Test { name, of }) => self.test_ended(&name, of, ended),
                None => self.console.debug(format_args!("reaped an orphan: {ended}")),
            }
        }
        self.release();
        services
    }

    fn service(&mut self, name: &str) -> Result<&mut Service, Refusal> {
        self.table.get_mut(name).ok_or_else(|| Refusal::UnknownService(name.to_owned()))
    }

    /// Starts the service, which has no process, if it is wanted up and not held up.
    fn schedule(&mut self, name: &str) {
        let Some(service) = self.table.get(name) else { return };
        if self.frozen || service.target == Target::Down {
            self.set(name, None, Phase::Idle);
        } else if self.may_start(service) {
            self.launch(name);
        } else {
            self.set(name, Some(State::Blocked), Phase::Blocked);
        }
    }

    fn may_start(&self, service: &Service) -> bool {
        service.unit.after.iter().all(|name| self.table.get(name).is_some_and(Service::releases_others))
    }

    fn launch(&mut self, name: &str) {
        let Some(service) = self.table.get_mut(name) else { return };
        let unit = &service.unit;
        let environment = [&self.environment, &unit.env];
        match process::start(&unit.exec, &unit.dir, environment, unit.log) {
            Err(error) => {
                self.console.error(format_args!("could not start {name}: {}", Chain(&error)));
                self.set(name, Some(State::Failure), Phase::Idle);
            }
            Ok(started) => {
                let pid = started.pid;
                let tested = !unit.oneshot && !unit.test.is_empty();
                service.pid = Some(pid);
                self.children.insert(pid, Child::Service(name.to_owned()));
                self.read_output(started, name);
                if tested {
                    self.set(name, Some(State::Spawned), Phase::Alive);
                    self.test(name, pid);
                } else {
                    self.set(name, Some(State::Running), Phase::Alive);
                }
            }
        }
    }

    fn read_output(&self, started: Started, name: &str) {
        let streams = [
            ("[+]", started.stdout.map(|stream| pipe::Receiver::from_owned_fd(stream.into()))),
            ("[-]", started.stderr.map(|stream| pipe::Receiver::from_owned_fd(stream.into()))),
        ];
        for (mark, stream) in streams {
            match stream {
                Some(Ok(stream)) => {
                    tokio::spawn(capture(stream, format!("{mark} {name}"), self.ring.clone()));
                }
                Some(Err(error)) => self.console.error(format_args!("output of {name} is lost: {error}")),
                None => {}
            }
        }
    }

    /// Runs the `test` of a service, unless the process `of` that it is about is gone or passed.
    fn test(&mut self, name: &str, of: i32) {
        let Some(service) = self.tested(name, of) else { return };
        let unit = &service.unit;
        match process::start(&unit.test, &unit.dir, [&self.environment, &unit.env], unit.log) {
            Ok(started) => {
                self.children.insert(started.pid, Child::Test { name: name.to_owned(), of });
                self.read_output(started, &format!("{name}/test"));
            }
            Err(error) => {
                self.console.error(format_args!("could not start the test of {name}: {}", Chain(&error)));
                self.set(name, Some(State::TestFailure), Phase::Alive);
                self.timers.add(TEST_DELAY, Wake::Test { name: name.to_owned(), of });
            }
        }
    }

    fn test_ended(&mut self, name: &str, of: i32, ended: Ended) {
        if self.tested(name, of).is_none() {
            return;
        }
        if ended.is_success() {
            self.set(name, Some(State::Running), Phase::Alive);
        } else {
            self.timers.add(TEST_DELAY, Wake::Test { name: name.to_owned(), of });
        }
    }

    /// The service, if it still runs as the process `of` and has not passed its `test`.
    fn tested(&self, name: &str, of: i32) -> Option<&Service> {
        self.table.get(name).filter(|service| {
            service.pid == Some(of) && matches!(service.state, State::Spawned | State::TestFailure)
        })
    }

    fn service_ended(&mut self, name: &str, ended: Ended) {
        let Some(service) = self.table.get_mut(name) else { return };
        service.ended(ended);
        if service.phase == Phase::Resting {
            let serial = service.serial;
            self.timers.add(self.respawn_delay, Wake::Rested { name: name.to_owned(), serial });
        }
        self.console.debug(format_args!("{name}: {ended}"));
    }

    fn rested(&mut self, name: &str, serial: u64) {
        let is_due = |service: &Service| service.serial == serial && service.phase == Phase::Resting;
        if self.table.get(name).is_some_and(is_due) {
            self.schedule(name);
        }
    }

    fn set(&mut self, name: &str, state: Option<State>, phase: Phase) {
        let Some(service) = self.table.get_mut(name) else { return };
        service.phase = phase;
        if let Some(state) = state {
            self.console.debug(format_args!("{name}: {state}"));
            service.state = state;
        }
    }

    /// Starts what waited for something that is up now. One at a time: a start changes the states
    /// that the next one is judged by.
    fn release(&mut self) {
        while let Some(name) = self.next_released() {
            self.launch(&name);
        }
    }

    fn next_released(&self) -> Option<String> {
        let is_due = |service: &Service| service.phase == Phase::Blocked && self.may_start(service);
        let due = self.table.iter().find(|(_, service)| is_due(service));
        due.filter(|_| !self.frozen).map(|(name, _)| name.clone())
    }
}
