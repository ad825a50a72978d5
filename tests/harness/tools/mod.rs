//! Programs from Debian: what a node needs (a static busybox, and redis with its libraries), what tests need
//! (rsync), and any other package.
//!
//! They are downloaded once, as packages from the machine's own package sources, and unpacked under
//! `target/tools`. Nothing is installed.

mod apt;
mod deadline;
mod firmware;
mod python;
mod qemu;
mod zinit;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::{Binaries, base, job, libraries, place};

pub use deadline::{DEADLINE, left};
pub use firmware::{Firmware, efi_stub, firmware, mtools};
pub use python::{faketime, python};
pub use qemu::{Emulator, QEMU, qemu};
pub use zinit::zinit_0_3;

/// How long a downloaded program may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// Redis as it goes into a payload.
#[derive(Debug, Clone)]
pub struct Redis {
    /// The server.
    pub server: PathBuf,
    /// The client.
    pub client: PathBuf,
    /// The libraries that the two need and a node does not have from the start.
    pub libraries: BTreeSet<PathBuf>,
}

/// A program that runs from where it was unpacked.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// The program.
    pub program: PathBuf,
    /// The value of `LD_LIBRARY_PATH` that it needs.
    pub library_path: OsString,
}

/// An unpacked package.
#[derive(Debug, Clone)]
pub struct Package {
    /// The directory that stands for `/`.
    pub directory: PathBuf,
    /// Directories with the shared libraries of the package and of those it depends on.
    pub libraries: Vec<PathBuf>,
}

/// The directory with everything: `target/tools`.
///
/// # Errors
/// When the running program is not in a target directory.
pub fn directory() -> Result<PathBuf, Error> {
    Ok(place::target_dir()?.join("tools"))
}

/// The static busybox; it is downloaded when it is not there yet.
///
/// # Errors
/// When it cannot be downloaded, or does not run.
pub fn busybox() -> Result<PathBuf, Error> {
    let _only_one = place::lock("tools")?;
    let program = unpacked("busybox-static")?.join("bin/busybox");
    job::run(Command::new(&program).arg("true"), VERSION_LIMIT)?;
    Ok(program)
}

/// Redis; it is downloaded when it is not there yet. `binaries` tell what a node has anyway.
///
/// # Errors
/// When something cannot be downloaded, or the result does not run.
pub fn redis(binaries: &Binaries) -> Result<Redis, Error> {
    let _only_one = place::lock("tools")?;
    // Debian's redis-server holds nothing but a link to a program in redis-tools.
    let package = unpacked("redis-tools")?;
    let search = library_packages("redis-tools")?
        .iter()
        .map(|name| unpacked(name))
        .collect::<Result<Vec<_>, _>>()?
        .iter()
        .map(|directory| library_directories(directory))
        .collect::<Result<Vec<_>, _>>()?
        .concat();
    let server = package.join("usr/bin/redis-check-rdb");
    let client = package.join("usr/bin/redis-cli");
    let there: BTreeSet<_> =
        base::base_libraries(binaries)?.iter().filter_map(|path| file_name(path)).collect();
    let mut libraries = BTreeSet::new();
    for program in [&server, &client] {
        let needed = libraries::needed_by(program, &search)?;
        libraries
            .extend(needed.into_iter().filter(|path| file_name(path).is_none_or(|n| !there.contains(&n))));
    }
    let redis = Redis { server, client, libraries };
    redis.try_out(&search)?;
    Ok(redis)
}

/// Rsync; it is downloaded when it is not there yet.
///
/// # Errors
/// When it cannot be downloaded, or does not run.
pub fn rsync() -> Result<Unpacked, Error> {
    let package = package("rsync")?;
    let program = package.directory.join("usr/bin/rsync");
    let library_path = library_path(&package.libraries)?;
    let mut version = Command::new(&program);
    job::run(version.arg("--version").env("LD_LIBRARY_PATH", &library_path), VERSION_LIMIT)?;
    Ok(Unpacked { program, library_path })
}

