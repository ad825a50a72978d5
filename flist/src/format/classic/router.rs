//! `router.yaml` ↔ routes.
//!
//! It has pools of stores, each store for a range of ids, and the order in which pools are asked. Ours is a list of
//! stores, each for a range of first bytes, asked in order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ClassicError;
use crate::tree::Route;

/// What 0-fs can reach.
const SCHEMES: [&str; 3] = ["zdb", "redis", "ardb"];

/// Longest bound of a range in hexadecimal digits: those of an id.
const MAX_DIGITS: usize = 32;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Router {
    /// `00:FF` or `0A` → address, by the name of the pool.
    pools: BTreeMap<String, BTreeMap<Range, String>>,
    lookup: Vec<String>,
    // `cache` names pools that a reader fills; whoever reads has his own.
}

/// What is left of the colon of a store in a pool; to YAML, one of digits alone may be a number.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
struct Range(String);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Scalar {
            Text(String),
            Number(u64),
        }
        Ok(Self(match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => text,
            Scalar::Number(number) => number.to_string(),
        }))
    }
}

/// The routes of a `router.yaml`. A bound of more than two digits is widened to its first byte: a store that does not
/// have a block is one that is asked in vain.
///
/// # Errors
/// [`ClassicError::Router`]; [`ClassicError::TooMany`] with more than `limit`.
pub(super) fn read(bytes: &[u8], limit: usize) -> Result<Vec<Route>, ClassicError> {
    let refuse = |problem: String| ClassicError::Router { problem };
    let text = std::str::from_utf8(bytes).map_err(|error| refuse(error.to_string()))?;
    let router: Router = serde_yaml::from_str(text).map_err(|error| refuse(error.to_string()))?;
    let mut routes = Vec::new();
    for name in &router.lookup {
        let pool = router.pools.get(name);
        let pool = pool.ok_or_else(|| refuse(format!("there is no pool '{}'", name.escape_debug())))?;
        for (Range(range), url) in pool {
            if routes.len() >= limit {
                return Err(ClassicError::TooMany { what: "routes", limit });
            }
            let (first, last) = bounds(range).ok_or_else(|| {
                refuse(format!("'{}' is no range of ids, as 00:FF is", range.escape_debug()))
            })?;
            if url.contains(char::is_control) {
                return Err(refuse(format!("an address holds control characters: {}", url.escape_debug())));
            }
            routes.push(Route { first, last, url: url.clone() });
        }
    }
    Ok(routes)
}

/// The `router.yaml` for these routes; `None` where 0-fs could not reach one of them.
pub(super) fn write(routes: &[Route]) -> Option<Vec<u8>> {
    let reachable =
        |route: &Route| route.url.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme));
    if routes.is_empty() || !routes.iter().all(reachable) {
        return None;
    }
    // One pool each, because a pool has no order.
    let name = |number: usize| format!("store{number}");
    let pool = |(number, Route { first, last, url }): (usize, &Route)| {
        (name(number), BTreeMap::from([(Range(format!("{first:02X}:{last:02X}")), url.clone())]))
    };
    let router = Router {
        pools: routes.iter().enumerate().map(pool).collect(),
        lookup: (0..routes.len()).map(name).collect(),
    };
    Some(serde_yaml::to_string(&router).ok()?.into_bytes())
}

fn bounds(range: &str) -> Option<(u8, u8)> {
    let (first, last) = range.split_once(':').unwrap_or((range, range));
    if range.contains(':') && first.len().div_ceil(2) != last.len().div_ceil(2) {
        return None;
    }
    let (first, last) = (first_byte(first)?, first_byte(last)?);
    (first <= last).then_some((first, last))
}

/// As 0-fs has it, an odd number of digits gets a zero at its end.
fn first_byte(digits: &str) -> Option<u8> {
    if digits.is_empty()
        || digits.len() > MAX_DIGITS
        || !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        return None;
    }
    let value = u8::from_str_radix(digits.get(..2).unwrap_or(digits), 16).ok()?;
    Some(if digits.len() == 1 { value << 4 } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_asked_in_the_order_of_the_lookup() {
        let text = "
pools:
  far: {'00:FF': 'ardb://hub.gig.tech:16379'}
  near:
    80:FF: zdb://10.0.0.2:9900
    00:7f: zdb://10.0.0.1:9900
    123: redis://10.0.0.3
  unused: {zz: whatever}
lookup: [near, far]
cache: [near]
";
        let routes = read(text.as_bytes(), 4).unwrap();
        let shown: Vec<_> = routes
            .iter()
            .map(|route| format!("{:02x}-{:02x} {}", route.first, route.last, route.url))
            .collect();
        assert_eq!(
            shown,
            [
                "00-7f zdb://10.0.0.1:9900",
                "12-12 redis://10.0.0.3",
                "80-ff zdb://10.0.0.2:9900",
                "00-ff ardb://hub.gig.tech:16379",
            ]
        );
        assert!(matches!(read(text.as_bytes(), 3), Err(ClassicError::TooMany { .. })));
        let written = write(&routes).unwrap();
        assert_eq!(read(&written, 4).unwrap(), routes);
        assert_eq!(write(&[Route::everything("dir:///srv")]), None);
        assert_eq!(write(&[]), None);
    }

    #[test]
    fn what_is_no_router() {
        for bad in ["lookup: [none]", "pools: 3", "\u{0}", "pools: {a: {'g': 'zdb://x'}}\nlookup: [a]"] {
            assert!(matches!(read(bad.as_bytes(), 9), Err(ClassicError::Router { .. })), "{bad:?}");
        }
        assert_eq!(bounds("5"), Some((0x50, 0x50)));
        for bad in ["", ":", "FF:00", "0:", "00:FFF", "é0", "-1"] {
            assert_eq!(bounds(bad), None, "{bad:?}");
        }
    }
}
