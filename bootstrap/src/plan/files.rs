//! Which files change. Pure.

use std::collections::{BTreeMap, BTreeSet};

use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use super::PlanError;
use super::conflict::{Conflict, place_beside, still_beside};
use super::etc_merge::{Merge, merge};
use super::state_paths::StatePaths;
use crate::item::{Item, Items};
use crate::root::Found;

/// What happens at one path. Each has an inverse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum FileChange {
    /// A directory that is not there is made.
    MakeDirectory {
        /// Where.
        path: FlistPath,
        /// Owner and mode.
        item: Item,
    },
    /// Something new is put where nothing is.
    Add {
        /// Where.
        path: FlistPath,
        /// The path of the release that it comes from; differs for `.new` files.
        from: FlistPath,
        /// What.
        item: Item,
    },
    /// Something takes the place of something else.
    Replace {
        /// Where.
        path: FlistPath,
        /// The path of the release that it comes from.
        from: FlistPath,
        /// What.
        item: Item,
    },
    /// What the installed generation shipped and the release does not is taken away.
    Remove {
        /// Where.
        path: FlistPath,
    },
    /// A directory that only the installed generation needed is taken away if it is empty then.
    RemoveDirectory {
        /// Where.
        path: FlistPath,
        /// What it was, to make it again.
        item: Item,
    },
}

impl FileChange {
    /// Where it happens.
    pub fn path(&self) -> &FlistPath {
        match self {
            Self::MakeDirectory { path, .. }
            | Self::Add { path, .. }
            | Self::Replace { path, .. }
            | Self::Remove { path }
            | Self::RemoveDirectory { path, .. } => path,
        }
    }

    /// Whether a directory is made or removed.
    pub fn is_of_a_directory(&self) -> bool {
        matches!(self, Self::MakeDirectory { .. } | Self::RemoveDirectory { .. })
    }

    /// What has to be staged for it, and from which path of the release.
    pub fn staged(&self) -> Option<(&FlistPath, &Item)> {
        match self {
            Self::Add { from, item, .. } | Self::Replace { from, item, .. } => Some((from, item)),
            _ => None,
        }
    }
}

/// What the release wants at a path, and the path of the release it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub item: Item,
    /// Its path in the flist.
    pub from: FlistPath,
}

/// The outcome for all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilePlan {
    /// In the order they are made: directories from the top, then files with service units last, then
    /// removals, then directories from the bottom.
    pub changes: Vec<FileChange>,
    /// Configuration that the user changed and that stays.
    pub kept: BTreeSet<FlistPath>,
    /// Of those, the ones that the release changes too.
    pub conflicts: Vec<Conflict>,
    /// What lies beside configuration then, as this release or one before has put it there.
    pub besides: Items,
}

/// Compares what is installed, with what releases have put beside configuration, what is wanted and what was found, all
/// at paths without symlinks.
///
/// # Errors
/// [`PlanError::InTheWay`] and [`PlanError::MountPoint`] where the root holds something that must not be
/// replaced.
pub fn plan_files(
    (installed, besides): (&Items, &Items),
    wanted: &BTreeMap<FlistPath, Wanted>,
    found: &BTreeMap<FlistPath, Found>,
    state: &StatePaths,
    first_boot: bool,
) -> Result<FilePlan, PlanError> {
    let mut plan = FilePlan { besides: still_beside(besides, found), ..FilePlan::default() };
    let paths: BTreeSet<&FlistPath> = installed.keys().chain(wanted.keys()).collect();
    let (mut directories, mut puts, mut removes, mut removed_directories) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Directories of configuration that somebody has replaced, and whether the release changes anything in them.
    let mut replaced = BTreeMap::<&FlistPath, bool>::new();
    for path in paths {
        let (base, new, user) = (installed.get(path), wanted.get(path), found.get(path));
        if let Some(changed) =
            replaced.iter_mut().find_map(|(top, changed)| is_beneath(top, path, new).then_some(changed))
        {
            *changed |= new.is_some_and(|new| !base.is_some_and(|base| base.same_as(&new.item)));
            continue;
        }
        match (new, user) {
            (Some(new), None) if new.item.is_directory() => {
                directories.push(FileChange::MakeDirectory { path: path.clone(), item: new.item.clone() });
            }
            (Some(new), Some(user)) if new.item.is_directory() => {
                if user.item.is_directory() || user.leads_to_directory {
                    continue;
                }
                if first_boot || !is_kept(path, base, user) {
                    return Err(in_the_way(path, &user.item, &new.item));
                }
                replaced.insert(path, !base.is_some_and(Item::is_directory));
            }
            (Some(new), Some(user)) if user.item.is_directory() => {
                if first_boot || !is_kept(path, base, user) {
                    return Err(in_the_way(path, &user.item, &new.item));
                }
                let decision = decide(path, base, Some(user), Some(new), first_boot);
                plan.carry_out(decision, (path, base, Some(user), Some(new)), found, &mut puts, &mut removes);
            }
            (None, Some(user)) if user.item.is_directory() => {
                // What is mounted on it needs it, as what others have put into it does.
                if base.is_some_and(Item::is_directory) && !user.mount_point && !state.has(path) {
                    removed_directories
                        .push(FileChange::RemoveDirectory { path: path.clone(), item: user.item.clone() });
                }
            }
            _ if state.has(path) => {
                // What is there is somebody's data, and what was taken away was taken away.
                if let (None, None, Some(new)) = (base, user, new) {
                    puts.push(put(path, new, false));
                }
            }
            _ => {
                let decision = decide(path, base, user, new, first_boot);
                plan.carry_out(decision, (path, base, user, new), found, &mut puts, &mut removes);
            }
        }
    }
    plan.keep_in_place_of_directories(replaced);
    // Units last among the files: zinit may look at its directory at any time.
    puts.sort_by_key(|change: &FileChange| super::is_unit(change.path()));
    removed_directories.reverse();
    plan.changes = [directories, puts, removes, removed_directories].concat();
    let mounted = |change: &&FileChange| found.get(change.path()).is_some_and(|found| found.mount_point);
    match plan.changes.iter().find(mounted) {
        Some(change) => Err(PlanError::MountPoint(change.path().clone())),
        None => Ok(plan),
    }
}

