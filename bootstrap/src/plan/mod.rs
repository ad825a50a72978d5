//! The plan: what an installation will do, decided before anything is touched. Pure and deterministic.
//!
//! Order of the steps of an upgrade: reserve space → stage all → rehearse → sync once → stop affected (dependents
//! first) → swap → start (dependencies first) → soak → record → commit. On a first boot there is nothing to go back to,
//! so what is installed is recorded and committed before the first service starts (contract, item 2).

mod cascade;
mod conflict;
mod etc_merge;
pub mod files;
mod packages;
pub mod services;
mod shown;
mod space;
mod state_paths;

use flist::package::Direction;
use flist::path::{FlistPath, PathError};
use serde::{Deserialize, Serialize};
use zinit_client::UnitName;

pub use cascade::{Table, Unavoidable};
pub use conflict::{Conflict, beside};
pub use files::{FileChange, FilePlan, Wanted, plan_files};
pub use packages::{HookCall, MigrationCall, Moment, PackagePlan, PackageView, StateChange, plan_packages};
pub use services::{ServiceNote, ServicePlan, ServiceView, ServicesError, Verdict, plan_services};
pub use space::{Place, Space, SpaceSum, left_beside};
pub use state_paths::StatePaths;

use crate::item::Item;

/// Where zinit's units are.
pub const UNIT_DIRECTORY: &str = "etc/zinit";

/// Why there can be no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The root holds something that must not be replaced.
    #[error(
        "/{path} is a {found} in the root file system, but the release has a {wanted} there; a {found} is never replaced by a {wanted}"
    )]
    InTheWay {
        /// Where.
        path: FlistPath,
        /// What is there.
        found: &'static str,
        /// What the release wants.
        wanted: &'static str,
    },
    /// Something is mounted where the release wants to change something.
    #[error("something is mounted on /{0}, so the release cannot change it; unmount it first")]
    MountPoint(FlistPath),
    /// Two paths of the release are one path in the root.
    #[error("'{first}' and '{second}' of the release are the same file /{path} in this root file system")]
    TwoNames {
        /// One of them.
        first: FlistPath,
        /// The other.
        second: FlistPath,
        /// The path without symlinks.
        path: FlistPath,
    },
    /// A path cannot be made.
    #[error("a path of the release is not possible in this root file system")]
    Path(#[source] PathError),
    /// The state of a package cannot be migrated while a service runs on.
    #[error(
        "the state of package {package} cannot be migrated, because {unit} uses it and is not stopped by an upgrade"
    )]
    RunsOn {
        /// The service.
        unit: UnitName,
        /// The package.
        package: String,
    },
    /// A path of the release lies in state that is migrated.
    #[error(
        "the release changes /{path}, which lies in the state of package {package} that is migrated; ship it elsewhere"
    )]
    InState {
        /// The path.
        path: FlistPath,
        /// The package.
        package: String,
    },
    /// Nothing can be decided about services.
    #[error(transparent)]
    Services(ServicesError),
}

/// Whether a path is a unit of zinit.
pub fn is_unit(path: &FlistPath) -> bool {
    unit_name(path).is_some()
}

/// The service whose unit is at a path.
pub fn unit_name(path: &FlistPath) -> Option<UnitName> {
    let file = path.as_bytes().strip_prefix(UNIT_DIRECTORY.as_bytes())?.strip_prefix(b"/")?;
    std::str::from_utf8(file).ok()?.strip_suffix(".yaml")?.parse().ok()
}

/// What a plan is for; decides the order of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// bootstrap installs: commit before the first service starts.
    Boot,
    /// identityd upgrades: commit when the new services are up.
    Upgrade,
    /// identityd puts an earlier generation back: an upgrade to what was there before.
    Revert,
    /// identityd replaces itself: it commits when it runs, or its guardian goes back.
    SelfUpdate,
}

