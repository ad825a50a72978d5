//! The order in which services start and stop.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{ServiceUnit, UnitName};

/// Units that cannot be put in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Units wait for each other, so that zinit would start none of them.
    #[error("units wait for each other: {}; take one `after` away", Path(path))]
    Cycle {
        /// The units of the cycle, each `after` the next and the last `after` the first.
        path: Vec<UnitName>,
    },
    /// A unit that shall be ordered is not among the units.
    #[error("there is no unit {name} to put in order")]
    NoSuchUnit {
        /// Its name.
        name: UnitName,
    },
}

/// All units, each behind everything it comes `after`; where that leaves a choice, by name.
///
/// Dependencies that are no units are passed over, see [`missing_dependencies`].
///
/// # Errors
/// [`OrderError::Cycle`].
pub fn start_order(units: &BTreeMap<UnitName, ServiceUnit>) -> Result<Vec<UnitName>, OrderError> {
    Ok(sort(dependencies(units, units.keys()))?.into_iter().cloned().collect())
}

/// [`start_order`] backwards: every unit in front of everything it comes `after`.
///
/// # Errors
/// [`OrderError::Cycle`].
pub fn stop_order(units: &BTreeMap<UnitName, ServiceUnit>) -> Result<Vec<UnitName>, OrderError> {
    let mut order = start_order(units)?;
    order.reverse();
    Ok(order)
}

/// The units of `subset` in the order in which they start.
///
/// A unit also stands behind those it comes after only by way of units outside the subset: with
/// `app` after `cache` after `redis`, `{app, redis}` gives redis, app. Units that have nothing to do
/// with the subset do not matter, not even their cycles.
///
/// # Errors
/// [`OrderError::Cycle`] among the subset and what it depends on, [`OrderError::NoSuchUnit`].
pub fn order_subset(
    all: &BTreeMap<UnitName, ServiceUnit>,
    subset: &BTreeSet<UnitName>,
) -> Result<Vec<UnitName>, OrderError> {
    if let Some(name) = subset.iter().find(|name| !all.contains_key(*name)) {
        return Err(OrderError::NoSuchUnit { name: name.clone() });
    }
    let order = sort(dependencies(all, subset))?;
    Ok(order.into_iter().filter(|name| subset.contains(*name)).cloned().collect())
}

/// For every unit with dependencies that are no units: those dependencies, by name. zinit keeps
/// such a unit blocked until they are monitored.
pub fn missing_dependencies(units: &BTreeMap<UnitName, ServiceUnit>) -> BTreeMap<UnitName, Vec<UnitName>> {
    let mut missing = BTreeMap::new();
    for (name, unit) in units {
        let absent: BTreeSet<_> = unit.after.iter().filter(|dep| !units.contains_key(*dep)).collect();
        if !absent.is_empty() {
            missing.insert(name.clone(), absent.into_iter().cloned().collect());
        }
    }
    missing
}

type Graph<'a> = BTreeMap<&'a UnitName, BTreeSet<&'a UnitName>>;

/// What each of `wanted`, and everything they depend on, comes after; absent units left out.
fn dependencies<'a>(
    units: &'a BTreeMap<UnitName, ServiceUnit>,
    wanted: impl IntoIterator<Item = &'a UnitName>,
) -> Graph<'a> {
    let mut graph = Graph::new();
    let mut open: Vec<&UnitName> = wanted.into_iter().collect();
    while let Some(name) = open.pop() {
        let Some(unit) = units.get(name) else { continue };
        if graph.contains_key(name) {
            continue;
        }
        let after: BTreeSet<_> = unit.after.iter().filter(|dep| units.contains_key(*dep)).collect();
        open.extend(after.iter().copied());
        graph.insert(name, after);
    }
    graph
}

/// Topological sort: of the units that are free, always the first by name.
fn sort(mut graph: Graph<'_>) -> Result<Vec<&UnitName>, OrderError> {
    let mut dependents: BTreeMap<&UnitName, Vec<&UnitName>> = BTreeMap::new();
    for (name, after) in &graph {
        for dependency in after {
            dependents.entry(dependency).or_default().push(name);
        }
    }
    let mut free: BTreeSet<_> = graph.iter().filter(|(_, after)| after.is_empty()).map(|(n, _)| *n).collect();
    let mut order = Vec::with_capacity(graph.len());
    while let Some(name) = free.pop_first() {
        graph.remove(name);
        order.push(name);
        for dependent in dependents.remove(name).unwrap_or_default() {
            if let Some(after) = graph.get_mut(dependent) {
                after.remove(name);
                if after.is_empty() {
                    free.insert(dependent);
                }
            }
        }
    }
    if graph.is_empty() { Ok(order) } else { Err(OrderError::Cycle { path: cycle(&graph) }) }
}

