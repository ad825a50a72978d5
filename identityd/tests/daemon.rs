//! The real program: a daemon on a root of its own, and the commands that ask it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_identityd");
/// More than any condition takes; only a test that fails waits so long.
const DEADLINE: Duration = Duration::from_secs(60);

/// A root with nothing in it: no flist.name, no supervisor, no hub.
struct Node {
    directory: TempDir,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("root/tmp")).unwrap();
        std::fs::write(directory.path().join("cmdline"), "runmode=dev\n").unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `identityd run` here.
    fn run(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("run").args(["--hub", "http://127.0.0.1:9"]);
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
    fn start(&self) -> Daemon {
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

    fn ask(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(arguments)
            .arg("--socket")
            .arg(self.path("run/control.sock"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

struct Daemon {
    process: Child,
}

impl Daemon {
    fn signal(mut self, signal: Signal) -> ExitStatus {
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

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn without_a_daemon_asking_is_exit_code_3_and_says_how_to_start() {
    let node = Node::new();
    for verb in ["status", "check", "plan", "apply"] {
        let output = node.ask(&[verb]);
        assert_eq!(output.status.code(), Some(3), "{verb}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("control.sock") && text.contains("identityd run"), "{text}");
        let output = node.ask(&[verb, "--json"]);
        assert_eq!(output.status.code(), Some(3), "{verb}");
        let report = json(&output);
        assert_eq!(report["exit_code"], 3, "{report}");
        assert!(report["error"].as_str().unwrap().contains("control.sock"), "{report}");
    }
    assert_eq!(node.ask(&["reboot"]).status.code(), Some(2));
}

#[test]
fn without_flist_name_it_says_so_and_installs_nothing() {
    let node = Node::new();
    let daemon = node.start();
    until("it has looked", || json(&node.ask(&["status", "--json"]))["gate"] == "FlistName");
    let status = json(&node.ask(&["status", "--json"]));
    assert_eq!((&status["schema"], &status["stage"]), (&1.into(), &"Waiting".into()));
    assert_eq!((&status["installed"], &status["insecure"]), (&serde_json::Value::Null, &true.into()));
    assert_eq!(status["identityd"]["pid"], daemon.process.id());
    for verb in ["check", "plan", "apply"] {
        let output = node.ask(&[verb, "--json"]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        assert_eq!(json(&output)["kind"], "Local", "{verb}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("flist.name"), "{verb}");
    }
    let mode = |name| std::fs::metadata(node.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/control.sock"), mode("run/status.json")), (0o700, 0o600, 0o600));
    let log = std::fs::read_to_string(node.path("log")).unwrap();
    assert_eq!(log.matches("live upgrade is disabled").count(), 1, "{log}");
}

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let node = Node::new();
        let status = node.start().signal(signal);
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(!node.path("run/control.sock").exists(), "{signal}");
    }
}

#[test]
fn a_killed_daemon_leaves_a_socket_that_the_next_one_replaces() {
    let node = Node::new();
    node.start().signal(Signal::SIGKILL);
    assert!(node.path("run/control.sock").exists());
    assert_eq!(node.ask(&["status"]).status.code(), Some(3));
    let _daemon = node.start();

    let second = node.run().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains("another identityd already listens"), "{text}");
    assert!(node.ask(&["status"]).status.success());
}

#[test]
fn a_bad_configuration_is_named() {
    let node = Node::new();
    std::fs::write(node.path("config.yaml"), "poll_intervall: 5\n").unwrap();
    let output = node.run().args(["--log-format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("config.yaml") && text.contains("poll_intervall"), "{text}");
}
