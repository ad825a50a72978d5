//! Would the root run as it will be after the swap? Asked before any service is stopped.

use std::collections::{BTreeMap, BTreeSet};

use flist::package::{Package, PackageName};
use flist::path::FlistPath;
use flist::rehearsal::{
    Code, Facts, Finding, FutureRoot, Node, Purpose, RootError, Service, machine, rehearse, without_repeats,
};
use zinit_client::{ServiceUnit, UnitName};

use crate::disk::{Kind, is_absent};
use crate::generation::Packages;
use crate::plan::FileChange;
use crate::root::Root;
use crate::settings::{CONFIG, MAX_FILE, Settings};
use crate::transaction::journal::Swap;

/// Units by name.
type Units = BTreeMap<UnitName, ServiceUnit>;

/// Who starts with the configuration as it will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConfigReader {
    /// This program, or one that reads the same.
    ThisOne,
    /// A newer one, which alone knows whether it can.
    Newer,
}

/// What would be wrong after the swap and is not wrong now.
///
/// # Errors
/// The root, or what is staged, could not be looked at.
pub(crate) fn findings(
    root: &Root,
    swaps: &[Swap],
    (before, after): (&Units, &Units),
    packages: &Packages,
    reader: ConfigReader,
) -> Result<Vec<Finding>, RootError> {
    let changed: Vec<FlistPath> = swaps
        .iter()
        .filter(|swap| swap.change.staged().is_some())
        .map(|swap| swap.change.path().clone())
        .collect();
    let look = |root: &dyn FutureRoot, units: &Units, packages: &Packages| {
        let services = [services(units), programs(packages)].concat();
        let facts = Facts { services: &services, changed: &changed, machine: here() };
        let mut found = rehearse(root, &facts)?;
        if reader == ConfigReader::ThisOne {
            found.extend(configuration(root)?);
        }
        Ok(found)
    };
    let known: BTreeSet<Finding> =
        look(&AfterSwap::of(root, &[])?, before, &Packages::new())?.into_iter().collect();
    let mut found = look(&AfterSwap::of(root, swaps)?, after, packages)?;
    found.retain(|finding| !known.contains(finding));
    Ok(without_repeats(found))
}

/// What is wrong with our own configuration file: a release whose programs cannot read it could never be repaired by
/// another one.
fn configuration(root: &dyn FutureRoot) -> Result<Option<Finding>, RootError> {
    let path: FlistPath = CONFIG.parse().map_err(|error: flist::path::PathError| RootError {
        action: "name",
        path: FlistPath::root(),
        source: error.into(),
    })?;
    let Some(Node::File { size, .. }) = root.look(&path)? else { return Ok(None) };
    // One byte more than is read of it: then it is too long.
    let length = usize::try_from(size.min(MAX_FILE + 1)).unwrap_or(usize::MAX);
    let text = root.read(&path, 0, length)?;
    let checked = Settings::check(std::path::Path::new("/").join(CONFIG).as_path(), &text);
    let refused =
        |error| format!("identityd and bootstrap could not start with it: {}", flist::report(&error));
    Ok(checked.err().map(|error| Finding::about_path(Code::ConfigurationInvalid, path, refused(error))))
}

/// The processor of this node.
fn here() -> u16 {
    if cfg!(target_arch = "aarch64") { machine::AARCH64 } else { machine::X86_64 }
}

fn services(units: &Units) -> Vec<Service> {
    let of = |(name, unit): (&UnitName, &ServiceUnit)| {
        let service = |purpose, argv: Vec<String>| Service {
            unit: name.as_str().to_owned(),
            purpose,
            argv,
            directory: unit.dir.clone(),
            path: unit.env.get("PATH").cloned(),
            library_path: unit.env.get("LD_LIBRARY_PATH").cloned(),
        };
        // Commands that cannot be split are the plan's business.
        let exec = unit.command().ok().map(|argv| service(Purpose::Exec, argv));
        let test = unit.test_command().ok().flatten().map(|argv| service(Purpose::Test, argv));
        [exec, test]
    };
    units.iter().flat_map(of).flatten().collect()
}

fn programs(packages: &Packages) -> Vec<Service> {
    let of = |(name, package): (&PackageName, &Package)| {
        package.programs().map(|(_, command)| Service::of_package(name, command)).collect::<Vec<_>>()
    };
    packages.iter().flat_map(of).collect()
}

