//! Proof that a program needs nothing but the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molt_tests::{Error, scratch};

/// How long a program may take to tell its version, or a tool to look at it.
const LIMIT: Duration = Duration::from_secs(60);

/// Checks that the program names neither an interpreter nor a library, and runs it with an empty directory
/// as its root. Returns what it says of its version; none when the latter was left out, which needs root.
///
/// # Errors
/// When it is not static or does not run.
pub(super) fn check(program: &Path) -> Result<Option<String>, Error> {
    let headers = molt_tests::run(
        Command::new("readelf").args(["--program-headers", "--dynamic", "--wide"]).arg(program),
        LIMIT,
    )?;
    if let Some(why) = dependency(&headers) {
        return Err(Error::Unexpected(format!("{} is not static: {why}", program.display())));
    }
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let root = scratch("empty-root")?;
    let name = PathBuf::from(program.file_name().unwrap_or_default());
    let inside = root.path().join(&name);
    fs::copy(program, &inside).map_err(super::failed("copy the program to", &inside))?;
    let mut chroot = Command::new("chroot");
    chroot.arg(root.path()).arg(Path::new("/").join(name)).arg("--version").env_clear();
    chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(Some(molt_tests::run(&mut chroot, LIMIT)?.trim().to_owned()))
}

/// What `readelf` shows of an interpreter or a library that the program wants.
fn dependency(headers: &str) -> Option<&str> {
    headers.lines().map(str::trim).find(|line| line.starts_with("INTERP") || line.contains("(NEEDED)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_libraries_is_found_out() {
        let error = check(&std::env::current_exe().unwrap()).unwrap_err().to_string();
        assert!(error.contains("is not static"), "{error}");
        assert_eq!(dependency("  LOAD  0x0\n  DYNAMIC 0x1\n 0x000000001e (FLAGS) BIND_NOW\n"), None);
        let needed = " 0x0000000000000001 (NEEDED)  Shared library: [libc.so.6]";
        assert_eq!(dependency(needed), Some(needed.trim()));
    }
}
