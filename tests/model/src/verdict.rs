//! Is the node as it was, or as it shall be?

use std::collections::{BTreeMap, BTreeSet};

use flist::path::FlistPath;
use zinit_client::UnitName;

use crate::machine::Machine;

/// What can be seen of a node: every file outside of the engine's own directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed(BTreeMap<FlistPath, String>);

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ending {
    /// The old generation.
    Old,
    /// The new one.
    New,
}

impl Observed {
    /// Looks.
    pub fn of(machine: &Machine) -> Self {
        let mut listing = machine.with(|root, _, _| root.listing());
        listing.retain(|path, _| {
            let own = path.components().next().is_some_and(|first| first.starts_with(b".molt"));
            // What a killed writer leaves is removed by the next one.
            !own && !path.name().starts_with(b".new-")
        });
        Self(listing)
    }

    /// Without what hooks make that come after everything else.
    #[must_use]
    pub fn but_made_last(&self) -> Self {
        let is_last = |path: &FlistPath| path.as_bytes() == b"tmp/made-after";
        Self(
            self.0
                .iter()
                .filter(|(path, _)| !is_last(path))
                .map(|(path, seen)| (path.clone(), seen.clone()))
                .collect(),
        )
    }

    /// What is different in words; empty when nothing is.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let paths: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differs = |path: &&&FlistPath| self.0.get(**path) != other.0.get(**path);
        let say = |path: &&FlistPath| {
            let side = |side: &Self| side.0.get(*path).cloned().unwrap_or_else(|| "nothing".to_owned());
            format!("/{path}: {} instead of {}", side(self), side(other))
        };
        paths.iter().filter(differs).map(say).collect()
    }

    /// The files of the old state whose bytes are nowhere on the machine any more.
    pub fn lost_in(&self, machine: &Machine) -> Vec<String> {
        let bytes = |words: &str| {
            words.rsplit_once('"').and_then(|(start, _)| Some(start.split_once('"')?.1.to_owned()))
        };
        let kept: BTreeSet<String> =
            machine.with(|root, _, _| root.listing()).values().filter_map(|words| bytes(words)).collect();
        // What the node was booted from is recorded elsewhere too.
        // and what a hook has made, its program makes again.
        let recorded = |path: &FlistPath| {
            [&b"tmp/flist."[..], b"tmp/made-"].iter().any(|start| path.as_bytes().starts_with(start))
        };
        let is_lost = |(path, words): (&FlistPath, &String)| {
            let bytes = bytes(words)?;
            (!kept.contains(&bytes) && !recorded(path)).then(|| format!("the bytes of /{path} are lost"))
        };
        self.0.iter().filter_map(is_lost).collect()
    }
}

/// Which generation the files of a machine are of.
///
/// # Errors
/// The differences to both, in words.
pub(crate) fn compare(now: &Observed, (old, new): (&Observed, &Observed)) -> Result<Ending, String> {
    if now == old {
        return Ok(Ending::Old);
    }
    if now == new {
        return Ok(Ending::New);
    }
    let (from_old, from_new) = (now.difference(old), now.difference(new));
    Err(format!("neither old ({}) nor new ({})", from_old.join("; "), from_new.join("; ")))
}

/// Which generation a machine is at, with its services.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn judge(
    machine: &Machine,
    sides: (&Observed, &Observed),
    ignored: &BTreeSet<UnitName>,
) -> Result<Ending, String> {
    let ending = compare(&Observed::of(machine), sides)?;
    let problems = machine.with(|root, _, services| services.problems(root, ignored));
    if problems.is_empty() { Ok(ending) } else { Err(format!("{ending:?}, but {}", problems.join("; "))) }
}
