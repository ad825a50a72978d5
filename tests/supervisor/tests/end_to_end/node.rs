//! A supervisor of its own for every test, and nothing of it left afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use zinit_client::{Client, ServiceStatus, State, UnitName};

/// How long anything may take before a test gives up. Not how long it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(10);

/// A running supervisor with its directory of units.
pub(crate) struct Node {
    directory: TempDir,
    supervisor: Child,
    client: Client,
    /// Children of the supervisor that were seen: number and start.
    seen: BTreeSet<(i32, u64)>,
}

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) state: char,
    /// Tells it from a later process with the same number.
    started: u64,
}

/// Whether the stand-in runs, and not the real zinit.
pub(crate) fn is_stand_in() -> bool {
    std::env::var_os("MOLT_ZINIT").is_none()
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("MOLT_ZINIT").map_or_else(|| env!("CARGO_BIN_EXE_molt-supervisor").into(), PathBuf::from)
}

impl Node {
    /// A supervisor of these units, by name and text, that answers. `@` in a text stands for the
    /// node's directory, where services can leave files.
    pub(crate) async fn start(units: &[(&str, &str)]) -> Self {
        Self::start_under(&[], units).await
    }

    /// The same with the supervisor run by the command `wrapper`.
    pub(crate) async fn start_under(wrapper: &[&str], units: &[(&str, &str)]) -> Self {
        Self::start_with(wrapper, &[], units).await
    }

    /// The same with more arguments of `init`.
    pub(crate) async fn start_with(wrapper: &[&str], arguments: &[&str], units: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(directory.path().join("units")).expect("unit directory");
        let socket = directory.path().join("sock");
        for (name, text) in units {
            write_unit(directory.path(), name, text);
        }
        let console = File::create(directory.path().join("console")).expect("console");
        let mut words: Vec<PathBuf> = wrapper.iter().map(PathBuf::from).collect();
        words.push(program());
        let supervisor = Command::new(&words[0])
            .args(&words[1..])
            .arg("-s")
            .arg(&socket)
            .args(["init", "--container", "-c"])
            .arg(directory.path().join("units"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("console"))
            .stderr(console)
            .spawn()
            .expect("start the supervisor");
        let client = Client::new(socket).with_deadline(PATIENCE);
        let node = Self { directory, supervisor, client, seen: BTreeSet::new() };
        node.until("the supervisor answers", async || node.client.list().await.is_ok()).await;
        node
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The process that was started: the supervisor, or its wrapper.
    pub(crate) fn pid(&self) -> i32 {
        self.supervisor.id().cast_signed()
    }

    pub(crate) fn write_unit(&self, name: &str, text: &str) {
        write_unit(self.directory.path(), name, text);
    }

    /// The path of a file in the node's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The text of a file in the node's directory; empty if there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What the supervisor wrote to its standard output and error.
    pub(crate) fn console(&self) -> String {
        self.read("console")
    }

    pub(crate) async fn status(&self, name: &str) -> ServiceStatus {
        self.client.status(&unit(name)).await.expect("status")
    }

    /// Waits until the status of a service is as wanted, and returns it.
    pub(crate) async fn wait_for(
        &self,
        name: &str,
        wanted: impl Fn(&ServiceStatus) -> bool,
    ) -> ServiceStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status(name).await;
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "gave up at {status:?}; console:\n{}", self.console());
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) async fn wait_until_running(&self, name: &str) -> ServiceStatus {
        self.wait_for(name, |status| status.state == State::Running).await
    }

    /// Stops a service and waits until its process is gone.
    pub(crate) async fn stop(&self, name: &str) -> ServiceStatus {
        self.client.stop(&unit(name)).await.expect("stop");
        self.wait_for(name, ServiceStatus::is_stopped).await
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(Instant::now() < end, "gave up waiting until {what}; console:\n{}", self.console());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends bytes to the socket, ends the sending side if `half_close`, and returns everything that
    /// comes back.
    pub(crate) fn raw(&self, request: &[u8], half_close: bool) -> String {
        let mut stream = UnixStream::connect(self.path("sock")).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("read timeout");
        stream.write_all(request).expect("send");
        if half_close {
            stream.shutdown(std::net::Shutdown::Write).expect("half-close");
        }
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("a reply");
        String::from_utf8(reply).expect("UTF-8")
    }

    /// Waits for the end of the supervisor.
    pub(crate) async fn wait_for_end(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            // Looked at first: those that outlive the supervisor are nobody's children afterwards.
            self.note_children();
            if let Some(status) = self.supervisor.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < end, "the supervisor does not end; console:\n{}", self.console());
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Node {
    /// Takes note of the services that run, and returns them.
    fn note_children(&mut self) -> Vec<Process> {
        let supervisor = self.pid();
        // A service leads its group. A wrapper's child, the supervisor itself, does not.
        let is_service = |process: &Process| process.parent == supervisor && process.group == process.pid;
        let children: Vec<Process> = processes().into_iter().filter(is_service).collect();
        self.seen.extend(children.iter().map(|child| (child.pid, child.started)));
        children
    }
}

impl Drop for Node {
    /// Asks for a shutdown and meanwhile kills all services, so that no stubborn one delays it; then
    /// kills those that outlived the supervisor.
    fn drop(&mut self) {
        if let Ok(mut stream) = UnixStream::connect(self.path("sock")) {
            let _ = stream.write_all(b"shutdown\n");
        }
        let end = Instant::now() + Duration::from_secs(10);
        while matches!(self.supervisor.try_wait(), Ok(None)) && Instant::now() < end {
            for child in self.note_children() {
                let _ = killpg(Pid::from_raw(child.pid), Signal::SIGKILL);
            }
            std::thread::sleep(POLL);
        }
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        for process in processes() {
            if self.seen.contains(&(process.pid, process.started)) {
                let _ = killpg(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
        }
    }
}

/// A name that is known to be good.
pub(crate) fn unit(name: &str) -> UnitName {
    name.parse().expect("a unit name")
}

/// Every process there is.
pub(crate) fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The process `pid`, if there is one; it may be a zombie.
pub(crate) fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets; after its last bracket come single words.
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Process {
        pid,
        state: words.first()?.chars().next()?,
        parent: words.get(1)?.parse().ok()?,
        group: words.get(2)?.parse().ok()?,
        started: words.get(19)?.parse().ok()?,
    })
}

/// Whether the process `pid` runs; a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    process(pid).is_some_and(|process| process.state != 'Z')
}

fn write_unit(directory: &Path, name: &str, text: &str) {
    let path = directory.join("units").join(format!("{name}.yaml"));
    let place = directory.to_str().expect("a path in UTF-8");
    fs::write(path, text.replace('@', place)).expect("write a unit");
}
