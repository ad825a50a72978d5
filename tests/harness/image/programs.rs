//! Our programs for machines: static ones, or those of the tests with their libraries.

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::musl::Toolchain;
use crate::{Binaries, SKIP_BUILD, base, job, place};

/// An optimised build from scratch on a small machine takes many minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// How static programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// As they are shipped: small; building takes many minutes the first time.
    Dist,
    /// Larger and slower, but built sooner.
    Vm,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Dist => "dist",
            Self::Vm => "vm",
        }
    }
}

/// How long it may take to strip a program.
const STRIP_LIMIT: Duration = Duration::from_secs(120);

/// The programs of an image and its releases.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
    libraries: BTreeSet<PathBuf>,
}

impl Programs {
    /// The programs that the tests of nodes run, without what only debuggers read, and their libraries: nothing is
    /// compiled for virtual machines alone.
    ///
    /// # Errors
    /// When they are not built, or cannot be copied.
    pub fn of_the_tests() -> Result<Self, Error> {
        let binaries = Binaries::ensure()?;
        let _only_one = place::lock("machines")?;
        let directory = place::profile_dir()?.join("machines");
        fs::create_dir_all(&directory).doing(|| format!("make {}", directory.display()))?;
        let sources = [binaries.bootstrap(), binaries.identityd(), binaries.stand_in(), binaries.web()];
        for source in sources {
            let name = source.file_name().unwrap_or_default();
            strip(&source, &directory.join(name))?;
        }
        Ok(Self { directory, libraries: base::base_libraries(&binaries)? })
    }

    /// Builds static ones, once per process. They are taken as they are when [`SKIP_BUILD`] is set and they are there.
    ///
    /// # Errors
    /// When the machine cannot build static programs, or the build fails.
    pub fn build(profile: Profile) -> Result<Self, Error> {
        static BUILT: Mutex<Vec<(Profile, Programs)>> = Mutex::new(Vec::new());
        let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, programs)) = built.iter().find(|(of, _)| *of == profile) {
            return Ok(programs.clone());
        }
        let target = place::target_dir()?.join("static");
        let triple = format!("{ARCH}-unknown-linux-musl");
        let directory = target.join(&triple).join(profile.name());
        let programs = Self { directory, libraries: BTreeSet::new() };
        if std::env::var_os(SKIP_BUILD).is_some() && programs.identityd().is_file() {
            return Ok(programs);
        }
        let toolchain = Toolchain::bring()?;
        let _building = place::lock("static")?;
        let mut build: Command = place::cargo();
        build.args(["build", "--quiet", "--bins", "--profile", profile.name()]);
        for package in ["bootstrap", "identityd", "molt-supervisor", "demo-web"] {
            build.args(["--package", package]);
        }
        build.args(["--target", &triple]);
        build.env("CARGO_TARGET_DIR", &target).env_remove("MOLT_VERSION").envs(toolchain.environment());
        job::run(&mut build, BUILD_LIMIT)?;
        built.push((profile, programs.clone()));
        Ok(programs)
    }

    /// `bootstrap`.
    pub fn bootstrap(&self) -> PathBuf {
        self.directory.join("bootstrap")
    }

    /// `identityd`.
    pub fn identityd(&self) -> PathBuf {
        self.directory.join("identityd")
    }

    /// `molt-supervisor`.
    pub fn supervisor(&self) -> PathBuf {
        self.directory.join("molt-supervisor")
    }

    /// The small HTTP service of the demo.
    pub fn web(&self) -> PathBuf {
        self.directory.join("demo-web")
    }

    /// What they need beyond themselves, by the paths on this machine and in the image alike.
    pub fn libraries(&self) -> &BTreeSet<PathBuf> {
        &self.libraries
    }
}

/// Makes a copy without symbols, unless the one that is there is younger.
fn strip(from: &Path, to: &Path) -> Result<(), Error> {
    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
    let built = modified(from).doing(|| format!("look at {}", from.display()))?;
    if modified(to).is_ok_and(|copied| copied > built) {
        return Ok(());
    }
    let half = to.with_extension("half");
    let mut strip = Command::new("strip");
    job::run(strip.args(["--strip-all", "-o"]).arg(&half).arg(from), STRIP_LIMIT)?;
    fs::rename(&half, to).doing(|| format!("make {}", to.display()))
}
