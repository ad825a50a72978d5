//! `cargo xtask test`

use std::process::{Command, Stdio};

use molt_tests::{Binaries, Error, SKIP_BUILD, cargo, require_root};

/// Runs everything. The runner's own summary is the last that is printed; `false` when a test failed.
pub(crate) fn run() -> Result<bool, Error> {
    require_root("cargo xtask test")?;
    println!("building the programs that the tests run");
    let binaries = Binaries::ensure()?;
    crate::tools::bring(&binaries)?;
    if has_nextest() {
        // It leaves out the examples in the documentation. They come first, so that its summary is last.
        Ok(passes(&["test", "--doc"])? && passes(&["nextest", "run"])?)
    } else {
        passes(&["test"])
    }
}

fn has_nextest() -> bool {
    let mut version = cargo();
    version.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn passes(runner: &[&str]) -> Result<bool, Error> {
    let mut cargo: Command = cargo();
    cargo.args(runner).args(["--workspace", "--all-features"]).env(SKIP_BUILD, "1");
    let status = cargo
        .status()
        .map_err(|source| Error::System { action: format!("run cargo {}", runner.join(" ")), source })?;
    Ok(status.success())
}
