//! A supervisor of its own for every case, and nothing of it left afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bootstrap::transaction::services;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use zinit_client::{Client, Error as ZinitError, Refusal, ServiceStatus, ServiceUnit, State, UnitName};

use crate::Zinit;
use crate::place;

/// How long anything may take before a case gives up. Not how long it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Why a case fails.
pub(super) type Fault = Box<dyn std::error::Error>;

/// A running supervisor with its directory of units.
pub(super) struct Stage {
    directory: TempDir,
    supervisor: Child,
    pub(super) zinit: Zinit,
    pub(super) client: Client,
    /// Process groups of services that were seen.
    seen: BTreeSet<u32>,
}

impl Stage {
    /// A supervisor that answers, of no services.
    pub(super) async fn set_up(zinit: &Zinit) -> Result<Self, Fault> {
        let directory = place::scratch("stage")?;
        let units = directory.path().join("units");
        fs::create_dir_all(units.join("services"))?;
        // On a path of its own: a socket's path has at most 107 bytes.
        let socket = std::env::temp_dir().join(format!("{}.sock", name_of(directory.path())));
        let console = File::create(directory.path().join("console"))?;
        let mut command = zinit.command(&socket, &units);
        command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        let supervisor = command.spawn()?;
        let client = Client::new(&socket).with_units(&units);
        let stage = Self { directory, supervisor, zinit: zinit.clone(), client, seen: BTreeSet::new() };
        stage.until("the supervisor answers", async || stage.client.list().await.is_ok()).await?;
        Ok(stage)
    }

    /// Writes a unit file; `@/` in its text stands for the directory of the stage.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), Fault> {
        let text = text.replace("@/", &format!("{}/", self.directory.path().display()));
        Ok(fs::write(self.unit_file(name), text)?)
    }

    /// Removes a unit file.
    pub(super) fn remove(&self, name: &str) -> Result<(), Fault> {
        Ok(fs::remove_file(self.unit_file(name))?)
    }

    /// Writes a unit file and has the supervisor monitor it.
    pub(super) async fn monitor(&mut self, name: &str, text: &str) -> Result<(), Fault> {
        self.write(name, text)?;
        Ok(self.client.monitor(&unit(name)?).await?)
    }

    /// Does so, and waits until it runs; returns its process.
    pub(super) async fn run(&mut self, name: &str, text: &str) -> Result<u32, Fault> {
        self.monitor(name, text).await?;
        self.running(name).await
    }

    /// Waits until a service runs; returns its process.
    pub(super) async fn running(&mut self, name: &str) -> Result<u32, Fault> {
        let status =
            self.wait_for(name, |status| status.state == State::Running && status.pid.is_some()).await?;
        status.pid.ok_or_else(|| "it has no process".into())
    }

    pub(super) async fn status(&mut self, name: &str) -> Result<ServiceStatus, Fault> {
        let status = self.client.status(&unit(name)?).await?;
        self.seen.extend(status.pid);
        Ok(status)
    }

    /// Waits until the status of a service is as wanted.
    pub(super) async fn wait_for(
        &mut self,
        name: &str,
        wanted: impl Fn(&ServiceStatus) -> bool,
    ) -> Result<ServiceStatus, Fault> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name).await?;
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(format!("gave up at {status:?}").into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops a service as the engine does.
    pub(super) async fn stop(&self, name: &str) -> Result<(), Fault> {
        let text = fs::read_to_string(self.unit_file(name))?;
        let definition = ServiceUnit::parse(&unit(name)?, &text)?;
        Ok(services::stop_and_forget(&self.client, &unit(name)?, Some(&definition)).await?)
    }

    /// Starts a stopped service as the engine does.
    pub(super) async fn start(&self, name: &str) -> Result<(), Fault> {
        Ok(services::monitor(&self.client, &unit(name)?).await?)
    }

    /// Has units loaded anew that have changed, as the engine does.
    pub(super) async fn discard(&self, names: &[&str]) -> Result<(), Fault> {
        let names = names.iter().map(|name| unit(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(services::discard(&self.client, &names).await?)
    }

    /// Waits until a condition holds.
    pub(super) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) -> Result<(), Fault> {
        let end = Instant::now() + PATIENCE;
        while !condition().await {
            if Instant::now() >= end {
                let console = self.read("console");
                return Err(format!("gave up waiting until {what}; console:\n{console}").into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The text of a file in the directory of the stage; empty when there is none.
    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// Where unit files are.
    pub(super) fn units(&self) -> PathBuf {
        self.directory.path().join("units")
    }

    fn unit_file(&self, name: &str) -> PathBuf {
        self.units().join(format!("{name}.yaml"))
    }
}

impl Drop for Stage {
    /// Kills the supervisor and then what it has left. Nothing is shut down in order: that is no matter of the
    /// client, and not every zinit can.
    fn drop(&mut self) {
        let children = children_of(self.supervisor.id());
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        // Each leads a process group; those whose number has come to mean another process are none of ours.
        for group in
            self.seen.iter().chain(&children).filter(|pid| is_ours(**pid, self.directory.path(), &children))
        {
            let _ = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
        }
        let _ = fs::remove_file(self.client.socket());
    }
}

/// A name that is known to be good.
pub(super) fn unit(name: &str) -> Result<UnitName, Fault> {
    Ok(name.parse::<UnitName>()?)
}

/// Fails unless the supervisor refuses for this reason.
pub(super) fn refused<T: std::fmt::Debug>(
    answer: Result<T, ZinitError>,
    wanted: fn(&Refusal) -> bool,
) -> Result<(), Fault> {
    match answer {
        Err(error) if error.refusal().is_some_and(wanted) => Ok(()),
        other => Err(format!("not refused as it should be: {other:?}").into()),
    }
}

/// Fails with these words unless it holds.
pub(super) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// Whether the process runs; a zombie does not.
pub(super) fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !stat.starts_with('Z'))
}

fn name_of(directory: &Path) -> String {
    directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn children_of(parent: u32) -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let parent_of = stat(*pid).and_then(|stat| stat.split_whitespace().nth(1)?.parse().ok());
        parent_of == Some(parent)
    })
    .collect()
}

fn is_ours(pid: u32, directory: &Path, children: &BTreeSet<u32>) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mentions = String::from_utf8_lossy(&command).contains(&*directory.to_string_lossy());
    children.contains(&pid) || mentions
}

/// What `/proc/PID/stat` has after the name: the state, the parent.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.trim().to_owned())
}
