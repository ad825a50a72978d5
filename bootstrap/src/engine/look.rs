//! Looking at the node and at the release, before anything is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flist::block::Codec;
use flist::path::FlistPath;
use flist::tree::{Fingerprint, Kind, Tree};
use zinit_client::{ServiceUnit, UnitName};

use super::{EngineError, MAX_SERVICES, MAX_UNIT};
use crate::disk::{self, is_absent};
use crate::item::{Item, Items, What, items_of};
use crate::plan::files::is_configuration;
use crate::plan::{FileChange, PlanError, StatePaths, UNIT_DIRECTORY, Wanted, beside, unit_name};
use crate::root::{Found, Root, failed};
use crate::source::ContentSource;

/// A look at the node; blocks the thread, because it reads and identifies every installed file.
pub(super) struct Look {
    /// The root file system.
    pub(super) root: Arc<Root>,
    /// The release.
    pub(super) tree: Arc<Tree>,
    /// What is installed.
    pub(super) base: Items,
    /// What releases have put beside configuration.
    pub(super) besides: Items,
    /// What is state.
    pub(super) state: StatePaths,
    /// The only paths that count, of the release and of what is installed; `None` for all.
    pub(super) only: Option<BTreeSet<FlistPath>>,
}

/// What was seen, at paths without symlinks.
pub(super) struct View {
    /// What the release wants.
    pub(super) wanted: BTreeMap<FlistPath, Wanted>,
    /// What the root holds at the paths of the release and of what is installed.
    pub(super) found: BTreeMap<FlistPath, Found>,
    /// Units.
    pub(super) units: Units,
    /// What is installed, as far as it counts.
    pub(super) base: Items,
    /// What is state, also where links lead to it.
    pub(super) state: StatePaths,
}

