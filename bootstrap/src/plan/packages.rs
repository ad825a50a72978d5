//! What is run for packages, and which state is migrated. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flist::package::{Command, Direction, Hook, HookName, Migrate, NodePath, Package, PackageName, When};
use flist::path::FlistPath;
use serde::{Deserialize, Serialize};

use super::services::glob;
use crate::generation::Packages;

/// When something is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// When everything is staged and nothing has been stopped.
    BeforeSwap,
    /// When services have been stopped and the files are still those of the release that is left: takes back what
    /// its hooks did that the new release does not have.
    Leave,
    /// When the files are those of the release and nothing has been started.
    BeforeStart,
    /// When the services have been started, before they are watched.
    AfterStart,
    /// Something that only a newer version knows.
    #[serde(other)]
    Other,
}

impl Moment {
    /// Its one name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeSwap => "before-swap",
            Self::Leave => "leave",
            Self::BeforeStart => "before-start",
            Self::AfterStart => "after-start",
            Self::Other => "other",
        }
    }
}

/// A program that is run, and what takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCall {
    /// Whose it is.
    pub package: PackageName,
    /// Its name.
    pub name: HookName,
    /// When it is run.
    pub moment: Moment,
    /// What is run.
    pub run: Command,
    /// What takes it back.
    #[serde(default)]
    pub undo: Option<Command>,
    /// Longest time each of them may take, in seconds.
    pub timeout: u64,
}

/// One program of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationCall {
    /// The number of the migration.
    pub number: u32,
    /// What is run.
    pub run: Command,
    /// Longest time it may take, in seconds.
    pub timeout: u64,
}

/// State that is migrated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// Whose it is.
    pub package: PackageName,
    /// Which way.
    pub direction: Direction,
    /// The directories that it lies in, without symlinks.
    pub paths: Vec<FlistPath>,
    /// Most bytes that it has, before and after.
    pub limit: u64,
    /// Bytes that it has now.
    pub bytes: u64,
    /// What is run, in this order.
    pub steps: Vec<MigrationCall>,
}

impl StateChange {
    /// The layout that it has afterwards.
    pub fn leads_to(&self) -> Option<u32> {
        let last = self.steps.last()?.number;
        Some(match self.direction {
            Direction::Up => last,
            Direction::Down => last.saturating_sub(1),
        })
    }
}

/// Everything that is done for packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackagePlan {
    /// Programs that are run.
    pub hooks: Vec<HookCall>,
    /// State that is migrated.
    pub states: Vec<StateChange>,
    /// Services that use that state, and whose it is: they are stopped.
    pub users: BTreeMap<String, PackageName>,
}

impl PackagePlan {
    /// How long the programs that migrate state may take in all; services that are stopped wait for them.
    pub fn longest_migration(&self) -> Duration {
        let steps = self.states.iter().flat_map(|state| &state.steps);
        steps.map(|step| Duration::from_secs(step.timeout)).sum()
    }

    /// Whether the state of a package goes back to an earlier layout.
    pub fn goes_down(&self, package: &PackageName) -> bool {
        let down = |state: &&StateChange| state.direction == Direction::Down;
        self.states.iter().filter(down).any(|state| state.package == *package)
    }
}

/// Everything that decides about packages.
#[derive(Debug)]
pub struct PackageView<'v> {
    /// Those of the installed generation.
    pub before: &'v Packages,
    /// Those of the release.
    pub after: &'v Packages,
    /// What has to be done to their state.
    pub migrations: &'v BTreeMap<PackageName, Migrate>,
    /// The directories of state that are there: by the path that names them the one without symlinks, and the
    /// bytes in it.
    pub directories: &'v BTreeMap<NodePath, (FlistPath, u64)>,
    /// Paths that change.
    pub changed: &'v BTreeSet<FlistPath>,
}

/// Decides for every package.
pub fn plan_packages(view: &PackageView<'_>) -> PackagePlan {
    let mut plan = PackagePlan::default();
    if !view.changed.is_empty() {
        plan.hooks = hooks(view);
    }
    for (name, migrate) in view.migrations.iter().filter(|(_, migrate)| !migrate.steps.is_empty()) {
        let described = |packages: &'_ Packages| packages.get(name).and_then(|package| package.state.clone());
        // Whose programs run knows where the state is.
        let (own, other) = match migrate.direction {
            Direction::Up => (described(view.after), described(view.before)),
            Direction::Down => (described(view.before), described(view.after)),
        };
        let Some(own) = own else { continue };
        let there = own.paths.iter().filter_map(|path| view.directories.get(path));
        let (paths, bytes): (Vec<_>, Vec<u64>) = there.cloned().unzip();
        if paths.is_empty() {
            continue;
        }
        let steps = migrate.steps.iter().cloned();
        let steps = steps.map(|(number, run, timeout)| MigrationCall { number, run, timeout }).collect();
        let users = own.services.iter().chain(other.iter().flat_map(|other| &other.services));
        plan.users.extend(users.map(|user| (user.clone(), name.clone())));
        plan.states.push(StateChange {
            package: name.clone(),
            direction: migrate.direction,
            paths,
            limit: own.limit,
            bytes: bytes.iter().sum(),
            steps,
        });
    }
    plan
}

