//! Which files change. Pure.

use std::collections::{BTreeMap, BTreeSet};

use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use super::PlanError;
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
    /// Of those, the ones with the release's version beside them as `.new`.
    pub conflicts: BTreeSet<FlistPath>,
}

/// Compares what is installed, what is wanted and what was found, all at paths without symlinks.
///
/// # Errors
/// [`PlanError::InTheWay`] and [`PlanError::MountPoint`] where the root holds something that must not be
/// replaced.
pub fn plan_files(
    installed: &Items,
    wanted: &BTreeMap<FlistPath, Wanted>,
    found: &BTreeMap<FlistPath, Found>,
    state: &StatePaths,
    first_boot: bool,
) -> Result<FilePlan, PlanError> {
    let mut plan = FilePlan::default();
    let paths: BTreeSet<&FlistPath> = installed.keys().chain(wanted.keys()).collect();
    let (mut directories, mut puts, mut removes, mut removed_directories) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        let (base, new, user) = (installed.get(path), wanted.get(path), found.get(path));
        match (new, user) {
            (Some(new), None) if new.item.is_directory() => {
                directories.push(FileChange::MakeDirectory { path: path.clone(), item: new.item.clone() });
            }
            (Some(new), Some(user)) if new.item.is_directory() => {
                if !user.item.is_directory() && !user.leads_to_directory {
                    return Err(in_the_way(path, &user.item, &new.item));
                }
            }
            (Some(new), Some(user)) if user.item.is_directory() => {
                return Err(in_the_way(path, &user.item, &new.item));
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
                plan.carry_out(decision, (path, user, new), found, &mut puts, &mut removes);
            }
        }
    }
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
        (path, user, new): (&FlistPath, Option<&Found>, Option<&Wanted>),
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
                self.conflicts.insert(path.clone());
                if let Some(beside) = beside(path)
                    && !found.get(&beside).is_some_and(|there| there.item.same_as(&new.item))
                {
                    puts.push(put(&beside, new, found.contains_key(&beside)));
                }
            }
            _ => {}
        }
    }
}

fn put(path: &FlistPath, new: &Wanted, replaces: bool) -> FileChange {
    let (path, from, item) = (path.clone(), new.from.clone(), new.item.clone());
    if replaces { FileChange::Replace { path, from, item } } else { FileChange::Add { path, from, item } }
}

/// Where the release's version of a configuration file goes that the user changed: `name.new`, if that is
/// not too long for a name.
pub fn beside(path: &FlistPath) -> Option<FlistPath> {
    path.parent()?.join(&[path.name(), b".new"].concat()).ok()
}

/// Whether a path is merged and not just replaced.
pub fn is_configuration(path: &FlistPath) -> bool {
    path.components().next() == Some(b"etc")
}

