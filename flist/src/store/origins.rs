//! Where the blocks of a release are whose flists name different stores.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Store, StoreError, open_routes, open_with_access};
use crate::block::BlockId;
use crate::hub::Access;
use crate::tree::{Route, Tree};

/// Which stores have which blocks. Where all flists name the same stores, nothing has to be remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    groups: Vec<Vec<Route>>,
    /// The group of each block; empty where there is only one.
    of_block: HashMap<BlockId, u16>,
}

impl Origins {
    /// The origins of the blocks of these trees.
    pub fn of<'t>(trees: impl IntoIterator<Item = &'t Tree>) -> Self {
        let trees: Vec<&Tree> = trees.into_iter().collect();
        let mut origins = Self::default();
        for tree in &trees {
            if !origins.groups.contains(&tree.routes) {
                origins.groups.push(tree.routes.clone());
            }
        }
        if origins.groups.len() > 1 {
            for tree in trees {
                let group = origins.groups.iter().position(|routes| *routes == tree.routes);
                let group = group.and_then(|group| u16::try_from(group).ok()).unwrap_or_default();
                for block in tree.files().flat_map(|(_, _, content)| &content.blocks) {
                    origins.of_block.entry(block.id).or_insert(group);
                }
            }
        }
        origins
    }

    /// Opens all of them as one store; `default` has the blocks of flists that name none. Must not be called from within an async runtime's worker.
    ///
    /// # Errors
    /// As [`open_routes`].
    pub fn open(&self, default: &Route) -> Result<Arc<dyn Store>, StoreError> {
        self.open_with(default, &Access::default())
    }

    /// As [`Origins::open`]; hubs among them that want to know who reads are shown that.
    ///
    /// # Errors
    /// As [`open_routes`].
    pub fn open_with(&self, default: &Route, access: &Access) -> Result<Arc<dyn Store>, StoreError> {
        let open = |routes: &Vec<Route>| match routes.is_empty() {
            true => open_with_access(std::slice::from_ref(default), access),
            false => open_with_access(routes, access),
        };
        let mut stores = self.groups.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Ok(match (stores.len(), stores.pop()) {
            (0, _) | (_, None) => open_routes(&[])?,
            (1, Some(only)) => only,
            (_, Some(last)) => {
                stores.push(last);
                Arc::new(OriginStore { stores, of_block: self.of_block.clone() })
            }
        })
    }
}

/// Asks the stores of the flist that has a block, then those of the others, which may have it too.
struct OriginStore {
    stores: Vec<Arc<dyn Store>>,
    of_block: HashMap<BlockId, u16>,
}

impl OriginStore {
    fn origin(&self, id: &BlockId) -> usize {
        self.of_block.get(id).map_or(0, |group| usize::from(*group))
    }

    /// Asks the others when the right one could not help; its own answer is the one that is told.
    fn or_others<T>(
        &self,
        id: &BlockId,
        answer: Result<Option<T>, StoreError>,
        ask: impl Fn(&dyn Store) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if matches!(answer, Ok(Some(_))) {
            return answer;
        }
        let others = self.stores.iter().enumerate().filter(|(group, _)| *group != self.origin(id));
        for (_, store) in others {
            if let Ok(Some(found)) = ask(store.as_ref()) {
                return Ok(Some(found));
            }
        }
        answer
    }
}

