//! A virtual machine: a real kernel that boots an [`Image`] or a [`BootDisk`], in a network namespace with a hub.
//!
//! ```text
//! NetNs ── only `lo` ──────────────────────────────────────────────────────────────┐
//! │  Hub (127.0.0.1:port)  ◄── 10.0.2.2:port ──  QEMU: kernel, initramfs, disks     │
//! │                                          console ──► Log; virtio port ──► a shell │
//! └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Killing QEMU is a power cut: what the guest has not written to its disks is gone.

mod agent;
mod census;
mod disk;
mod guest_log;
mod qemu;
mod range;
mod writes;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{Doing, Error};
use crate::image::{BootDisk, Image};
use crate::tools::{self, Firmware};
use crate::{Binaries, Log, NetNs, job, place, wait_for};

use agent::Agent;
pub use disk::DiskImage;
pub use guest_log::IS_FULL;
pub use qemu::{Console, Drive, Machine, NEEDS_VM, Start, available};
pub use range::{Range, hub_seen_from_inside, publish_for_machines};
pub use writes::{Replayed, WriteLog};

/// How much time has to be left for those tests with virtual machines that are part of every test run, unless
/// [`NEEDS_VM`] says that they have to run.
pub const TESTS_TAKE: Duration = Duration::from_secs(15 * 60);

/// How long a program run in a machine may take, and how long it may take until it can run any.
const LIMIT: Duration = Duration::from_secs(300);

/// Time between two looks at a machine. A look starts processes in it, and an emulated processor is slow.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// Lines of the console that are shown when something fails.
const SHOWN_LINES: usize = 80;

/// What every kernel is told: no chatter, and an end of the emulator instead of a dead machine.
const QUIET: &str = "console=ttyS0 quiet panic=-1";

/// What a virtual machine shall be like; [`boot`](Self::boot) starts it.
#[derive(Clone)]
pub struct VmBuilder {
    netns: NetNs,
    machine: Machine,
}

/// A running virtual machine. It ends when this is dropped.
pub struct Vm {
    qemu: Child,
    console: Log,
    reader: Option<JoinHandle<()>>,
    agent: Mutex<Agent>,
    started: Instant,
    _scratch: TempDir,
}

impl VmBuilder {
    /// A machine that boots `image`.
    pub fn new(netns: &NetNs, image: &Image) -> Self {
        let (kernel, initramfs) = (image.kernel.clone(), image.initramfs.clone());
        Self::that_starts(netns, Start::Kernel { image: kernel, initramfs, append: QUIET.to_owned() })
    }

    /// A machine that boots from this disk by itself.
    ///
    /// # Errors
    /// When there is no firmware for it.
    pub fn from_disk(netns: &NetNs, disk: &BootDisk) -> Result<Self, Error> {
        let mut builder = Self::that_starts(netns, Start::Disk(tools::firmware()?));
        builder.machine.disks.push(Drive { image: disk.disk.clone(), log: None });
        Ok(builder)
    }

    fn that_starts(netns: &NetNs, start: Start) -> Self {
        let (disks, ports) = (Vec::new(), Vec::new());
        Self { netns: netns.clone(), machine: Machine { start, memory_mib: 512, disks, ports, agent: None } }
    }

    /// Another image; without effect where the machine boots from a disk.
    #[must_use]
    pub fn image(mut self, image: &Image) -> Self {
        if let Start::Kernel { image: kernel, initramfs, .. } = &mut self.machine.start {
            (*kernel, *initramfs) = (image.kernel.clone(), image.initramfs.clone());
        }
        self
    }

    /// More words of the kernel's command line; without effect where the machine boots from a disk that has one.
    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        if let Start::Kernel { append, .. } = &mut self.machine.start {
            *append += &format!(" {words}");
        }
        self
    }

    /// One more disk.
    #[must_use]
    pub fn disk(mut self, disk: &DiskImage) -> Self {
        self.machine.disks.push(Drive { image: disk.path(), log: None });
        self
    }

    /// One more disk, with everything that is written to it logged in `log`.
    ///
    /// # Errors
    /// When the log cannot be made.
    pub fn logged_disk(mut self, disk: &DiskImage, log: &Path) -> Result<Self, Error> {
        File::create(log).doing(|| format!("make {}", log.display()))?;
        self.machine.disks.push(Drive { image: disk.path(), log: Some(log.to_owned()) });
        Ok(self)
    }

    /// Its memory; 512 MiB if nothing is said.
    #[must_use]
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.machine.memory_mib = size;
        self
    }

    /// A port of the namespace's 127.0.0.1 that leads to the same port of the machine.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.machine.ports.push(port);
        self
    }

    /// Starts the machine. What runs in it is not waited for.
    ///
    /// # Errors
    /// When the emulator is not there, or does not start.
    pub fn boot(mut self) -> Result<Vm, Error> {
        let emulator = tools::qemu()?;
        let scratch = place::scratch("vm")?;
        let socket = scratch.path().join("agent");
        self.machine.agent = Some(socket.clone());
        if let Start::Disk(Firmware { variables, .. }) = &mut self.machine.start {
            let own = scratch.path().join("variables");
            std::fs::copy(&*variables, &own).doing(|| format!("copy {}", variables.display()))?;
            *variables = own;
        }
        let runner = (Binaries::ensure()?.launcher(), "tied");
        let mut qemu = self.machine.command(&emulator, Console::Output, Some(runner));
        qemu.stdin(Stdio::null());
        // One pipe for both, so that a complaint of the emulator is seen where it happened.
        let (reader, writer) = std::io::pipe().doing(|| "make a pipe".to_owned())?;
        let second = writer.try_clone().doing(|| "copy a pipe".to_owned())?;
        qemu.stdout(writer).stderr(second);
        let started = Instant::now();
        let mut qemu = self.netns.spawn(qemu)?;
        let console = Log::default();
        let reader = Some(console.follow(reader));
        match Agent::connect(&socket, LIMIT) {
            Ok(agent) => {
                Ok(Vm { qemu, console, reader, agent: Mutex::new(agent), started, _scratch: scratch })
            }
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                Err(Error::Unexpected(format!("{error:?}; {}", console.tail(SHOWN_LINES))))
            }
        }
    }
}

