//! The supervisor and its services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bootstrap::plan::unit_name;
use bootstrap::processes::Uses;
use bootstrap::supervisor::{HeldProcess, Supervisor};
use flist::path::FlistPath;
use zinit_client::{
    Error, ExitCause, Refusal, ServiceStatus, ServiceUnit, SignalName, State, Target, UnitName,
};

use crate::fault::Operation;
use crate::files::Files;
use crate::machine::{Deed, Machine};

const UNITS: &str = "etc/zinit";

/// A program that holds this word exits with an error at once.
pub(crate) const EXITS: &str = "exits";

/// A program that holds this word dies after it was asked about some times.
pub(crate) const DIES: &str = "dies";

/// A line of a program that begins with this word names a file that its process maps.
const MAPS: &str = "maps ";

const ANSWERS_BEFORE_DEATH: u32 = 3;

/// What the supervisor monitors.
#[derive(Debug, Clone, Default)]
pub struct Services {
    table: BTreeMap<UnitName, Service>,
    last_pid: u32,
    /// What somebody has stopped by hand, and the unit that it was monitored with then.
    stopped: BTreeMap<UnitName, Vec<u8>>,
    /// Of those, the ones that were started again.
    started_again: BTreeSet<UnitName>,
}

#[derive(Debug, Clone)]
struct Service {
    target: Target,
    state: State,
    process: Option<Process>,
    /// The unit that it was monitored with.
    unit: ServiceUnit,
    text: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Process {
    pid: u32,
    program: Vec<u8>,
    /// What it executes, and has mapped.
    inodes: Vec<(u64, u64)>,
    asked: u32,
}

impl Services {
    /// Monitors every unit that is there, as at the start of a machine.
    pub fn boot(&mut self, files: &Files) {
        for unit in units_in(files) {
            // What cannot be loaded is skipped, as zinit does.
            let _ = self.monitor(files, &unit);
        }
    }

    /// Somebody has changed units, and loads them anew.
    pub fn reload(&mut self, files: &Files) {
        for name in units_in(files) {
            let text = unit_path(&name).and_then(|path| files.content(&path));
            if self.table.get(&name).map(|service| service.text.as_slice()) != text {
                self.table.remove(&name);
                // What cannot be loaded does not run.
                let _ = self.monitor(files, &name);
            }
        }
    }

    /// The process of a service.
    pub fn process_of(&self, name: &UnitName) -> Option<u32> {
        self.table.get(name)?.process.as_ref().map(|process| process.pid)
    }

    /// Somebody stops a service: from here on nobody else may start it.
    pub fn stop_by_hand(&mut self, name: &str) {
        let Ok(name) = name.parse() else { return };
        if self.stop(&name).is_ok() {
            let unit = self.table.get(&name).map(|service| service.text.clone()).unwrap_or_default();
            self.stopped.insert(name, unit);
        }
    }

    /// What is wrong with a service that was stopped by hand: it stays down, and the supervisor knows no other unit of
    /// it than the one that is there.
    fn problem_of_stopped(&self, name: &UnitName, text: &[u8]) -> Option<String> {
        if self.started_again.contains(name) {
            return Some(format!("{name} was started, and somebody had stopped it"));
        }
        match self.table.get(name) {
            Some(service) if service.process.is_some() || service.target == Target::Up => {
                Some(format!("{name} runs, and somebody had stopped it"))
            }
            Some(service) if service.text != text => Some(format!("{name} is down with another unit")),
            None if self.stopped.get(name).is_some_and(|before| before == text) => {
                Some(format!("{name} is forgotten, and its unit is as it was"))
            }
            _ => None,
        }
    }

    /// What is wrong with the services, in words: every unit that is there must run, as it is there, unless somebody
    /// has stopped it.
    pub fn problems(&self, files: &Files, ignored: &BTreeSet<UnitName>) -> Vec<String> {
        let there = units_in(files);
        let mut problems = Vec::new();
        for name in there.iter().filter(|name| !ignored.contains(*name)) {
            let text = unit_path(name).and_then(|path| files.content(&path)).unwrap_or_default();
            if self.stopped.contains_key(name) {
                problems.extend(self.problem_of_stopped(name, text));
                continue;
            }
            let Some(service) = self.table.get(name) else {
                problems.push(format!("{name} is not monitored"));
                continue;
            };
            if service.text != text {
                problems.push(format!("{name} runs with another unit"));
            }
            match &service.process {
                _ if service.unit.oneshot && service.state == State::Success => {}
                Some(process) => {
                    let program = program_of(&service.unit).and_then(|path| files.content(&path));
                    if program != Some(process.program.as_slice()) {
                        problems.push(format!("{name} runs another program"));
                    }
                }
                None => problems.push(format!("{name} does not run: {}", service.state)),
            }
        }
        let gone = self.table.keys().filter(|name| !there.contains(*name) && !ignored.contains(*name));
        problems.extend(gone.map(|name| format!("{name} is monitored and has no unit")));
        problems
    }

