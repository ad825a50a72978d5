//! `cargo xtask test`

use std::path::Path;
use std::process::{Command, Stdio};

use molt_tests::vm::{TESTS_TAKE, available};
use molt_tests::{Binaries, Error, SKIP_BUILD, Zinit, cargo, require_root, tools};

use crate::conformance_tuf::SUITE;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only what needs virtual machines: the tests, also those that take minutes, then the campaigns `power`, `guest-dm`
    /// and `hub` of `torture`; some two hours in all
    #[arg(long)]
    vm: bool,
}

/// What tests compare with where the environment names it, and what is left out without.
const PEERS: [(&str, &str); 6] = [
    (SUITE, "the 110 client cases of tuf-conformance"),
    ("MOLT_ZDB", "the real 0-db: blocks of nodes, classic flists"),
    ("MOLT_ZERO_HUB", "the real 0-hub, as a program that a node boots from"),
    ("MOLT_ZERO_HUB_URL", "the real 0-hub, at its address"),
    ("MOLT_ZFLIST", "the real 0-flist"),
    ("MOLT_G8UFS", "the real 0-fs"),
];

/// Runs everything. The runner's own summary is the last that is printed; `false` when a test failed.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    require_root("cargo xtask test")?;
    println!("building the programs that the tests run");
    let binaries = Binaries::ensure()?;
    crate::tools::bring(&binaries)?;
    if options.vm {
        tools::qemu()?;
        let ignored = ["--", "--include-ignored", "--test-threads=1", "--nocapture"];
        let machines = ["test", "--package", "molt-tests", "--test", "vm", "--all-features"];
        return Ok(passes(&[&machines[..], &ignored].concat())? & crate::torture::with_machines()?);
    }
    if let Err(reason) = available(TESTS_TAKE)? {
        println!("SKIPPED: a real kernel in a virtual machine: {reason}");
    }
    tell_what_is_missing();
    if !real_zinit()? {
        return Ok(false);
    }
    if let Some(suite) = std::env::var_os(SUITE)
        && !crate::conformance_tuf::table(Path::new(&suite))?
    {
        return Ok(false);
    }
    if has_nextest() {
        // It leaves out the examples in the documentation. They come first, so that its summary is last.
        Ok(passes(&everything(&["test", "--doc"]))? && passes(&everything(&["nextest", "run"]))?)
    } else {
        passes(&everything(&["test"]))
    }
}

/// A test that has nothing to compare with passes, and what a test prints when it passes nobody sees.
fn tell_what_is_missing() {
    for (variable, what) in PEERS {
        if std::env::var_os(variable).is_none() {
            println!("SKIPPED: {what}: {variable} is not set");
        }
    }
    if let Err(error) = Command::new("capnp").arg("--version").stdout(Stdio::null()).status() {
        println!("SKIPPED: the code of the classic format beside what capnp makes of its schema: {error}");
    }
}

/// The cases that any zinit must pass, with a real one of the newest generation, where there can be one.
fn real_zinit() -> Result<bool, Error> {
    match tools::zinit_0_3()? {
        Ok(program) => crate::conformance::table(&Zinit::at(&program, None)?, ""),
        Err(reason) => {
            println!("SKIPPED: conformance of the real zinit 0.3.9: {reason}");
            Ok(true)
        }
    }
}

fn has_nextest() -> bool {
    let mut version = cargo();
    version.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn everything<'a>(runner: &[&'a str]) -> Vec<&'a str> {
    [runner, &["--workspace", "--all-features"]].concat()
}

fn passes(runner: &[&str]) -> Result<bool, Error> {
    let mut cargo: Command = cargo();
    cargo.args(runner).env(SKIP_BUILD, "1");
    let status = cargo
        .status()
        .map_err(|source| Error::System { action: format!("run cargo {}", runner.join(" ")), source })?;
    Ok(status.success())
}