impl Vm {
    /// What came over the serial console.
    pub fn console(&self) -> &Log {
        &self.console
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits until a line of the console contains `part`.
    ///
    /// # Errors
    /// When that does not come, or the machine ends before.
    pub fn wait_for_console(&mut self, part: &str, limit: Duration) -> Result<(), Error> {
        let console = self.console.clone();
        self.wait_for(&format!("the console says {part:?}"), limit, |_| match console.contains(part) {
            true => Ok(()),
            false => Err("it does not".to_owned()),
        })
    }

    /// As [`wait_for`](crate::wait_for), and gives up at once when the machine has ended.
    ///
    /// # Errors
    /// [`Error::Timeout`], with the end of the console.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> Result<T, Error> {
        let found = wait_for(what, limit, || match look(self) {
            Ok(found) => Ok(Ok(found)),
            Err(last) => match self.qemu.try_wait() {
                Ok(None) => {
                    thread::sleep(LOOK_AGAIN);
                    Err(last)
                }
                ended => Ok(Err(format!("the machine ended ({ended:?}); before that: {last}"))),
            },
        });
        let console = || format!("the end of the console:\n{}", self.console.tail(SHOWN_LINES));
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

    /// Says that the machine has started another kernel since the last command, and with it another shell.
    pub fn expect_another_shell(&self) {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).expect_another();
    }

    /// Runs a command line in the machine's shell: its exit code and what it printed.
    ///
    /// # Errors
    /// When it does not end.
    pub fn exec(&self, command: &str) -> Result<(i32, String), Error> {
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        agent.run(command, LIMIT).map(|answer| (answer.code, answer.output)).map_err(|error| match error {
            Error::Timeout { what, after, last } => Error::Timeout {
                what,
                after,
                last: format!("{last}; the end of the console:\n{}", self.console.tail(SHOWN_LINES)),
            },
            other => other,
        })
    }

    /// Runs a command line that has to succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, command: &str) -> Result<String, Error> {
        match self.exec(command)? {
            (0, output) => Ok(output),
            (code, output) => Err(Error::Command {
                command: format!("(in the virtual machine) {command}"),
                status: format!("exit code {code}"),
                output,
            }),
        }
    }

    /// The text of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> Result<String, Error> {
        self.run(&format!("cat {path}"))
    }

    /// What identityd says of itself.
    ///
    /// # Errors
    /// When it has said nothing yet.
    pub fn status(&self) -> Result<serde_json::Value, Error> {
        let text = self.read("/run/molt/status.json")?;
        serde_json::from_str(&text).doing(|| "understand the status of identityd".to_owned())
    }

    /// All services and their states.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn services(&self) -> Result<BTreeMap<String, String>, Error> {
        let list = self.run("zinit list")?;
        let states = list.lines().filter_map(|line| line.split_once(": "));
        Ok(states.map(|(name, state)| (name.to_owned(), state.trim().to_owned())).collect())
    }

    /// Waits until all of these services are up.
    ///
    /// # Errors
    /// When they are not within `limit`.
    pub fn wait_for_services(&mut self, services: &[&str], limit: Duration) -> Result<(), Error> {
        self.wait_for(&format!("{services:?} are up"), limit, |vm| {
            let states = vm.services().map_err(|error| format!("{error:?}"))?;
            let up = |name: &&&str| states.get(**name).is_some_and(|is| is == "Running" || is == "Success");
            match services.iter().find(|name| !up(name)) {
                None => Ok(()),
                Some(down) => Err(format!("{down} is not up: {states:?}")),
            }
        })
    }

    /// The process of a service.
    ///
    /// # Errors
    /// When the supervisor does not know the service.
    pub fn pid_of(&self, service: &str) -> Result<u32, Error> {
        let status = self.run(&format!("zinit status {service}"))?;
        let pid = status.lines().find_map(|line| line.strip_prefix("pid: ")?.trim().parse().ok());
        pid.ok_or_else(|| Error::Unexpected(format!("{service} has no process: {status}")))
    }

    /// Runs a command line that ends the machine, and waits until that has happened.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end_by(&mut self, command: &str, limit: Duration) -> Result<ExitStatus, Error> {
        match self.exec(command) {
            // The end can be faster than the answer.
            Ok(_) => {}
            Err(Error::System { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        self.await_end(limit)
    }

    /// Waits until the machine has ended by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn await_end(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        let qemu = &mut self.qemu;
        wait_for("the virtual machine ends", limit, || match qemu.try_wait() {
            Ok(Some(status)) => Ok(Ok(status)),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Ok(Err(error)),
        })?
        .doing(|| "wait for the virtual machine".to_owned())
    }

    /// A power cut.
    ///
    /// # Errors
    /// When the emulator cannot be killed.
    pub fn cut_power(&mut self) -> Result<(), Error> {
        self.qemu.kill().and_then(|()| self.qemu.wait().map(drop)).doing(|| "kill the emulator".to_owned())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the console\n{}---", self.console.tail(SHOWN_LINES));
        }
        // It may have ended already.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Runs a program of the host for the harness of machines.
fn host(command: &mut Command) -> Result<(), Error> {
    job::run(command, LIMIT).map(drop)
}
