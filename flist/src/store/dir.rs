//! Blocks as files: `<dir>/<first two hex digits>/<all hex digits>`, the layout of rfs; its older layout
//! `<dir>/<all hex digits>` is read too. There are 64 digits, 32 in the ids of classic flists.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::cache::StoredBlock;
use super::{Store, StoreError};
use crate::block::{self, BlockId, MAX_STORED};

/// That a block is needed is noted in its time of modification, but not more often than this.
const NOTED_FOR: Duration = Duration::from_secs(60);

/// The unit that the system counts the space of files in, in bytes (`st_blocks` of stat(2)).
const STAT_BLOCK: u64 = 512;

/// A directory of blocks.
#[derive(Debug, Clone)]
pub struct DirStore {
    root: PathBuf,
}

impl DirStore {
    /// Uses a directory; it is created with the first block.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The file a block is written to.
    pub fn path_of(&self, id: &BlockId) -> PathBuf {
        let name = id.to_string();
        self.root.join(&name[..2]).join(name)
    }

    /// Removes a block, for instance a corrupt one.
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn remove(&self, id: &BlockId) -> Result<(), StoreError> {
        let path = self.path_of(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(failed("remove", &path)(source)),
            _ => Ok(()),
        }
    }

    /// Every block file in the newer layout; what vanishes meanwhile is left out.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(super) fn list(&self) -> Result<Vec<StoredBlock>, StoreError> {
        let mut blocks = Vec::new();
        let directories = match fs::read_dir(&self.root) {
            Ok(directories) => directories,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(blocks),
            Err(source) => return Err(failed("list", &self.root)(source)),
        };
        for directory in directories.filter_map(Result::ok) {
            let Ok(files) = fs::read_dir(directory.path()) else { continue };
            for file in files.filter_map(Result::ok) {
                let is_block = file.file_name().to_str().is_some_and(|name| name.parse::<BlockId>().is_ok());
                if is_block
                    && let Ok(metadata) = file.metadata()
                    && let Ok(modified) = metadata.modified()
                {
                    let taken = if metadata.nlink() == 1 { metadata.blocks() * STAT_BLOCK } else { 0 };
                    let (bytes, device) = (metadata.len(), metadata.dev());
                    blocks.push(StoredBlock { path: file.path(), bytes, taken, device, modified });
                }
            }
        }
        Ok(blocks)
    }

    /// Bytes that a file system has again when all blocks are removed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn taken_on(&self, device: u64) -> Result<u64, StoreError> {
        let blocks = self.list()?.into_iter().filter(|block| block.device == device);
        Ok(blocks.fold(0, |sum, block| sum.saturating_add(block.taken)))
    }

    /// Removes all blocks and what only they needed; anything else in the directory stays.
    ///
    /// # Errors
    /// A block cannot be removed.
    pub fn clear(&self) -> Result<(), StoreError> {
        for block in self.list()? {
            fs::remove_file(&block.path).map_err(failed("remove", &block.path))?;
            // Fails while something is left in it.
            let _ = block.path.parent().map(fs::remove_dir);
        }
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    fn open(&self, id: &BlockId) -> Result<Option<(File, PathBuf)>, StoreError> {
        for path in [self.path_of(id), self.root.join(id.to_string())] {
            match File::open(&path) {
                Ok(file) => return Ok(Some((file, path))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(failed("open", &path)(source)),
            }
        }
        Ok(None)
    }

    /// Reads the stored bytes, not verified; `false` when there are none.
    fn read(&self, id: &BlockId, buffer: &mut Vec<u8>) -> Result<bool, StoreError> {
        let Some((file, path)) = self.open(id)? else { return Ok(false) };
        let most = MAX_STORED as u64 + 1;
        buffer.clear();
        let read = file.metadata().and_then(|metadata| {
            // One byte more, so that the end is seen without growing.
            buffer.reserve(metadata.len().min(most) as usize + 1);
            file.take(most).read_to_end(buffer)
        });
        read.map_err(failed("read", &path))?;
        Ok(true)
    }
}

impl Store for DirStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let mut stored = Vec::new();
        if !self.read(id, &mut stored)? {
            return Ok(None);
        }
        block::verify(id, &stored).map_err(|source| StoreError::Corrupt { url: self.url(), source })?;
        Ok(Some(stored))
    }

    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        let read: Vec<_> =
            ids.iter().zip(buffers.iter_mut()).map(|(id, buffer)| self.read(id, buffer)).collect();
        let there = read.iter().zip(ids.iter().zip(buffers.iter()));
        let (wanted, stored): (Vec<_>, Vec<_>) = there
            .filter(|(read, _)| matches!(read, Ok(true)))
            .map(|(_, (id, buffer))| (*id, buffer.as_slice()))
            .unzip();
        let mut verified = block::verify_each(&wanted, &stored).into_iter();
        let verified = |read: Result<bool, _>| match read {
            Ok(true) => match verified.next() {
                Some(Ok(())) => Ok(true),
                Some(Err(source)) => Err(StoreError::Corrupt { url: self.url(), source }),
                None => Ok(false),
            },
            other => other,
        };
        read.into_iter().map(verified).collect()
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        ids.len().max(1)
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        let Some((file, path)) = self.open(id)? else { return Ok(false) };
        // A packer that hears so does not write it again; somebody else's block stays as it is.
        if let Err(error) = touch(&file, SystemTime::now()) {
            tracing::debug!(path = %path.display(), %error, "cannot note that a block is needed");
        }
        Ok(true)
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        let path = self.path_of(id);
        if path.exists() {
            return self.has(id).map(drop);
        }
        let directory = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let mut file = tempfile::Builder::new()
            .prefix(".block-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(directory)
            .map_err(failed("create a file in", directory))?;
        file.write_all(stored).map_err(failed("write", &path))?;
        file.persist(&path).map_err(|error| failed("write", &path)(error.error))?;
        Ok(())
    }

    fn url(&self) -> String {
        format!("dir://{}", self.root.display())
    }
}

