//! The real program, with settings that cannot be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// More than a program takes that only says what is wrong; only a test that fails waits so long.
const AT_ONCE: Duration = Duration::from_secs(20);

/// What a program says that must not go on: one that does all the same is ended, and fails the test.
fn ended(command: &mut Command) -> Output {
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

fn bootstrap(config: &str, arguments: &[&str]) -> Output {
    booted(config, "runmode=dev\n", arguments)
}

fn booted(config: &str, cmdline: &str, arguments: &[&str]) -> Output {
    let at = tempfile::tempdir().unwrap();
    std::fs::write(at.path().join("config.yaml"), config).unwrap();
    std::fs::write(at.path().join("cmdline"), cmdline).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootstrap"));
    command.arg("--config").arg(at.path().join("config.yaml"));
    command.arg("--cmdline").arg(at.path().join("cmdline"));
    for option in ["--root", "--state-dir", "--run-dir", "--cache-dir"] {
        command.arg(option).arg(at.path().join("nowhere"));
    }
    ended(command.args(arguments))
}

#[test]
fn settings_that_cannot_be_are_exit_code_2_so_that_nobody_tries_again() {
    for (config, arguments, says) in [
        ("", &["--hub", "nonsense"][..], "'nonsense' is not the address of a hub"),
        ("hub: ftp://hub\n", &[], "http://"),
        ("hub: nonsense\n", &["--supervise"], "'nonsense' is not the address of a hub"),
        ("poll_intervall: 5\n", &[], "poll_intervall"),
        ("", &["--run-mode", "fast"], "'fast' is not a run mode"),
    ] {
        let output = bootstrap(config, arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(says), "{text}");
    }
}

/// What stands in a file that somebody has named was meant to hold.
#[test]
fn a_file_that_is_named_and_not_there_is_exit_code_2() {
    for option in ["--config", "--cmdline"] {
        let at = tempfile::tempdir().unwrap();
        let absent = at.path().join("absent");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootstrap"));
        for option in ["--root", "--state-dir", "--run-dir", "--cache-dir"] {
            command.arg(option).arg(at.path().join("nowhere"));
        }
        let output = ended(command.arg(option).arg(&absent));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(option) && text.contains(&absent.display().to_string()), "{text}");
    }
}

/// What is written into an address by mistake is in no log of the console.
#[test]
fn passwords_in_addresses_of_hubs_are_not_shown() {
    for address in ["https://u:topsecret@hub", "ftp://topsecret@hub", "https://hub/?token=topsecret"] {
        for (config, cmdline, arguments) in [
            ("", "runmode=dev", &["--hub", address][..]),
            ("", &*format!("hub={address}"), &[]),
            (&*format!("hub: [{address}]\n"), "", &[]),
        ] {
            let output = booted(config, cmdline, arguments);
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains("hub") && !text.contains("topsecret"), "{text}");
        }
    }
}