/// Strace; it is downloaded when it is not there yet.
///
/// # Errors
/// When it cannot be downloaded, or does not run.
pub fn strace() -> Result<Unpacked, Error> {
    let package = package("strace")?;
    let program = package.directory.join("usr/bin/strace");
    let library_path = library_path(&package.libraries)?;
    let mut version = Command::new(&program);
    job::run(version.arg("-V").env("LD_LIBRARY_PATH", &library_path), VERSION_LIMIT)?;
    Ok(Unpacked { program, library_path })
}

/// A kernel from Debian.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What a boot loader starts.
    pub image: PathBuf,
    /// The directory with its drivers.
    pub modules: PathBuf,
    /// Its release, as in `uname -r`.
    pub release: String,
}

/// Debian's kernel for virtual machines; it is downloaded when it is not there yet.
///
/// # Errors
/// When it cannot be downloaded.
pub fn kernel() -> Result<Kernel, Error> {
    const NEWEST: &str = "linux-image-cloud-amd64";
    let _only_one = place::lock("tools")?;
    // The package has no content but the name of the newest.
    let memory = directory()?.join(format!("{NEWEST}.newest"));
    let package = match fs::read_to_string(&memory) {
        Ok(name) => name,
        Err(_) => {
            fs::create_dir_all(directory()?).doing(|| "make the directory of tools".to_owned())?;
            let depends = apt::Apt::new(&directory()?)?.dependencies(NEWEST)?;
            let name = depends.into_iter().find(|name| name.starts_with("linux-image-"));
            let name = name.ok_or_else(|| Error::Unexpected(format!("{NEWEST} names no kernel")))?;
            fs::write(&memory, &name).doing(|| format!("write {}", memory.display()))?;
            name
        }
    };
    unpacked_kernel(&package)
}

/// Another kernel of the same series than [`kernel`]; it is downloaded when it is not there yet.
///
/// # Errors
/// When there is none, or it cannot be downloaded.
pub fn other_kernel() -> Result<Kernel, Error> {
    let newest = kernel()?.release;
    let _only_one = place::lock("tools")?;
    let memory = directory()?.join("linux-image-cloud-amd64.other");
    let package = match fs::read_to_string(&memory) {
        Ok(name) => name,
        Err(_) => {
            // `6.1.0-56-cloud-amd64`: the number before the flavour counts the releases of a series.
            let mut parts = newest.splitn(3, '-');
            let (series, flavour) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
            let (beginning, ending) = (format!("linux-image-{series}-"), format!("-{flavour}"));
            let mut names = apt::Apt::new(&directory()?)?.names(&beginning)?;
            names.retain(|name| name.ends_with(&ending) && !name.ends_with(&newest));
            names.sort();
            let name = names.pop();
            let name =
                name.ok_or_else(|| Error::Unexpected(format!("there is no kernel besides {newest}")))?;
            fs::write(&memory, &name).doing(|| format!("write {}", memory.display()))?;
            name
        }
    };
    unpacked_kernel(&package)
}

fn unpacked_kernel(package: &str) -> Result<Kernel, Error> {
    let unpacked = unpacked(package)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let image = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    let modules = unpacked.join("lib/modules").join(&release);
    Ok(Kernel { image, modules, release })
}

