//! Replacing a file, all or nothing.

use std::io;

use flist::path::FlistPath;
use nix::errno::Errno;

use super::{Disk, Rename, is_absent};

/// Replaces (or makes) a file all or nothing: a temporary file beside it is written, synced and renamed, and
/// the directory is synced. One writer at a time.
///
/// # Errors
/// The system's. The file is the old or the new one then: it is the new one when only syncing the directory
/// failed.
pub fn replace(disk: &dyn Disk, path: &FlistPath, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_beside(disk, path, bytes, mode)?;
    put(disk, &temporary, path)
}

/// The new content of a file, written beside it: putting it there takes no more space.
#[derive(Debug)]
pub struct Replacement {
    path: FlistPath,
    bytes: Vec<u8>,
    mode: u32,
    /// What was written, so that nothing else is put there.
    inode: Option<(u64, u64)>,
}

impl Replacement {
    /// Writes it, and waits until it is on disk.
    ///
    /// # Errors
    /// The system's; nothing has changed then.
    pub fn prepare(disk: &dyn Disk, path: &FlistPath, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let temporary = write_beside(disk, path, bytes, mode)?;
        let inode = disk.stat(&temporary)?.map(|stat| stat.inode);
        Ok(Self { path: path.clone(), bytes: bytes.to_vec(), mode, inode })
    }

    /// Puts it in the file's place; what has gone meanwhile is written again.
    ///
    /// # Errors
    /// The system's, as for [`replace`].
    pub fn put(&self, disk: &dyn Disk) -> io::Result<()> {
        let temporary = beside(&self.path)?;
        match disk.stat(&temporary)?.map(|stat| stat.inode) {
            Some(inode) if Some(inode) == self.inode => put(disk, &temporary, &self.path),
            _ => replace(disk, &self.path, &self.bytes, self.mode),
        }
    }

    /// Takes it away again; what stays is in nobody's way.
    pub fn discard(&self, disk: &dyn Disk) {
        if let Ok(temporary) = beside(&self.path) {
            let _ = disk.remove(&temporary);
        }
    }
}

fn write_beside(disk: &dyn Disk, path: &FlistPath, bytes: &[u8], mode: u32) -> io::Result<FlistPath> {
    let temporary = beside(path)?;
    match disk.remove(&temporary) {
        Err(error) if !is_absent(&error) => return Err(error),
        _ => {}
    }
    let written = (|| {
        disk.create(&temporary)?;
        if mode != 0o600 {
            disk.set_mode(&temporary, mode)?;
        }
        disk.append(&temporary, bytes)?;
        disk.sync_file(&temporary)
    })();
    if let Err(error) = written {
        // What is left over is in nobody's way; the next writer removes it.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

fn put(disk: &dyn Disk, temporary: &FlistPath, path: &FlistPath) -> io::Result<()> {
    if let Err(error) = disk.rename(temporary, path, Rename::Replace) {
        let _ = disk.remove(temporary);
        return Err(error);
    }
    disk.sync_directory(&path.parent().unwrap_or_default())
}

fn beside(path: &FlistPath) -> io::Result<FlistPath> {
    let directory = path.parent().unwrap_or_default();
    directory.join(&[b".new-", path.name()].concat()).map_err(|_| Errno::ENAMETOOLONG.into())
}
