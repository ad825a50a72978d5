//! Where everything is measured: a tmpfs in a mount namespace of our own, which goes with this process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molt_tests::{Error, scratch};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;
use tempfile::TempDir;

/// How long it may take to copy the tree into the arena.
const LIMIT: Duration = Duration::from_secs(120);

/// Size limit of the tmpfs: the tree a few times over.
const SIZE: &str = "size=6g,mode=0700";

/// What is measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TreeFacts {
    /// Regular files.
    pub(super) files: u64,
    /// Entries of every kind, the top directory left out.
    pub(super) entries: u64,
    /// Bytes of all files.
    pub(super) bytes: u64,
}

/// The tmpfs with the tree in it.
pub(super) struct Arena {
    directory: TempDir,
    facts: TreeFacts,
}

impl Arena {
    /// Moves this thread, and the programs it starts from now on, to a mount namespace of its own.
    ///
    /// # Errors
    /// When the system does not let us, or there is not enough memory for the tree.
    pub(super) fn enter(tree: &Path) -> Result<Self, Error> {
        let directory = scratch("bench")?;
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
            .and_then(|()| {
                mount(Some("bench"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(SIZE))
            })
            .map_err(|errno| failed("mount a tmpfs on", directory.path())(errno.into()))?;
        let mut facts = TreeFacts { files: 0, entries: 0, bytes: 0 };
        facts.count(tree)?;
        let arena = Self { directory, facts };
        let mut copy = Command::new("cp");
        molt_tests::run(copy.args(["-a", "-T"]).arg(tree).arg(arena.tree()), LIMIT)?;
        Ok(arena)
    }

    /// The tree to measure with.
    pub(super) fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    /// A place in the tmpfs.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the tree consists of.
    pub(super) fn facts(&self) -> TreeFacts {
        self.facts.clone()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // The namespace takes it away at the latest.
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}

impl TreeFacts {
    fn count(&mut self, directory: &Path) -> Result<(), Error> {
        for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
            let entry = entry.map_err(failed("list", directory))?;
            let metadata = entry.metadata().map_err(failed("list", directory))?;
            self.entries += 1;
            if metadata.is_dir() {
                self.count(&entry.path())?;
            } else if metadata.is_file() {
                self.files += 1;
                self.bytes += metadata.len();
            }
        }
        Ok(())
    }
}

fn failed<'p>(action: &'p str, path: &'p Path) -> impl Fn(io::Error) -> Error + 'p {
    move |source| Error::System { action: format!("{action} {}", path.display()), source }
}