/// Whether something is somebody's own work: configuration that the installed generation has not shipped like that.
fn is_kept(path: &FlistPath, base: Option<&Item>, user: &Found) -> bool {
    is_configuration(path) && !base.is_some_and(|base| base.same_as(&user.item))
}

/// Whether a path of what is installed or of the release lies beneath this one.
fn is_beneath(top: &FlistPath, path: &FlistPath, new: Option<&Wanted>) -> bool {
    let starts = |path: &FlistPath| {
        path.as_bytes().strip_prefix(top.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
    };
    starts(path) || new.is_some_and(|new| starts(&new.from))
}

fn decide(
    path: &FlistPath,
    base: Option<&Item>,
    user: Option<&Found>,
    new: Option<&Wanted>,
    first_boot: bool,
) -> Merge {
    let (user, new) = (user.map(|user| &user.item), new.map(|new| &new.item));
    if is_configuration(path) {
        return merge(base, user, new, first_boot);
    }
    match (user, new) {
        (Some(user), Some(new)) if user.same_as(new) => Merge::Nothing,
        (None, None) => Merge::Nothing,
        _ => Merge::TakeNew,
    }
}

impl FilePlan {
    fn carry_out(
        &mut self,
        decision: Merge,
        (path, base, user, new): (&FlistPath, Option<&Item>, Option<&Found>, Option<&Wanted>),
        found: &BTreeMap<FlistPath, Found>,
        puts: &mut Vec<FileChange>,
        removes: &mut Vec<FileChange>,
    ) {
        match (decision, new) {
            (Merge::TakeNew, Some(new)) => puts.push(put(path, new, user.is_some())),
            (Merge::TakeNew, None) => removes.push(FileChange::Remove { path: path.clone() }),
            (Merge::KeepUser, _) => {
                self.kept.insert(path.clone());
            }
            (Merge::KeepUserBeside, Some(new)) => {
                self.kept.insert(path.clone());
                let lies = place_beside(path, (base, new), (found, &self.besides));
                let (new, why_not) = match lies {
                    Ok((beside, change)) => {
                        puts.extend(change);
                        self.besides.insert(beside.clone(), new.item.clone());
                        (Some(beside), None)
                    }
                    Err(why_not) => (None, Some(why_not)),
                };
                self.conflicts.push(Conflict { path: path.clone(), new, why_not });
            }
            _ => {}
        }
    }

    fn keep_in_place_of_directories(&mut self, replaced: BTreeMap<&FlistPath, bool>) {
        for (path, changed) in replaced {
            self.kept.insert(path.clone());
            if changed {
                let why_not = Some("it has a directory there, and files in it".to_owned());
                self.conflicts.push(Conflict { path: path.clone(), new: None, why_not });
            }
        }
        self.conflicts.sort_by(|one, other| one.path.cmp(&other.path));
    }
}

pub(super) fn put(path: &FlistPath, new: &Wanted, replaces: bool) -> FileChange {
    let (path, from, item) = (path.clone(), new.from.clone(), new.item.clone());
    if replaces { FileChange::Replace { path, from, item } } else { FileChange::Add { path, from, item } }
}

/// Whether a path is merged and not just replaced.
pub fn is_configuration(path: &FlistPath) -> bool {
    path.components().next() == Some(b"etc")
}

fn in_the_way(path: &FlistPath, found: &Item, wanted: &Item) -> PlanError {
    PlanError::InTheWay { path: path.clone(), found: found.word(), wanted: wanted.word() }
}

#[cfg(test)]
mod tests;