/// Notes in a block's time of modification that it is needed, but not again within a minute.
///
/// # Errors
/// The system's, for instance because the block belongs to somebody else.
pub(crate) fn touch(block: &File, now: SystemTime) -> std::io::Result<()> {
    let noted = block.metadata()?.modified()?;
    let is_new = now.duration_since(noted).is_ok_and(|age| age <= NOTED_FOR);
    if is_new { Ok(()) } else { block.set_modified(now) }
}

fn failed<'p>(action: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> StoreError + 'p {
    move |source| StoreError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockError, seal};

    #[test]
    fn both_layouts_are_read_and_corruption_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path());
        let sealed = seal(b"content").unwrap();
        assert!(store.get(&sealed.id).unwrap().is_none());
        store.put(&sealed.id, &sealed.stored).unwrap();
        store.put(&sealed.id, &sealed.stored).unwrap();
        assert_eq!(store.get(&sealed.id).unwrap().unwrap(), sealed.stored);

        fs::rename(store.path_of(&sealed.id), dir.path().join(sealed.id.to_string())).unwrap();
        assert_eq!(store.get(&sealed.id).unwrap().unwrap(), sealed.stored);

        fs::write(dir.path().join(sealed.id.to_string()), "garbage").unwrap();
        assert!(matches!(store.get(&sealed.id), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn a_block_that_a_packer_asks_for_or_puts_again_is_as_good_as_new() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path());
        let sealed = seal(b"content").unwrap();
        store.put(&sealed.id, &sealed.stored).unwrap();
        let path = store.path_of(&sealed.id);
        let asks: [&dyn Fn(); 2] =
            [&|| assert!(store.has(&sealed.id).unwrap()), &|| store.put(&sealed.id, &sealed.stored).unwrap()];
        for ask in asks {
            File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            ask();
            assert!(fs::metadata(&path).unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH);
        }
    }

    #[test]
    fn what_a_block_takes_is_what_its_file_system_has_again_when_it_goes() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let store = DirStore::new(dir.path());
        let device = fs::metadata(dir.path()).unwrap().dev();
        assert_eq!(store.taken_on(device).unwrap(), 0);
        let noise: Vec<u8> = (0..9000_u32).map(|byte| ((byte * byte) >> 7) as u8).collect();
        let sealed = seal(&noise).unwrap();
        store.put(&sealed.id, &sealed.stored).unwrap();
        let taken = store.taken_on(device).unwrap();
        assert!(taken >= sealed.stored.len() as u64, "{taken}");
        assert_eq!(store.taken_on(device + 1).unwrap(), 0);
        fs::hard_link(store.path_of(&sealed.id), dir.path().join("kept")).unwrap();
        assert_eq!(store.taken_on(device).unwrap(), 0, "it stays under its other name");
        // A directory of blocks that leads to another file system.
        let other = DirStore::new(elsewhere.path());
        let more = seal(b"more").unwrap();
        other.put(&more.id, &more.stored).unwrap();
        let there = other.path_of(&more.id).parent().unwrap().to_owned();
        std::os::unix::fs::symlink(there, dir.path().join("zz")).unwrap();
        assert_eq!(store.taken_on(device).unwrap(), 0);
    }

    #[test]
    fn among_several_blocks_each_is_verified_against_its_own_id() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::new(dir.path());
        let sealed: Vec<_> = (0..6_u8).map(|seed| seal(&[seed; 9000]).unwrap()).collect();
        for block in &sealed {
            store.put(&block.id, &block.stored).unwrap();
        }
        let ids: Vec<_> = sealed.iter().map(|block| block.id).collect();
        // One is the content of another, one is missing.
        fs::copy(store.path_of(&ids[1]), store.path_of(&ids[2])).unwrap();
        store.remove(&ids[4]).unwrap();
        let mut buffers = vec![b"left from before".to_vec(); ids.len()];
        for (index, got) in store.get_each(&ids, &mut buffers).into_iter().enumerate() {
            match (index, got) {
                (2, Err(StoreError::Corrupt { source: BlockError::WrongId { wanted, found }, .. })) => {
                    assert_eq!((wanted, found), (ids[2], ids[1]));
                }
                (4, Ok(false)) => {}
                (_, Ok(true)) => assert_eq!(buffers[index], sealed[index].stored),
                (_, other) => panic!("block {index}: {other:?}"),
            }
        }
    }
}
