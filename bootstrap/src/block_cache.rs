//! The blocks that a node keeps: how many, where, and when they go.

use std::path::Path;
use std::sync::Arc;

use flist::path::FlistPath;
use flist::store::{CacheRoom, CachedStore, DirStore, Store};

use crate::disk::{Beneath, Disk, Filesystem};
use crate::plan::{Place, Space};

/// Most bytes of fetched blocks that a node keeps.
const CACHE_LIMIT: u64 = 512 << 20;

/// The part of the memory that is left which blocks may take where they are kept in RAM: what is installed, and whoever
/// runs, needs it more.
const CACHE_SHARE: u64 = 8;

/// Puts the node's cache in front of a store; it takes no more than there is room for beside what is installed.
pub fn cached(store: Arc<dyn Store>, cache_dir: &Path, room: CacheRoom) -> Arc<dyn Store> {
    let limit = filesystem_of(cache_dir).map_or(CACHE_LIMIT, |filesystem| cache_limit(&filesystem));
    Arc::new(CachedStore::new(store, DirStore::new(cache_dir)).with_limit(limit).with_room(room))
}

/// Most bytes of fetched blocks that are kept on a file system.
pub(crate) fn cache_limit(filesystem: &Filesystem) -> u64 {
    match filesystem {
        Filesystem { in_ram: true, available: Some(available), .. } => {
            CACHE_LIMIT.min(available / CACHE_SHARE)
        }
        _ => CACHE_LIMIT,
    }
}

/// The file system that a directory is on, or will be once it is made; `None` where nobody can look.
pub(crate) fn filesystem_of(directory: &Path) -> Option<Filesystem> {
    let nearest = directory.ancestors().find(|at| at.is_dir())?;
    Beneath::open(nearest).and_then(|disk| disk.filesystem(&FlistPath::root())).ok()
}

/// Whether a directory lies in RAM, so that what is kept in it costs memory. One that nobody can look at does not.
pub fn is_in_ram(directory: &Path) -> bool {
    filesystem_of(directory).is_some_and(|filesystem| filesystem.in_ram)
}

/// Makes the fetched blocks durable, before anything says that their release is installed: a node whose root is lost with
/// the power boots from them where no hub answers. In RAM nothing lasts. A failure is told only, because nothing needs
/// them while there is a hub. Blocks the thread.
#[tracing::instrument(level = "debug", skip_all)]
pub fn keep_cache(cache_dir: &Path) {
    if is_in_ram(cache_dir) || !cache_dir.is_dir() {
        return;
    }
    if let Err(error) = Beneath::open(cache_dir).and_then(|disk| disk.sync_filesystem(&FlistPath::root())) {
        tracing::warn!(%error, "the block cache may not survive a power cut");
    }
}

/// Removes the fetched blocks of a release that is installed where they only take memory: in RAM. Blocks the thread.
pub fn clear_cache_in_ram(cache_dir: &Path) {
    if is_in_ram(cache_dir) {
        clear(cache_dir);
    }
}

/// Gives back what the cache takes where an installation was refused for want of just that: the next attempt has it. A
/// cache that lies elsewhere, or takes less than is missing, stays, because the next attempt would be refused as well.
/// Blocks the thread.
pub fn give_back_cache(lacking: &Space, cache_dir: &Path) {
    let Some(cache) = filesystem_of(cache_dir).filter(|cache| takes_of(lacking, cache)) else { return };
    let taken = match DirStore::new(cache_dir).taken_on(cache.device) {
        Ok(taken) => taken,
        Err(error) => {
            tracing::warn!(error = %flist::report(&error), "nobody knows what the block cache takes, so it stays");
            return;
        }
    };
    let (at, missing) = (&lacking.at, lacking.lacking());
    if missing > 0 && taken >= missing {
        tracing::info!(%at, missing, taken, "the block cache is removed, because the space that it takes is needed");
        clear(cache_dir);
    } else {
        tracing::info!(%at, missing, taken, "the block cache stays: without it there would not be enough space either");
    }
}