impl Look {
    /// Looks.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(super) fn take(mut self, source: &dyn ContentSource) -> Result<View, EngineError> {
        let wanted = self.wanted()?;
        // A directory may have become a symlink since the last generation was installed: then the same
        // file has another name now.
        let mut base = Items::new();
        for (name, item) in std::mem::take(&mut self.base) {
            let path = self.root.canonical(&name).map_err(EngineError::Root)?;
            self.state.note(&name, &path);
            base.insert(path, item);
        }
        for (path, Wanted { from, .. }) in &wanted {
            self.state.note(from, path);
        }
        self.base = base;
        if let Some(only) = &self.only {
            // What counts and is not in the release goes.
            self.base.retain(|path, _| wanted.contains_key(path) || only.contains(path));
        }
        let found = self.found(&wanted)?;
        self.compare_formats(&wanted, &found, source)?;
        let units =
            Units { before: self.units_in_root()?, release: self.units_of_release(&wanted, &found, source)? };
        Ok(View { wanted, found, units, base: self.base, state: self.state })
    }

    /// What the root holds, identified as the release identifies it. What is installed may have come from a flist of
    /// another format: where the root still holds it, it is identified anew, so that all three can be compared.
    fn found(
        &mut self,
        wanted: &BTreeMap<FlistPath, Wanted>,
    ) -> Result<BTreeMap<FlistPath, Found>, EngineError> {
        let recorded = self.besides.iter().map(|(path, item)| (path.clone(), item.codec()));
        let besides = wanted.iter().filter(|(path, _)| is_configuration(path));
        let besides = besides.filter_map(|(path, wanted)| Some((beside(path)?, wanted.item.codec())));
        let of_release = wanted.iter().map(|(path, wanted)| (path.clone(), wanted.item.codec()));
        let of_base = self.base.iter().map(|(path, item)| (path.clone(), item.codec()));
        // Of one path, the last counts.
        let paths: BTreeMap<FlistPath, Option<Codec>> =
            recorded.chain(of_base).chain(besides).chain(of_release).collect();
        let mut found = BTreeMap::new();
        for (path, codec) in paths {
            let codec = codec.unwrap_or_default();
            let base = self.base.get_mut(&path);
            let other = base.as_deref().and_then(Item::codec).filter(|other| *other != codec);
            let there = match (other, base) {
                (Some(other), Some(base)) => {
                    let there =
                        self.root.observe_by_each(&path, [codec, other]).map_err(EngineError::Root)?;
                    there.map(|(there, fingerprints)| {
                        if let What::File { fingerprint, .. } = &mut base.what
                            && let [by_release, by_base] = fingerprints.as_slice()
                            && fingerprint == by_base
                        {
                            *fingerprint = *by_release;
                        }
                        there
                    })
                }
                _ => self.root.observe(&path, codec).map_err(EngineError::Root)?,
            };
            found.extend(there.map(|there| (path, there)));
        }
        Ok(found)
    }

    /// Configuration that the user has changed: what is installed cannot be identified anew by what the root holds.
    /// So the release's is identified as what is installed was.
    fn compare_formats(
        &mut self,
        wanted: &BTreeMap<FlistPath, Wanted>,
        found: &BTreeMap<FlistPath, Found>,
        source: &dyn ContentSource,
    ) -> Result<(), EngineError> {
        let there = |path: &FlistPath| is_configuration(path) && found.contains_key(path);
        for (path, base) in self.base.iter_mut().filter(|(path, _)| there(path)) {
            let Some(Wanted { item, from }) = wanted.get(path) else { continue };
            let What::File { size, fingerprint: old } = base.what else { continue };
            if item.codec().is_none_or(|new| new == old.codec()) || item.size() != size {
                continue;
            }
            let Some(Kind::File(content)) = self.tree.get(from).map(|entry| &entry.kind) else { continue };
            let failed = |source| EngineError::Content { path: path.clone(), source };
            let keys = (0..content.blocks.len()).map(|index| {
                let plain = source.block(from, content, index).map_err(failed)?;
                Ok(old.codec().key_of(&plain))
            });
            let keys = keys.collect::<Result<Vec<_>, EngineError>>()?;
            if Fingerprint::of(size, keys.into_iter()) == old {
                base.what = item.what.clone();
            }
        }
        Ok(())
    }

    /// The release at paths without symlinks.
    fn wanted(&self) -> Result<BTreeMap<FlistPath, Wanted>, EngineError> {
        let mut wanted = BTreeMap::<FlistPath, Wanted>::new();
        for (from, item) in items_of(&self.tree) {
            if self.only.as_ref().is_some_and(|only| !only.contains(&from)) {
                continue;
            }
            let path = self.root.canonical(&from).map_err(EngineError::Root)?;
            match wanted.get(&path) {
                None => {
                    wanted.insert(path, Wanted { item, from });
                }
                Some(other) if other.item.is_directory() && item.is_directory() => {}
                Some(other) => {
                    let first = other.from.clone();
                    return Err(EngineError::Plan(PlanError::TwoNames { first, second: from, path }));
                }
            }
        }
        Ok(wanted)
    }

    fn units_in_root(&self) -> Result<BTreeMap<UnitName, ServiceUnit>, EngineError> {
        let directory: FlistPath =
            UNIT_DIRECTORY.parse().map_err(|error| EngineError::Plan(PlanError::Path(error)))?;
        let mut units = BTreeMap::new();
        let names = match self.root.disk().list(&directory) {
            Ok(names) => names,
            Err(error) if is_absent(&error) => return Ok(units),
            Err(error) => return Err(EngineError::Root(failed("list", &directory)(error))),
        };
        for name in names.into_iter().take(MAX_SERVICES) {
            let Ok(path) = directory.join(&name) else { continue };
            let Some(name) = unit_name(&path) else { continue };
            // What is no file or too long is no unit. What cannot be read may be one, so nothing is decided.
            let bytes = match disk::read_small(self.root.disk(), &path, MAX_UNIT, true) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) if disk::is_no_plain_file(&error) => continue,
                Err(error) => return Err(EngineError::Root(failed("read", &path)(error))),
            };
            // zinit ignores units that do not parse, and so does the order of services.
            if let Ok(unit) = ServiceUnit::parse(&name, &String::from_utf8_lossy(&bytes)) {
                units.insert(name, unit);
            }
        }
        Ok(units)
    }

    fn units_of_release(
        &self,
        wanted: &BTreeMap<FlistPath, Wanted>,
        found: &BTreeMap<FlistPath, Found>,
        source: &dyn ContentSource,
    ) -> Result<BTreeMap<FlistPath, (UnitName, ServiceUnit)>, EngineError> {
        let mut units = BTreeMap::new();
        for (path, Wanted { from, item }) in wanted {
            let (Some(name), Some(entry)) = (unit_name(path), self.tree.get(from)) else { continue };
            let Kind::File(content) = &entry.kind else { continue };
            if content.size > MAX_UNIT as u64 {
                return Err(EngineError::UnitText(path.clone()));
            }
            // What is here already is not fetched.
            let same = found.get(path).is_some_and(|found| found.item.what == item.what);
            let local =
                if same { self.root.read_small(path, MAX_UNIT).map_err(EngineError::Root)? } else { None };
            let fetch = || {
                let blocks = (0..content.blocks.len()).map(|index| source.block(from, content, index));
                blocks.collect::<Result<Vec<_>, _>>().map(|blocks| blocks.concat())
            };
            let bytes = match local {
                Some(bytes) => bytes,
                None => fetch().map_err(|source| EngineError::Content { path: path.clone(), source })?,
            };
            let text = String::from_utf8(bytes).map_err(|_| EngineError::UnitText(path.clone()))?;
            let unit = ServiceUnit::parse(&name, &text)
                .map_err(|source| EngineError::Unit { path: path.clone(), source })?;
            units.insert(path.clone(), (name, unit));
        }
        Ok(units)
    }
}

/// Units in the root, and those of the release at their paths.
pub(super) struct Units {
    /// Those in the root now.
    pub(super) before: BTreeMap<UnitName, ServiceUnit>,
    release: BTreeMap<FlistPath, (UnitName, ServiceUnit)>,
}

impl Units {
    /// The units that will be in the root after these changes.
    pub(super) fn after(&self, changes: &[FileChange]) -> BTreeMap<UnitName, ServiceUnit> {
        let mut after = self.before.clone();
        for change in changes {
            let Some(name) = unit_name(change.path()) else { continue };
            match change {
                FileChange::Remove { .. } => {
                    after.remove(&name);
                }
                _ => {
                    let unit = self.release.get(change.path());
                    after.extend(unit.map(|(name, unit)| (name.clone(), unit.clone())));
                }
            }
        }
        after
    }
}
