//! Typed values → Cap'n Proto messages of table `entries`, of one segment each, as others have them.

use capnp::message::{Builder, HeapAllocator};
use capnp::serialize::write_message_to_words;

use super::ClassicError;
use super::classic_capnp::{aci, dir, inode, special};
use super::keys::directory_key;
use super::message::{Access, UNITS_PER_BLOCK};
use crate::path::FlistPath;
use crate::tree::Kind;

/// A directory's size, as ext4 and 0-flist report it.
const DIRECTORY_SIZE: u64 = 4096;

/// Words of a first segment that is enough for most directories.
const FIRST_SEGMENT: u32 = 1024;

/// A directory with what is in it.
pub(super) struct Directory<'t> {
    pub(super) path: &'t FlistPath,
    /// The key of its access.
    pub(super) access: String,
    pub(super) mtime: u32,
    pub(super) contents: Vec<Inode<'t>>,
}

/// An entry of a directory.
pub(super) struct Inode<'t> {
    pub(super) path: &'t FlistPath,
    pub(super) kind: &'t Kind,
    pub(super) access: String,
    pub(super) mtime: u32,
}

/// # Errors
/// [`ClassicError::Message`].
pub(super) fn directory(directory: &Directory<'_>) -> Result<Vec<u8>, ClassicError> {
    let path = directory.path;
    in_one_segment(|message| fill_directory(directory, message.init_root()))
        .map_err(|source| ClassicError::Message { what: format!("directory '{path}'"), source })
}

/// # Errors
/// [`ClassicError::Message`].
pub(super) fn access(access: &Access) -> Result<Vec<u8>, ClassicError> {
    let fill = |message: &mut Builder<HeapAllocator>| {
        let mut aci: aci::Builder<'_> = message.init_root();
        aci.set_uname(capnp::text::Reader(&access.user));
        aci.set_gname(capnp::text::Reader(&access.group));
        aci.set_mode(access.mode);
        aci.set_uid(access.uid);
        aci.set_gid(access.gid);
        Ok(())
    };
    in_one_segment(fill).map_err(|source| ClassicError::Message { what: "access".to_owned(), source })
}

/// Fills a message; again in a larger segment if it took more than one.
fn in_one_segment(fill: impl Fn(&mut Builder<HeapAllocator>) -> capnp::Result<()>) -> capnp::Result<Vec<u8>> {
    let mut words = FIRST_SEGMENT;
    loop {
        let mut message = Builder::new(HeapAllocator::new().first_segment_words(words));
        fill(&mut message)?;
        let segments = message.get_segments_for_output().len();
        match words.checked_mul(4) {
            Some(more) if segments > 1 => words = more,
            _ => return Ok(write_message_to_words(&message)),
        }
    }
}

fn fill_directory(directory: &Directory<'_>, mut dir: dir::Builder<'_>) -> capnp::Result<()> {
    let path = directory.path;
    dir.set_name(capnp::text::Reader(path.name()));
    dir.set_location(capnp::text::Reader(path.as_bytes()));
    // The root's parent is the root.
    dir.set_parent(directory_key(&path.parent().unwrap_or_default()).as_str());
    dir.set_size(DIRECTORY_SIZE);
    dir.set_acl_key(directory.access.as_str());
    dir.set_modification_time(directory.mtime);
    dir.set_creation_time(directory.mtime);
    let too_many = |_| capnp::Error::failed("too many entries".to_owned());
    let mut contents = dir.init_contents(u32::try_from(directory.contents.len()).map_err(too_many)?);
    for (number, inode) in (0..).zip(&directory.contents) {
        fill_inode(inode, contents.reborrow().get(number))?;
    }
    Ok(())
}

fn fill_inode(entry: &Inode<'_>, mut inode: inode::Builder<'_>) -> capnp::Result<()> {
    inode.set_name(capnp::text::Reader(entry.path.name()));
    inode.set_acl_key(entry.access.as_str());
    inode.set_modification_time(entry.mtime);
    inode.set_creation_time(entry.mtime);
    inode.set_size(match entry.kind {
        Kind::Directory => DIRECTORY_SIZE,
        Kind::File(content) => content.size,
        Kind::Symlink(target) => target.len() as u64,
        _ => 0,
    });
    let attributes = inode.init_attributes();
    match entry.kind {
        Kind::Directory => attributes.init_dir().set_key(directory_key(entry.path).as_str()),
        Kind::Symlink(target) => attributes.init_link().set_target(capnp::text::Reader(target)),
        Kind::File(content) => {
            let mut file = attributes.init_file();
            file.set_block_size(UNITS_PER_BLOCK);
            let too_many = |_| capnp::Error::failed("too many blocks".to_owned());
            let mut blocks = file.init_blocks(u32::try_from(content.blocks.len()).map_err(too_many)?);
            for (number, block) in (0..).zip(&content.blocks) {
                let mut stored = blocks.reborrow().get(number);
                stored.set_hash(block.id.as_bytes());
                stored.set_key(block.key.as_bytes());
            }
        }
        Kind::CharDevice(rdev) => device(attributes.init_special(), special::Type::Character, *rdev),
        Kind::BlockDevice(rdev) => device(attributes.init_special(), special::Type::Block, *rdev),
        Kind::Fifo => attributes.init_special().set_type(special::Type::Fifo),
        Kind::Socket => attributes.init_special().set_type(special::Type::Socket),
    }
    Ok(())
}

fn device(mut special: special::Builder<'_>, kind: special::Type, rdev: u64) {
    special.set_type(kind);
    special.set_data(format!("{},{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)).as_bytes());
}
