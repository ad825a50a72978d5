//! A directory → a tree and its blocks in a store.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crate::block::{BLOCK_SIZE, BlockError, BlockId, Codec};
use crate::path::{FlistPath, PathError};
use crate::progress::Observer;
use crate::store::{Store, StoreError};
use crate::tree::{Block, Content, Entry, Kind, Meta, Tree, TreeError};
use crate::xattr::{self, Xattrs};

/// Why a directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// An entry could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The entry.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// What is packed is no directory.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// A name cannot be in a flist.
    #[error("an entry of {directory} cannot be in a flist")]
    Name {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with the name.
        #[source]
        source: PathError,
    },
    /// A file changed while it was read.
    #[error("{0} changed while it was packed; pack a directory that nobody writes to")]
    Changed(PathBuf),
    /// A block could not be sealed.
    #[error("cannot seal a block of {path}")]
    Seal {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: BlockError,
    },
    /// The store did not take a block.
    #[error("cannot store a block of {path}")]
    Store {
        /// The file.
        path: PathBuf,
        /// The store's reason.
        #[source]
        source: StoreError,
    },
    /// The entries do not form a tree.
    #[error("cannot pack {directory}")]
    Tree {
        /// The directory.
        directory: PathBuf,
        /// The reason.
        #[source]
        source: TreeError,
    },
}

/// What packing did.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackSummary {
    /// Plain bytes of all files.
    pub bytes: u64,
    /// Blocks of all files.
    pub blocks: usize,
    /// Blocks the store did not have before.
    pub new_blocks: u64,
    /// Stored bytes of those.
    pub new_bytes: u64,
}

/// Packs a directory for an fl flist. The tree has no routes yet: the caller knows where readers will find the store.
/// Blocks the store already has are not sent again.
///
/// # Errors
/// [`PackError`] naming the entry. Blocks stored before the error stay in the store.
pub fn pack(directory: &Path, store: &dyn Store) -> Result<(Tree, PackSummary), PackError> {
    pack_observed(directory, store, Codec::Fl, &())
}

/// As [`pack`], for flists of any format, and tells somebody how far it is.
///
/// # Errors
/// As [`pack`].
pub fn pack_observed(
    directory: &Path,
    store: &dyn Store,
    codec: Codec,
    observer: &dyn Observer,
) -> Result<(Tree, PackSummary), PackError> {
    let scan = scan(directory)?;
    observer.total(scan.files.iter().map(|file| file.size).sum());
    let work = Work::new(&scan.files, codec, observer);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work.run(directory, store));
        }
    });
    let (blocks, summary) = work.finish()?;
    let mut tree = scan.tree;
    let xattrs = scan.xattrs;
    for (file, blocks) in scan.files.into_iter().zip(blocks) {
        let entry = Entry { meta: file.meta, kind: Kind::File(Content { size: file.size, blocks }) };
        let failed = |source| PackError::Tree { directory: directory.to_owned(), source };
        tree.insert(file.path, entry).map_err(failed)?;
    }
    for (path, xattrs) in xattrs {
        let failed = |source| PackError::Tree { directory: directory.to_owned(), source };
        tree.set_xattrs(path, xattrs).map_err(failed)?;
    }
    Ok((tree, summary))
}

/// Everything but the content of files.
struct Scan {
    tree: Tree,
    xattrs: Vec<(FlistPath, Xattrs)>,
    files: Vec<FoundFile>,
}

struct FoundFile {
    path: FlistPath,
    meta: Meta,
    size: u64,
}

fn scan(directory: &Path) -> Result<Scan, PackError> {
    let read = |path: &Path| fs::symlink_metadata(path).map_err(read_failed(path));
    let root = fs::metadata(directory).map_err(read_failed(directory))?;
    if !root.is_dir() {
        return Err(PackError::NotADirectory(directory.to_owned()));
    }
    let mut scan = Scan { tree: Tree::new(meta_of(&root)), xattrs: Vec::new(), files: Vec::new() };
    let mut stack = vec![FlistPath::root()];
    while let Some(parent) = stack.pop() {
        let at = directory.join(parent.as_path());
        for found in fs::read_dir(&at).map_err(read_failed(&at))? {
            let name = found.map_err(read_failed(&at))?.file_name();
            let path = parent
                .join(name.as_bytes())
                .map_err(|source| PackError::Name { directory: at.clone(), source })?;
            let on_disk = at.join(&name);
            let metadata = read(&on_disk)?;
            let meta = meta_of(&metadata);
            let xattrs = xattr::read(&on_disk).map_err(read_failed(&on_disk))?;
            if !xattrs.is_empty() {
                scan.xattrs.push((path.clone(), xattrs));
            }
            if metadata.is_file() {
                scan.files.push(FoundFile { path, meta, size: metadata.len() });
                continue;
            }
            if metadata.is_dir() {
                stack.push(path.clone());
            }
            let kind = kind_of(&on_disk, &metadata)?;
            let failed = |source| PackError::Tree { directory: directory.to_owned(), source };
            scan.tree.insert(path, Entry { meta, kind }).map_err(failed)?;
        }
    }
    scan.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(scan)
}

