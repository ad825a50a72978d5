//! A real zinit 0.3, built once from the crate registry.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{directory, left};
use crate::error::{Doing, Error};
use crate::{job, place};

/// Its version.
const VERSION: &str = "0.3.9";

/// How long it may take to build on a small machine.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Time that must be left for it to be built.
const LEAST_LEFT: Duration = Duration::from_secs(30 * 60);

/// The server of zinit 0.3.9; it is built when it is not there yet. `Err` says why there is none: too little
/// time is left, or the registry cannot be reached.
///
/// # Errors
/// When it cannot be said where it would be.
pub fn zinit_0_3() -> Result<Result<PathBuf, String>, Error> {
    let _only_one = place::lock("zinit")?;
    let root = directory()?.join(format!("zinit-{VERSION}"));
    let program = root.join("bin/zinit-server");
    if program.is_file() {
        return Ok(Ok(program));
    }
    if let Some(left) = left().filter(|left| *left < LEAST_LEFT) {
        return Ok(Err(format!("it takes minutes to build, and {} s are left", left.as_secs())));
    }
    fs::create_dir_all(&root).doing(|| format!("make {}", root.display()))?;
    println!("building zinit {VERSION} from the crate registry");
    let mut install = place::cargo();
    install.args(["install", "zinit", "--quiet", "--version", VERSION]);
    install.args(["--no-default-features", "--features", "client,server", "--root"]).arg(&root);
    install.env("CARGO_TARGET_DIR", root.join("build"));
    let built = job::run(&mut install, BUILD_LIMIT);
    // It is large, and never needed again.
    let _ = fs::remove_dir_all(root.join("build"));
    match built {
        Ok(_) if program.is_file() => Ok(Ok(program)),
        Ok(_) => Ok(Err(format!("there is no {}", program.display()))),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => Ok(Err(format!("it could not be built: {error:?}"))),
    }
}
