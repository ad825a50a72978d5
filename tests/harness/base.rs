//! The base image: what a node has before anything is installed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::{Binaries, job, libraries};

/// One entry of the base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    /// Absolute path in the node. Directories above it are made, and links in it are followed.
    pub path: PathBuf,
    /// Permission bits; of no meaning for a link.
    pub mode: u32,
    /// What is there.
    pub content: Content,
}

/// What an entry of the base image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A directory.
    Directory,
    /// A file with this text.
    Text(String),
    /// A copy of this file of the host.
    Copy(PathBuf),
    /// A symbolic link with this target.
    Link(PathBuf),
}

impl BaseFile {
    /// A text file with mode 0644.
    pub fn text(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o644, content: Content::Text(text.into()) }
    }

    /// A program (mode 0755), copied from the host.
    pub fn program(path: impl Into<PathBuf>, from: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o755, content: Content::Copy(from.into()) }
    }

    /// A directory.
    pub fn directory(path: impl Into<PathBuf>, mode: u32) -> Self {
        Self { path: path.into(), mode, content: Content::Directory }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o777, content: Content::Link(target.into()) }
    }
}

/// Directories of every node. `/tmp` is the one that everybody may write to.
const DIRECTORIES: [(&str, u32); 13] = [
    ("/usr/bin", 0o755),
    ("/usr/sbin", 0o755),
    ("/usr/lib", 0o755),
    ("/usr/lib64", 0o755),
    ("/etc/zinit", 0o755),
    ("/dev", 0o755),
    ("/proc", 0o555),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/root", 0o700),
    ("/mnt", 0o755),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
];

/// Links of every node. They are relative, so that they lead to the same place when the node is looked at
/// from outside, through /proc/PID/root. The first four make it merged-usr, as current distributions are.
const LINKS: [(&str, &str); 6] = [
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
    ("/var/run", "../run"),
    ("/etc/mtab", "../proc/self/mounts"),
];

const FILES: [(&str, &str); 3] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n"),
];

/// Directories, and busybox with its applets.
pub(crate) fn skeleton(busybox: &Path) -> Result<Vec<BaseFile>, Error> {
    let mut base: Vec<_> = DIRECTORIES.iter().map(|(path, mode)| BaseFile::directory(path, *mode)).collect();
    base.extend(LINKS.iter().map(|(path, target)| BaseFile::link(path, target)));
    base.extend(FILES.iter().map(|(path, text)| BaseFile::text(path, *text)));
    base.push(BaseFile::program("/usr/bin/busybox", busybox));
    for applet in applets(busybox)? {
        base.push(BaseFile::link(Path::new("/usr/bin").join(applet), "busybox"));
    }
    Ok(base)
}

/// The skeleton, the supervisor, bootstrap, and the libraries of our programs.
pub(crate) fn standard(binaries: &Binaries, busybox: &Path) -> Result<Vec<BaseFile>, Error> {
    let mut base = skeleton(busybox)?;
    base.push(BaseFile::program("/sbin/zinit", binaries.supervisor()));
    base.push(BaseFile::program("/sbin/bootstrap", binaries.bootstrap()));
    base.extend(base_libraries(binaries)?.into_iter().map(|path| BaseFile::program(path.clone(), path)));
    Ok(base)
}

/// The libraries that a node has from the start, by their paths on host and node alike.
pub(crate) fn base_libraries(binaries: &Binaries) -> Result<BTreeSet<PathBuf>, Error> {
    let programs = [
        binaries.bootstrap(),
        binaries.identityd(),
        binaries.flist(),
        binaries.web(),
        binaries.supervisor().to_owned(),
    ];
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(libraries::needed_by(&program, &[])?);
    }
    Ok(libraries)
}

fn applets(busybox: &Path) -> Result<Vec<String>, Error> {
    let list = job::run(Command::new(busybox).arg("--list"), Duration::from_secs(60))?;
    Ok(list.lines().filter(|name| *name != "busybox").map(str::to_owned).collect())
}