/// Whether what a cache takes on its file system is missing for others.
fn takes_of(lacking: &Space, cache: &Filesystem) -> bool {
    match &lacking.at {
        Place::Memory(_) => cache.in_ram,
        Place::Directory(at) => filesystem_of(at).is_some_and(|there| {
            // The memory that is left bounds each file system in RAM.
            there.device == cache.device || (there.in_ram && cache.in_ram && there.memory == there.available)
        }),
    }
}

fn clear(cache_dir: &Path) {
    if let Err(error) = DirStore::new(cache_dir).clear() {
        tracing::warn!(error = %flist::report(&error), "the block cache stays");
    }
}

#[cfg(test)]
mod tests {
    use flist::block::{BlockId, seal};

    use super::*;

    #[test]
    fn in_ram_the_cache_takes_a_share_of_what_is_left_and_on_a_disk_its_limit() {
        let of = |in_ram, available| {
            cache_limit(&Filesystem {
                device: 1,
                in_ram,
                read_only: false,
                copies_up: false,
                available,
                memory: None,
            })
        };
        assert_eq!((of(true, Some(80 << 20)), of(false, Some(80 << 20))), (10 << 20, CACHE_LIMIT));
        assert_eq!((of(true, Some(u64::MAX)), of(true, None)), (CACHE_LIMIT, CACHE_LIMIT));
        let here = std::env::temp_dir();
        let not_yet = here.join("not/there/yet");
        assert_eq!(filesystem_of(&not_yet).unwrap().device, filesystem_of(&here).unwrap().device);
    }

    /// A cache with one block in it.
    fn filled(directory: &Path) -> BlockId {
        let block = seal(b"content").unwrap();
        DirStore::new(directory).put(&block.id, &block.stored).unwrap();
        block.id
    }

    /// Space of which exactly so many bytes are missing.
    fn missing(bytes: u64, at: Place, in_ram: bool) -> Space {
        let space = Space { at, need: bytes, have: Some(1 << 20), in_ram };
        assert_eq!(space.lacking(), bytes);
        space
    }

    #[test]
    fn the_cache_is_given_back_where_it_takes_just_what_is_missing() {
        let (disk, ram) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let in_memory = || Place::Memory(vec!["/".into()]);
        let of = |directory: &Path| Place::Directory(directory.to_owned());
        let device = |directory: &Path| filesystem_of(directory).unwrap().device;
        assert!(is_in_ram(ram.path()) && device(disk.path()) != device(ram.path()));
        for directory in [disk.path(), ram.path()] {
            let cache = directory.join("cache");
            let here = is_in_ram(directory);
            let elsewhere = if directory == disk.path() { ram.path() } else { disk.path() };
            for (place, helps) in [
                (of(directory), true),
                (of(&directory.join("not/there/yet")), true),
                (of(elsewhere), false),
                (of(Path::new("/proc")), false),
                (in_memory(), here),
            ] {
                for (more, enough) in [(0, true), (1, false)] {
                    let id = filled(&cache);
                    let taken = DirStore::new(&cache).taken_on(device(directory)).unwrap();
                    let space = missing(taken + more, place.clone(), here);
                    give_back_cache(&space, &cache);
                    let is_there = DirStore::new(&cache).has(&id).unwrap();
                    assert_eq!(is_there, !(helps && enough), "{} for {space:?}", cache.display());
                }
            }
            let id = filled(&cache);
            let enough = Space { at: of(directory), need: 1, have: Some(1 << 30), in_ram: here };
            give_back_cache(&enough, &cache);
            assert!(DirStore::new(&cache).has(&id).unwrap(), "nothing is missing");
            clear_cache_in_ram(&cache);
            assert_eq!(DirStore::new(&cache).has(&id).unwrap(), !here);
        }
    }
}