/// What is at a path after the swap.
enum Placed<'s> {
    Nothing,
    Directory,
    /// What lies in this slot now.
    Staged(&'s FlistPath),
}

impl<'s> Placed<'s> {
    fn of(swap: &'s Swap) -> Self {
        match (&swap.change, &swap.slot) {
            (FileChange::MakeDirectory { .. }, _) => Self::Directory,
            (FileChange::Add { .. } | FileChange::Replace { .. }, Some(slot)) => Self::Staged(slot),
            _ => Self::Nothing,
        }
    }
}

/// The root file system with changes that have not been made yet.
struct AfterSwap<'r> {
    root: &'r Root,
    placed: BTreeMap<&'r FlistPath, Placed<'r>>,
    /// The names of what is placed, by directory.
    names: BTreeMap<FlistPath, Vec<&'r FlistPath>>,
}

impl<'r> AfterSwap<'r> {
    fn of(root: &'r Root, swaps: &'r [Swap]) -> Result<Self, RootError> {
        let placed = swaps.iter().map(|swap| (swap.change.path(), Placed::of(swap))).collect();
        let mut names: BTreeMap<FlistPath, Vec<_>> = BTreeMap::new();
        for path in swaps.iter().map(|swap| swap.change.path()) {
            names.entry(path.parent().unwrap_or_default()).or_default().push(path);
        }
        let mut after = Self { root, placed, names };
        // From the bottom, as they are removed: a directory that somebody else has put something into stays.
        for swap in swaps.iter().filter(|swap| matches!(swap.change, FileChange::RemoveDirectory { .. })) {
            let path = swap.change.path();
            if !after.list(path)?.is_empty() {
                after.placed.insert(path, Placed::Directory);
            }
        }
        Ok(after)
    }

    /// Where the file is now that will be at a path.
    fn now<'p>(&'p self, path: &'p FlistPath) -> &'p FlistPath {
        match self.placed.get(path) {
            Some(Placed::Staged(slot)) => slot,
            _ => path,
        }
    }
}

fn failed(action: &'static str, path: &FlistPath) -> impl FnOnce(std::io::Error) -> RootError + use<> {
    let path = path.clone();
    move |source| RootError { action, path, source: source.into() }
}

impl FutureRoot for AfterSwap<'_> {
    fn look(&self, path: &FlistPath) -> Result<Option<Node>, RootError> {
        match self.placed.get(path) {
            Some(Placed::Nothing) => return Ok(None),
            Some(Placed::Directory) => return Ok(Some(Node::Directory)),
            Some(Placed::Staged(_)) | None => {}
        }
        let at = self.now(path);
        let disk = self.root.disk();
        let Some(stat) = disk.stat(at).map_err(failed("look at", path))? else { return Ok(None) };
        Ok(Some(match stat.kind {
            Kind::Directory => Node::Directory,
            Kind::File => Node::File { size: stat.size, mode: stat.mode },
            Kind::Symlink => Node::Symlink(disk.read_link(at).map_err(failed("read the link", path))?),
            _ => Node::Other,
        }))
    }

    fn read(&self, path: &FlistPath, offset: u64, length: usize) -> Result<Vec<u8>, RootError> {
        let file = self.root.disk().open(self.now(path), false).map_err(failed("open", path))?;
        let mut bytes = vec![0; length];
        let mut read = 0;
        while read < length {
            match file.read_at(&mut bytes[read..], offset + read as u64).map_err(failed("read", path))? {
                0 => break,
                more => read += more,
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    fn list(&self, path: &FlistPath) -> Result<Vec<Vec<u8>>, RootError> {
        let mut names: BTreeSet<Vec<u8>> = match self.root.disk().list(path) {
            Ok(names) => names.into_iter().collect(),
            Err(error) if is_absent(&error) => BTreeSet::new(),
            Err(error) => return Err(failed("list", path)(error)),
        };
        for at in self.names.get(path).into_iter().flatten() {
            match self.placed.get(at) {
                Some(Placed::Nothing) => names.remove(at.name()),
                Some(Placed::Directory | Placed::Staged(_)) => names.insert(at.name().to_vec()),
                None => false,
            };
        }
        Ok(names.into_iter().collect())
    }
}
