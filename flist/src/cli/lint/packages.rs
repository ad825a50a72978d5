//! The package descriptions of a root file system.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use flist::package::{
    DIRECTORY, MAX_DESCRIPTION, MAX_PACKAGES, Package, PackageName, in_one_release, package_at, parse,
};
use flist::path::FlistPath;
use flist::rehearsal::{Code, Finding, FutureRoot, Node, Resolved, Service, Subject, resolve};

/// What the descriptions of a root say.
#[derive(Default)]
pub(super) struct Packages {
    /// The programs that they name.
    pub(super) programs: Vec<Service>,
    usable: BTreeMap<PackageName, Package>,
    unusable: Vec<Finding>,
}

/// Where the description of a package is.
pub(super) fn description_of(name: &str) -> Option<FlistPath> {
    format!("{DIRECTORY}/{name}.yaml").parse().ok()
}

impl Packages {
    /// Reads all descriptions of a root.
    pub(super) fn read(root: &dyn FutureRoot) -> Result<Self, Box<dyn Error>> {
        let mut packages = Self::default();
        let found = resolve(root, DIRECTORY.as_bytes())?;
        let Resolved::Found(directory, Node::Directory) = found else { return Ok(packages) };
        let declared: FlistPath = DIRECTORY.parse()?;
        for file in root.list(&directory)?.into_iter().take(MAX_PACKAGES + 1) {
            let (path, at) = (directory.join(&file)?, declared.join(&file)?);
            match Self::one(root, &path, &at)? {
                Ok((name, package)) => drop(packages.usable.insert(name, package)),
                Err(reason) => {
                    let message = format!("it cannot be used: {reason}");
                    packages.unusable.push(Finding::about_path(Code::PackageInvalid, at, message));
                }
            }
        }
        if let Err((about, error)) = in_one_release(&packages.usable) {
            let about = about.and_then(|name| description_of(&name.to_string())).unwrap_or(declared);
            packages.unusable.push(Finding::about_path(Code::PackageInvalid, about, error.to_string()));
        }
        for (name, package) in &packages.usable {
            let programs = package.programs().map(|(_, command)| Service::of_package(name, command));
            packages.programs.extend(programs);
        }
        Ok(packages)
    }

    /// Reads one, or says in one line why it cannot be used.
    fn one(
        root: &dyn FutureRoot,
        path: &FlistPath,
        at: &FlistPath,
    ) -> Result<Result<(PackageName, Package), String>, Box<dyn Error>> {
        let Some(name) = package_at(at) else {
            return Ok(Err("descriptions are called <package>.yaml; rename it, or take it away".to_owned()));
        };
        if !matches!(root.look(path)?, Some(Node::File { .. })) {
            return Ok(Err("it is no regular file".to_owned()));
        }
        let package = parse(&root.read(path, 0, MAX_DESCRIPTION + 1)?);
        Ok(package.map(|package| (name, package)).map_err(|error| flist::report(&error).replace('\n', " ")))
    }

    /// What is wrong with them; `units` are those of the root, `placed` is what the release ships.
    pub(super) fn findings(
        &self,
        units: &BTreeMap<String, FlistPath>,
        placed: &BTreeSet<FlistPath>,
    ) -> Vec<Finding> {
        let mut findings = self.unusable.clone();
        for (name, package) in &self.usable {
            let about =
                |code, message: String| Finding::about(code, Subject::Package(name.to_string()), message);
            let Some(state) = &package.state else { continue };
            for migration in state.migrations.iter().filter(|migration| migration.undo.is_none()) {
                let message = format!(
                    "migration {0} has no inverse, so that no node can go back before it; give it `undo`",
                    migration.to
                );
                findings.push(about(Code::NoInverse, message));
            }
            let first = state.migrations.first().map_or(state.schema, |lowest| lowest.to);
            for to in
                (first..state.schema).map(|to| to + 1).filter(|to| state.migration(*to).is_none()).take(1)
            {
                let message = format!(
                    "there is no migration {to}, so that those before it lead nowhere; add it, or correct `schema`"
                );
                findings.push(about(Code::SchemaGap, message));
            }
            let lost = state.services.iter().filter(|service| !units.contains_key(*service));
            findings.extend(lost.map(|service| {
                let message = format!("its state is used by {service}, which is no unit; correct `services`");
                about(Code::UnitMissingDependency, message)
            }));
            let shipped = |path: &&FlistPath| {
                state.paths.iter().any(|state| path.is_beneath(state.inside()) || *path == state.inside())
            };
            if !state.migrations.is_empty() {
                findings.extend(placed.iter().filter(shipped).map(|path| {
                    let message = format!("it lies in the state of package {name}; ship it elsewhere");
                    Finding::about_path(Code::StateShipped, path.clone(), message)
                }));
            }
        }
        findings
    }
}