/// A cycle in what the sort left over, where every unit waits for another one of the rest: whoever
/// follows the waiting comes back to where he was.
fn cycle(rest: &Graph<'_>) -> Vec<UnitName> {
    let mut path: Vec<&UnitName> = Vec::new();
    let mut next = rest.keys().next().copied();
    while let Some(name) = next {
        if let Some(start) = path.iter().position(|seen| *seen == name) {
            path.drain(..start);
            break;
        }
        path.push(name);
        next = rest.get(name).and_then(|after| after.first().copied());
    }
    path.into_iter().cloned().collect()
}

struct Path<'a>(&'a [UnitName]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in self.0 {
            write!(f, "{name} after ")?;
        }
        match self.0.first() {
            Some(first) => write!(f, "{first}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(spec: &[(&str, &[&str])]) -> BTreeMap<UnitName, ServiceUnit> {
        let unit = |after: &[&str]| ServiceUnit {
            after: after.iter().map(|name| name.parse().unwrap()).collect(),
            ..ServiceUnit::new("true")
        };
        spec.iter().map(|(name, after)| (name.parse().unwrap(), unit(after))).collect()
    }

    fn text(order: &[UnitName]) -> Vec<&str> {
        order.iter().map(UnitName::as_str).collect()
    }

    fn set(names: &[&str]) -> BTreeSet<UnitName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn dependencies_come_first_and_names_break_ties() {
        let all = units(&[
            ("app", &["redis", "net", "redis"]),
            ("net", &[]),
            ("redis", &["net"]),
            ("zeta", &[]),
            ("beta", &["zeta"]),
        ]);
        assert_eq!(text(&start_order(&all).unwrap()), ["net", "redis", "app", "zeta", "beta"]);
        assert_eq!(text(&stop_order(&all).unwrap()), ["beta", "zeta", "app", "redis", "net"]);
    }

    #[test]
    fn what_is_missing_blocks_no_order_but_is_reported() {
        let all = units(&[("app", &["nosuch", "net", "gone", "nosuch"]), ("net", &[])]);
        assert_eq!(text(&start_order(&all).unwrap()), ["net", "app"]);
        let missing = missing_dependencies(&all);
        assert_eq!(missing.len(), 1);
        assert_eq!(text(&missing["app"]), ["gone", "nosuch"]);
    }

    #[test]
    fn a_cycle_is_named_without_its_followers() {
        let all = units(&[("a", &["c"]), ("b", &["d"]), ("c", &["b"]), ("d", &["c"]), ("e", &[])]);
        let error = start_order(&all).unwrap_err();
        let OrderError::Cycle { path } = &error else { panic!("{error}") };
        assert_eq!(text(path), ["c", "b", "d"]);
        assert!(error.to_string().contains("c after b after d after c"), "{error}");
        let selfish = units(&[("a", &["a"])]);
        let OrderError::Cycle { path } = start_order(&selfish).unwrap_err() else { panic!() };
        assert_eq!(text(&path), ["a"]);
    }

    #[test]
    fn a_subset_is_ordered_through_units_outside_of_it() {
        let all = units(&[
            ("app", &["cache"]),
            ("cache", &["redis"]),
            ("redis", &[]),
            ("loop1", &["loop2"]),
            ("loop2", &["loop1"]),
        ]);
        assert_eq!(text(&order_subset(&all, &set(&["app", "redis"])).unwrap()), ["redis", "app"]);
        assert_eq!(text(&order_subset(&all, &set(&[])).unwrap()), Vec::<&str>::new());
        assert!(matches!(order_subset(&all, &set(&["loop1"])), Err(OrderError::Cycle { .. })));
        assert!(matches!(order_subset(&all, &set(&["nosuch"])), Err(OrderError::NoSuchUnit { .. })));
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let name = |index: usize| format!("u{index:06}").parse::<UnitName>().unwrap();
        let all: BTreeMap<_, _> = (0..50_000)
            .map(|index| (name(index), ServiceUnit { after: vec![name(index + 1)], ..ServiceUnit::new("a") }))
            .collect();
        let order = start_order(&all).unwrap();
        assert_eq!((order[0].as_str(), order.len()), ("u049999", 50_000));
    }
}
