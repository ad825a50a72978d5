//! Configuration that two have changed, and where the release's version of it goes. Pure.

use std::collections::BTreeMap;

use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use super::files::{FileChange, Wanted, put};
use crate::item::Item;
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
/// that. What an earlier release has left there is replaced; anything else is somebody's own.
///
/// # Errors
/// Why it goes nowhere, in words.
pub(super) fn place_beside(
    path: &FlistPath,
    (base, new): (Option<&Item>, &Wanted),
    found: &BTreeMap<FlistPath, Found>,
) -> Result<(FlistPath, Option<FileChange>), String> {
    let beside = beside(path).ok_or("with .new its name would be too long")?;
    let change = match found.get(&beside).map(|there| &there.item) {
        None => Some(put(&beside, new, false)),
        Some(there) if there.same_as(&new.item) => None,
        Some(there) if base.is_some_and(|base| there.same_as(base)) => Some(put(&beside, new, true)),
        Some(_) => {
            return Err(format!("/{beside} is there already, and nothing that a release has put there"));
        }
    };
    Ok((beside, change))
}

/// Where the release's version of a configuration file goes that the user changed: `name.new`, if that is
/// not too long for a name.
pub fn beside(path: &FlistPath) -> Option<FlistPath> {
    path.parent()?.join(&[path.name(), b".new"].concat()).ok()
}