fn hooks(view: &PackageView<'_>) -> Vec<HookCall> {
    let has = |name: &PackageName, hook: &Hook| {
        view.after.get(name).is_some_and(|after| after.hooks.iter().any(|other| other.name == hook.name))
    };
    let of = |packages: &'_ Packages| -> Vec<(PackageName, Hook)> {
        let hooks = |(name, package): (&PackageName, &Package)| {
            package.hooks.iter().map(|hook| (name.clone(), hook.clone())).collect::<Vec<_>>()
        };
        packages.iter().flat_map(hooks).collect()
    };
    let mut left: Vec<_> = of(view.before).into_iter().filter(|(name, hook)| !has(name, hook)).collect();
    // In the reverse of the order in which they were run.
    left.reverse();
    left.sort_by_key(|(_, hook)| std::cmp::Reverse(hook.when));
    let left = left.into_iter().filter_map(|(package, Hook { name, run, undo, timeout, .. })| {
        Some(HookCall { package, name, moment: Moment::Leave, run: undo?, undo: Some(run), timeout })
    });
    let concerned = |hook: &Hook| {
        let matches = |pattern: &String| {
            let pattern = pattern.trim_start_matches('/').as_bytes();
            view.changed.iter().any(|path| glob(pattern, path.as_bytes()))
        };
        hook.changes.is_empty() || hook.changes.iter().any(matches)
    };
    let run = of(view.after).into_iter().filter(|(_, hook)| concerned(hook));
    let run = run.map(|(package, hook)| {
        let moment = match hook.when {
            When::BeforeSwap => Moment::BeforeSwap,
            When::BeforeStart => Moment::BeforeStart,
            When::AfterStart => Moment::AfterStart,
        };
        let Hook { name, run, undo, timeout, .. } = hook;
        HookCall { package, name, moment, run, undo, timeout }
    });
    left.chain(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(texts: &[(&str, &str)]) -> Packages {
        let one = |(name, text): &(&str, &str)| {
            (name.parse().unwrap(), flist::package::parse(text.as_bytes()).unwrap())
        };
        texts.iter().map(one).collect()
    }

    fn said(before: &Packages, after: &Packages, changed: &[&str]) -> Vec<String> {
        let changed = changed.iter().map(|path| path.parse().unwrap()).collect();
        let view = PackageView {
            before,
            after,
            migrations: &BTreeMap::new(),
            directories: &BTreeMap::new(),
            changed: &changed,
        };
        let say = |HookCall { package, name, moment, run, .. }: HookCall| {
            format!("{} {package} {name}: {run}", moment.as_str())
        };
        plan_packages(&view).hooks.into_iter().map(say).collect()
    }

    #[test]
    fn hooks_of_all_packages_run_and_what_a_dropped_one_did_is_taken_back() {
        let old = packages(&[
            ("a", "hooks: [{name: x, when: after-start, run: [/x], undo: [/x, back]}]"),
            ("b", "hooks: [{name: y, when: before-swap, run: [/y], undo: []}]"),
        ]);
        let new = packages(&[("c", "hooks: [{name: x, when: before-start, run: [/z], undo: []}]")]);
        assert_eq!(said(&old, &new, &["f"]), ["leave a x: /x back", "before-start c x: /z"]);
        assert_eq!(said(&new, &old, &["f"]), ["after-start a x: /x", "before-swap b y: /y"]);
        assert_eq!(said(&old, &new, &[]), [""; 0], "nothing changes, so nothing is run");
    }

    #[test]
    fn a_hook_may_wait_for_changes_that_concern_it() {
        let text =
            "hooks: [{name: x, when: before-start, run: [/x], undo: [], changes: ['/usr/lib/*', 'etc/?']}]";
        let new = packages(&[("a", text)]);
        let nothing = Packages::new();
        assert_eq!(said(&nothing, &new, &["usr/bin/a"]), [""; 0]);
        assert_eq!(said(&nothing, &new, &["usr/lib/a.so"]).len(), 1);
        assert_eq!(said(&nothing, &new, &["etc/f"]).len(), 1);
    }

    #[test]
    fn state_is_migrated_where_it_is_and_its_users_are_stopped() {
        let text = |schema, steps| {
            format!(
                "state: {{schema: {schema}, paths: [/var/lib/a, /srv/none], services: [s{schema}], limit_mib: 1, migrations: [{steps}]}}"
            )
        };
        let old = packages(&[("a", &text(1, ""))]);
        let new = packages(&[("a", &text(2, "{to: 2, run: [/m], undo: [/m, back]}"))]);
        let path = NodePath::try_from("/var/lib/a".to_owned()).unwrap();
        let directories = BTreeMap::from([(path, ("data/a".parse().unwrap(), 7))]);
        for (before, after, at, run) in [(&old, &new, 1, "/m"), (&new, &old, 2, "/m back")] {
            let name: PackageName = "a".parse().unwrap();
            let standing = flist::package::Standing::At(at);
            let migrate =
                flist::package::migrate(&name, before.get(&name), after.get(&name), standing).unwrap();
            let migrations = BTreeMap::from([(name, migrate)]);
            let changed = BTreeSet::new();
            let directories = &directories;
            let view = PackageView { before, after, migrations: &migrations, directories, changed: &changed };
            let plan = plan_packages(&view);
            let state = &plan.states[0];
            assert_eq!((state.paths.len(), state.bytes, state.limit), (1, 7, 1 << 20));
            assert_eq!((state.steps.len(), state.steps[0].run.to_string().as_str()), (1, run));
            assert_eq!(plan.users.keys().map(String::as_str).collect::<Vec<_>>(), ["s1", "s2"]);
        }
    }
}
