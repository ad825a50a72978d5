//! The tree that is measured: the programs of a small system, as Debian ships them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molt_tests::{Error, tools};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// Time of every entry, in seconds since 1970: 2025-06-01.
const MTIME: i64 = 1_748_736_000;

/// How long copying a package may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What is for people, not for a node.
const TRIMMED: [&str; 6] = ["doc", "info", "lintian", "locale", "man", "bash-completion"];

/// `(package, version)`, the smaller tree's first. A version that apt does not offer (any more) is replaced by
/// the one that it does.
const PACKAGES: [(&str, &str); 30] = [
    ("libc6", "2.36-9+deb12u14"),
    ("busybox", "1:1.35.0-4+deb12u1+b1"),
    ("systemd", "252.39-1~deb12u2"),
    ("libsystemd-shared", "252.39-1~deb12u2"),
    ("udev", "252.39-1~deb12u2"),
    ("util-linux", "2.38.1-5+deb12u3"),
    ("openssl", "3.0.22-1~deb12u2"),
    ("libssl3", "3.0.22-1~deb12u2"),
    ("openssh-server", "1:9.2p1-2+deb12u10"),
    ("openssh-client", "1:9.2p1-2+deb12u10"),
    ("redis-tools", "5:7.0.15-1~deb12u10"),
    ("redis-server", "5:7.0.15-1~deb12u10"),
    ("python3.11-minimal", "3.11.2-6+deb12u9"),
    ("libpython3.11-stdlib", "3.11.2-6+deb12u9"),
    ("runc", "1.1.5+ds1-1+deb12u1"),
    ("containerd", "1.6.20~ds1-1+deb12u3"),
    ("podman", "4.3.1+ds1-8+deb12u1+b3"),
    ("crun", "1.8.1-1+deb12u1"),
    ("qemu-utils", "1:7.2+dfsg-7+deb12u18+b3"),
    ("prometheus-node-exporter", "1.5.0-1+b6"),
    ("nftables", "1.0.6-2+deb12u2"),
    ("iptables", "1.8.9-2"),
    ("iproute2", "6.1.0-3"),
    ("curl", "7.88.1-10+deb12u15"),
    ("libcurl4", "7.88.1-10+deb12u15"),
    ("chrony", "4.3-2+deb12u3"),
    ("dnsmasq-base", "2.90-4~deb12u2"),
    ("btrfs-progs", "6.2-1+deb12u2"),
    ("e2fsprogs", "1.47.0-2+b2"),
    ("rsync", "3.5.0+ds1-0+deb12u1"),
];

/// How many of [`PACKAGES`] the smaller tree has.
const QUICK: usize = 15;

/// The directory with the tree; it is made when it is not there yet.
///
/// # Errors
/// When a package cannot be downloaded or unpacked.
pub(super) fn bring(quick: bool) -> Result<PathBuf, Error> {
    let top = tools::directory()?.join("bench");
    let (name, packages) = if quick { ("tree-quick", &PACKAGES[..QUICK]) } else { ("tree", &PACKAGES[..]) };
    let tree = top.join(name);
    if tree.is_dir() {
        return Ok(tree);
    }
    println!("downloading what the tree is made of; once");
    let half = top.join(format!("{name}.half"));
    if half.exists() {
        fs::remove_dir_all(&half).map_err(failed("remove", &half))?;
    }
    fs::create_dir_all(&half).map_err(failed("make", &half))?;
    for (package, version) in packages {
        let content = top.join("packages").join(package);
        if !tools::content(package, version, &content)? {
            println!("  apt does not offer {package} {version}; took the version that it does");
        }
        let mut copy = Command::new("cp");
        molt_tests::run(copy.arg("-a").arg(content.join(".")).arg(&half), LIMIT)?;
    }
    trim(&half)?;
    set_times(&half)?;
    fs::rename(&half, &tree).map_err(failed("make", &tree))?;
    Ok(tree)
}

fn trim(tree: &Path) -> Result<(), Error> {
    for name in TRIMMED {
        let path = tree.join("usr/share").join(name);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives everything the same time, what is in a directory before the directory itself.
fn set_times(path: &Path) -> Result<(), Error> {
    if fs::symlink_metadata(path).map_err(failed("look at", path))?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed("list", path))? {
            set_times(&entry.map_err(failed("list", path))?.path())?;
        }
    }
    let time = TimeSpec::new(MTIME, 0);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|errno| failed("set the time of", path)(errno.into()))
}

fn failed<'p>(action: &'p str, path: &'p Path) -> impl Fn(std::io::Error) -> Error + 'p {
    move |source| Error::System { action: format!("{action} {}", path.display()), source }
}
