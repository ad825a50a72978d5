//! Programs of packages: scripts of a few words, each of which is one effect.
//!
//! ```text
//! set /tmp/made-cache new      the file has this content, and nothing else
//! del /tmp/made-cache          the file is gone
//! exits                   the program fails
//! ```
//! Every line does no more when it is done twice, as the contract of hooks demands.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bootstrap::programs::{Call, Ended, How, Programs};
use flist::path::FlistPath;
use nix::errno::Errno;

use crate::fault::Operation;
use crate::files::Files;
use crate::machine::{Deed, Machine, Volume};

/// Runs the programs of a machine.
pub(crate) struct ModelPrograms {
    pub(crate) machine: Arc<Machine>,
}

impl fmt::Debug for ModelPrograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelPrograms")
    }
}

#[async_trait]
impl Programs for ModelPrograms {
    async fn run(&self, call: &Call) -> io::Result<Ended> {
        let effect = |whole: &dyn Fn(&mut Files) -> Result<(), Errno>| {
            self.machine.on_files(Volume::Root, Operation::Order, |files| whole(files), |_| {})
        };
        // The kernel starts it.
        effect(&|files| files.content(&call.program).map(drop).ok_or(Errno::ENOENT))?;
        let text = self.machine.with(|root, _, _| root.content(&call.program).map(<[u8]>::to_vec));
        let text = String::from_utf8(text.unwrap_or_default()).unwrap_or_default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.splitn(3, ' ').collect();
            let done = match words.as_slice() {
                ["set", path, content] => effect(&|files| set(files, &seen(call, path)?, content)),
                ["del", path] => effect(&|files| match files.remove(&seen(call, path)?) {
                    Err(Errno::ENOENT) => Ok(()),
                    other => other,
                }),
                _ => Err(io::Error::other("exits")),
            };
            if let Err(error) = done {
                return Ok(Ended { how: How::Exited(1), output: error.to_string().into_bytes() });
            }
        }
        Ok(Ended { how: How::Exited(0), output: Vec::new() })
    }

    async fn end_leftovers(&self, _: &str) -> io::Result<()> {
        // Whoever is killed in the model takes its programs along.
        self.machine.on_files(Volume::Root, Operation::Order, |_| Ok(()), |_| {})
    }

    async fn sync(&self) -> io::Result<()> {
        let top = FlistPath::root();
        self.machine.note(Deed::Sync(Volume::Root, top.clone()));
        self.machine.on_files(Volume::Root, Operation::Sync, |files| files.sync_filesystem(&top), |_| {})
    }
}

/// Where a path leads that a program uses.
fn seen(call: &Call, path: &str) -> Result<FlistPath, Errno> {
    let path: FlistPath = path.trim_start_matches('/').parse().map_err(|_| Errno::EINVAL)?;
    for (copy, at) in &call.instead {
        if path.is_beneath(at) {
            let rest = &path.as_bytes()[at.as_bytes().len()..];
            return FlistPath::from_bytes(&[copy.as_bytes(), rest].concat()).map_err(|_| Errno::EINVAL);
        }
    }
    Ok(path)
}

/// As a program does that writes beside the file and renames: whole or not at all.
fn set(files: &mut Files, path: &FlistPath, content: &str) -> Result<(), Errno> {
    match files.remove(path) {
        Err(Errno::ENOENT) | Ok(()) => {}
        Err(errno) => return Err(errno),
    }
    files.create(path)?;
    // Few programs wait for the medium.
    files.append(path, content.as_bytes())
}
