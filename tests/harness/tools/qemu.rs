//! The emulator: the machine's own, or else Debian's, unpacked and not installed.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{apt, directory, library_directories, library_packages, library_path};
use crate::error::{Doing, Error};
use crate::{job, place};

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";

/// The package that it is in.
const PACKAGE: &str = "qemu-system-x86";

/// Packages with the accelerators and the firmware that it loads.
const PARTS: [&str; 3] = ["qemu-system-common", "qemu-system-data", "seabios"];

/// How long it may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// An emulator that runs.
#[derive(Debug, Clone)]
pub struct Emulator {
    program: PathBuf,
    /// Where it was unpacked; `None` for one that is installed.
    unpacked: Option<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    library_path: OsString,
    modules: PathBuf,
    firmware: Vec<PathBuf>,
}

impl Emulator {
    /// The start of its command line, to be run by `runner` where there is one.
    pub fn command(&self, runner: Option<(PathBuf, &str)>) -> Command {
        let mut command = match runner {
            Some((runner, word)) => {
                let mut command = Command::new(runner);
                command.arg(word).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        if let Some(Place { library_path, modules, firmware }) = &self.unpacked {
            command.env("LD_LIBRARY_PATH", library_path).env("QEMU_MODULE_DIR", modules);
            for directory in firmware {
                command.arg("-L").arg(directory);
            }
        }
        command
    }
}

/// The emulator that is installed, or else one that is downloaded when it is not there yet.
///
/// # Errors
/// When there is none and none can be downloaded.
pub fn qemu() -> Result<Emulator, Error> {
    let installed = Emulator { program: PathBuf::from(QEMU), unpacked: None };
    match job::run(installed.command(None).arg("--version"), VERSION_LIMIT) {
        Err(Error::System { source, .. }) if source.kind() == ErrorKind::NotFound => downloaded(),
        ran => ran.map(|_| installed),
    }
}

fn downloaded() -> Result<Emulator, Error> {
    let _only_one = place::lock("tools")?;
    let (tools, to) = (directory()?, directory()?.join(PACKAGE));
    if !to.is_dir() {
        println!("downloading {QEMU}; it is not installed");
        fs::create_dir_all(&tools).doing(|| format!("make {}", tools.display()))?;
        let mut packages = library_packages(PACKAGE)?;
        packages.push(PACKAGE.to_owned());
        packages.extend(PARTS.map(str::to_owned));
        apt::Apt::new(&tools)?.fetch(&packages, &to)?;
    }
    let share = to.join("usr/share");
    let libraries = library_directories(&to)?;
    let modules = libraries.iter().map(|directory| directory.join("qemu")).find(|modules| modules.is_dir());
    let place = Place {
        library_path: library_path(&libraries)?,
        modules: modules.ok_or_else(|| Error::Unexpected(format!("{QEMU} came without its modules")))?,
        firmware: vec![share.join("seabios"), share.join("qemu")],
    };
    let emulator = Emulator { program: to.join("usr/bin").join(QEMU), unpacked: Some(place) };
    job::run(emulator.command(None).arg("--version"), VERSION_LIMIT).map_err(|error| {
        Error::Unexpected(format!(
            "the {QEMU} that was downloaded does not run; install it, with: apt install \
             --no-install-recommends {PACKAGE}; {error:?}"
        ))
    })?;
    Ok(emulator)
}