impl Store for OriginStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        let get = |store: &dyn Store| store.get(id);
        self.or_others(id, get(self.stores[self.origin(id)].as_ref()), get)
    }

    /// Blocks of the same origin are asked for together.
    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        let mut answers = Vec::with_capacity(ids.len());
        let mut from = 0;
        while from < ids.len() {
            let origin = self.origin(&ids[from]);
            let same = ids[from..].iter().take_while(|id| self.origin(id) == origin).count();
            let until = from + same;
            answers.extend(self.stores[origin].get_each(&ids[from..until], &mut buffers[from..until]));
            from = until;
        }
        let complete = |((id, buffer), answer): ((&BlockId, &mut Vec<u8>), Result<bool, StoreError>)| {
            let answer = match answer {
                Ok(true) => return Ok(true),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            let stored = self.or_others(id, answer, |store| store.get(id))?;
            Ok(stored.map(|stored| *buffer = stored).is_some())
        };
        ids.iter().zip(buffers).zip(answers).map(complete).collect()
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        let Some(first) = ids.first() else { return 1 };
        let origin = self.origin(first);
        let same = ids.iter().take_while(|id| self.origin(id) == origin).count();
        self.stores[origin].at_once(&ids[..same])
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        let has = |store: &dyn Store| store.has(id).map(|has| has.then_some(()));
        let found = self.or_others(id, has(self.stores[self.origin(id)].as_ref()), has)?;
        Ok(found.is_some())
    }

    /// Where a release comes from is not written to.
    fn put(&self, id: &BlockId, _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::NoRoute { id: *id })
    }

    fn url(&self) -> String {
        let urls: Vec<_> = self.stores.iter().map(|store| store.url()).collect();
        urls.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::DirStore;
    use super::*;
    use crate::block::seal;
    use crate::tree::{Block, Content, Entry, Kind, Meta};

    fn tree(store: &std::path::Path, plain: &[u8]) -> Tree {
        let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0 };
        let sealed = seal(plain).unwrap();
        DirStore::new(store).put(&sealed.id, &sealed.stored).unwrap();
        let mut tree = Tree::new(meta);
        let blocks = vec![Block { id: sealed.id, key: sealed.key }];
        let content = Content { size: plain.len() as u64, blocks };
        tree.insert("file".parse().unwrap(), Entry { meta, kind: Kind::File(content) }).unwrap();
        tree.routes = vec![Route::everything(store.display().to_string())];
        tree
    }

    #[test]
    fn each_block_is_asked_of_the_store_of_its_flist_and_then_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        let trees = [tree(&here, b"one"), tree(&there, b"two")];
        let ids: Vec<BlockId> = trees
            .iter()
            .flat_map(|tree| tree.files().map(|(_, _, content)| content.blocks[0].id).collect::<Vec<_>>())
            .collect();
        let nowhere = Route::everything(dir.path().join("nowhere").display().to_string());
        let store = Origins::of(&trees).open(&nowhere).unwrap();
        let mut buffers = vec![Vec::new(); 2];
        assert!(store.get_each(&ids, &mut buffers).into_iter().all(|answer| answer.unwrap()));
        assert!(ids.iter().zip(&buffers).all(|(id, stored)| BlockId::of(stored) == *id));
        assert_eq!(store.at_once(&ids), DirStore::new(&here).at_once(&ids[..1]));

        // The block of the second flist moves to the first one's store, where nobody would look first.
        let (from, to) = (DirStore::new(&there).path_of(&ids[1]), DirStore::new(&here).path_of(&ids[1]));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(from, to).unwrap();
        assert!(store.has(&ids[1]).unwrap() && store.get(&ids[1]).unwrap().is_some());
        assert!(store.get_each(&ids, &mut buffers).into_iter().all(|answer| answer.unwrap()));
        assert!(store.put(&ids[0], b"").is_err());
    }

    #[test]
    fn nothing_is_remembered_where_all_name_the_same_stores() {
        let dir = tempfile::tempdir().unwrap();
        let trees = [tree(dir.path(), b"one"), tree(dir.path(), b"two")];
        let origins = Origins::of(&trees);
        assert!(origins.of_block.is_empty() && origins.groups.len() == 1);
        let (_, _, content) = trees[1].files().next().unwrap();
        let here = Route::everything(dir.path().display().to_string());
        let nowhere = Route::everything(dir.path().join("nowhere").display().to_string());
        assert!(origins.open(&nowhere).unwrap().get(&content.blocks[0].id).unwrap().is_some());
        let mut silent = trees[1].clone();
        silent.routes.clear();
        for (default, there) in [(&here, true), (&nowhere, false)] {
            let store = Origins::of([&silent]).open(default).unwrap();
            assert_eq!(store.get(&content.blocks[0].id).unwrap().is_some(), there);
        }
    }
}
