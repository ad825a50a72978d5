//! What it takes to build static programs with musl: Rust's target, and musl's headers for the C code
//! among our dependencies. Rust links musl itself.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molt_tests::{Error, tools};

/// How long a tool may take to tell where something is.
const ASK_LIMIT: Duration = Duration::from_secs(60);

/// How long Rust's target may take to download.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Ready for use.
pub(super) struct Toolchain {
    target: String,
    compiler: PathBuf,
}

impl Toolchain {
    /// Brings what is missing. Nothing is installed but Rust's target, and that by rustup.
    ///
    /// # Errors
    /// When something cannot be downloaded, or there is no C compiler.
    pub(super) fn bring() -> Result<Self, Error> {
        let target = format!("{ARCH}-unknown-linux-musl");
        add_target(&target)?;
        let headers = tools::package("musl-dev")?.directory.join(format!("usr/include/{ARCH}-linux-musl"));
        let compiler = tools::directory()?.join("musl-cc");
        write_compiler(&compiler, &headers)?;
        Ok(Self { target, compiler })
    }

    /// Rust's name of the target.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Variables that tell the build scripts of our dependencies which C compiler to use.
    pub(super) fn environment(&self) -> [(String, PathBuf); 1] {
        [(format!("CC_{}", self.target.replace('-', "_")), self.compiler.clone())]
    }
}

fn add_target(target: &str) -> Result<(), Error> {
    let sysroot = molt_tests::run(Command::new("rustc").args(["--print", "sysroot"]), ASK_LIMIT)?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(target).is_dir() {
        return Ok(());
    }
    molt_tests::run(Command::new("rustup").args(["target", "add", target]), DOWNLOAD_LIMIT).map(drop)
}

/// A compiler for musl is the machine's own that finds musl's headers instead of the C library's.
fn write_compiler(path: &Path, headers: &Path) -> Result<(), Error> {
    let own = molt_tests::run(Command::new("cc").arg("-print-file-name=include"), ASK_LIMIT)?;
    let script = format!(
        "#!/bin/sh\nexec cc -nostdinc -isystem '{}' -isystem '{}' \"$@\"\n",
        headers.display(),
        own.trim()
    );
    let failed = |source| Error::System { action: format!("write {}", path.display()), source };
    fs::write(path, script).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed)
}