    fn monitor(&mut self, files: &Files, name: &UnitName) -> Result<(), Refusal> {
        if self.table.contains_key(name) {
            return Err(Refusal::AlreadyMonitored { name: name.to_string() });
        }
        let text = unit_path(name).and_then(|path| files.content(&path)).ok_or(Refusal::ConfigLoad)?.to_vec();
        let unit =
            ServiceUnit::parse(name, &String::from_utf8_lossy(&text)).map_err(|_| Refusal::ConfigLoad)?;
        let service = Service { target: Target::Up, state: State::Unknown, process: None, unit, text };
        self.table.insert(name.clone(), service);
        self.spawn(files, name);
        Ok(())
    }

    fn spawn(&mut self, files: &Files, name: &UnitName) {
        if self.stopped.contains_key(name) {
            self.started_again.insert(name.clone());
        }
        self.last_pid += 1;
        let pid = self.last_pid;
        let Some(service) = self.table.get_mut(name) else { return };
        let found = program_of(&service.unit)
            .and_then(|path| Some((files.content(&path)?.to_vec(), files.inode_of(&path)?)))
            .map(|(program, inode)| {
                let inodes: Vec<_> = mapped(files, &program).chain([inode]).collect();
                (program, inodes)
            });
        service.state = match found {
            None => State::Failure,
            Some((program, _)) if holds(&program, EXITS) => State::Error(ExitCause::Exited { pid, code: 1 }),
            Some(_) if service.unit.oneshot => State::Success,
            Some((program, inodes)) => {
                service.process = Some(Process { pid, program, inodes, asked: 0 });
                State::Running
            }
        };
    }

    fn known(&mut self, name: &UnitName) -> Result<&mut Service, Refusal> {
        self.table.get_mut(name).ok_or_else(|| Refusal::UnknownService { name: name.to_string() })
    }

    fn status(&mut self, name: &UnitName) -> Result<ServiceStatus, Refusal> {
        let service = self.known(name)?;
        if let Some(process) = &mut service.process {
            process.asked += 1;
            if process.asked > ANSWERS_BEFORE_DEATH && holds(&process.program, DIES) {
                service.state = State::Error(ExitCause::Exited { pid: process.pid, code: 2 });
                service.process = None;
            }
        }
        let Service { target, state, process, .. } = service.clone();
        let pid = process.map(|process| process.pid);
        Ok(ServiceStatus { name: name.clone(), pid, state, target, after: BTreeMap::new() })
    }

    fn start(&mut self, files: &Files, name: &UnitName) -> Result<(), Refusal> {
        let service = self.known(name)?;
        service.target = Target::Up;
        if service.process.is_none() {
            self.spawn(files, name);
        }
        Ok(())
    }

    fn stop(&mut self, name: &UnitName) -> Result<(), Refusal> {
        let service = self.known(name)?;
        service.target = Target::Down;
        service.process = None;
        service.state = State::Success;
        Ok(())
    }

    fn forget(&mut self, name: &UnitName) -> Result<(), Refusal> {
        let service = self.known(name)?;
        if service.target == Target::Up || service.process.is_some() {
            return Err(Refusal::IsUp { name: name.to_string() });
        }
        self.table.remove(name);
        Ok(())
    }

