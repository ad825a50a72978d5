//! What the packages of a release declare, and whether this node is one for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use flist::package::{
    KernelVersion, MAX_DESCRIPTION, MAX_PACKAGES, Migrate, NodeFacts, PackageError, PackageName, Place,
    Unmet, in_one_release, migrate, package_at, parse,
};
use flist::path::FlistPath;
use flist::tree::{Content, Kind};
use zinit_client::UnitName;

use super::{Engine, EngineError, ReleaseTree};
use crate::generation::{Generation, Packages};
use crate::plan::{
    FileChange, FilePlan, PackagePlan, PackageView, PlanError, ServicePlan, ServiceView, StatePaths,
    plan_packages,
};
use crate::root::{Root, RootError, failed};
use crate::source::ContentSource;
use crate::transaction::staging::reusable_block;
use crate::transaction::states;

/// What has to be done to the state of each package.
pub(super) type Migrations = BTreeMap<PackageName, Migrate>;

impl Engine {
    /// Reads the package descriptions of a release. Nothing else of its content is asked for, and of them nothing
    /// that is in the root already.
    ///
    /// # Errors
    /// [`EngineError::Package`], [`EngineError::Content`].
    pub async fn packages_of(
        &self,
        release: &ReleaseTree,
        source: Arc<dyn ContentSource>,
    ) -> Result<Packages, EngineError> {
        self.read_packages(release, self.with_kept(source)?).await
    }

    /// As [`Engine::packages_of`], from a source that knows what is kept on this node.
    ///
    /// # Errors
    /// As [`Engine::packages_of`].
    pub(super) async fn read_packages(
        &self,
        release: &ReleaseTree,
        source: Arc<dyn ContentSource>,
    ) -> Result<Packages, EngineError> {
        let (root, tree) = (self.root.clone(), release.tree().clone());
        let read = move || {
            let mut packages = Packages::new();
            for (path, entry) in tree.iter() {
                let Some(name) = package_at(path) else { continue };
                let unusable = |source| EngineError::Package { path: path.clone(), source };
                if packages.len() >= MAX_PACKAGES {
                    return Err(unusable(PackageError::TooMany));
                }
                let Kind::File(content) = &entry.kind else { return Err(unusable(PackageError::NoFile)) };
                let bytes = description(&root, path, content, source.as_ref())?;
                packages.insert(name, parse(&bytes).map_err(unusable)?);
            }
            in_one_release(&packages).map_err(|(about, source)| EngineError::Package {
                path: about.and_then(|name| path_of(&name)).unwrap_or_default(),
                source,
            })?;
            Ok(packages)
        };
        tokio::task::spawn_blocking(read).await.map_err(EngineError::Broken)?
    }

    /// Refuses what this node is not one for: preconditions that it does not meet, and state that the release
    /// could not read.
    ///
    /// # Errors
    /// [`EngineError::Unmet`], [`EngineError::Schema`].
    pub fn admit(&self, packages: &Packages) -> Result<(), EngineError> {
        self.admitted(packages).map(drop)
    }

    /// As [`Engine::admit`]; tells what has to be done to the state of each package.
    ///
    /// # Errors
    /// As [`Engine::admit`].
    pub(super) fn admitted(&self, packages: &Packages) -> Result<Migrations, EngineError> {
        let installed = self.current()?;
        let node = self.facts(packages, installed.as_ref())?;
        let unmet: Vec<_> =
            packages.iter().flat_map(|(name, package)| package.requires.unmet(name, &node)).collect();
        if !unmet.is_empty() {
            return Err(EngineError::Unmet(unmet));
        }
        self.migrations(packages, installed.as_ref())
    }

