//! Our programs, without any library.

use std::env::consts::ARCH;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::error::Error;
use crate::musl::Toolchain;
use crate::{SKIP_BUILD, job, place};

/// An optimised build from scratch on a small machine takes many minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// How the programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// As they are shipped: small; building takes many minutes the first time.
    Dist,
    /// For tests.
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

/// Static programs, built.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Builds them, once per process. They are taken as they are when [`SKIP_BUILD`] is set and they are there.
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
        let programs = Self { directory: target.join(&triple).join(profile.name()) };
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
}