/// One step. The set is closed; each step that has an effect on the node has an inverse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Take space for everything that will be staged, before a byte of it is fetched.
    Reserve,
    /// Put the new content of change number `change` beside its destination, verified.
    Stage {
        /// Index in [`Plan::changes`].
        change: usize,
    },
    /// Look whether the root would run as it will be. Before the sync, which a refusal need not wait for.
    Rehearse,
    /// Make what was staged durable.
    Sync,
    /// Stop a service and make the supervisor forget its unit. Inverse: monitor it again.
    Stop {
        /// The service.
        unit: UnitName,
    },
    /// Run a program of a package. Inverse: the program that it declares for that.
    Hook {
        /// Index in [`PackagePlan::hooks`].
        hook: usize,
    },
    /// Copy the state that is migrated.
    CopyStates,
    /// Run a program of a migration on the copy.
    Migrate {
        /// Index in [`PackagePlan::states`].
        state: usize,
        /// Index in [`StateChange::steps`].
        program: usize,
    },
    /// Exchange the copies with the state. Inverse: the same exchange again.
    SwapStates,
    /// Make change number `change`. Inverse: the same exchange again.
    Swap {
        /// Index in [`Plan::changes`].
        change: usize,
    },
    /// Make the supervisor monitor a service. Inverse: stop it.
    Start {
        /// The service.
        unit: UnitName,
    },
    /// Watch whether the services that were started come up and stay up, and whether those stay up that were left alone.
    Soak,
    /// Write flist.name and flist.info.
    Record,
    /// Make the new generation the current one. Then the supervisor is made to forget what was stopped by others and
    /// has another unit.
    Commit,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reserve => f.write_str("reserve"),
            Self::Stage { change } => write!(f, "stage {change}"),
            Self::Rehearse => f.write_str("rehearse"),
            Self::Sync => f.write_str("sync"),
            Self::Stop { unit } => write!(f, "stop {unit}"),
            Self::Hook { hook } => write!(f, "hook {hook}"),
            Self::CopyStates => f.write_str("copy"),
            Self::Migrate { state, program } => write!(f, "migrate {state} {program}"),
            Self::SwapStates => f.write_str("exchange"),
            Self::Swap { change } => write!(f, "swap {change}"),
            Self::Start { unit } => write!(f, "start {unit}"),
            Self::Soak => f.write_str("soak"),
            Self::Record => f.write_str("record"),
            Self::Commit => f.write_str("commit"),
        }
    }
}

/// Everything that will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it is for.
    pub purpose: Purpose,
    /// Changes of files.
    pub files: FilePlan,
    /// What happens to services.
    pub services: ServicePlan,
    /// What is run for packages.
    pub packages: PackagePlan,
    /// The space it takes.
    pub space: Vec<Space>,
    /// The steps in order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Puts the decisions in order.
    pub fn new(
        purpose: Purpose,
        files: FilePlan,
        services: ServicePlan,
        packages: PackagePlan,
        space: Vec<Space>,
    ) -> Self {
        let steps = steps(purpose, &files, &services, &packages);
        Self { purpose, files, services, packages, space, steps }
    }

    /// Whether files and services are as they shall be already.
    pub fn is_empty(&self) -> bool {
        let nothing = self.files.changes.is_empty() && self.packages.states.is_empty();
        let ServicePlan { stop, start, forget, .. } = &self.services;
        nothing && [stop, start, forget].into_iter().all(Vec::is_empty)
    }

    /// Bytes of new content that are staged, wherever they come from.
    pub fn staged_bytes(&self) -> u64 {
        self.files.changes.iter().filter_map(FileChange::staged).map(|(_, item)| Item::size(item)).sum()
    }
}

