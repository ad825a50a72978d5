//! Configuration that two have changed, and where the release's version of it goes. Pure.

use std::collections::BTreeMap;

use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use super::files::{FileChange, Wanted, put};
use crate::item::{Item, Items};
use crate::root::Found;

/// Configuration that somebody has changed and that the release changes too: his stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Where.
    pub path: FlistPath,
    /// Where the release's lies; `None`: nowhere.
    #[serde(default)]
    pub new: Option<FlistPath>,
    /// Why it lies nowhere, for people.
    #[serde(default)]
    pub why_not: Option<String>,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{} is as somebody has changed it", self.path)?;
        match (&self.new, &self.why_not) {
            (Some(new), _) => write!(f, "; the release's is /{new}"),
            (None, Some(why)) => write!(f, "; the release's is not installed: {why}"),
            (None, None) => f.write_str("; the release's is not installed"),
        }
    }
}

/// Where the release's version of a configuration file goes that somebody has changed, and what has to be done for
/// that. What releases have put there before, of which `besides` tells, is replaced if nobody has changed it since;
/// anything else is somebody's own.
///
/// # Errors
/// Why it goes nowhere, in words.
pub(super) fn place_beside(
    path: &FlistPath,
    (base, new): (Option<&Item>, &Wanted),
    (found, besides): (&BTreeMap<FlistPath, Found>, &Items),
) -> Result<(FlistPath, Option<FileChange>), String> {
    let beside = beside(path).ok_or("with .new its name would be too long")?;
    let known = [base, besides.get(&beside)];
    let change = match found.get(&beside).map(|there| &there.item) {
        None => Some(put(&beside, new, false)),
        Some(there) if there.same_as(&new.item) => None,
        Some(there) if known.into_iter().flatten().any(|ours| there.same_as(ours)) => {
            Some(put(&beside, new, true))
        }
        Some(_) => {
            return Err(format!("/{beside} is there already, and nothing that a release has put there"));
        }
    };
    Ok((beside, change))
}

/// What releases have put beside configuration and what is there as they put it.
pub(super) fn still_beside(besides: &Items, found: &BTreeMap<FlistPath, Found>) -> Items {
    let is_there =
        |(path, item): &(&FlistPath, &Item)| found.get(*path).is_some_and(|there| there.item.same_as(item));
    besides.iter().filter(is_there).map(|(path, item)| (path.clone(), item.clone())).collect()
}

/// Where the release's version of a configuration file goes that the user changed: `name.new`, if that is
/// not too long for a name.
pub fn beside(path: &FlistPath) -> Option<FlistPath> {
    path.parent()?.join(&[path.name(), b".new"].concat()).ok()
}