/// The certificates of the authorities that Debian trusts, as one PEM text; they are downloaded when they are
/// not there yet.
///
/// # Errors
/// When they cannot be downloaded or read.
pub fn certificates() -> Result<String, Error> {
    let _only_one = place::lock("tools")?;
    let directory = unpacked("ca-certificates")?.join("usr/share/ca-certificates/mozilla");
    let failed = || format!("read {}", directory.display());
    let mut paths = fs::read_dir(&directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .doing(failed)?;
    paths.sort();
    let texts = paths.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>().doing(failed)?;
    Ok(texts.concat())
}

/// A package with the libraries that it depends on; what is not there yet is downloaded.
///
/// # Errors
/// When something cannot be downloaded.
pub fn package(name: &str) -> Result<Package, Error> {
    let _only_one = place::lock("tools")?;
    let directory = unpacked(name)?;
    let mut libraries = library_directories(&directory)?;
    for library in library_packages(name)? {
        libraries.extend(library_directories(&unpacked(&library)?)?);
    }
    Ok(Package { directory, libraries })
}

/// The content of a package in the directory `to`; it is downloaded when that is not there yet. `false`
/// when apt does not offer this version: then it is the one that it does.
///
/// # Errors
/// When it cannot be downloaded at all.
pub fn content(package: &str, version: &str, to: &Path) -> Result<bool, Error> {
    let _only_one = place::lock("tools")?;
    if to.is_dir() {
        return Ok(true);
    }
    let apt = apt::Apt::new(&directory()?)?;
    match apt.fetch(&[format!("{package}={version}")], to) {
        Ok(()) => Ok(true),
        Err(Error::Command { .. }) => apt.fetch(&[package], to).map(|()| false),
        Err(error) => Err(error),
    }
}

impl Redis {
    fn try_out(&self, search: &[PathBuf]) -> Result<(), Error> {
        let path = library_path(search)?;
        let mut server = Command::new(&self.server);
        // The program is what its name says.
        std::os::unix::process::CommandExt::arg0(&mut server, "redis-server");
        job::run(server.arg("--version").env("LD_LIBRARY_PATH", path), VERSION_LIMIT).map(drop)
    }
}

/// The directory of an unpacked package.
fn unpacked(package: &str) -> Result<PathBuf, Error> {
    let tools = directory()?;
    let to = tools.join(package);
    if !to.is_dir() {
        fs::create_dir_all(&tools).doing(|| format!("make {}", tools.display()))?;
        apt::Apt::new(&tools)?.fetch(&[package], &to)?;
    }
    Ok(to)
}

/// The libraries that a package depends on, through libraries only: names of packages, remembered in a
/// file so that no package index is needed the next time.
fn library_packages(package: &str) -> Result<Vec<String>, Error> {
    let memory = directory()?.join(format!("{package}.libraries"));
    if let Ok(names) = fs::read_to_string(&memory) {
        return Ok(names.lines().map(str::to_owned).collect());
    }
    let depends = apt::Apt::new(&directory()?)?.all_dependencies(package)?;
    let (mut found, mut queue) = (BTreeSet::new(), vec![package]);
    while let Some(name) = queue.pop() {
        for dependency in depends.get(name).into_iter().flatten() {
            // A node has the C library and the compiler's own from the start.
            let base = ["libc6", "libgcc-s1", "libcrypt1"].contains(&dependency.as_str());
            if dependency.starts_with("lib") && !base && found.insert(dependency.clone()) {
                queue.push(dependency);
            }
        }
    }
    let names: Vec<_> = found.into_iter().collect();
    fs::write(&memory, names.join("\n")).doing(|| format!("write {}", memory.display()))?;
    Ok(names)
}

/// Directories of an unpacked package that hold shared libraries.
fn library_directories(package: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for top in ["lib", "usr/lib"] {
        let Ok(entries) = fs::read_dir(package.join(top)) else { continue };
        for entry in entries {
            let path = entry.doing(|| format!("list {}", package.display()))?.path();
            // Debian's multiarch directories, such as x86_64-linux-gnu.
            if path.is_dir() && path.to_string_lossy().contains("-linux-gnu") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn library_path(directories: &[PathBuf]) -> Result<OsString, Error> {
    std::env::join_paths(directories)
        .map_err(|error| Error::Unexpected(format!("a library directory has a bad name: {error}")))
}

fn file_name(path: &Path) -> Option<OsString> {
    path.file_name().map(ToOwned::to_owned)
}
