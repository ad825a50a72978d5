//! Cap'n Proto messages of table `entries` → typed values. Nothing of them is trusted: what is read in all is bounded
//! by the length of the message.

use capnp::Word;
use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::{BufferSegments, read_message_from_flat_slice};

use super::ClassicError;
use super::classic_capnp::{aci, dir, file, inode};
use crate::block::{BlockId, BlockKey};
use crate::path::{MAX_NAME, MAX_PATH};
use crate::tree::Block;

/// A block of a file is this many units of [`BLOCK_UNIT`].
pub(super) const UNITS_PER_BLOCK: u16 = 128;

/// Unit of a file's block size in bytes.
pub(super) const BLOCK_UNIT: u64 = 4096;

/// How many times the words of a message may be read, because pointers to the same place make it look larger. Nobody
/// shares anything, and each word is read once.
const READS: usize = 2;

/// Longest key of table `entries`, in bytes.
pub(super) const MAX_KEY: usize = 64;

/// Pointers above one another: a directory, its entries, the attributes, the blocks, the bytes.
const NESTING: i32 = 12;

/// Who may do what; a row of its own, because most entries have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// Name of the owner.
    pub user: Vec<u8>,
    /// Name of the group.
    pub group: Vec<u8>,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u16,
    /// Owner; -1: by name.
    pub uid: i64,
    /// Group; -1: by name.
    pub gid: i64,
}

/// What a directory says.
pub(super) struct Directory {
    pub(super) access: String,
    pub(super) mtime: u32,
    pub(super) contents: Vec<Inode>,
    /// Blocks of all of them.
    pub(super) blocks: usize,
}

/// What a directory says about one of its entries.
pub(super) struct Inode {
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    pub(super) access: String,
    pub(super) mtime: u32,
    pub(super) what: What,
}

pub(super) enum What {
    /// The key of a directory.
    Directory(String),
    File {
        units: u16,
        blocks: Vec<Block>,
    },
    Symlink(Vec<u8>),
    Special,
    /// Something that only a newer version knows.
    Unknown,
    /// A block whose id or key has another length.
    BadBlock,
}

/// Bytes of a message, at an address where Cap'n Proto can read it.
pub(super) struct Aligned {
    words: Vec<Word>,
    length: usize,
}

impl Aligned {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut words = Word::allocate_zeroed_vec(bytes.len().div_ceil(size_of::<Word>()));
        Word::words_to_bytes_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self { words, length: bytes.len() }
    }

    fn reader(&self) -> capnp::Result<Reader<BufferSegments<&[u8]>>> {
        let mut options = ReaderOptions::new();
        options.nesting_limit(NESTING).traversal_limit_in_words(Some(self.words.len() * READS + READS));
        read_message_from_flat_slice(&mut &Word::words_to_bytes(&self.words)[..self.length], options)
    }
}

/// How much more of something there may be, and how much of it in the whole flist.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) what: &'static str,
    pub(super) left: usize,
    pub(super) limit: usize,
}

impl Room {
    fn exceeded(self) -> ClassicError {
        ClassicError::TooMany { what: self.what, limit: self.limit }
    }
}

/// A directory; `what` says which.
///
/// # Errors
/// [`ClassicError::Message`]; [`ClassicError::TooMany`] where there is no room.
pub(super) fn directory(
    bytes: &[u8],
    what: impl Fn() -> String,
    for_entries: Room,
    for_blocks: Room,
) -> Result<Directory, ClassicError> {
    let failed = |source| ClassicError::Message { what: what(), source };
    let aligned = Aligned::new(bytes);
    let reader = aligned.reader().map_err(failed)?;
    let dir: dir::Reader<'_> = reader.get_root().map_err(failed)?;
    let access = text(dir.get_acl_key()).map_err(failed)?;
    let list = dir.get_contents().map_err(failed)?;
    if list.len() as usize > for_entries.left {
        return Err(for_entries.exceeded());
    }
    let (mut contents, mut blocks) = (Vec::new(), 0);
    for entry in list.iter() {
        let entry = inode(entry, for_blocks.left - blocks).map_err(failed)?;
        let entry = entry.ok_or_else(|| for_blocks.exceeded())?;
        if let What::File { blocks: more, .. } = &entry.what {
            blocks += more.len();
        }
        contents.push(entry);
    }
    Ok(Directory { access, mtime: dir.get_modification_time(), contents, blocks })
}

/// `None` with more than `most_blocks`.
fn inode(inode: inode::Reader<'_>, most_blocks: usize) -> capnp::Result<Option<Inode>> {
    let what = match inode.get_attributes().which() {
        Ok(inode::attributes::Dir(dir)) => What::Directory(text(dir?.get_key())?),
        Ok(inode::attributes::File(file)) => {
            let file = file?;
            match blocks(file, most_blocks)? {
                Some(Ok(blocks)) => What::File { units: file.get_block_size(), blocks },
                Some(Err(BadBlock)) => What::BadBlock,
                None => return Ok(None),
            }
        }
        Ok(inode::attributes::Link(link)) => What::Symlink(start(link?.get_target()?, MAX_PATH + 1)),
        Ok(inode::attributes::Special(_)) => What::Special,
        Err(_) => What::Unknown,
    };
    Ok(Some(Inode {
        name: start(inode.get_name()?, MAX_NAME + 1),
        size: inode.get_size(),
        access: text(inode.get_acl_key())?,
        mtime: inode.get_modification_time(),
        what,
    }))
}

struct BadBlock;

fn blocks(file: file::Reader<'_>, most: usize) -> capnp::Result<Option<Result<Vec<Block>, BadBlock>>> {
    let list = file.get_blocks()?;
    if list.len() as usize > most {
        return Ok(None);
    }
    let mut blocks = Vec::new();
    for block in list.iter() {
        let (Ok(id), Ok(key)) = (block.get_hash()?.try_into(), block.get_key()?.try_into()) else {
            return Ok(Some(Err(BadBlock)));
        };
        blocks.push(Block { id: BlockId::from_classic(id), key: BlockKey::from_classic(key) });
    }
    Ok(Some(Ok(blocks)))
}

/// A kind of access.
///
/// # Errors
/// [`ClassicError::Message`].
pub(super) fn access(bytes: &[u8], key: &str) -> Result<Access, ClassicError> {
    let read = || {
        let aligned = Aligned::new(bytes);
        let reader = aligned.reader()?;
        let aci: aci::Reader<'_> = reader.get_root()?;
        Ok(Access {
            user: start(aci.get_uname()?, MAX_NAME),
            group: start(aci.get_gname()?, MAX_NAME),
            mode: aci.get_mode(),
            uid: aci.get_uid(),
            gid: aci.get_gid(),
        })
    };
    read()
        .map_err(|source| ClassicError::Message { what: format!("access '{}'", key.escape_debug()), source })
}

/// A key; what is no UTF-8, or too long, is the key of nothing.
fn text(text: capnp::Result<capnp::text::Reader<'_>>) -> capnp::Result<String> {
    Ok(String::from_utf8_lossy(&start(text?, MAX_KEY + 1)).into_owned())
}

/// No more of a text than it takes to see that it is too long.
fn start(text: capnp::text::Reader<'_>, most: usize) -> Vec<u8> {
    let bytes = text.as_bytes();
    bytes[..bytes.len().min(most)].to_vec()
}
