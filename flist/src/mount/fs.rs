//! The kernel's questions, answered from the inode table. Nothing is decided here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::ahead::{ReadAhead, Shared};
use super::inodes::Inode;
use crate::block::BLOCK_SIZE;
use crate::tree::Kind;

/// What is mounted never changes, so the kernel may remember everything for as long as it likes.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Most bytes that one read asks for: one block, so that blocks read ahead are fetched by several threads.
const MAX_READ: u32 = BLOCK_SIZE as u32;

/// `statfs` counts in units of this many bytes.
const STATFS_UNIT: u32 = 4096;

pub(super) struct FlistFs {
    shared: Arc<Shared>,
    ahead: ReadAhead,
    /// The kernel can do without a message for each open and each close of a file, and of a directory.
    skips_open: bool,
    skips_opendir: bool,
}

impl FlistFs {
    pub(super) fn new(shared: Arc<Shared>, ahead: ReadAhead) -> Self {
        Self { shared, ahead, skips_open: false, skips_opendir: false }
    }

    fn attr(&self, ino: u64, inode: &Inode) -> FileAttr {
        let meta = &inode.entry.meta;
        let (kind, size, rdev) = match &inode.entry.kind {
            Kind::Directory => (FileType::Directory, 4096, 0),
            Kind::File(content) => (FileType::RegularFile, content.size, 0),
            Kind::Symlink(target) => (FileType::Symlink, target.len() as u64, 0),
            Kind::CharDevice(rdev) => (FileType::CharDevice, 0, *rdev),
            Kind::BlockDevice(rdev) => (FileType::BlockDevice, 0, *rdev),
            Kind::Fifo => (FileType::NamedPipe, 0, 0),
            Kind::Socket => (FileType::Socket, 0, 0),
        };
        let offset = Duration::from_secs(meta.mtime.unsigned_abs());
        let time = if meta.mtime < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(offset)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(offset)
        };
        let time = time.unwrap_or(SystemTime::UNIX_EPOCH);
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: meta.mode as u16,
            nlink: inode.links(),
            uid: meta.uid,
            gid: meta.gid,
            rdev: rdev as u32,
            blksize: STATFS_UNIT,
            flags: 0,
        }
    }
}

impl Filesystem for FlistFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each of these is a wish: an older kernel that lacks one works all the same.
        for wish in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ] {
            let _ = config.add_capabilities(wish);
        }
        self.skips_open = config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT).is_ok();
        self.skips_opendir = config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok();
        // Nothing is written, but the largest read is derived from this.
        let _ = config.set_max_write(MAX_READ);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.shared.table.child(parent.into(), name) {
            Some((ino, inode)) => {
                reply.entry(&TTL, &self.attr(ino, inode), Generation(0));
                self.shared.tell(ino, true);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, _: u64) {
        self.shared.tell(ino.into(), false);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.shared.table.get(ino.into()) {
            Some(inode) => reply.attr(&TTL, &self.attr(ino.into(), inode)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.shared.table.get(ino.into()).map(|inode| &inode.entry.kind) {
            Some(Kind::Symlink(target)) => reply.data(target),
            Some(_) => reply.error(Errno::EINVAL),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.skips_open {
            // The kernel takes this as "always possible, keep the cache" and does not ask again.
            return reply.error(Errno::ENOSYS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.skips_opendir {
            // As for files; this answer also means that the listing may be kept.
            return reply.error(Errno::ENOSYS);
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(inode) = self.shared.table.get(ino.into()) else { return reply.error(Errno::ENOENT) };
        let Kind::File(content) = &inode.entry.kind else { return reply.error(Errno::EISDIR) };
        self.ahead.asked(ino.into(), offset);
        match self.shared.blocks.read(content, offset, size) {
            Ok(pieces) => reply.data(&pieces.bytes()),
            Err(error) => {
                tracing::error!(file = %inode.path, error = %crate::report(&error), "cannot read");
                reply.error(Errno::EIO);
            }
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(entries) = self.shared.table.list(ino.into(), offset) else {
            return reply.error(Errno::ENOENT);
        };
        for ((ino, inode, name), next) in entries.zip(offset + 1..) {
            let kind = self.attr(ino, inode).kind;
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        directory: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(entries) = self.shared.table.list(directory.into(), offset) else {
            return reply.error(Errno::ENOENT);
        };
        for ((ino, inode, name), next) in entries.zip(offset + 1..) {
            if reply.add(INodeNo(ino), next, name, &TTL, &self.attr(ino, inode), Generation(0)) {
                break;
            }
        }
        reply.ok();
        self.ahead.lists(directory.into(), offset);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.shared.table.has_xattrs {
            // The kernel does not ask again for any file, and says that they are not supported.
            return reply.error(Errno::ENOSYS);
        }
        match self.shared.table.get(ino.into()).map(|inode| inode.xattrs.get(name.as_bytes())) {
            Some(Some(value)) => reply_sized(value, size, reply),
            Some(None) => reply.error(Errno::NO_XATTR),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.shared.table.has_xattrs {
            return reply.error(Errno::ENOSYS);
        }
        let Some(inode) = self.shared.table.get(ino.into()) else { return reply.error(Errno::ENOENT) };
        let names: Vec<u8> = inode.xattrs.keys().flat_map(|name| [name, &b"\0"[..]].concat()).collect();
        reply_sized(&names, size, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let units = self.shared.table.total_bytes.div_ceil(u64::from(STATFS_UNIT));
        reply.statfs(units, 0, 0, self.shared.table.len() as u64, 0, STATFS_UNIT, 255, STATFS_UNIT);
    }
}

/// Size 0 asks how long the answer would be (getxattr(2)).
fn reply_sized(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}
