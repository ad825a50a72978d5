//! Addresses of stores → stores.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::Url;

use super::http::WHOLE_REQUEST;
use super::redis::without_password;
use super::{
    CachedStore, DirStore, HttpStore, RedisStore, RetryPolicy, RetryStore, Router, Store, StoreError,
};
use crate::hub::{Access, Token, shown_address};
use crate::tree::Route;

/// Where a store is: `dir://PATH` (or just a path), `http://…`, `https://…`, `zdb://…`, `redis://…`, or `ardb://…`,
/// as old classic flists have it: also a server that speaks the Redis protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory.
    Dir(PathBuf),
    /// A web server.
    Http(Url),
    /// A server that speaks the Redis protocol.
    Redis(Url),
}

impl FromStr for StoreUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let parse = || text.parse::<Url>().map_err(|error| bad_url(text, error.to_string()));
        match text.split_once("://") {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(path.into())),
            None if !text.is_empty() => Ok(Self::Dir(text.into())),
            Some(("http" | "https", _)) => Ok(Self::Http(parse()?)),
            Some(("zdb" | "redis" | "ardb", _)) => Ok(Self::Redis(parse()?)),
            _ => Err(bad_url(text, "expected dir://, http://, https://, zdb:// or redis://".to_owned())),
        }
    }
}

/// A refused address is shown without what may be a password in it.
fn bad_url(url: &str, reason: String) -> StoreError {
    StoreError::BadUrl { url: shown_address(url), reason }
}

impl StoreUrl {
    /// The address without a password; a relative directory made absolute, so that it means the same
    /// wherever it is read.
    pub fn public(&self) -> std::io::Result<String> {
        Ok(match self {
            Self::Dir(path) => format!("dir://{}", std::path::absolute(path)?.display()),
            Self::Http(url) | Self::Redis(url) => without_password(url),
        })
    }
}

impl FromStr for Route {
    type Err = StoreError;

    /// `[00-80=]URL`: the store at URL keeps the blocks whose id starts with a byte from 00 to 80, or all.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let range = text.split_once('=').and_then(|(range, url)| Some((byte_range(range)?, url)));
        match range {
            Some(((first, last), _)) if first > last => {
                Err(bad_url(text, "the range of its route is empty".to_owned()))
            }
            Some(((first, last), url)) => Ok(Self { first, last, url: url.to_owned() }),
            None if text.split_once('=').is_some_and(|(range, _)| looks_like_a_range(range)) => {
                let reason = "its range is not two pairs of hexadecimal digits, as in 00-7f; for a path with a '=' write dir://…";
                Err(bad_url(text, reason.to_owned()))
            }
            None => Ok(Self::everything(text)),
        }
    }
}

/// A range with a typing error must not become a directory of that name.
fn looks_like_a_range(text: &str) -> bool {
    text.len() == 5 && text.as_bytes()[2] == b'-'
}

/// `00-80`; anything else before a `=` belongs to the address.
fn byte_range(text: &str) -> Option<(u8, u8)> {
    let (first, last) = text.split_once('-')?;
    let byte = |digits: &str| (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten();
    Some((byte(first)?, byte(last)?))
}

/// Opens one store. Must not be called from within an async runtime's worker.
///
/// # Errors
/// [`StoreError::BadUrl`], [`StoreError::Client`].
pub fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    open_with(url, None, &Access::default())
}

fn open_with(url: &str, token: Option<&Token>, access: &Access) -> Result<Arc<dyn Store>, StoreError> {
    let remote: Arc<dyn Store> = match url.parse()? {
        StoreUrl::Dir(path) => return Ok(Arc::new(DirStore::new(path))),
        StoreUrl::Http(url) => {
            let store = HttpStore::with_access(url.as_str(), WHOLE_REQUEST, access)?;
            Arc::new(store.with_token(token.cloned()))
        }
        StoreUrl::Redis(url) => Arc::new(RedisStore::new(&url)?),
    };
    Ok(Arc::new(RetryStore::new(remote, RetryPolicy::default())))
}

