//! The machine, and what else it does meanwhile.

use std::fs;
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use molt_tests::Error;
use nix::sys::utsname::uname;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde::Serialize;

use super::measure::Usage;

/// What the numbers were taken on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    /// The processor's own name.
    pub(super) cpu: String,
    /// Processors that programs can use.
    pub(super) cores: usize,
    /// Main memory in MiB.
    pub(super) memory: u64,
    /// Version of the kernel.
    pub(super) kernel: String,
    /// Commit of this work tree; with `+` if it has been changed since.
    pub(super) commit: String,
}

impl Machine {
    /// Asks the system.
    ///
    /// # Errors
    /// When it does not tell.
    pub(super) fn describe() -> Result<Self, Error> {
        let kernel = uname().map_err(|errno| Error::System {
            action: "ask for the kernel's name".into(),
            source: errno.into(),
        })?;
        let memory = field(&read("/proc/meminfo")?, "MemTotal");
        Ok(Self {
            cpu: field(&read("/proc/cpuinfo")?, "model name"),
            cores: cores(),
            memory: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            kernel: kernel.release().to_string_lossy().into_owned(),
            commit: commit(),
        })
    }
}

/// Processors that programs can use.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut git = std::process::Command::new("git");
        let said = molt_tests::run(
            git.arg("-C").arg(molt_tests::workspace()).args(arguments),
            Duration::from_secs(60),
        );
        said.map(|text| text.trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "flist"]).is_ok_and(|changes| !changes.is_empty());
    // Sources from an archive have no history.
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|_| "unknown".to_owned());
    format!("{commit}{}", if changed { "+" } else { "" })
}

/// Watches how much of the processors other programs use.
pub(super) struct Watch {
    started: Instant,
    busy: Duration,
    hub: Duration,
    hub_pid: i32,
}

impl Watch {
    /// Starts to watch; the hub with this process id does not count as another program.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(super) fn start(hub_pid: i32) -> Result<Self, Error> {
        Ok(Self { started: Instant::now(), busy: busy()?, hub: cpu_of(hub_pid)?, hub_pid })
    }

    /// The part of the processors' time, 0 to 1, that neither the hub nor what is in `ours` used.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(super) fn others(&self, ours: &[Usage]) -> Result<f64, Error> {
        let known = ours.iter().map(|usage| usage.cpu).sum::<Duration>() + (cpu_of(self.hub_pid)? - self.hub);
        let others = (busy()? - self.busy).saturating_sub(known);
        Ok(others.as_secs_f64() / (self.started.elapsed().as_secs_f64() * cores() as f64))
    }
}

/// Processor time that all programs have used since the start of the system, and that was stolen by other
/// systems.
fn busy() -> Result<Duration, Error> {
    let text = read("/proc/stat")?;
    busy_of(&text)
        .ok_or_else(|| Error::Unexpected("/proc/stat does not tell the processors' time".to_owned()))
}

fn busy_of(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks = line.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>().ok()?;
    // user, nice, system, idle, iowait, irq, softirq, steal
    let [user, nice, system, _, _, irq, softirq, steal] = *ticks.first_chunk()?;
    // The kernel's unit for programs is a hundredth of a second on every architecture we build for.
    Some(Duration::from_millis((user + nice + system + irq + softirq + steal) * 10))
}

fn cpu_of(pid: i32) -> Result<Duration, Error> {
    let failed = |errno: nix::Error| Error::System {
        action: format!("ask for the processor time of process {pid}"),
        source: errno.into(),
    };
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).map_err(failed)?;
    clock.now().map(Duration::from).map_err(failed)
}

fn read(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::System { action: format!("read {path}"), source })
}

/// The value of the first line `name : value`.
fn field(text: &str, name: &str) -> String {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    value.unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let stat = "cpu  100 20 30 9999 5 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_of(stat), Some(Duration::from_millis(1560)));
        assert_eq!(busy_of("cpu  1 2"), None);
        assert_eq!(field("processor\t: 0\nmodel name\t: Some CPU: fast\n", "model name"), "Some CPU: fast");
        assert_eq!(field("", "model name"), "unknown");
    }
}
