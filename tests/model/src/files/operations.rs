//! What `bootstrap::disk::Disk` can do.

use std::collections::BTreeMap;

use bootstrap::disk::{Filesystem, Kind, Rename, Special, Stat};
use flist::path::FlistPath;
use flist::xattr::Xattrs;
use nix::errno::Errno;

use super::{Answer, Files, Inode, Node, Place};

impl Files {
    pub(crate) fn stat(&self, path: &FlistPath) -> Answer<Option<Stat>> {
        let number = match self.inode(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            other => other?,
        };
        let inode = &self.inodes[&number];
        let (kind, size, rdev) = match &inode.node {
            Node::Directory(_) => (Kind::Directory, 4096, 0),
            Node::File(content) => (Kind::File, content.len() as u64, 0),
            Node::Symlink(target) => (Kind::Symlink, target.len() as u64, 0),
            Node::CharDevice(rdev) => (Kind::CharDevice, 0, *rdev),
            Node::BlockDevice(rdev) => (Kind::BlockDevice, 0, *rdev),
            Node::Fifo => (Kind::Fifo, 0, 0),
            Node::Socket => (Kind::Socket, 0, 0),
        };
        let Inode { mode, uid, gid, mtime, changed, .. } = *inode;
        let inode = (self.device, number);
        let changed = (changed, 0);
        Ok(Some(Stat { kind, mode, uid, gid, mtime, size, rdev, inode, changed, mount_point: false }))
    }

