//! Table `metadata`: notes, and where the blocks are if no `router.yaml` says so.

use std::collections::BTreeMap;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::ClassicError;
use crate::format::MAX_TEXT;
use crate::format::rows::Database;
use crate::tree::{Limits, Route};

/// The row in which 0-flist keeps where it has sent the blocks.
const BACKEND: &str = "backend";

/// Our own row: routes that a `router.yaml` cannot have, because 0-fs would refuse all of it.
const ROUTES: &str = "molt.routes";

/// What the table says.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By our own row, or the backend.
    pub(super) routes: Vec<Route>,
    /// Everything but our own row.
    pub(super) tags: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct RouteNote {
    first: u8,
    last: u8,
    url: String,
}

#[derive(Deserialize)]
struct Backend {
    host: String,
    port: u16,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    password: String,
}

/// # Errors
/// [`ClassicError::Rows`], [`ClassicError::TooMany`], [`ClassicError::Router`].
pub(super) fn read(database: &Database, limits: &Limits) -> Result<Notes, ClassicError> {
    let mut notes = Notes::default();
    // Old flists have no such table.
    if !database.has("metadata")? {
        return Ok(notes);
    }
    let limit = limits.routes;
    database.for_each_row("metadata", "key, value", |field| {
        if notes.tags.len() > limit {
            return Err(ClassicError::TooMany { what: "tags", limit });
        }
        // Nobody but a forger has a key twice: pages that lead to each other have rows without end.
        match notes.tags.insert(field.text(0, "key", MAX_TEXT)?, field.text(1, "value", MAX_TEXT)?) {
            Some(_) => Err(field.refuse("key", "is there twice".to_owned()).into()),
            None => Ok(()),
        }
    })?;
    notes.routes = match notes.tags.remove(ROUTES) {
        Some(routes) => own_routes(&routes, limit)?,
        None => notes.tags.get(BACKEND).and_then(|backend| route_to(backend)).into_iter().collect(),
    };
    if notes.tags.len() > limit {
        return Err(ClassicError::TooMany { what: "tags", limit });
    }
    Ok(notes)
}

/// The row for routes that a `router.yaml` cannot have.
pub(super) fn routes_row(routes: &[Route]) -> Option<(&'static str, String)> {
    let note = |route: &Route| RouteNote { first: route.first, last: route.last, url: route.url.clone() };
    let notes: Vec<_> = routes.iter().map(note).collect();
    Some((ROUTES, serde_json::to_string(&notes).ok()?))
}

fn own_routes(text: &str, limit: usize) -> Result<Vec<Route>, ClassicError> {
    let refuse = |problem: String| ClassicError::Router { problem: format!("row {ROUTES}: {problem}") };
    let notes: Vec<RouteNote> = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    if notes.len() > limit {
        return Err(ClassicError::TooMany { what: "routes", limit });
    }
    let route = |RouteNote { first, last, url }| match url.contains(char::is_control) {
        true => Err(refuse(format!("an address holds control characters: {}", url.escape_debug()))),
        false => Ok(Route { first, last, url }),
    };
    notes.into_iter().map(route).collect()
}

/// 0-fs does not look at it, so what is not understood is no error.
fn route_to(backend: &str) -> Option<Route> {
    let address = || {
        let Backend { host, port, namespace, password } = serde_json::from_str(backend).ok()?;
        let mut url: Url = format!("zdb://{host}:{port}/{namespace}").parse().ok()?;
        if url.host_str() != Some(host.as_str()) || url.path().trim_start_matches('/') != namespace {
            return None;
        }
        if !password.is_empty() {
            url.set_password(Some(&password)).ok()?;
        }
        Some(Route::everything(url.as_str().trim_end_matches('/')))
    };
    let route = address();
    if route.is_none() {
        tracing::warn!(
            "the backend that a classic flist names is not understood; its blocks have to be found otherwise"
        );
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_route() {
        let url = |backend: &str| route_to(backend).map(|route| route.url);
        let zdb = r#"{"namespace": "classic", "host": "127.0.0.1", "port": 9900}"#;
        assert_eq!(url(zdb).unwrap(), "zdb://127.0.0.1:9900/classic");
        assert_eq!(url(r#"{"host": "hub.grid.tf", "port": 9900}"#).unwrap(), "zdb://hub.grid.tf:9900");
        for bad in ["", "[]", r#"{"host": "a/b", "port": 1}"#, r#"{"host": "a@b", "port": 1}"#] {
            assert_eq!(url(bad), None, "{bad}");
        }
    }

    #[test]
    fn routes_are_the_same_again() {
        let routes = vec![
            Route { first: 0, last: 0x7f, url: "dir:///a".to_owned() },
            Route { first: 0x80, last: 0xff, url: "http://b/store".to_owned() },
        ];
        let (_, text) = routes_row(&routes).unwrap();
        assert_eq!(own_routes(&text, 2).unwrap(), routes);
        assert!(own_routes(&text, 1).is_err());
    }
}
