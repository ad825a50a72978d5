//! A node: a root file system, processes and a supervisor of its own, thrown away at the end.

mod builder;
mod census;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use zinit_client::{Client, Dialect, ServiceStatus, ServiceUnit, State, UnitName, start_order};

use crate::error::{Doing, Error};
use crate::{Log, NetNs, job, wait_for};

pub use builder::NodeBuilder;
pub use census::{Census, Process, digest_of};

/// How long a program run in a node may take.
const EXEC_LIMIT: Duration = Duration::from_secs(300);

/// Where the supervisor listens in a node.
pub(crate) const SUPERVISOR_SOCKET: &str = "/run/zinit.sock";

/// Lines of the console that are shown when a test fails.
const SHOWN_LINES: usize = 120;

/// A running node. It and all its processes die when this is dropped; if that is because of a panic, the
/// end of its console is printed.
pub struct Node {
    netns: NetNs,
    launcher: Child,
    pid1: u32,
    console: Log,
    reader: Option<JoinHandle<()>>,
    booted: Instant,
    scratch: TempDir,
}

impl Node {
    /// What a node in `netns` shall be like.
    pub fn builder(netns: &NetNs) -> NodeBuilder {
        NodeBuilder::new(netns)
    }

    /// The pid that PID 1 of the node has outside.
    pub fn pid1(&self) -> u32 {
        self.pid1
    }

