//! What it takes to build static programs with musl: Rust's target, and musl's headers for the C code
//! among our dependencies. Rust links musl itself.

use std::env::consts::ARCH;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::{job, tools};

/// How long a tool may take to tell where something is.
const ASK_LIMIT: Duration = Duration::from_secs(60);

/// How long Rust's target may take to download.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// What the machine must have, with the package that it is in.
const TOOLS: [(&str, &str); 4] =
    [("cc", "gcc"), ("nm", "binutils"), ("readelf", "binutils"), ("strip", "binutils")];

/// Parts of SQLite that no flist may use: text search, spatial indexes, JSON, statistics, loadable code.
const SQLITE: [&str; 10] = [
    "-USQLITE_ENABLE_FTS3",
    "-USQLITE_ENABLE_FTS3_PARENTHESIS",
    "-USQLITE_ENABLE_FTS5",
    "-USQLITE_ENABLE_RTREE",
    "-USQLITE_ENABLE_DBSTAT_VTAB",
    "-USQLITE_ENABLE_STAT4",
    "-USQLITE_ENABLE_LOAD_EXTENSION",
    "-USQLITE_SOUNDEX",
    "-DSQLITE_OMIT_LOAD_EXTENSION",
    "-DSQLITE_OMIT_JSON",
];

/// Nothing ever unwinds through the C code, so it needs no tables for that.
const C_FLAGS: &str = "-fno-asynchronous-unwind-tables";

/// A program that may be loaded anywhere has 11 000 addresses to correct at its start; packed they take next
/// to nothing.
const LINK: &str = "-Clink-arg=-Wl,-z,pack-relative-relocs";

/// Ready for use.
pub struct Toolchain {
    target: String,
    compiler: PathBuf,
}

impl Toolchain {
    /// Brings what is missing. Nothing is installed but Rust's target, by rustup and saying so.
    ///
    /// # Errors
    /// When something cannot be downloaded, or the machine lacks a compiler or the tools that go with it.
    pub fn bring() -> Result<Self, Error> {
        TOOLS.iter().try_for_each(|(program, package)| require(program, package))?;
        let target = format!("{ARCH}-unknown-linux-musl");
        add_target(&target)?;
        let headers = tools::package("musl-dev")?.directory.join(format!("usr/include/{ARCH}-linux-musl"));
        let compiler = tools::directory()?.join("musl-cc");
        write_compiler(&compiler, &headers)?;
        Ok(Self { target, compiler })
    }

    /// Rust's name of the target.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Variables that tell the build scripts of our dependencies which C compiler to use,
    /// what to leave out of the C code, and how to link.
    pub fn environment(&self) -> [(String, OsString); 5] {
        let target = self.target.replace('-', "_");
        [
            (format!("CC_{target}"), self.compiler.clone().into()),
            (format!("CFLAGS_{target}"), C_FLAGS.into()),
            ("LIBSQLITE3_FLAGS".to_owned(), SQLITE.join(" ").into()),
            // Optimised for size by our profile, but with all of the fast assembly.
            ("AWS_LC_SYS_SMALL".to_owned(), "0".into()),
            // Instead of the flags of whoever builds, so that everybody gets the same.
            ("CARGO_ENCODED_RUSTFLAGS".to_owned(), LINK.into()),
        ]
    }
}

fn add_target(target: &str) -> Result<(), Error> {
    let sysroot = job::run(Command::new("rustc").args(["--print", "sysroot"]), ASK_LIMIT)?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(target).is_dir() {
        return Ok(());
    }
    println!("installing Rust's target {target} with rustup");
    let added = job::run(Command::new("rustup").args(["target", "add", target]), DOWNLOAD_LIMIT);
    match added {
        Err(Error::System { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Err(Error::Unexpected(format!(
                "Rust's target {target} is not installed and there is no rustup: install the target in the way \
                 that Rust itself was installed"
            )))
        }
        added => added.map(drop),
    }
}

fn require(program: &str, package: &str) -> Result<(), Error> {
    match job::run(Command::new(program).arg("--version"), ASK_LIMIT) {
        Err(Error::System { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Err(Error::Unexpected(format!("there is no {program}; install it, with: apt install {package}")))
        }
        ran => ran.map(drop),
    }
}

/// A compiler for musl is the machine's own that finds musl's headers instead of the C library's.
fn write_compiler(path: &Path, headers: &Path) -> Result<(), Error> {
    let own = job::run(Command::new("cc").arg("-print-file-name=include"), ASK_LIMIT)?;
    let script = format!(
        "#!/bin/sh\nexec cc -nostdinc -isystem '{}' -isystem '{}' \"$@\"\n",
        headers.display(),
        own.trim()
    );
    let failed = |source| Error::System { action: format!("write {}", path.display()), source };
    fs::write(path, script).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_remedy() {
        let error = require("no-such-program", "its-package").unwrap_err().to_string();
        assert!(error.contains("no no-such-program") && error.contains("apt install its-package"), "{error}");
        require("cargo", "cargo").unwrap();
    }
}
