//! Python with packages from its index, and a clock that can be set for one program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{directory, package};
use crate::error::{Doing, Error};
use crate::{job, place};

/// How long the packages may take to be fetched and installed.
const LIMIT: Duration = Duration::from_secs(600);

/// How long a program may take that only says that it works.
const TRY_LIMIT: Duration = Duration::from_secs(60);

/// A Python with these packages, each `name==version`, in `target/tools/<name>`; it is made when it is not there yet, or
/// has other ones, which takes `python3` with `venv` and a package index.
///
/// # Errors
/// When it cannot be made.
pub fn python(name: &str, packages: &[&str]) -> Result<PathBuf, Error> {
    let _only_one = place::lock(name)?;
    let venv = directory()?.join(name);
    let (python, done) = (venv.join("bin/python"), venv.join("packages"));
    let wanted = packages.join("\n");
    if fs::read_to_string(&done).is_ok_and(|has| has == wanted) {
        return Ok(python);
    }
    job::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), LIMIT)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    job::run(&mut install, LIMIT)?;
    fs::write(&done, wanted).doing(|| format!("write {}", done.display()))?;
    Ok(python)
}

/// The directory to add to `PATH` so that `faketime TIME COMMAND…` is found: none where it is installed, else one with a
/// script that does the same by Debian's library.
///
/// # Errors
/// When that cannot be downloaded.
pub fn faketime() -> Result<Option<PathBuf>, Error> {
    if job::run(Command::new("faketime").args(["2020-01-01", "true"]), TRY_LIMIT).is_ok() {
        return Ok(None);
    }
    let library =
        package("libfaketime")?.libraries.into_iter().map(|path| path.join("faketime/libfaketime.so.1"));
    let library = library.into_iter().find(|path| path.is_file());
    let library =
        library.ok_or_else(|| Error::Unexpected("libfaketime came without its library".to_owned()))?;
    let programs = directory()?.join("faketime");
    fs::create_dir_all(&programs).doing(|| format!("make {}", programs.display()))?;
    let script = format!(
        "#!/bin/sh\nFAKETIME=$(date -d \"$1\" '+@%Y-%m-%d %H:%M:%S') || exit 1\nshift\nexport FAKETIME\nLD_PRELOAD='{}' exec \"$@\"\n",
        library.display()
    );
    let path = programs.join("faketime");
    fs::write(&path, script)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .doing(|| format!("write {}", path.display()))?;
    job::run(Command::new(&path).args(["2020-01-01", "true"]), TRY_LIMIT)?;
    Ok(Some(programs))
}