    /// The root of the node as it is seen from outside. Absolute links in it would lead astray.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid1))
    }

    /// A path in the node as it is seen from outside.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root().join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file in the node.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        fs::read_to_string(self.path(path)).doing(|| format!("read {path} of the node"))
    }

    /// What PID 1 and everything that writes to the console wrote.
    pub fn console(&self) -> &Log {
        &self.console
    }

    /// What units of `log: stdout` print: on the console, or, where there is nothing like it (zinit 0.3), in the
    /// log of their supervisor.
    pub fn printed(&self) -> String {
        let mut text = self.console().text();
        let dialect = asked("say what it speaks".to_owned(), async { self.zinit().dialect().await });
        if let (Ok(Dialect::Service), Ok(log)) = (dialect, self.service_log()) {
            text.push_str(&log);
        }
        text
    }

    /// When PID 1 was started.
    pub fn booted(&self) -> Instant {
        self.booted
    }

    /// The network namespace the node is in.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// A client of the supervisor; its methods need a tokio runtime. See also [`service`](Self::service).
    pub fn zinit(&self) -> Client {
        Client::new(self.path(SUPERVISOR_SOCKET)).with_units(self.path("/etc/zinit"))
    }

    /// Gives the supervisor the units of the base image, dependencies first: zinit 0.3 does not read them.
    fn monitor_units(&self) -> Result<(), Error> {
        let mut units = BTreeMap::new();
        let directory = self.path("/etc/zinit");
        for entry in fs::read_dir(&directory).doing(|| format!("list {}", directory.display()))? {
            let path = entry.doing(|| format!("list {}", directory.display()))?.path();
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".yaml"));
            let Some(name) = name.and_then(|name| name.parse::<UnitName>().ok()) else { continue };
            let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
            if let Ok(unit) = ServiceUnit::parse(&name, &text) {
                units.insert(name, unit);
            }
        }
        let order = start_order(&units).map_err(|error| Error::Unexpected(error.to_string()))?;
        for name in order {
            asked(format!("monitor {name}"), async { self.zinit().monitor(&name).await })?;
        }
        Ok(())
    }

    /// What the supervisor says of one service.
    ///
    /// # Errors
    /// When it does not answer, or does not know the service.
    pub fn service(&self, name: &str) -> Result<ServiceStatus, Error> {
        let name = unit_name(name)?;
        asked(format!("tell the status of {name}"), async { self.zinit().status(&name).await })
    }

    /// Has the supervisor stop a service. Every zinit has a program of its own for that, and looks for its socket
    /// elsewhere.
    ///
    /// # Errors
    /// When it does not answer, or does not know the service.
    pub fn stop_service(&self, name: &str) -> Result<(), Error> {
        let name = unit_name(name)?;
        asked(format!("stop {name}"), async { self.zinit().stop(&name).await })
    }

    /// Has the supervisor start a service that was stopped.
    ///
    /// # Errors
    /// When it does not answer, or does not know the service.
    pub fn start_service(&self, name: &str) -> Result<(), Error> {
        let name = unit_name(name)?;
        asked(format!("start {name}"), async { self.zinit().start(&name).await })
    }

    /// Has the supervisor load the unit of a service, and start it.
    ///
    /// # Errors
    /// When it does not answer, or there is no good unit.
    pub fn monitor_service(&self, name: &str) -> Result<(), Error> {
        let name = unit_name(name)?;
        asked(format!("monitor {name}"), async { self.zinit().monitor(&name).await })
    }

    /// Has the supervisor forget a service that has ended.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn forget_service(&self, name: &str) -> Result<(), Error> {
        let name = unit_name(name)?;
        asked(format!("forget {name}"), async { self.zinit().forget(&name).await })
    }

    /// All services and their states.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn services(&self) -> Result<BTreeMap<String, State>, Error> {
        asked("list its services".to_owned(), async { self.zinit().list().await })
    }

    /// The newest lines that services wrote.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn service_log(&self) -> Result<String, Error> {
        asked("show its log".to_owned(), async { self.zinit().log_snapshot().await })
    }

    /// What identityd says of itself in `/run/molt/status.json`.
    ///
    /// # Errors
    /// When it has said nothing yet.
    pub fn status(&self) -> Result<serde_json::Value, Error> {
        let text = self.read("/run/molt/status.json")?;
        serde_json::from_str(&text).doing(|| "understand the status of identityd".to_owned())
    }

    /// Waits until what `identityd status` says is so; tells what it says then.
    ///
    /// # Errors
    /// The time is over; with the last status.
    pub fn wait_for_status(
        &self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value, Error> {
        self.wait_for(what, limit, || {
            let status = self.status().map_err(|error| format!("{error:?}"))?;
            if is_so(&status) { Ok(status) } else { Err(status.to_string()) }
        })
    }

    /// The pid, outside, of the process of a service.
    ///
    /// # Errors
    /// When it has none.
    pub fn pid_of(&self, service: &str) -> Result<u32, Error> {
        let status = self.service(service)?;
        let none = || Error::Unexpected(format!("{service} is {} and has no process", status.state));
        let inside = status.pid.ok_or_else(none)?;
        self.processes()?
            .iter()
            .find(|process| process.pid_inside == inside)
            .map(|process| process.pid)
            .ok_or_else(|| Error::Unexpected(format!("the process {inside} of {service} is not there")))
    }

    /// Waits until all of these services are up.
    ///
    /// # Errors
    /// When they are not within `limit`.
    pub fn wait_for_services(&self, services: &[&str], limit: Duration) -> Result<(), Error> {
        self.wait_for(&format!("{services:?} are up"), limit, || {
            let states = self.services().map_err(|error| format!("{error:?}"))?;
            let up = |name: &&&str| states.get(**name).is_some_and(State::is_up);
            let down: Vec<_> = services.iter().filter(|name| !up(name)).collect();
            if down.is_empty() { Ok(()) } else { Err(format!("{down:?} are not among {states:?}")) }
        })
    }

    /// As [`wait_for`](crate::wait_for), and gives up at once when the node has died.
    ///
    /// # Errors
    /// [`Error::Timeout`], with the end of the console.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> Result<T, Error> {
        let console = || format!("the end of the node's console:\n{}", self.console.tail(SHOWN_LINES));
        let found = wait_for(what, limit, || match look() {
            Err(_) if !self.is_alive() => Ok(Err("the node died".to_owned())),
            Err(last) => Err(last),
            Ok(found) => Ok(Ok(found)),
        });
        match found {
            Ok(found) => {
                found.map_err(|reason| Error::Unexpected(format!("{what}: {reason}; {}", console())))
            }
            Err(Error::Timeout { what, after, last }) => {
                Err(Error::Timeout { what, after, last: format!("{last}; {}", console()) })
            }
            Err(other) => Err(other),
        }
    }

    /// Runs a program in the node, looked up in its PATH, to its end.
    ///
    /// # Errors
    /// When it cannot be run, or takes too long.
    pub fn exec(&self, command: &[&str]) -> Result<Output, Error> {
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &self.pid1.to_string(), "--mount", "--uts", "--pid"]);
        enter.arg("--").args(command).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        self.netns.run(|| job::output(&mut enter, EXEC_LIMIT))?
    }

    /// Runs a program in the node that has to succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, command: &[&str]) -> Result<String, Error> {
        let ended = self.exec(command)?;
        if ended.status.success() {
            return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
        }
        Err(job::failed(&format!("(in the node) {}", command.join(" ")), &ended))
    }

    fn is_alive(&self) -> bool {
        Path::new(&format!("/proc/{}/ns/mnt", self.pid1)).exists()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the node's console\n{}---", self.console.tail(SHOWN_LINES));
            eprintln!("(scratch space of the node: {})", self.scratch.path().display());
        }
        // The death of PID 1 ends every process of the node, and then the launcher exits. Killing the
        // launcher too covers the moment before it has a PID 1. All of them may be gone already.
        if let Ok(pid @ 1..) = i32::try_from(self.pid1) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn unit_name(name: &str) -> Result<UnitName, Error> {
    name.parse().map_err(|error: zinit_client::NameError| Error::Unexpected(error.to_string()))
}

fn asked<T>(
    action: String,
    question: impl Future<Output = Result<T, zinit_client::Error>>,
) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "start a runtime".to_owned())?;
    runtime.block_on(question).map_err(|source| Error::Supervisor { action, source })
}
