//! Several stores as one: each keeps a range of ids, and several may keep the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Store, StoreError};
use crate::block::BlockId;
use crate::tree::Route;

/// The stores of a flist's routes. Those whose range holds a block's first byte are asked in order:
/// "missing", corruption and failures move on to the next one, and what went wrong is reported if none
/// has the block. A block is put into every one of them.
pub struct Router {
    routes: Vec<(Route, Arc<dyn Store>)>,
}

impl Router {
    /// Uses these stores.
    pub fn new(routes: Vec<(Route, Arc<dyn Store>)>) -> Self {
        Self { routes }
    }

    fn stores(&self, id: &BlockId) -> impl Iterator<Item = &Arc<dyn Store>> {
        let byte = id.as_bytes()[0];
        self.routes
            .iter()
            .filter(move |(route, _)| (route.first..=route.last).contains(&byte))
            .map(|(_, s)| s)
    }

    /// Asks the stores from the `first` on; `failure` is what those before have answered.
    fn ask<T>(
        &self,
        id: &BlockId,
        first: usize,
        mut failure: Option<StoreError>,
        ask: impl Fn(&dyn Store) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut told = false;
        for store in self.stores(id).skip(first) {
            // The last failure is the answer, and told by who asked.
            if let Some(failure) = failure.as_ref().filter(|_| !told) {
                complain(id, failure);
                told = true;
            }
            match ask(store.as_ref()) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => (failure, told) = (Some(error), false),
            }
        }
        failure.map_or(Ok(None), Err)
    }
}

fn complain(id: &BlockId, error: &StoreError) {
    tracing::warn!(block = %id, error = %crate::report(error), "a store failed, asking the next one");
}

impl Store for Router {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        self.ask(id, 0, None, |store| store.get(id))
    }

    /// Blocks of which all are in the range of the same first store are asked of it together.
    fn get_each(&self, ids: &[BlockId], buffers: &mut [Vec<u8>]) -> Vec<Result<bool, StoreError>> {
        let mut first = ids.iter().map(|id| self.stores(id).next());
        let common = first
            .next()
            .flatten()
            .filter(|common| first.all(|other| other.is_some_and(|other| Arc::ptr_eq(common, other))));
        let answers: Vec<_> = match common {
            Some(store) => store.get_each(ids, buffers).into_iter().map(|answer| (1, answer)).collect(),
            None => ids.iter().map(|_| (0, Ok(false))).collect(),
        };
        let or_others = |((id, buffer), (asked, answer)): ((&BlockId, &mut Vec<u8>), (usize, _))| {
            let failure = match answer {
                Ok(true) => return Ok(true),
                Ok(false) => None,
                Err(error) => Some(error),
            };
            let stored = self.ask(id, asked, failure, |store| store.get(id))?;
            Ok(stored.map(|stored| *buffer = stored).is_some())
        };
        ids.iter().zip(buffers).zip(answers).map(or_others).collect()
    }

    fn at_once(&self, ids: &[BlockId]) -> usize {
        let Some(store) = ids.first().and_then(|id| self.stores(id).next()) else { return 1 };
        let same = |id: &&BlockId| self.stores(id).next().is_some_and(|other| Arc::ptr_eq(store, other));
        let together = ids.iter().take_while(same).count();
        store.at_once(&ids[..together])
    }

    /// Whether every store that should have the block has it.
    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        let mut any = false;
        for store in self.stores(id) {
            any = true;
            if !store.has(id)? {
                return Ok(false);
            }
        }
        Ok(any)
    }

    fn put(&self, id: &BlockId, stored: &[u8]) -> Result<(), StoreError> {
        let mut stores = self.stores(id).peekable();
        if stores.peek().is_none() {
            return Err(StoreError::NoRoute { id: *id });
        }
        stores.try_for_each(|store| store.put(id, stored))
    }

    fn url(&self) -> String {
        let urls: BTreeSet<_> = self.routes.iter().map(|(_, store)| store.url()).collect();
        match urls.is_empty() {
            true => "the flist's stores: it names none".to_owned(),
            false => urls.into_iter().collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::DirStore;
    use super::*;
    use crate::block::seal;

    #[test]
    fn ranges_choose_and_failures_move_on() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| DirStore::new(dir.path().join(name));
        let route = |first, last, name: &str| {
            let url = name.to_owned();
            (Route { first, last, url }, Arc::new(at(name)) as Arc<dyn Store>)
        };
        let sealed = seal(b"content").unwrap();
        let (id, byte) = (&sealed.id, sealed.id.as_bytes()[0]);
        let (before, after) = (byte.wrapping_sub(1), byte.wrapping_add(1));

        let both = Router::new(vec![route(byte, byte, "a"), route(0, 255, "b"), route(after, before, "c")]);
        assert!(!both.has(id).unwrap() && both.get(id).unwrap().is_none());
        both.put(id, &sealed.stored).unwrap();
        assert!(both.has(id).unwrap());
        assert!(at("a").has(id).unwrap() && at("b").has(id).unwrap() && !at("c").has(id).unwrap());

        std::fs::write(at("a").path_of(id), "garbage").unwrap();
        assert_eq!(both.get(id).unwrap().unwrap(), sealed.stored);
        at("b").remove(id).unwrap();
        assert!(matches!(both.get(id), Err(StoreError::Corrupt { .. })));
        let each = both.get_each(&[*id, *id], &mut [Vec::new(), Vec::new()]);
        assert!(each.iter().all(|answer| matches!(answer, Err(StoreError::Corrupt { .. }))));
        at("b").put(id, &sealed.stored).unwrap();
        let mut buffers = [Vec::new(), Vec::new()];
        assert!(both.get_each(&[*id, *id], &mut buffers).into_iter().all(|answer| answer.unwrap()));
        assert_eq!(buffers, [sealed.stored.clone(), sealed.stored.clone()]);

        let none = Router::new(vec![route(after, before, "c")]);
        assert!(matches!(none.put(id, &sealed.stored), Err(StoreError::NoRoute { .. })));
    }
}
