//! An overlay: a layer that is written to, over one that is not (Documentation/filesystems/overlayfs.rst).

use flist::path::FlistPath;
use nix::errno::Errno;

use super::{Answer, Files, Node, ROOT};

impl Files {
    /// Everything that is here becomes the layer below.
    pub fn lay_down(&mut self) {
        self.lower = Some(self.inodes.keys().copied().filter(|number| *number != ROOT).collect());
    }

    pub(crate) fn copies_up(&self) -> bool {
        self.lower.is_some()
    }

    pub(crate) fn copy_up(&mut self, path: &FlistPath) -> Answer<()> {
        self.raise(path)?;
        // The time of access is set: that is what copies up.
        self.inode_mut(path).map(drop)
    }

    /// Copies up what is at a path, and the directories above it; tells how much that was. What has another inode
    /// number afterwards lies on the medium as it did below.
    pub(super) fn raise(&mut self, path: &FlistPath) -> Answer<usize> {
        let mut copied = self.raise_directories(&path.parent().unwrap_or_default())?;
        if path.is_root() || self.lower.is_none() {
            return Ok(copied);
        }
        let place = self.place(path)?;
        let number = self.at(&place)?.ok_or(Errno::ENOENT)?;
        let Some(lower) = self.lower.as_mut().filter(|lower| lower.contains(&number)) else {
            return Ok(copied);
        };
        copied += 1;
        if matches!(self.inodes[&number].node, Node::Directory(_)) {
            lower.remove(&number);
            return Ok(copied);
        }
        let copy = self.inodes[&number].clone();
        let new = self.next;
        self.next += 1;
        self.inodes.insert(new, copy);
        self.keep_on_medium(number, new);
        self.enter([(place, Some(new))])?;
        self.collect();
        Ok(copied)
    }

    /// As [`Files::raise`], of a directory and those above it.
    pub(super) fn raise_directories(&mut self, path: &FlistPath) -> Answer<usize> {
        let (names, _) = self.walk(path, true)?;
        let (mut at, mut copied) = (ROOT, 0);
        for name in names {
            at = *self.names(at)?.get(&name).ok_or(Errno::ENOENT)?;
            copied += usize::from(self.lower.as_mut().is_some_and(|lower| lower.remove(&at)));
        }
        Ok(copied)
    }
}
