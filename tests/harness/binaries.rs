//! The programs under test: where they are, and that they are built.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::{job, place};

/// Environment variable that names a real zinit to use instead of `molt-supervisor`.
pub const SUPERVISOR: &str = "MOLT_ZINIT";

/// Environment variable that says the programs are built already; `cargo xtask test` sets it.
pub const SKIP_BUILD: &str = "MOLT_SKIP_BUILD";

/// Everything a test runs, as arguments of `cargo build`.
const PROGRAMS: [&str; 17] = [
    "--package",
    "bootstrap",
    "--package",
    "identityd",
    "--package",
    "flist",
    "--package",
    "molt-supervisor",
    "--package",
    "molt-halting",
    "--package",
    "molt-tests",
    "--package",
    "demo-web",
    "--bins",
    "--features",
    "flist/server,flist/publish",
];

/// A debug build from scratch on a small machine takes minutes, not hours.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// The programs under test, built.
#[derive(Debug, Clone)]
pub struct Binaries {
    directory: PathBuf,
    supervisor: PathBuf,
}

/// The programs that a release of the payload carries.
#[derive(Debug, Clone)]
pub struct Release {
    /// `identityd`.
    pub identityd: PathBuf,
    /// `demo-web`.
    pub web: PathBuf,
}

impl Binaries {
    /// Builds the programs, once per process, with the profile of the running program, and finds them.
    /// The programs are taken as they are when [`SKIP_BUILD`] is set.
    ///
    /// # Errors
    /// When the build fails, or a program is missing.
    pub fn ensure() -> Result<Self, Error> {
        static BUILT: OnceLock<Binaries> = OnceLock::new();
        if let Some(built) = BUILT.get() {
            return Ok(built.clone());
        }
        if std::env::var_os(SKIP_BUILD).is_none() {
            let _building = place::lock("build")?;
            build(&PROGRAMS, None)?;
        }
        let built = Self::find()?;
        Ok(BUILT.get_or_init(|| built).clone())
    }

    /// The programs of a release, copied aside. With a `version`, they are built to report that version;
    /// the next [`ensure`](Self::ensure) of another process builds them without it again.
    ///
    /// # Errors
    /// When the build or the copy fails.
    pub fn build_release(&self, version: &str) -> Result<Release, Error> {
        let _building = place::lock("build")?;
        build(&["--package", "identityd", "--package", "demo-web", "--bins"], Some(version))?;
        let aside = place::target_dir()?.join("releases").join(version);
        fs::create_dir_all(&aside).doing(|| format!("make {}", aside.display()))?;
        let copy = |name: &str| {
            let (from, to) = (self.path(name), aside.join(name));
            fs::copy(&from, &to).doing(|| format!("copy {} to {}", from.display(), to.display()))?;
            Ok(to)
        };
        Ok(Release { identityd: copy("identityd")?, web: copy("demo-web")? })
    }

    /// `bootstrap`.
    pub fn bootstrap(&self) -> PathBuf {
        self.path("bootstrap")
    }

    /// `identityd`.
    pub fn identityd(&self) -> PathBuf {
        self.path("identityd")
    }

    /// identityd that halts at a named point, to be killed there.
    pub fn halting(&self) -> PathBuf {
        self.path("molt-halting")
    }

    /// `flist`, with the hub and publishing.
    pub fn flist(&self) -> PathBuf {
        self.path("flist")
    }

    /// The small HTTP service of the demo.
    pub fn web(&self) -> PathBuf {
        self.path("demo-web")
    }

    /// The supervisor: `molt-supervisor`, or the zinit that [`SUPERVISOR`] names.
    pub fn supervisor(&self) -> &Path {
        &self.supervisor
    }

    /// The stand-in for zinit, whatever [`SUPERVISOR`] names.
    pub fn stand_in(&self) -> PathBuf {
        self.path("molt-supervisor")
    }

    /// The launcher of nodes.
    pub fn launcher(&self) -> PathBuf {
        self.path("molt-node")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn find() -> Result<Self, Error> {
        let directory = place::profile_dir()?;
        let supervisor =
            std::env::var_os(SUPERVISOR).map_or_else(|| directory.join("molt-supervisor"), PathBuf::from);
        let found = Self { directory, supervisor };
        let wanted = [
            found.bootstrap(),
            found.identityd(),
            found.halting(),
            found.flist(),
            found.web(),
            found.launcher(),
            found.supervisor.clone(),
        ];
        match wanted.iter().find(|path| !path.is_file()) {
            Some(missing) => Err(Error::Unexpected(format!("{} does not exist", missing.display()))),
            None => Ok(found),
        }
    }
}

fn build(what: &[&str], version: Option<&str>) -> Result<(), Error> {
    let mut cargo = place::cargo();
    cargo.arg("build").args(["--quiet", "--profile"]).arg(profile()?).args(what);
    cargo.env("CARGO_TARGET_DIR", place::target_dir()?);
    match version {
        Some(version) => cargo.env("MOLT_VERSION", version),
        None => cargo.env_remove("MOLT_VERSION"),
    };
    job::run(&mut cargo, BUILD_LIMIT).map(drop)
}

/// Cargo's name of the profile that lies in [`place::profile_dir`].
fn profile() -> Result<OsString, Error> {
    let directory = place::profile_dir()?;
    Ok(match directory.file_name() {
        Some(name) if name != "debug" => name.to_owned(),
        _ => "dev".into(),
    })
}