fn steps(purpose: Purpose, files: &FilePlan, services: &ServicePlan, packages: &PackagePlan) -> Vec<Step> {
    let hooks = |moment: Moment| {
        let numbered = packages.hooks.iter().enumerate().filter(move |(_, hook)| hook.moment == moment);
        numbered.map(|(hook, _)| Step::Hook { hook })
    };
    let migrate = |wanted: Direction| {
        let states = packages.states.iter().enumerate().filter(move |(_, state)| state.direction == wanted);
        states.flat_map(|(state, change)| {
            (0..change.steps.len()).map(move |program| Step::Migrate { state, program })
        })
    };
    let migrates = !packages.states.is_empty();
    let changes = || files.changes.iter().enumerate();
    let staged = changes().filter(|(_, change)| change.staged().is_some());
    let mut steps = vec![Step::Reserve];
    steps.extend(staged.map(|(change, _)| Step::Stage { change }));
    // At a first boot there is nothing better to go back to: what fails is reported by the supervisor.
    if purpose != Purpose::Boot {
        steps.push(Step::Rehearse);
    }
    steps.push(Step::Sync);
    steps.extend(hooks(Moment::BeforeSwap));
    steps.extend(services.stop.iter().cloned().map(|unit| Step::Stop { unit }));
    steps.extend(migrates.then_some(Step::CopyStates));
    steps.extend(migrate(Direction::Down));
    steps.extend(hooks(Moment::Leave));
    steps.extend(changes().map(|(change, _)| Step::Swap { change }));
    steps.extend(migrate(Direction::Up));
    steps.extend(migrates.then_some(Step::SwapStates));
    steps.extend(hooks(Moment::BeforeStart));
    let start = services.start.iter().cloned().map(|unit| Step::Start { unit });
    let soak = (!services.start.is_empty() || !files.changes.is_empty() || migrates).then_some(Step::Soak);
    match purpose {
        Purpose::Boot => {
            steps.extend(
                [Step::Record, Step::Commit].into_iter().chain(start).chain(hooks(Moment::AfterStart)),
            );
        }
        Purpose::Upgrade | Purpose::Revert => {
            let started = start.chain(hooks(Moment::AfterStart)).chain(soak);
            steps.extend(started.chain([Step::Record, Step::Commit]));
        }
        // The rest is done by the new program.
        Purpose::SelfUpdate => {}
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::What;

    fn sample() -> (FilePlan, ServicePlan) {
        let item = Item { mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: Default::default(), what: What::Fifo };
        let at: FlistPath = "a".parse().unwrap();
        let changes = vec![
            FileChange::Add { path: at.clone(), from: at.clone(), item },
            FileChange::Remove { path: "b".parse().unwrap() },
        ];
        let unit: UnitName = "web".parse().unwrap();
        let services = ServicePlan { stop: vec![unit.clone()], start: vec![unit], ..ServicePlan::default() };
        (FilePlan { changes, ..FilePlan::default() }, services)
    }

    fn shape(purpose: Purpose) -> String {
        shape_with(purpose, PackagePlan::default())
    }

    fn shape_with(purpose: Purpose, packages: PackagePlan) -> String {
        let (files, services) = sample();
        let steps = Plan::new(purpose, files, services, packages, Vec::new()).steps;
        let names =
            steps.iter().map(|step| step.to_string().split(' ').next().unwrap_or_default().to_owned());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_order_of_steps() {
        assert_eq!(
            shape(Purpose::Upgrade),
            "reserve stage rehearse sync stop swap swap start soak record commit"
        );
        assert_eq!(shape(Purpose::Boot), "reserve stage sync stop swap swap record commit start");
        assert_eq!(shape(Purpose::SelfUpdate), "reserve stage rehearse sync stop swap swap");
    }

    #[test]
    fn hooks_have_their_moments_and_state_is_migrated_by_who_knows_how() {
        let command: flist::package::Command = vec!["/x".to_owned()].try_into().unwrap();
        let hook = |moment| HookCall {
            package: "a".parse().unwrap(),
            name: "h".parse().unwrap(),
            moment,
            run: command.clone(),
            undo: None,
            timeout: 1,
        };
        let moments = [Moment::Leave, Moment::AfterStart, Moment::BeforeStart, Moment::BeforeSwap];
        let hooks: Vec<_> = moments.into_iter().map(hook).collect();
        let state = |direction| StateChange {
            package: "a".parse().unwrap(),
            direction,
            paths: Vec::new(),
            limit: 1,
            bytes: 1,
            steps: vec![MigrationCall { number: 2, run: command.clone(), timeout: 1 }; 2],
        };
        let with = |direction| PackagePlan {
            hooks: hooks.clone(),
            states: vec![state(direction)],
            ..PackagePlan::default()
        };
        assert_eq!(
            shape_with(Purpose::Upgrade, with(Direction::Up)),
            "reserve stage rehearse sync hook stop copy hook swap swap migrate migrate exchange hook start hook soak record commit"
        );
        assert_eq!(
            shape_with(Purpose::Revert, with(Direction::Down)),
            "reserve stage rehearse sync hook stop copy migrate migrate hook swap swap exchange hook start hook soak record commit"
        );
        assert_eq!(
            shape_with(Purpose::Boot, with(Direction::Up)),
            "reserve stage sync hook stop copy hook swap swap migrate migrate exchange hook record commit start hook"
        );
    }

    #[test]
    fn unit_files() {
        let name = |text: &str| unit_name(&text.parse().unwrap()).map(|name| name.to_string());
        assert_eq!(name("etc/zinit/web.yaml").as_deref(), Some("web"));
        for other in
            ["etc/zinit/web.yml", "etc/zinit/sub/web.yaml", "etc/zinit", "etc/zinitx/a.yaml", "web.yaml"]
        {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
