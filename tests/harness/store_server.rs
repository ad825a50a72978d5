//! Real servers of blocks on 127.0.0.1: Redis, and `flist serve`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Doing, Error};
use crate::{Binaries, Log, ReservedPort, place, tools, wait_for};

/// How long a server may take to start.
const LIMIT: Duration = Duration::from_secs(60);

/// How long it may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A redis-server that keeps everything in memory. It dies with the thread that started it, or when it is
/// dropped.
pub struct RedisServer {
    port: ReservedPort,
    process: Process,
}

impl RedisServer {
    /// Starts one and waits until it answers; with a `password`, it asks for it.
    ///
    /// # Errors
    /// When Redis cannot be had or does not start.
    pub fn start(password: Option<&str>) -> Result<Self, Error> {
        let binaries = Binaries::ensure()?;
        let redis = tools::redis(&binaries)?;
        let directory = place::scratch("redis")?;
        // The program is what its name says.
        let program = directory.path().join("redis-server");
        symlink(&redis.server, &program).doing(|| format!("make {}", program.display()))?;
        let port = ReservedPort::new()?;
        let mut command = tied(&binaries, &program);
        let libraries: BTreeSet<_> = redis.libraries.iter().filter_map(|path| path.parent()).collect();
        let libraries = std::env::join_paths(libraries)
            .map_err(|error| Error::Unexpected(format!("a library directory has a bad name: {error}")))?;
        command.env("LD_LIBRARY_PATH", libraries);
        command.args(["--bind", "127.0.0.1", "--port", &port.address().port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory.path());
        if let Some(password) = password {
            command.args(["--requirepass", password]);
        }
        let process = Process::start(command, directory)?;
        // An answer of any kind: without the password it is a refusal.
        wait_for("Redis answers", LIMIT, || {
            ping(port.address()).map_err(|error| format!("{error}\n{}", process.log.tail(20)))
        })?;
        Ok(Self { port, process })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The address of one of its databases as a store.
    pub fn url(&self, database: u8) -> String {
        format!("redis://{}/{database}", self.address())
    }

    /// What it wrote.
    pub fn log(&self) -> &Log {
        &self.process.log
    }
}

/// `flist serve` outside of any namespace. It dies with the thread that started it, or when it is dropped.
pub struct BlockServer {
    address: SocketAddr,
    process: Process,
}

impl BlockServer {
    /// Starts one with nothing in it and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self, Error> {
        let binaries = Binaries::ensure()?;
        let directory = place::scratch("blocks")?;
        let mut command = tied(&binaries, &binaries.flist());
        command.args(["serve", "--listen", "127.0.0.1:0", "--root"]).arg(directory.path());
        let process = Process::start(command, directory)?;
        let address = wait_for("the hub listens", LIMIT, || {
            let lines = process.log.lines();
            let address = lines.iter().find_map(|line| line.text.split_once(" on http://")?.1.parse().ok());
            address.ok_or_else(|| process.log.tail(20))
        })?;
        Ok(Self { address, process })
    }

    /// Where it listens; its blocks are under `/store`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory with the blocks: `<2 hex digits>/<64 hex digits>`.
    pub fn block_directory(&self) -> PathBuf {
        self.process.directory.path().join("store")
    }
}

/// A running server and its files.
struct Process {
    child: Child,
    log: Log,
    directory: TempDir,
}

impl Process {
    fn start(mut command: Command, directory: TempDir) -> Result<Self, Error> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().doing(|| format!("run {command:?}"))?;
        let log = Log::default();
        if let Some(stdout) = child.stdout.take() {
            log.follow(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            log.follow(stderr);
        }
        Ok(Self { child, log, directory })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that dies with the thread that starts it.
fn tied(binaries: &Binaries, program: &Path) -> Command {
    let mut command = Command::new(binaries.launcher());
    command.arg("tied").arg(program);
    command
}

fn ping(address: SocketAddr) -> std::io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&address, ANSWER)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.write_all(b"PING\r\n")?;
    connection.read_exact(&mut [0])
}
