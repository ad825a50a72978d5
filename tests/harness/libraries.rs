//! The shared libraries that a program needs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::Error;
use crate::job;

/// The loader and the libraries of `program`, by their paths on this machine. Directories in
/// `search` come before the loader's own. A static program needs none.
pub(crate) fn needed_by(program: &Path, search: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    if let Ok(path) = std::env::join_paths(search)
        && !search.is_empty()
    {
        ldd.env("LD_LIBRARY_PATH", path);
    } else {
        ldd.env_remove("LD_LIBRARY_PATH");
    }
    let ended = job::output(&mut ldd, Duration::from_secs(60))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if text.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !ended.status.success() {
        return Err(job::failed(&format!("{ldd:?}"), &ended));
    }
    parse(&text).map_err(|missing| {
        Error::Unexpected(format!("{} needs {missing}, which is not on this machine", program.display()))
    })
}

/// Reads what ldd prints: `name => path (address)`, `path (address)`, `name => not found`. The kernel's
/// own library has no path.
fn parse(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            return Err(name.to_owned());
        }
        let path = place.split_once(" (").map_or(place, |(path, _)| path);
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse(text).unwrap(),
            [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert_eq!(parse("\tliblzf.so.1 => not found\n").unwrap_err(), "liblzf.so.1");
    }
}
