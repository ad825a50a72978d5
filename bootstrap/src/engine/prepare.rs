//! Making a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flist::hub::{ReleaseId, ReleaseVersion};
use flist::path::FlistPath;
use zinit_client::{ServiceStatus, ServiceUnit, UnitName};

use super::conflicts::conflicts_after;
use super::look::{Look, View};
use super::packages::{Migrations, check_stopped, migrated};
use super::{Engine, EngineError, Prepared, ReleaseTree};
use crate::generation::{Cause, Generation, Packages, Standing, generation};
use crate::health::Bystanders;
use crate::item::Items;
use crate::plan::{
    FileChange, FilePlan, PackagePlan, Plan, PlanError, Purpose, ServicePlan, ServiceView, StatePaths,
    Wanted, plan_files, plan_services,
};
use crate::root::Found;
use crate::source::ContentSource;

impl Engine {
    /// Plans to install a release; touches nothing. With `only`, just these paths are made what they are in the
    /// release, also where they are not in it, and everything else stays as the current generation has it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn prepare(
        &self,
        release: &ReleaseTree,
        purpose: Purpose,
        source: Arc<dyn ContentSource>,
        only: Option<&BTreeSet<FlistPath>>,
    ) -> Result<Prepared, EngineError> {
        let source = self.with_kept(source)?;
        let standing = self.standing()?;
        let first_boot = standing == Standing::Nothing;
        let installed = standing.generation();
        let packages = match purpose {
            Purpose::SelfUpdate => Packages::new(),
            _ => self.read_packages(release, source.clone()).await?,
        };
        let migrations = match purpose {
            Purpose::SelfUpdate => Migrations::new(),
            _ => self.admitted(&packages)?,
        };
        let base = installed.as_ref().map_or_else(Items::new, |installed| installed.items.clone());
        let besides = installed.as_ref().map_or_else(Items::new, |installed| installed.besides.clone());
        let nothing = Packages::new();
        let packages_before = installed.as_ref().map_or(&nothing, |installed| &installed.packages);
        let state = self.state_paths([packages_before, &packages])?;
        let (root, tree) = (self.root.clone(), release.tree().clone());
        let look = Look { root, tree, base, besides: besides.clone(), state, only: only.cloned() };
        let view = tokio::task::spawn_blocking(move || look.take(source.as_ref()));
        let View { wanted, found, units, base, state } = view.await.map_err(EngineError::Broken)??;

        let files = plan_files((&base, &besides), &wanted, &found, &state, first_boot);
        let files = files.map_err(EngineError::Plan)?;
        let items = installed_after(installed.as_ref(), &wanted, &state, only);
        let (after, before) = (units.after(&files.changes), units.before);
        let package_plan = match purpose {
            Purpose::SelfUpdate => PackagePlan::default(),
            _ => self.plan_packages((packages_before, &packages), &migrations, &files)?,
        };
        let (items_of, units_of) = ((&base, &items), (&before, &after));
        let (services, bystanders) =
            self.planned_services(purpose, &files, &found, items_of, units_of, &package_plan).await?;
        let (cause, version, id) = what_it_is(purpose, installed.as_ref(), release);
        let space = self.space((&files, &package_plan), &found, release, items.len())?;
        let states = package_plan.states.iter().flat_map(|state| &state.paths);
        let number = self.next_number(files.changes.iter().map(FileChange::path).chain(states))?;
        let what = (release.channel().clone(), version, id, release.flists().as_slice());
        let (identity, info) = (self.identity()?, release.info().to_owned());
        let paths = files.changes.iter().map(FileChange::path);
        let seen = paths.filter_map(|path| Some((path.clone(), found.get(path)?.clone()))).collect();
        // Where nothing was ever installed, nothing is lost.
        let is_new = first_boot && !self.state.has_pointer().map_err(EngineError::Generation)?;
        let layouts = self.recorded_layouts()?.after(&migrations);
        let packages = match (purpose, &installed) {
            (Purpose::SelfUpdate, Some(installed)) => installed.packages.clone(),
            _ => packages,
        };
        let conflicts = conflicts_after(installed.as_ref(), &files, only);
        let generation = generation(number, cause, what, identity, info, items);
        let generation = Generation {
            packages,
            schemas: Some(layouts.schemas),
            layouts_lost: layouts.is_incomplete && !is_new,
            is_signed: release.is_signed(),
            conflicts,
            besides: files.besides.clone(),
            ..generation
        };
        let plan = Plan::new(purpose, files, services, package_plan, space);
        let release = release.clone();
        Ok(Prepared { plan, generation, seen, release, before, after, bystanders, minds_downtime: false })
    }

    /// Which services are stopped and started; and which are left alone and are up, with their processes.
    async fn planned_services(
        &self,
        purpose: Purpose,
        files: &FilePlan,
        found: &BTreeMap<FlistPath, Found>,
        (base, items): (&Items, &Items),
        units: (&BTreeMap<UnitName, ServiceUnit>, &BTreeMap<UnitName, ServiceUnit>),
        packages: &PackagePlan,
    ) -> Result<(ServicePlan, BTreeMap<UnitName, u32>), EngineError> {
        if purpose == Purpose::SelfUpdate {
            return Ok(Default::default());
        }
        let mut view = self.service_view(&files.changes, found, (base, items), units).await?;
        view.starts_missing = purpose == Purpose::Boot;
        view.migrated = migrated(packages);
        let services = plan_services(&view).map_err(|error| EngineError::Plan(PlanError::Services(error)))?;
        check_stopped(&view, &services)?;
        // What leads back is not gone back from for what it has not touched.
        let bystanders = match purpose {
            Purpose::Upgrade => bystanders(&view, &services),
            _ => BTreeMap::new(),
        };
        Ok((services, bystanders))
    }
}