    /// What has to be done to the state of each package.
    ///
    /// # Errors
    /// [`EngineError::Schema`].
    pub(super) fn migrations(
        &self,
        packages: &Packages,
        installed: Option<&Generation>,
    ) -> Result<Migrations, EngineError> {
        let recorded = self.recorded_layouts()?;
        let nothing = Packages::new();
        let before = installed.map_or(&nothing, |installed| &installed.packages);
        let names = packages.keys().chain(before.keys()).chain(recorded.schemas.keys());
        let (mut migrations, mut refused) = (Migrations::new(), Vec::new());
        for name in names {
            let (old, new) = (before.get(name), packages.get(name));
            let states = old.into_iter().chain(new).filter_map(|package| package.state.as_ref());
            let paths: Vec<_> = states.flat_map(|state| &state.paths).collect();
            let layout = self.layout(&recorded, name, &paths)?;
            match migrate(name, old, new, layout) {
                Ok(migrate) => drop(migrations.insert(name.clone(), migrate)),
                Err(refusal) => refused.push(refusal),
            }
        }
        refused.dedup();
        if refused.is_empty() { Ok(migrations) } else { Err(EngineError::Schema(refused)) }
    }

    /// What is run for packages when these files change.
    ///
    /// # Errors
    /// [`EngineError::Plan`]; [`EngineError::Unmet`] for state that is larger than its package says.
    pub(super) fn plan_packages(
        &self,
        (before, after): (&Packages, &Packages),
        migrations: &Migrations,
        files: &FilePlan,
    ) -> Result<PackagePlan, EngineError> {
        let changed = files.changes.iter().map(|change| change.path().clone()).collect();
        let mut directories = BTreeMap::new();
        let migrates =
            |name: &&PackageName| migrations.get(name).is_some_and(|found| !found.steps.is_empty());
        let named = before.iter().chain(after).filter(|(name, _)| migrates(name));
        for path in named.filter_map(|(_, package)| package.state.as_ref()).flat_map(|state| &state.paths) {
            let Some(real) = self.directory(path.inside())? else { continue };
            if self.root.stat(&real).map_err(EngineError::Root)?.is_some_and(|stat| stat.mount_point) {
                return Err(EngineError::Plan(PlanError::MountPoint(real)));
            }
            let bytes = states::size(&self.root, &real).map_err(EngineError::Root)?;
            directories.insert(path.clone(), (real, bytes));
        }
        let directories = &directories;
        let plan = plan_packages(&PackageView { before, after, migrations, directories, changed: &changed });
        let too_large = plan.states.iter().filter(|state| state.bytes > state.limit).map(|state| Unmet {
            code: "state-too-large".to_owned(),
            package: state.package.to_string(),
            need: format!("state of at most {} bytes", state.limit),
            have: format!("{} bytes of it", state.bytes),
        });
        let too_large: Vec<_> = too_large.collect();
        if !too_large.is_empty() {
            return Err(EngineError::Unmet(too_large));
        }
        for (state, path) in
            plan.states.iter().flat_map(|state| state.paths.iter().map(move |path| (state, path)))
        {
            let inside = |change: &&FileChange| {
                (change.path() == path || change.path().is_beneath(path)) && !change.is_of_a_directory()
            };
            if let Some(change) = files.changes.iter().find(inside) {
                let (path, package) = (change.path().clone(), state.package.to_string());
                return Err(EngineError::Plan(PlanError::InState { path, package }));
            }
        }
        Ok(plan)
    }

