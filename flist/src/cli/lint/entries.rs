//! Lints of single entries of a flist.

use flist::path::FlistPath;
use flist::rehearsal::{Code, Conflict, Finding, FutureRoot, Layered, Node, RootError};
use flist::trust::repository::is_key_file;

/// Where Molt keeps its own files.
const RESERVED: [&str; 4] = [".molt", ".molt-root", "var/lib/molt", "run/molt"];

/// What is made anew at every boot, so that files of a release there are hidden or lost.
const VOLATILE: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// Longest file that can be a key, in bytes; they have about 360.
const LONGEST_KEY: u64 = 4096;

/// Everything to say of entries by themselves.
///
/// # Errors
/// A file cannot be read.
pub(super) fn findings(layered: &Layered<'_>) -> Result<Vec<Finding>, RootError> {
    let mut findings: Vec<_> = layered.conflicts().map(conflict).collect();
    for (path, node) in layered.placed() {
        let about = |code, message: &str| Finding::about_path(code, path.clone(), message);
        let at = |places: &[&'static str]| places.iter().copied().find(|place| is_in(path, place));
        if *node == Node::Directory {
            continue;
        }
        if let Some(place) = at(&RESERVED) {
            let message = format!("/{place} belongs to Molt itself; take it out of the release");
            findings.push(about(Code::Misplaced, &message));
        } else if let Some(place) = at(&VOLATILE) {
            let message = format!("what is in /{place} does not survive a boot; ship it elsewhere");
            findings.push(about(Code::Volatile, &message));
        }
        if let Node::File { mode, size } = node {
            if is_key(layered, path, *size)? {
                let message = "it is a key that signs releases, which everybody would get; take it out, make a new one in its place if it was published before";
                findings.push(about(Code::SigningKey, message));
            }
            if mode & 0o6000 != 0 {
                findings.push(about(
                    Code::SetUid,
                    &format!("it has mode {mode:04o}: it runs with the rights of its owner or group"),
                ));
            }
            if mode & 0o002 != 0 {
                findings.push(about(
                    Code::WorldWritable,
                    &format!("it has mode {mode:04o}: everybody may write it; take o+w away"),
                ));
            }
        }
    }
    Ok(findings)
}

/// Whether it is a key, sealed or not, whatever it is called.
fn is_key(layered: &Layered<'_>, path: &FlistPath, size: u64) -> Result<bool, RootError> {
    Ok(size <= LONGEST_KEY && is_key_file(&layered.read(path, 0, LONGEST_KEY as usize)?))
}

fn is_in(path: &FlistPath, place: &str) -> bool {
    place.parse().is_ok_and(|place| *path == place || path.is_beneath(&place))
}

fn conflict(conflict: &Conflict) -> Finding {
    match conflict {
        Conflict::TwoNames { path, first, second } => Finding::about_path(
            Code::TwoNames,
            second.clone(),
            format!("it is the same file of the node as /{first}, namely /{path}; ship one of them"),
        ),
        Conflict::BeneathNonDirectory { entry } => Finding::about_path(
            Code::BeneathNonDirectory,
            entry.clone(),
            "it is a directory here, but a file or a symlink to none on the node; rename it",
        ),
        Conflict::InTheWay { entry } => Finding::about_path(
            Code::InTheWay,
            entry.clone(),
            "it is a directory on the node, which is never replaced; rename it",
        ),
    }
}