/// Opens the stores of these routes as one; each address once, however many ranges lead to it.
///
/// # Errors
/// As [`open`].
pub fn open_routes(routes: &[Route]) -> Result<Arc<dyn Store>, StoreError> {
    open_all(routes, None, &Access::default())
}

/// As [`open_routes`]; hubs among them that want to know who reads are shown that.
///
/// # Errors
/// As [`open`].
pub fn open_with_access(routes: &[Route], access: &Access) -> Result<Arc<dyn Store>, StoreError> {
    open_all(routes, None, access)
}

/// As [`open_routes`]; those of them that are reached by HTTP, such as the store of a hub, are written with
/// this token.
///
/// # Errors
/// As [`open`].
pub fn open_for_writing(routes: &[Route], token: Option<&Token>) -> Result<Arc<dyn Store>, StoreError> {
    open_all(routes, token, &Access::default())
}

fn open_all(routes: &[Route], token: Option<&Token>, access: &Access) -> Result<Arc<dyn Store>, StoreError> {
    let mut opened: HashMap<&str, Arc<dyn Store>> = HashMap::new();
    let mut stores = Vec::with_capacity(routes.len());
    for route in routes {
        let store = match opened.get(route.url.as_str()) {
            Some(store) => store.clone(),
            None => {
                opened.entry(&route.url).insert_entry(open_with(&route.url, token, access)?).get().clone()
            }
        };
        stores.push((route.clone(), store));
    }
    Ok(Arc::new(Router::new(stores)))
}

/// Opens what is needed to read a flist: its own routes or, where given, other stores instead of them
/// (each `[00-80=]URL`); and in front of it, where given, a cache directory.
///
/// # Errors
/// As [`open`].
pub fn open_for_reading(
    routes: &[Route],
    instead: &[Route],
    cache: Option<&Path>,
) -> Result<Arc<dyn Store>, StoreError> {
    let store = open_routes(if instead.is_empty() { routes } else { instead })?;
    Ok(match cache {
        Some(directory) => Arc::new(CachedStore::new(store, DirStore::new(directory))),
        None => store,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("dir:///srv/x".parse::<StoreUrl>().unwrap(), StoreUrl::Dir("/srv/x".into()));
        assert_eq!("rel/dir".parse::<StoreUrl>().unwrap(), StoreUrl::Dir("rel/dir".into()));
        assert!(matches!("https://hub/store".parse::<StoreUrl>(), Ok(StoreUrl::Http(_))));
        for redis in ["zdb://hub:9900/ns", "redis://hub/1", "ardb://hub.gig.tech:16379"] {
            assert!(matches!(redis.parse::<StoreUrl>(), Ok(StoreUrl::Redis(_))), "{redis}");
        }
        for bad in ["", "ftp://x", "http://", "dir://"] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad:?} was accepted");
        }
        let error = "ftp://me:secret@host/x".parse::<StoreUrl>().unwrap_err().to_string();
        assert!(error.contains("host/x") && !error.contains("secret"), "{error}");
        let public = "zdb://:secret@host/ns".parse::<StoreUrl>().unwrap().public().unwrap();
        assert_eq!(public, "zdb://host/ns");
    }

    #[test]
    fn routes() {
        let route = |text: &str| text.parse::<Route>().unwrap();
        assert_eq!(route("00-7f=dir:///a"), Route { first: 0, last: 0x7f, url: "dir:///a".to_owned() });
        assert_eq!(route("http://h/?a=b"), Route::everything("http://h/?a=b"));
        assert_eq!(route("dir:///with=sign"), Route::everything("dir:///with=sign"));
        assert!("80-7f=dir:///a".parse::<Route>().is_err());
        assert!("zz-7f=blocks".parse::<Route>().is_err());
    }
}
