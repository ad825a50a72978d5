//! The programs of this machine, compared with what its own loader says.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use flist::path::FlistPath;
use flist::rehearsal::{Code, Facts, FutureRoot, Node, RootError, Subject, rehearse};

/// This machine's root.
struct Machine;

fn failed(path: &FlistPath) -> impl Fn(std::io::Error) -> RootError {
    move |error| RootError { action: "read", path: path.clone(), source: Box::new(error) }
}

fn at(path: &FlistPath) -> std::path::PathBuf {
    Path::new("/").join(path.as_path())
}

impl FutureRoot for Machine {
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError> {
        let Ok(metadata) = fs::symlink_metadata(at(path)) else { return Ok(None) };
        let kind = metadata.file_type();
        Ok(Some(if kind.is_dir() {
            Node::Directory
        } else if kind.is_symlink() {
            Node::Symlink(fs::read_link(at(path)).map_err(failed(path))?.into_os_string().into_vec())
        } else if kind.is_file() {
            Node::File { size: metadata.len(), mode: metadata.permissions().mode() & 0o7777 }
        } else {
            Node::Other
        }))
    }

    fn read(&self, path: &FlistPath, offset: u64, length: usize) -> Result<Vec<u8>, RootError> {
        let mut bytes = vec![0; length];
        let file = fs::File::open(at(path)).map_err(failed(path))?;
        let read = file.read_at(&mut bytes, offset).map_err(failed(path))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn list(&self, path: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(at(path)).map_err(failed(path))? {
            names.push(entry.map_err(failed(path))?.file_name().into_vec());
        }
        names.sort();
        Ok(names)
    }
}

fn machine_number() -> u16 {
    if cfg!(target_arch = "aarch64") {
        flist::rehearsal::machine::AARCH64
    } else {
        flist::rehearsal::machine::X86_64
    }
}

/// Dynamic programs in `/usr/bin`, without symlinks.
fn programs() -> Vec<FlistPath> {
    let names = Machine.list(&"usr/bin".parse().unwrap()).unwrap();
    let paths = names.iter().map(|name| FlistPath::from_bytes(&[b"usr/bin/", &name[..]].concat()).unwrap());
    paths
        .filter(|path| {
            let executable = Machine.look(path).unwrap().is_some_and(|node| node.is_executable());
            executable && Machine.read(path, 0, 4).is_ok_and(|bytes| bytes == b"\x7fELF")
        })
        .collect()
}

/// What the loader misses; `None` for what it does not load.
fn ldd(path: &FlistPath) -> Option<bool> {
    let output = Command::new("ldd").arg(at(path)).stdin(Stdio::null()).output().ok()?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    output.status.success().then(|| said.contains("not found"))
}

#[test]
fn the_programs_of_this_machine_find_what_ldd_finds() {
    if Command::new("ldd").arg("--version").output().is_err() {
        eprintln!("SKIPPED: this machine has no ldd to compare with");
        return;
    }
    let changed = programs();
    let findings =
        rehearse(&Machine, &Facts { services: &[], changed: &changed, machine: machine_number() }).unwrap();
    let broken: Vec<FlistPath> = findings
        .iter()
        .filter(|finding| matches!(finding.code, Code::MissingLibrary | Code::MissingVersion | Code::LibcMix))
        .filter_map(|finding| match finding.needed_by.last().unwrap_or(&finding.subject) {
            Subject::Path(path) => Some(path.clone()),
            Subject::Unit(_) | Subject::Package(_) => None,
        })
        .collect();
    for path in &broken {
        assert_ne!(ldd(path), Some(false), "/{path}: ldd finds everything, but: {findings:#?}");
    }
    // The other way around a sample is enough: `ldd` starts several processes for each.
    let sample: Vec<_> = changed.iter().step_by(changed.len().div_ceil(40).max(1)).collect();
    for path in &sample {
        if ldd(path) == Some(true) {
            assert!(broken.contains(path), "/{path}: ldd misses something");
        }
    }
    println!("{} programs, {} compared with ldd, {} broken", changed.len(), sample.len(), broken.len());
}
