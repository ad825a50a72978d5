//! Addresses of stores → stores.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::{CachedStore, DirStore, HttpStore, Store, StoreError};
use crate::block::BlockId;
use crate::tree::Route;

/// Where a store is: `dir://PATH` (or just a path), `http://…`, `https://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory.
    Dir(PathBuf),
    /// A web server.
    Http(String),
}

impl FromStr for StoreUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text.split_once("://") {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(path.into())),
            None if !text.is_empty() => Ok(Self::Dir(text.into())),
            Some(("http" | "https", _)) => match text.parse::<reqwest::Url>() {
                Ok(_) => Ok(Self::Http(text.to_owned())),
                Err(error) => Err(bad_url(text, error.to_string())),
            },
            _ => Err(bad_url(text, "expected dir://PATH, http://… or https://…".to_owned())),
        }
    }
}

fn bad_url(url: &str, reason: String) -> StoreError {
    StoreError::BadUrl { url: url.chars().take(200).collect(), reason }
}

/// Opens one store. Must not be called from within an async runtime's worker.
///
/// # Errors
/// [`StoreError::BadUrl`], [`StoreError::Client`].
pub fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match url.parse()? {
        StoreUrl::Dir(path) => Arc::new(DirStore::new(path)),
        StoreUrl::Http(url) => Arc::new(HttpStore::new(&url)?),
    })
}

/// Opens what is needed to read a flist: its own routes or, where given, another store instead of them;
/// and in front of it, where given, a cache directory.
///
/// # Errors
/// As [`open`].
pub fn open_for_reading(
    routes: &[Route],
    instead: Option<&str>,
    cache: Option<&Path>,
) -> Result<Arc<dyn Store>, StoreError> {
    let store: Arc<dyn Store> = match instead {
        Some(url) => open(url)?,
        None => Arc::new(RoutedStore::open(routes)?),
    };
    Ok(match cache {
        Some(directory) => Arc::new(CachedStore::new(store, DirStore::new(directory))),
        None => store,
    })
}

/// The stores of a flist's routes; those whose range holds a block's first byte are asked in order.
struct RoutedStore {
    stores: Vec<(u8, u8, Arc<dyn Store>)>,
}

impl RoutedStore {
    /// Opens each address once, however many ranges lead to it.
    fn open(routes: &[Route]) -> Result<Self, StoreError> {
        let mut opened: HashMap<&str, Arc<dyn Store>> = HashMap::new();
        let mut stores = Vec::with_capacity(routes.len());
        for Route { first, last, url } in routes {
            let store = match opened.get(url.as_str()) {
                Some(store) => store.clone(),
                None => opened.entry(url).insert_entry(open(url)?).get().clone(),
            };
            stores.push((*first, *last, store));
        }
        Ok(Self { stores })
    }

    fn for_block(&self, id: &BlockId) -> impl Iterator<Item = &Arc<dyn Store>> {
        let byte = id.as_bytes()[0];
        self.stores.iter().filter(move |(first, last, _)| (*first..=*last).contains(&byte)).map(|(_, _, s)| s)
    }

    /// "Missing" and failures move on to the next store; a failure is reported if none has the block.
    fn ask<T>(
        &self,
        id: &BlockId,
        ask: impl Fn(&dyn Store) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut failure = None;
        for store in self.for_block(id) {
            match ask(store.as_ref()) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(block = %id, error = %crate::report(&error), "a store failed");
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }
}

impl Store for RoutedStore {
    fn get(&self, id: &BlockId) -> Result<Option<Vec<u8>>, StoreError> {
        self.ask(id, |store| store.get(id))
    }

    fn has(&self, id: &BlockId) -> Result<bool, StoreError> {
        Ok(self.ask(id, |store| Ok(store.has(id)?.then_some(())))?.is_some())
    }

    fn put(&self, _: &BlockId, _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly { url: self.url(), remedy: "name one store to write to" })
    }

    fn url(&self) -> String {
        let urls: BTreeSet<_> = self.stores.iter().map(|(_, _, store)| store.url()).collect();
        match urls.is_empty() {
            true => "the flist's stores: it names none".to_owned(),
            false => urls.into_iter().collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::seal;

    #[test]
    fn addresses() {
        assert_eq!("dir:///srv/x".parse::<StoreUrl>().unwrap(), StoreUrl::Dir("/srv/x".into()));
        assert_eq!("rel/dir".parse::<StoreUrl>().unwrap(), StoreUrl::Dir("rel/dir".into()));
        assert!(matches!("https://hub/store".parse::<StoreUrl>(), Ok(StoreUrl::Http(_))));
        for bad in ["", "ftp://x", "http://", "dir://"] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn routes_choose_by_first_byte_and_move_on() {
        let dir = tempfile::tempdir().unwrap();
        let url = |name: &str| format!("dir://{}", dir.path().join(name).display());
        let sealed = seal(b"content").unwrap();
        let first = sealed.id.as_bytes()[0];
        let route = |name, range: (u8, u8)| Route { first: range.0, last: range.1, url: url(name) };
        open(&url("full")).unwrap().put(&sealed.id, &sealed.stored).unwrap();

        let other = if first == 0 { (1, 255) } else { (0, first - 1) };
        let outside = RoutedStore::open(&[route("full", other)]).unwrap();
        assert!(outside.get(&sealed.id).unwrap().is_none());
        let second = RoutedStore::open(&[route("empty", (0, 255)), route("full", (first, first))]).unwrap();
        assert!(second.get(&sealed.id).unwrap().is_some() && second.has(&sealed.id).unwrap());
    }
}