fn meta_of(metadata: &Metadata) -> Meta {
    Meta { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid(), mtime: metadata.mtime() }
}

fn kind_of(path: &Path, metadata: &Metadata) -> Result<Kind, PackError> {
    let file_type = metadata.file_type();
    Ok(if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Symlink(fs::read_link(path).map_err(read_failed(path))?.as_os_str().as_bytes().to_vec())
    } else if file_type.is_char_device() {
        Kind::CharDevice(metadata.rdev())
    } else if file_type.is_block_device() {
        Kind::BlockDevice(metadata.rdev())
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    })
}

fn read_failed(path: &Path) -> impl Fn(std::io::Error) -> PackError + '_ {
    move |source| PackError::Read { path: path.to_owned(), source }
}

/// The blocks of all files as one list that the threads work off.
struct Work<'f> {
    files: &'f [FoundFile],
    codec: Codec,
    observer: &'f dyn Observer,
    /// `(file, block)` for every block.
    items: Vec<(usize, usize)>,
    next: AtomicUsize,
    stopped: AtomicBool,
    done: Mutex<Vec<(usize, usize, Block)>>,
    /// Blocks that the store has, or that a thread is sending.
    known: Mutex<HashSet<BlockId>>,
    failure: Mutex<Option<PackError>>,
    new_blocks: AtomicU64,
    new_bytes: AtomicU64,
}

impl<'f> Work<'f> {
    fn new(files: &'f [FoundFile], codec: Codec, observer: &'f dyn Observer) -> Self {
        let blocks_of = |file: &FoundFile| file.size.div_ceil(BLOCK_SIZE as u64) as usize;
        let items = files
            .iter()
            .enumerate()
            .flat_map(|(file, found)| (0..blocks_of(found)).map(move |block| (file, block)))
            .collect();
        Self {
            files,
            codec,
            observer,
            items,
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            done: Mutex::default(),
            known: Mutex::default(),
            failure: Mutex::default(),
            new_blocks: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
        }
    }

    fn run(&self, directory: &Path, store: &dyn Store) {
        let mut buffer = vec![0; BLOCK_SIZE];
        let mut current: Option<(usize, File)> = None;
        let mut done = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            let Some((index, block)) = self.items.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let path = directory.join(self.files[*index].path.as_path());
            match self.block(*index, *block, &path, &mut current, &mut buffer, store) {
                Ok(sealed) => done.push((*index, *block, sealed)),
                Err(error) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    lock(&self.failure).get_or_insert(error);
                }
            }
        }
        lock(&self.done).append(&mut done);
    }

    fn block(
        &self,
        index: usize,
        block: usize,
        path: &Path,
        current: &mut Option<(usize, File)>,
        buffer: &mut [u8],
        store: &dyn Store,
    ) -> Result<Block, PackError> {
        let file = match current {
            Some((open, file)) if *open == index => file,
            _ => &mut current.insert((index, File::open(path).map_err(read_failed(path))?)).1,
        };
        let start = block as u64 * BLOCK_SIZE as u64;
        let plain = &mut buffer[..(self.files[index].size - start).min(BLOCK_SIZE as u64) as usize];
        file.read_exact_at(plain, start).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => PackError::Changed(path.to_owned()),
            _ => read_failed(path)(source),
        })?;
        let sealed = self.codec.seal(plain);
        let sealed = sealed.map_err(|source| PackError::Seal { path: path.to_owned(), source })?;
        let failed = |source| PackError::Store { path: path.to_owned(), source };
        let is_first = lock(&self.known).insert(sealed.id);
        if is_first && !store.has(&sealed.id).map_err(failed)? {
            store.put(&sealed.id, &sealed.stored).map_err(failed)?;
            self.new_blocks.fetch_add(1, Ordering::Relaxed);
            self.new_bytes.fetch_add(sealed.stored.len() as u64, Ordering::Relaxed);
        }
        self.observer.advance(plain.len() as u64);
        Ok(Block { id: sealed.id, key: sealed.key })
    }

    /// The blocks of each file, in the order of the files.
    fn finish(self) -> Result<(Vec<Vec<Block>>, PackSummary), PackError> {
        if let Some(error) = self.failure.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
            return Err(error);
        }
        let mut done = self.done.into_inner().unwrap_or_else(|poison| poison.into_inner());
        done.sort_by_key(|(file, block, _)| (*file, *block));
        let summary = PackSummary {
            bytes: self.files.iter().map(|file| file.size).sum(),
            blocks: done.len(),
            new_blocks: self.new_blocks.into_inner(),
            new_bytes: self.new_bytes.into_inner(),
        };
        let mut blocks = vec![Vec::new(); self.files.len()];
        for (file, _, block) in done {
            blocks[file].push(block);
        }
        Ok((blocks, summary))
    }
}

/// A thread that panicked has already failed the scope; its data is whole, pushes being atomic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
