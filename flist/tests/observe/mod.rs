//! What the kernel shows: the entries and the content of a directory, and what is mounted.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use flist::path::FlistPath;
use nix::unistd::geteuid;

/// The unchanged files that other programs made.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(path)
}

/// The lines of a golden text file, sorted as ours are.
pub(crate) fn golden_lines(name: &str) -> Vec<String> {
    plain_lines(&fs::read_to_string(golden(name)).unwrap())
}

/// The lines that are no remarks, sorted.
pub(crate) fn plain_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Whether a directory holds the golden tree.
pub(crate) fn assert_is_golden(root: &Path) {
    assert_eq!(manifest(root), golden_lines("tree.manifest"));
    let mut digests = digests(root);
    digests.sort();
    assert_eq!(digests, golden_lines("tree.sha256"));
}

/// Runs `flist`, which has to succeed.
pub(crate) fn flist(arguments: &[&Path]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_flist")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Owners, devices and mounts need root, and a test that leaves them out proves little.
pub(crate) fn require_root() {
    assert!(geteuid().is_root(), "this test sets owners and mounts by FUSE: run it as root");
}

/// One line an entry, sorted: `kind mode size uid:gid mtime path [-> target]`, as in the golden manifest.
pub(crate) fn manifest(root: &Path) -> Vec<String> {
    let mut lines: Vec<_> = walk(root).iter().map(|(path, metadata)| line(root, path, metadata)).collect();
    lines.sort();
    lines
}

/// `sha256  path` of every regular file, sorted by path.
pub(crate) fn digests(root: &Path) -> Vec<String> {
    let files = walk(root).into_iter().filter(|(_, metadata)| metadata.is_file());
    let mut digests: Vec<_> = files.map(|(path, _)| (path.to_string(), root.join(path.as_path()))).collect();
    digests.sort();
    digests.into_iter().map(|(name, path)| format!("{}  {name}", sha256(&fs::read(path).unwrap()))).collect()
}

/// The mounts at exactly this place, by the type of their file system, the visible one last.
pub(crate) fn mounts_at(path: &Path) -> Vec<String> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read("/proc/self/mountinfo").unwrap();
    let fields = |line: &[u8]| line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let at_path = |fields: &Vec<Vec<u8>>| fields.get(4).is_some_and(|at| at == path.as_os_str().as_bytes());
    let file_system = |fields: Vec<Vec<u8>>| {
        let dash = fields.iter().position(|field| field == b"-").unwrap();
        String::from_utf8(fields[dash + 1].clone()).unwrap()
    };
    mounts.split(|byte| *byte == b'\n').map(fields).filter(at_path).map(file_system).collect()
}

/// Polls until `holds`, and fails the test if that does not happen within a generous time.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn walk(root: &Path) -> Vec<(FlistPath, Metadata)> {
    let (mut found, mut stack) = (Vec::new(), vec![FlistPath::root()]);
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(root.join(directory.as_path())).unwrap() {
            let path = directory.join(entry.unwrap().file_name().as_bytes()).unwrap();
            let metadata = fs::symlink_metadata(root.join(path.as_path())).unwrap();
            if metadata.is_dir() {
                stack.push(path.clone());
            }
            found.push((path, metadata));
        }
    }
    found
}

fn line(root: &Path, path: &FlistPath, metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let (letter, size, target) = if kind.is_dir() {
        ('d', 0, None)
    } else if kind.is_file() {
        ('f', metadata.len(), None)
    } else if kind.is_symlink() {
        ('l', metadata.len(), Some(fs::read_link(root.join(path.as_path())).unwrap()))
    } else if kind.is_fifo() {
        ('p', 0, None)
    } else if kind.is_socket() {
        ('s', 0, None)
    } else if kind.is_char_device() {
        ('c', metadata.rdev(), None)
    } else {
        ('b', metadata.rdev(), None)
    };
    let (mode, uid, gid, mtime) =
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid(), metadata.mtime());
    let arrow = target.map_or_else(String::new, |target| format!(" -> {}", printable(target.as_os_str())));
    format!("{letter} {mode:04o} {size} {uid}:{gid} {mtime} {path}{arrow}")
}

fn printable(text: &OsStr) -> String {
    text.as_bytes().escape_ascii().to_string()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}
