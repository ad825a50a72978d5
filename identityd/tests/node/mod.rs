//! A node for the real program: a root of its own, a daemon on it, and the commands that ask it.
#![allow(dead_code, reason = "not every test program uses all of it")]

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_identityd");
/// More than any condition takes; only a test that fails waits so long.
const DEADLINE: Duration = Duration::from_secs(60);

/// More than a program takes that only says what is wrong; only a test that fails waits so long.
const AT_ONCE: Duration = Duration::from_secs(20);

/// A root with nothing in it: no flist.name, no supervisor, no hub.
pub(crate) struct Node {
    pub(crate) directory: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("root/tmp")).unwrap();
        std::fs::write(directory.path().join("cmdline"), "runmode=dev\n").unwrap();
        std::fs::write(directory.path().join("config.yaml"), "").unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `identityd run` here.
    pub(crate) fn run(&self) -> Command {
        self.command("run")
    }

    /// A command that has the settings of this node.
    pub(crate) fn command(&self, name: &str) -> Command {
        self.command_with(&["--hub", "http://127.0.0.1:9"], name)
    }

    /// As [`Node::command`], with these arguments and no hub.
    pub(crate) fn command_with(&self, arguments: &[&str], name: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg(name).args(arguments);
        for (option, name) in [
            ("--root", "root"),
            ("--config", "config.yaml"),
            ("--cmdline", "cmdline"),
            ("--zinit-socket", "zinit.sock"),
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            ("--cache-dir", "cache"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// A daemon that answers.
    pub(crate) fn start(&self) -> Daemon {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut daemon = Daemon { process: self.run().stderr(log).spawn().unwrap() };
        until("the daemon answers", || {
            if let Some(status) = daemon.process.try_wait().unwrap() {
                panic!("{status}: {}", std::fs::read_to_string(self.path("log")).unwrap());
            }
            self.ask(&["status"]).status.success()
        });
        daemon
    }

    pub(crate) fn doctor(&self, arguments: &[&str]) -> Output {
        self.command("doctor").args(arguments).output().unwrap()
    }

    pub(crate) fn generations(&self) -> Output {
        self.command("generations").output().unwrap()
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(arguments)
            .arg("--socket")
            .arg(self.path("run/control.sock"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

pub(crate) struct Daemon {
    pub(crate) process: Child,
}

impl Daemon {
    pub(crate) fn signal(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
        let mut ended = None;
        until("the daemon ends", || {
            ended = self.process.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _reaped_already = self.process.wait();
    }
}

pub(crate) fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a program says that must not go on: one that does all the same is ended, and fails the test.
pub(crate) fn ended(command: &mut Command) -> Output {
    let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while program.try_wait().unwrap().is_none() {
        if start.elapsed() > AT_ONCE {
            program.kill().unwrap();
            panic!("it goes on: {:?}", program.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    program.wait_with_output().unwrap()
}

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