fn in_the_way(path: &FlistPath, found: &Item, wanted: &Item) -> PlanError {
    PlanError::InTheWay { path: path.clone(), found: found.word(), wanted: wanted.word() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::What;
    use crate::root::Stamp;

    fn path(text: &str) -> FlistPath {
        text.parse().unwrap()
    }

    fn item(what: &str) -> Item {
        let what = match what {
            "dir" => What::Directory,
            other => What::Symlink { target: other.as_bytes().to_vec() },
        };
        Item { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: Default::default(), what }
    }

    fn items(list: &[(&str, &str)]) -> Items {
        list.iter().map(|(at, what)| (path(at), item(what))).collect()
    }

    fn plan(
        installed: &[(&str, &str)],
        wanted: &[(&str, &str)],
        found: &[(&str, &str)],
    ) -> Result<FilePlan, PlanError> {
        let wanted = items(wanted).into_iter().map(|(at, item)| (at.clone(), Wanted { item, from: at }));
        let found = items(found).into_iter().map(|(at, item)| {
            let stamp = Stamp { inode: (0, 0), changed: (0, 0), size: 0 };
            let mount_point = at == path("mounted");
            (at, Found { item, leads_to_directory: false, mount_point, stamp })
        });
        let state = StatePaths::with([path("data")]);
        plan_files(&items(installed), &wanted.collect(), &found.collect(), &state, installed.is_empty())
    }

    fn shown(plan: &FilePlan) -> Vec<String> {
        plan.changes
            .iter()
            .map(|change| match change {
                FileChange::MakeDirectory { path, .. } => format!("mkdir {path}"),
                FileChange::Add { path, .. } => format!("add {path}"),
                FileChange::Replace { path, .. } => format!("replace {path}"),
                FileChange::Remove { path } => format!("remove {path}"),
                FileChange::RemoveDirectory { path, .. } => format!("rmdir {path}"),
            })
            .collect()
    }

    #[test]
    fn order_and_kinds_of_changes() {
        let old = [("a", "dir"), ("a/b", "dir"), ("a/b/gone", "1"), ("bin", "1"), ("same", "1")];
        let new = [
            ("bin", "2"),
            ("etc", "dir"),
            ("etc/zinit", "dir"),
            ("etc/zinit/x.yaml", "u"),
            ("same", "1"),
            ("z", "1"),
        ];
        assert_eq!(
            shown(&plan(&old, &new, &old).unwrap()),
            [
                "mkdir etc",
                "mkdir etc/zinit",
                "replace bin",
                "add z",
                "add etc/zinit/x.yaml",
                "remove a/b/gone",
                "rmdir a/b",
                "rmdir a"
            ]
        );
        assert!(plan(&new, &new, &new).unwrap().changes.is_empty());
    }

    #[test]
    fn configuration_of_the_user_stays() {
        let base = [("etc", "dir"), ("etc/c", "1"), ("lib", "1")];
        let user = [("etc", "dir"), ("etc/c", "mine"), ("lib", "1")];
        let new = [("etc", "dir"), ("etc/c", "2"), ("lib", "2")];
        let merged = plan(&base, &new, &user).unwrap();
        assert_eq!(shown(&merged), ["add etc/c.new", "replace lib"]);
        assert!(merged.conflicts.contains(&path("etc/c")));
        let again = [("etc", "dir"), ("etc/c", "mine"), ("etc/c.new", "2"), ("lib", "2")];
        assert!(plan(&base, &new, &again).unwrap().changes.is_empty());
    }

    #[test]
    fn state_is_put_where_nothing_is_and_never_touched_again() {
        let seeds = [
            ("var", "dir"),
            ("var/lib", "dir"),
            ("var/lib/app", "dir"),
            ("var/lib/app/db", "1"),
            ("data", "dir"),
            ("data/x", "1"),
        ];
        let first = plan(&[], &seeds, &[]).unwrap();
        let made = [
            "mkdir data",
            "mkdir var",
            "mkdir var/lib",
            "mkdir var/lib/app",
            "add data/x",
            "add var/lib/app/db",
        ];
        assert_eq!(shown(&first), made);
        let used = [
            ("var", "dir"),
            ("var/lib", "dir"),
            ("var/lib/app", "dir"),
            ("var/lib/app/db", "used"),
            ("data", "dir"),
        ];
        let next = [&seeds[..4], &[("data", "dir"), ("data/x", "2"), ("data/new", "2")]].concat();
        // What was taken away stays away, what is new comes.
        assert_eq!(shown(&plan(&seeds, &next, &used).unwrap()), ["add data/new"]);
        assert!(plan(&seeds, &[], &used).unwrap().changes.is_empty());
        assert!(plan(&seeds, &[], &seeds).unwrap().changes.is_empty());
        // Also of a root whose generations were lost.
        assert_eq!(shown(&plan(&[], &seeds, &used).unwrap()), ["add data/x"]);
        assert_eq!(
            shown(&plan(&[("variable", "1")], &[], &[("variable", "1")]).unwrap()),
            ["remove variable"]
        );
    }

    #[test]
    fn a_directory_is_never_replaced() {
        let error = plan(&[], &[("bin", "usr/bin")], &[("bin", "dir")]).unwrap_err();
        assert!(error.to_string().contains("/bin"), "{error}");
        assert!(plan(&[], &[("bin", "dir")], &[("bin", "1")]).is_err());
    }

    #[test]
    fn what_is_mounted_over_stays() {
        let (old, new) = ([("mounted", "1")], [("mounted", "2")]);
        assert!(plan(&old, &old, &old).is_ok());
        assert!(matches!(plan(&old, &new, &old), Err(PlanError::MountPoint(_))));
        assert!(matches!(plan(&old, &[], &old), Err(PlanError::MountPoint(_))));
        // A release that ships nothing there any more leaves the directory to what is mounted on it.
        let old = [("mounted", "dir"), ("mounted/file", "1")];
        assert_eq!(shown(&plan(&old, &[], &old).unwrap()), ["remove mounted/file"]);
    }
}