    pub(crate) fn real_directory(&self, path: &FlistPath) -> Answer<Option<FlistPath>> {
        match self.walk(path, true) {
            Ok((names, number)) if matches!(self.inodes[&number].node, Node::Directory(_)) => {
                let path = FlistPath::from_bytes(&names.join(&b'/')).map_err(|_| Errno::ENAMETOOLONG)?;
                Ok(Some(path))
            }
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Nothing is mounted in it.
    pub(crate) fn mount_top(&self, directory: &FlistPath) -> Answer<FlistPath> {
        self.directory(directory).map(|_| FlistPath::root())
    }

    pub(crate) fn filesystem(&self, directory: &FlistPath) -> Answer<Filesystem> {
        self.directory(directory)?;
        Ok(Filesystem {
            device: self.device,
            in_ram: self.in_ram,
            read_only: false,
            copies_up: self.copies_up(),
            available: self.available,
            memory: None,
        })
    }

    pub(crate) fn read_link(&self, path: &FlistPath) -> Answer<Vec<u8>> {
        match &self.inodes[&self.inode(path)?].node {
            Node::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn xattrs(&self, path: &FlistPath) -> Answer<Xattrs> {
        Ok(self.inodes[&self.inode(path)?].xattrs.clone())
    }

    pub(crate) fn list(&self, path: &FlistPath) -> Answer<Vec<Vec<u8>>> {
        Ok(self.names(self.directory(path)?)?.keys().cloned().collect())
    }

    pub(crate) fn open(&self, path: &FlistPath, follow: bool) -> Answer<Vec<u8>> {
        let number = if follow { self.walk(path, true)?.1 } else { self.inode(path)? };
        match &self.inodes[&number].node {
            Node::File(content) => Ok(content.clone()),
            Node::Symlink(_) => Err(Errno::ELOOP),
            Node::Socket | Node::CharDevice(_) | Node::BlockDevice(_) => Err(Errno::ENXIO),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn make_directory(&mut self, path: &FlistPath) -> Answer<()> {
        self.add(path, Node::Directory(BTreeMap::new()), 0o700)
    }

    pub(crate) fn create(&mut self, path: &FlistPath) -> Answer<()> {
        self.add(path, Node::File(Vec::new()), 0o600)
    }

    pub(crate) fn reserve(&mut self, path: &FlistPath, bytes: u64) -> Answer<()> {
        let now = self.clock + 1;
        let inode = self.inode_mut(path)?;
        match &inode.node {
            Node::File(_) if bytes > 0 => {
                inode.xattrs.remove(&b"security.capability"[..]);
                inode.mtime = now;
                Ok(())
            }
            Node::File(_) => Err(Errno::EINVAL),
            Node::Symlink(_) => Err(Errno::ELOOP),
            Node::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::ENXIO),
        }
    }

    pub(crate) fn append(&mut self, path: &FlistPath, bytes: &[u8]) -> Answer<()> {
        let now = self.clock + 1;
        let inode = self.inode_mut(path)?;
        match &mut inode.node {
            Node::File(content) => {
                content.extend_from_slice(bytes);
                if !bytes.is_empty() {
                    // The kernel takes capabilities away from what is written to (capabilities(7)).
                    inode.xattrs.remove(&b"security.capability"[..]);
                    inode.mtime = now;
                }
                Ok(())
            }
            Node::Symlink(_) => Err(Errno::ELOOP),
            Node::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::ENXIO),
        }
    }

    pub(crate) fn make_special(&mut self, path: &FlistPath, special: Special<'_>) -> Answer<()> {
        let (node, mode) = match special {
            Special::Symlink(target) => (Node::Symlink(target.to_vec()), 0o777),
            Special::CharDevice(rdev) => (Node::CharDevice(rdev), 0o400),
            Special::BlockDevice(rdev) => (Node::BlockDevice(rdev), 0o400),
            Special::Fifo => (Node::Fifo, 0o400),
            Special::Socket => (Node::Socket, 0o400),
        };
        self.add(path, node, mode)
    }

    pub(crate) fn set_owner(&mut self, path: &FlistPath, uid: u32, gid: u32) -> Answer<()> {
        let inode = self.inode_mut(path)?;
        (inode.uid, inode.gid) = (uid, gid);
        // chown(2): the kernel treats root like other users here.
        if !matches!(inode.node, Node::Directory(_)) {
            let group_executes = inode.mode & 0o010 != 0;
            inode.mode &= if group_executes { !0o6000 } else { !0o4000 };
            inode.xattrs.remove(&b"security.capability"[..]);
        }
        Ok(())
    }

    pub(crate) fn set_mode(&mut self, path: &FlistPath, mode: u32) -> Answer<()> {
        let inode = self.inode_mut(path)?;
        if matches!(inode.node, Node::Symlink(_)) {
            return Err(Errno::EOPNOTSUPP);
        }
        inode.mode = mode & 0o7777;
        Ok(())
    }

    pub(crate) fn set_xattrs(&mut self, path: &FlistPath, xattrs: &Xattrs) -> Answer<()> {
        for (name, value) in xattrs {
            let inode = self.inode_mut(path)?;
            inode.may_have(name)?;
            inode.xattrs.insert(name.clone(), value.clone());
        }
        Ok(())
    }

    pub(crate) fn set_mtime(&mut self, path: &FlistPath, seconds: i64) -> Answer<()> {
        self.inode_mut(path)?.mtime = seconds;
        Ok(())
    }

    pub(crate) fn link(&mut self, from: &FlistPath, to: &FlistPath) -> Answer<()> {
        if self.at(&self.place(from)?)?.is_some() {
            self.raise(from)?;
        }
        let (from, place) = (self.place(from)?, self.place(to)?);
        let number = self.at(&from)?.ok_or(Errno::ENOENT)?;
        if self.at(&place)?.is_some() {
            return Err(Errno::EEXIST);
        }
        if matches!(self.inodes[&number].node, Node::Directory(_)) {
            return Err(Errno::EPERM);
        }
        self.enter([(place, Some(number))])
    }

    pub(crate) fn rename(&mut self, from: &FlistPath, to: &FlistPath, how: Rename) -> Answer<()> {
        if how == Rename::Exchange && !self.can_exchange {
            return Err(Errno::EINVAL);
        }
        let exists = |files: &Self, path| files.place(path).and_then(|place| files.at(&place)).ok().flatten();
        for path in [from, to] {
            if exists(self, path).is_some() {
                self.copied_late += self.raise(path)?;
            }
        }
        let (old, new) = (self.place(from)?, self.place(to)?);
        let moved = self.at(&old)?.ok_or(Errno::ENOENT)?;
        let there = self.at(&new)?;
        match (how, there) {
            (Rename::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (Rename::Exchange, None) => return Err(Errno::ENOENT),
            _ => self.refuse_cycle(from, to, moved, there, how)?,
        }
        match (how, there) {
            (Rename::Exchange, Some(there)) => {
                self.enter([(old, Some(there)), (new, Some(moved))])?;
            }
            (_, Some(there)) if there == moved => {}
            (_, there) => {
                if let Some(there) = there {
                    self.may_vanish(there, moved)?;
                }
                self.enter([(old, None), (new, Some(moved))])?;
                self.collect();
            }
        }
        self.clock += 1;
        for number in [Some(moved), there.filter(|_| how == Rename::Exchange)].into_iter().flatten() {
            if let Some(inode) = self.inodes.get_mut(&number) {
                inode.changed = self.clock;
            }
        }
        Ok(())
    }

    /// A directory cannot become its own descendant.
    fn refuse_cycle(
        &self,
        from: &FlistPath,
        to: &FlistPath,
        moved: u64,
        there: Option<u64>,
        how: Rename,
    ) -> Answer<()> {
        let real = |path: &FlistPath| self.walk(&path.parent().unwrap_or_default(), true);
        let is_directory = |number: u64| matches!(self.inodes[&number].node, Node::Directory(_));
        let beneath = |path: &FlistPath, top: u64, top_path: &FlistPath| -> Answer<bool> {
            let (names, number) = real(path)?;
            let mut top_names = real(top_path)?.0;
            top_names.push(top_path.name().to_vec());
            Ok(is_directory(top) && (number == top || names.starts_with(&top_names)))
        };
        if beneath(to, moved, from)? {
            return Err(Errno::EINVAL);
        }
        match there {
            Some(there) if beneath(from, there, to)? => {
                Err(if how == Rename::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY })
            }
            _ => Ok(()),
        }
    }

    fn may_vanish(&self, there: u64, moved: u64) -> Answer<()> {
        let moves_directory = matches!(self.inodes[&moved].node, Node::Directory(_));
        match (&self.inodes[&there].node, moves_directory) {
            (Node::Directory(_), false) => Err(Errno::EISDIR),
            (Node::Directory(names), true) if !names.is_empty() => Err(Errno::ENOTEMPTY),
            (Node::Directory(_), true) => Ok(()),
            (_, true) => Err(Errno::ENOTDIR),
            (_, false) => Ok(()),
        }
    }

    pub(crate) fn remove(&mut self, path: &FlistPath) -> Answer<()> {
        let place = self.place(path)?;
        let number = self.at(&place)?.ok_or(Errno::ENOENT)?;
        if matches!(self.inodes[&number].node, Node::Directory(_)) {
            return Err(Errno::EISDIR);
        }
        self.enter([(place, None)])?;
        self.collect();
        Ok(())
    }

    pub(crate) fn remove_directory(&mut self, path: &FlistPath) -> Answer<()> {
        let place = self.place(path)?;
        let number = self.at(&place)?.ok_or(Errno::ENOENT)?;
        match &self.inodes[&number].node {
            Node::Directory(names) if names.is_empty() => {}
            Node::Directory(_) => return Err(Errno::ENOTEMPTY),
            _ => return Err(Errno::ENOTDIR),
        }
        self.enter([(place, None)])?;
        self.collect();
        Ok(())
    }

    pub(crate) fn remove_tree(&mut self, path: &FlistPath) -> Answer<()> {
        let place = self.place(path)?;
        let number = self.at(&place)?.ok_or(Errno::ENOENT)?;
        if !matches!(self.inodes[&number].node, Node::Directory(_) | Node::Symlink(_)) {
            return Err(Errno::ENOTDIR);
        }
        for place in self.beneath(number) {
            self.enter([(place, None)])?;
        }
        self.enter([(place, None)])?;
        self.collect();
        Ok(())
    }

    /// All names beneath a directory, those of directories after what is in them.
    fn beneath(&self, directory: u64) -> Vec<Place> {
        let Some(Node::Directory(names)) = self.inodes.get(&directory).map(|inode| &inode.node) else {
            return Vec::new();
        };
        let with_own = |(name, number): (&Vec<u8>, &u64)| {
            let mut all = self.beneath(*number);
            all.push(Place { directory, name: name.clone() });
            all
        };
        names.iter().flat_map(with_own).collect()
    }
}

impl Inode {
    /// Whether something of this kind can have an extended attribute of this name (xattr(7), acl(5)).
    fn may_have(&self, name: &[u8]) -> Answer<()> {
        match self.node {
            Node::File(_) | Node::Directory(_) => Ok(()),
            _ if name.starts_with(b"user.") => Err(Errno::EPERM),
            Node::Symlink(_) if name.starts_with(b"system.posix_acl_") => Err(Errno::EOPNOTSUPP),
            _ => Ok(()),
        }
    }
}
