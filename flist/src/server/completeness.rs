//! Whether a hub has the blocks of a flist that says they are here.
//!
//! A flist whose routes lead to this hub's own store is refused while one of its blocks is missing there, so
//! that no node ever follows a link to a release that cannot be read. Blocks that the routes place
//! elsewhere are not looked for, unless the hub is strict: then it wants every block, as the 0-hub does.

use std::collections::HashSet;
use std::io;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use reqwest::Url;
use serde::Serialize;

use super::layout::Layout;
use crate::block::BlockId;
use crate::path::FlistPath;
use crate::tree::{Route, Tree};

/// Most missing blocks that are named.
const MAX_NAMED: usize = 20;

/// Longest path that is sent back, in characters.
const MAX_PATH_SHOWN: usize = 200;

/// A block that is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MissingBlock {
    /// Its id.
    pub(super) block: String,
    /// A file that needs it.
    pub(super) file: String,
}

/// The blocks that are not here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// How many there are.
    pub(super) count: usize,
    /// The first of them.
    pub(super) first: Vec<MissingBlock>,
}

/// Which blocks must be here.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// All.
    Every,
    /// Those with a route to one of these addresses, `host[:port]`, and a path that ends in `/store`.
    RoutedTo(Vec<String>),
}

impl Wanted {
    /// By the address that the request was sent to, directly or through a proxy, and the configured one.
    pub(super) fn by_address(headers: &HeaderMap, public: Option<&Url>) -> Self {
        let sent = [headers.get(HOST), headers.get("x-forwarded-host")];
        let sent = sent.into_iter().flatten().filter_map(|value| value.to_str().ok());
        Self::RoutedTo(sent.map(str::to_lowercase).chain(public.and_then(authority)).collect())
    }

    fn includes(&self, id: &BlockId, routes: &[Route]) -> bool {
        let first = id.as_bytes()[0];
        match self {
            Self::Every => true,
            Self::RoutedTo(hosts) => routes
                .iter()
                .any(|route| (route.first..=route.last).contains(&first) && leads_to(&route.url, hosts)),
        }
    }
}

/// What is missing of the wanted blocks of a flist.
pub(super) fn missing(layout: &Layout, tree: &Tree, wanted: &Wanted) -> io::Result<Missing> {
    let (mut seen, mut missing) = (HashSet::new(), Missing::default());
    // Answers for all blocks with the same first byte are the same.
    let mut by_first_byte = [None; 256];
    for (path, _, content) in tree.files() {
        for id in content.blocks.iter().map(|block| &block.id) {
            let wanted = *by_first_byte[usize::from(id.as_bytes()[0])]
                .get_or_insert_with(|| wanted.includes(id, &tree.routes));
            if wanted && seen.insert(*id) && layout.open_block(id)?.is_none() {
                missing.add(id, path);
            }
        }
    }
    Ok(missing)
}

impl Missing {
    /// In a sentence.
    pub(super) fn message(&self) -> String {
        let named: Vec<_> =
            self.first.iter().take(3).map(|one| format!("{} of {}", one.block, one.file)).collect();
        format!(
            "the contents are not fully present in this hub's store: {} blocks are missing, such as {}; send the blocks first",
            self.count,
            named.join(", ")
        )
    }

    fn add(&mut self, id: &BlockId, path: &FlistPath) {
        self.count += 1;
        if self.first.len() < MAX_NAMED {
            let file = path.to_string().chars().take(MAX_PATH_SHOWN).collect();
            self.first.push(MissingBlock { block: id.to_string(), file });
        }
    }
}

fn leads_to(url: &str, hosts: &[String]) -> bool {
    let Ok(url) = url.parse::<Url>() else { return false };
    matches!(url.scheme(), "http" | "https")
        && url.path().trim_end_matches('/').ends_with("/store")
        && authority(&url).is_some_and(|authority| hosts.contains(&authority))
}

/// `host[:port]`, without the port that is the scheme's own.
fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_to_this_hub() {
        let hosts = ["hub.example:8080".to_owned(), "hub.example".to_owned(), "[::1]:80".to_owned()];
        for here in [
            "http://hub.example:8080/store",
            "https://HUB.example/store/",
            "https://hub.example:443/under/store",
            "http://u:p@hub.example:8080/store",
        ] {
            assert!(leads_to(here, &hosts), "{here}");
        }
        for elsewhere in [
            "http://other:8080/store",
            "http://hub.example:8081/store",
            "http://hub.example:8080/blocks",
            "zdb://hub.example:8080/store",
            "dir:///store",
            "",
        ] {
            assert!(!leads_to(elsewhere, &hosts), "{elsewhere}");
        }
    }
}
