//! The launcher of nodes, run as the program `molt-node`.
//!
//! It exists because a node needs namespaces that a program with threads cannot enter. It works in two
//! stages, as only the first process of a pid namespace can mount its /proc:
//!
//! 1. [`launch`]: new pid and uts namespaces; stage 2 as a child, which is PID 1 of the node. The launcher
//!    stays until that one exits. It shares no mount namespace with it, because pivot_root(2) moves the
//!    root of everybody in the same one.
//! 2. [`become_init`]: a new mount namespace; the root file system, /proc, the kernel command line over
//!    /proc/cmdline; then the supervisor in its place.
//!
//! Every process dies when its parent does, up to the harness.

mod medium;
mod root;

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{chdir, pivot_root, sethostname};
use serde::{Deserialize, Serialize};

pub use medium::{Medium, RootKind};

use crate::BaseFile;
use crate::error::{Doing, Error, require_root};

/// No mount flags, no data.
const NOTHING: Option<&Path> = None;

/// The whole environment of the node's PID 1.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "linux"),
    ("RUST_BACKTRACE", "1"),
    ("MOLT_SUPERVISOR_CONSOLE", "1"),
];

/// How to make a node; the harness writes it as JSON for the launcher.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Name of the node in its uts namespace.
    pub hostname: String,
    /// An empty directory of the host to mount the root file system on; the mount is not seen outside.
    pub mount_point: PathBuf,
    /// What the root file system is on.
    pub medium: Medium,
    /// Most MiB of the root file system; of an overlay, of its upper layer.
    pub size_mib: u32,
    /// Whether the node has /dev/fuse.
    pub fuse: bool,
    /// The base image.
    pub base: Vec<BaseFile>,
    /// File of the host with the kernel command line.
    pub command_line: PathBuf,
    /// File of the host for the pid that PID 1 of the node has outside.
    pub pid_file: PathBuf,
    /// The program to run as PID 1, and its arguments.
    pub init: Vec<String>,
}

impl Spec {
    /// Reads what the harness wrote.
    ///
    /// # Errors
    /// When it cannot be read or is no spec.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read(path).doing(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).doing(|| format!("understand {}", path.display()))
    }
}

/// Stage 1: makes the node of the spec in `path` and waits until its PID 1 exits.
///
/// # Errors
/// When the node cannot be made.
pub fn launch(path: &Path) -> Result<ExitStatus, Error> {
    require_root("a node")?;
    die_with_parent()?;
    let spec = Spec::read(path)?;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS)
        .doing(|| "make pid and uts namespaces".to_owned())?;
    sethostname(&spec.hostname).doing(|| format!("call the node {}", spec.hostname))?;
    let program = std::env::current_exe().doing(|| "find the launcher".to_owned())?;
    let mut init =
        Command::new(program).arg("init").arg(path).spawn().doing(|| "start PID 1 of the node".to_owned())?;
    write_whole(&spec.pid_file, &init.id().to_string())?;
    init.wait().doing(|| "wait for PID 1 of the node".to_owned())
}

/// Stage 2, as PID 1 of the node: turns into the supervisor. Returns only on failure.
///
/// # Errors
/// When a step fails.
pub fn become_init(path: &Path) -> Result<Infallible, Error> {
    die_with_parent()?;
    let spec = Spec::read(path)?;
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "make a mount namespace".to_owned())?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
        .doing(|| "keep the mounts of the node to itself".to_owned())?;
    root::populate(&spec)?;
    let root = &spec.mount_point;
    let proc = root.join("proc");
    let hardened = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &proc, Some("proc"), hardened, NOTHING).doing(|| "mount /proc".to_owned())?;
    mount(Some(&spec.command_line), &proc.join("cmdline"), NOTHING, MsFlags::MS_BIND, NOTHING)
        .doing(|| "put the command line over /proc/cmdline".to_owned())?;
    // The old root is stacked on the new one, where it can be unmounted without a directory for it.
    chdir(root)
        .and_then(|()| pivot_root(".", "."))
        .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
        .and_then(|()| chdir("/"))
        .doing(|| format!("make {} the root", root.display()))?;
    let (program, arguments) =
        spec.init.split_first().ok_or_else(|| Error::Unexpected("the spec has no init".to_owned()))?;
    let failure = Command::new(program).args(arguments).env_clear().envs(ENVIRONMENT).exec();
    Err(failure).doing(|| format!("run {program} as PID 1"))
}

/// Turns into another program, which will die with its parent. Returns only on failure.
///
/// # Errors
/// When the program cannot be run.
pub fn tied(program: &Path, arguments: &[std::ffi::OsString]) -> Result<Infallible, Error> {
    die_with_parent()?;
    let failure = Command::new(program).args(arguments).exec();
    Err(failure).doing(|| format!("run {}", program.display()))
}

/// The kernel kills this process when the thread that started it ends, also after an exec.
fn die_with_parent() -> Result<(), Error> {
    set_pdeathsig(Signal::SIGKILL).doing(|| "die with the parent".to_owned())
}

/// Writes a file so that a reader sees all of it or nothing.
fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let half = path.with_extension("half");
    fs::write(&half, text)
        .and_then(|()| fs::rename(&half, path))
        .doing(|| format!("write {}", path.display()))
}