/// The services that a plan leaves alone and that are up, with their processes.
fn bystanders(view: &ServiceView, plan: &ServicePlan) -> BTreeMap<UnitName, u32> {
    let touched: BTreeSet<_> = plan.stop.iter().chain(&plan.start).collect();
    let of = |(name, status): (&UnitName, &ServiceStatus)| {
        // Of one without a unit nobody can tell whether it is a oneshot.
        let oneshot = view.before.get(name)?.oneshot;
        Some((name.clone(), Bystanders::process_of(status, oneshot).filter(|_| !touched.contains(name))?))
    };
    view.status.iter().filter_map(of).collect()
}

/// What the generation comes from, and which release it is.
fn what_it_is(
    purpose: Purpose,
    installed: Option<&Generation>,
    release: &ReleaseTree,
) -> (Cause, ReleaseVersion, ReleaseId) {
    let (version, id) = match (installed, purpose) {
        // After a self-update everything else is still of the release before.
        (Some(installed), Purpose::SelfUpdate) => (installed.version.clone(), installed.release),
        // Nobody knows which release that is, so it must not pass for the new one.
        (None, Purpose::SelfUpdate) => (ReleaseVersion::Text("unknown".to_owned()), ReleaseId::of([])),
        _ => (release.version().clone(), release.id()),
    };
    let cause = match (purpose, installed) {
        (Purpose::SelfUpdate, _) => Cause::SelfUpdate,
        (Purpose::Revert, _) => Cause::Revert,
        (_, None) => Cause::FirstBoot,
        (_, Some(_)) => Cause::Release,
    };
    (cause, version, id)
}

/// What will be installed: the release, or the current generation with these paths as the release has them.
fn installed_after(
    installed: Option<&Generation>,
    wanted: &BTreeMap<FlistPath, Wanted>,
    state: &StatePaths,
    only: Option<&BTreeSet<FlistPath>>,
) -> Items {
    let new = wanted.iter().map(|(path, Wanted { item, from })| {
        // State is known by the name that the release has for it, wherever a link leads.
        let path = if state.has(path) { from } else { path };
        (path.clone(), item.clone())
    });
    match (installed, only) {
        (Some(installed), Some(only)) => {
            let stays = installed.items.iter().filter(|(path, _)| !only.contains(*path));
            stays.map(|(path, item)| (path.clone(), item.clone())).chain(new).collect()
        }
        _ => new.collect(),
    }
}