    /// Where state lies that packages declare.
    ///
    /// # Errors
    /// [`EngineError::Root`].
    pub(super) fn state_paths<'p>(
        &self,
        packages: impl IntoIterator<Item = &'p Packages>,
    ) -> Result<StatePaths, EngineError> {
        let states =
            packages.into_iter().flat_map(Packages::values).filter_map(|package| package.state.as_ref());
        let mut declared = Vec::new();
        for path in states.flat_map(|state| &state.paths) {
            declared.extend(self.directory(path.inside())?);
            declared.push(path.inside().clone());
        }
        Ok(StatePaths::with(declared))
    }

    /// The directory that a path leads to, if there is one.
    pub(super) fn directory(&self, path: &FlistPath) -> Result<Option<FlistPath>, EngineError> {
        let directory = self.root.disk().real_directory(path);
        directory.map_err(failed("find the directory", path)).map_err(EngineError::Root)
    }

    fn facts(&self, packages: &Packages, installed: Option<&Generation>) -> Result<NodeFacts, EngineError> {
        let mut places = BTreeMap::new();
        for path in packages.values().flat_map(|package| package.requires.asked()) {
            places.insert(path.clone(), self.place(path.inside()).map_err(EngineError::Root)?);
        }
        let kernel = nix::sys::utsname::uname().ok();
        let kernel = kernel.and_then(|names| KernelVersion::of_release(&names.release().to_string_lossy()));
        Ok(NodeFacts {
            kernel,
            architecture: std::env::consts::ARCH.to_owned(),
            memory_mib: memory_mib(),
            molt: env!("CARGO_PKG_VERSION").parse().ok(),
            installed: installed.map(|installed| installed.version.to_string()),
            places,
        })
    }

    fn place(&self, path: &FlistPath) -> Result<Place, RootError> {
        let disk = self.root.disk();
        let looked = failed("look at", path);
        let directory = disk.real_directory(path).map_err(&looked)?;
        let exists = directory.is_some() || disk.stat(path).map_err(&looked)?.is_some();
        let mount_point = match &directory {
            Some(at) => disk.mount_top(at).map_err(&looked)? == *at,
            None => false,
        };
        let around = directory.or_else(|| path.parent()).filter(|_| exists);
        let writable = match around {
            Some(at) => !disk.filesystem(&at).map_err(&looked)?.read_only,
            None => false,
        };
        Ok(Place { exists, mount_point, writable })
    }
}

/// The services that are stopped because state is migrated.
pub(super) fn migrated(plan: &PackagePlan) -> BTreeMap<UnitName, String> {
    let users = plan.users.iter();
    users.filter_map(|(unit, package)| Some((unit.parse().ok()?, package.to_string()))).collect()
}

/// Refuses to migrate state while a service uses it.
pub(super) fn check_stopped(view: &ServiceView, plan: &ServicePlan) -> Result<(), EngineError> {
    let runs = |unit: &UnitName| view.status.get(unit).is_some_and(|status| status.pid.is_some());
    match view.migrated.iter().find(|(unit, _)| runs(unit) && !plan.stop.contains(unit)) {
        Some((unit, package)) => {
            Err(EngineError::Plan(PlanError::RunsOn { unit: unit.clone(), package: package.clone() }))
        }
        None => Ok(()),
    }
}

fn path_of(name: &PackageName) -> Option<FlistPath> {
    format!("{}/{name}.yaml", flist::package::DIRECTORY).parse().ok()
}

/// One description, block by block from the root where it has the same, otherwise from the source.
fn description(
    root: &Root,
    path: &FlistPath,
    content: &Content,
    source: &dyn ContentSource,
) -> Result<Vec<u8>, EngineError> {
    let unusable = |source| EngineError::Package { path: path.clone(), source };
    let bytes = usize::try_from(content.size).unwrap_or(usize::MAX);
    if bytes > MAX_DESCRIPTION {
        return Err(unusable(PackageError::TooLong { bytes }));
    }
    let old = root.disk().open(path, false).ok();
    let block = |index| match old.as_deref().and_then(|old| reusable_block(old, content, index)) {
        Some(plain) => Ok(plain),
        None => source.block(path, content, index),
    };
    let blocks = (0..content.blocks.len()).map(block).collect::<Result<Vec<_>, _>>();
    let blocks = blocks.map_err(|source| EngineError::Content { path: path.clone(), source })?;
    Ok(blocks.concat())
}

/// All memory of this machine (`MemTotal` of proc_meminfo(5)), in MiB.
fn memory_mib() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib / 1024)
}
