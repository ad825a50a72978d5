//! `flist serve` as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The program under test.
pub(crate) const FLIST: &str = env!("CARGO_BIN_EXE_flist");

pub(crate) struct Serving {
    pub(crate) url: String,
    #[allow(dead_code, reason = "not every test program looks at it")]
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Serving {
    /// Serves `root` on a free port of this machine.
    pub(crate) fn start(root: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(FLIST);
        command.args(["serve", "--listen", "127.0.0.1:0", "--root"]).arg(root).args(arguments);
        let mut child = command.env("RUST_LOG", "warn").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, url) = line.trim().split_once(" on ").unwrap_or_else(|| panic!("it said {line:?}"));
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        Self { url: url.to_owned(), address, child }
    }

    /// A value in kB of the process's status, such as `VmHWM`, its peak memory.
    #[allow(dead_code, reason = "not every test program looks at it")]
    pub(crate) fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// How many files the process has open.
    #[allow(dead_code, reason = "not every test program looks at it")]
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Its process.
    #[allow(dead_code, reason = "not every test program looks at it")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop; whether it did so properly.
    #[allow(dead_code, reason = "not every test program asks it")]
    pub(crate) fn stop(mut self) -> bool {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