    fn has_process(&self, pid: u32) -> bool {
        self.table.values().any(|service| service.process.as_ref().is_some_and(|process| process.pid == pid))
    }
}

/// The files that a program maps, as far as they are there.
fn mapped(files: &Files, program: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let lines = String::from_utf8_lossy(program)
        .lines()
        .filter_map(|line| Some(line.strip_prefix(MAPS)?.to_owned()))
        .collect::<Vec<_>>();
    lines.into_iter().filter_map(|path| files.inode_of(&path.trim_start_matches('/').parse().ok()?))
}

fn holds(program: &[u8], word: &str) -> bool {
    program.windows(word.len()).any(|window| window == word.as_bytes())
}

fn units_in(files: &Files) -> BTreeSet<UnitName> {
    let Ok(directory) = UNITS.parse::<FlistPath>() else { return BTreeSet::new() };
    let names = files.list(&directory).unwrap_or_default();
    names.iter().filter_map(|name| unit_name(&directory.join(name).ok()?)).collect()
}

fn unit_path(name: &UnitName) -> Option<FlistPath> {
    format!("{UNITS}/{name}.yaml").parse().ok()
}

fn program_of(unit: &ServiceUnit) -> Option<FlistPath> {
    unit.command().ok()?.first()?.trim_start_matches('/').parse().ok()
}

/// The engine's view of the supervisor.
#[derive(Debug)]
pub(crate) struct ModelSupervisor {
    pub(crate) machine: Arc<Machine>,
}

impl ModelSupervisor {
    fn answer<T>(
        &self,
        operation: Operation,
        command: &str,
        whole: impl FnOnce(&mut Services, &Files) -> Result<T, Refusal>,
    ) -> Result<T, Error> {
        let refused = |reason| Error::Refused { command: command.to_owned(), reason };
        let broken = || Err(Error::BrokenOff { command: command.to_owned(), received: 0, source: None });
        self.machine.on_services(operation, |services, files| whole(services, files).map_err(refused), broken)
    }
}

#[async_trait]
impl Supervisor for ModelSupervisor {
    async fn list(&self) -> Result<Vec<String>, Error> {
        self.answer(Operation::Ask, "list", |services, _| {
            Ok(services.table.keys().map(ToString::to_string).collect())
        })
    }

    async fn status(&self, unit: &UnitName) -> Result<ServiceStatus, Error> {
        self.answer(Operation::Ask, "status", |services, _| services.status(unit))
    }

    async fn monitor(&self, unit: &UnitName) -> Result<(), Error> {
        self.machine.note(Deed::Start(unit.clone()));
        self.answer(Operation::Order, "monitor", |services, files| services.monitor(files, unit))
    }

    async fn start(&self, unit: &UnitName) -> Result<(), Error> {
        self.machine.note(Deed::Start(unit.clone()));
        self.answer(Operation::Order, "start", |services, files| services.start(files, unit))
    }

    async fn stop(&self, unit: &UnitName) -> Result<(), Error> {
        self.machine.note(Deed::Stop(unit.clone()));
        self.answer(Operation::Order, "stop", |services, _| services.stop(unit))
    }

    async fn forget(&self, unit: &UnitName) -> Result<(), Error> {
        self.answer(Operation::Order, "forget", |services, _| services.forget(unit))
    }

    fn hold(&self, pid: u32) -> Box<dyn HeldProcess> {
        Box::new(Held { pid, machine: self.machine.clone() })
    }

    fn in_use(&self, wanted: &HashMap<(u64, u64), FlistPath>, leaders: &BTreeMap<UnitName, u32>) -> Uses {
        self.machine.with(|_, _, services| {
            let of = |name: &UnitName| {
                let inodes = &services.table.get(name)?.process.as_ref()?.inodes;
                let used: BTreeSet<_> =
                    inodes.iter().filter_map(|inode| wanted.get(inode).cloned()).collect();
                (!used.is_empty()).then(|| (name.clone(), used))
            };
            Uses { services: leaders.keys().filter_map(of).collect(), ..Uses::default() }
        })
    }
}

struct Held {
    pid: u32,
    machine: Arc<Machine>,
}

#[async_trait]
impl HeldProcess for Held {
    async fn ended_within(&self, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        while self.group_lives() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        true
    }

    fn group_lives(&self) -> bool {
        self.machine.with(|_, _, services| services.has_process(self.pid))
    }

    fn signal_group(&self, _: SignalName) {
        // Programs of the model end at any signal.
        self.machine.on_services(
            Operation::Order,
            |services, _| {
                for service in services.table.values_mut() {
                    if service.process.as_ref().is_some_and(|process| process.pid == self.pid) {
                        service.process = None;
                    }
                }
            },
            || {},
        );
    }
}
