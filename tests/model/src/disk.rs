//! The engine's view of a volume.

use std::fmt;
use std::io;
use std::sync::Arc;

use bootstrap::disk::{Disk, Filesystem, OpenFile, Rename, Special, Stat};
use flist::path::FlistPath;
use flist::xattr::Xattrs;

use crate::fault::Operation;
use crate::files::Files;
use crate::machine::{Deed, Machine, Volume};

/// A volume of a machine.
pub struct ModelDisk {
    machine: Arc<Machine>,
    volume: Volume,
}

impl fmt::Debug for ModelDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelDisk({:?})", self.volume)
    }
}

impl ModelDisk {
    /// The volume of a machine.
    pub fn new(machine: Arc<Machine>, volume: Volume) -> Self {
        Self { machine, volume }
    }

    fn look<T>(&self, look: impl FnOnce(&Files) -> Result<T, nix::errno::Errno>) -> io::Result<T> {
        self.machine.on_files(self.volume, Operation::Read, |files| look(files), |_| {})
    }

    fn change<T>(
        &self,
        operation: Operation,
        change: impl FnOnce(&mut Files) -> Result<T, nix::errno::Errno>,
    ) -> io::Result<T> {
        self.machine.on_files(self.volume, operation, change, |_| {})
    }

    fn sync(
        &self,
        path: &FlistPath,
        sync: impl FnOnce(&mut Files) -> Result<(), nix::errno::Errno>,
    ) -> io::Result<()> {
        self.machine.note(Deed::Sync(self.volume, path.clone()));
        self.change(Operation::Sync, sync)
    }
}

/// The content of a file as it was when it was opened.
struct Opened {
    content: Vec<u8>,
    machine: Arc<Machine>,
    volume: Volume,
}

impl OpenFile for Opened {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.machine.on_files(self.volume, Operation::Read, |_| Ok(()), |_| {})?;
        let rest = usize::try_from(offset).ok().and_then(|offset| self.content.get(offset..));
        let rest = rest.unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

impl Disk for ModelDisk {
    fn stat(&self, path: &FlistPath) -> io::Result<Option<Stat>> {
        self.look(|files| files.stat(path))
    }

    fn real_directory(&self, path: &FlistPath) -> io::Result<Option<FlistPath>> {
        self.look(|files| files.real_directory(path))
    }

    fn mount_top(&self, directory: &FlistPath) -> io::Result<FlistPath> {
        self.look(|files| files.mount_top(directory))
    }

    fn filesystem(&self, directory: &FlistPath) -> io::Result<Filesystem> {
        self.look(|files| files.filesystem(directory))
    }

    fn read_link(&self, path: &FlistPath) -> io::Result<Vec<u8>> {
        self.look(|files| files.read_link(path))
    }

    fn xattrs(&self, path: &FlistPath) -> io::Result<Xattrs> {
        self.look(|files| files.xattrs(path))
    }

    fn list(&self, directory: &FlistPath) -> io::Result<Vec<Vec<u8>>> {
        self.look(|files| files.list(directory))
    }

    fn open(&self, path: &FlistPath, follow: bool) -> io::Result<Box<dyn OpenFile>> {
        let content = self.look(|files| files.open(path, follow))?;
        Ok(Box::new(Opened { content, machine: self.machine.clone(), volume: self.volume }))
    }

    fn make_directory(&self, path: &FlistPath) -> io::Result<()> {
        self.change(Operation::Allocate, |files| files.make_directory(path))
    }

    fn create(&self, path: &FlistPath) -> io::Result<()> {
        self.change(Operation::Allocate, |files| files.create(path))
    }

    fn reserve(&self, path: &FlistPath, bytes: u64) -> io::Result<()> {
        self.change(Operation::Allocate, |files| files.reserve(path, bytes))
    }

    fn append(&self, path: &FlistPath, bytes: &[u8]) -> io::Result<()> {
        let half = |files: &mut Files| {
            // What cannot be opened is not half written either.
            let _ = files.append(path, &bytes[..bytes.len() / 2]);
        };
        self.machine.on_files(self.volume, Operation::Allocate, |files| files.append(path, bytes), half)
    }

    fn make_special(&self, path: &FlistPath, special: Special<'_>) -> io::Result<()> {
        self.change(Operation::Allocate, |files| files.make_special(path, special))
    }

    fn set_owner(&self, path: &FlistPath, uid: u32, gid: u32) -> io::Result<()> {
        self.change(Operation::Change, |files| files.set_owner(path, uid, gid))
    }

    fn set_mode(&self, path: &FlistPath, mode: u32) -> io::Result<()> {
        self.change(Operation::Change, |files| files.set_mode(path, mode))
    }

    fn set_xattrs(&self, path: &FlistPath, xattrs: &Xattrs) -> io::Result<()> {
        self.change(Operation::Change, |files| files.set_xattrs(path, xattrs))
    }

    fn set_mtime(&self, path: &FlistPath, seconds: i64) -> io::Result<()> {
        self.change(Operation::Change, |files| files.set_mtime(path, seconds))
    }

    fn copy_up(&self, path: &FlistPath) -> io::Result<()> {
        // A copy of it is made, which takes space.
        self.change(Operation::Allocate, |files| files.copy_up(path))
    }

    fn link(&self, from: &FlistPath, to: &FlistPath) -> io::Result<()> {
        self.change(Operation::Change, |files| files.link(from, to))
    }

    fn rename(&self, from: &FlistPath, to: &FlistPath, how: Rename) -> io::Result<()> {
        self.change(Operation::Change, |files| files.rename(from, to, how))
    }

    fn remove(&self, path: &FlistPath) -> io::Result<()> {
        self.change(Operation::Change, |files| files.remove(path))
    }

    fn remove_directory(&self, path: &FlistPath) -> io::Result<()> {
        self.change(Operation::Change, |files| files.remove_directory(path))
    }

    fn remove_tree(&self, path: &FlistPath) -> io::Result<()> {
        self.change(Operation::Change, |files| files.remove_tree(path))
    }

    fn sync_file(&self, path: &FlistPath) -> io::Result<()> {
        self.sync(path, |files| files.sync_file(path))
    }

    fn sync_directory(&self, path: &FlistPath) -> io::Result<()> {
        self.sync(path, |files| files.sync_directory(path))
    }

    fn sync_filesystem(&self, directory: &FlistPath) -> io::Result<()> {
        self.sync(directory, |files| files.sync_filesystem(directory))
    }
}
