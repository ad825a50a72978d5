//! Which layout the state of a package has: what the state says itself, and what is recorded.

use std::collections::BTreeMap;

use flist::package::{NodePath, PackageName, Standing as Layout};

use super::packages::Migrations;
use super::{Engine, EngineError};
use crate::root::failed;
use crate::transaction::states;

/// The layouts that are recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recorded {
    /// By package.
    pub(super) schemas: BTreeMap<PackageName, u32>,
    /// Records are lost: of a package that is not among these nobody knows the layout.
    pub(super) is_incomplete: bool,
}

impl Recorded {
    /// What is recorded once this has been done.
    pub(super) fn after(mut self, migrations: &Migrations) -> Self {
        for (name, migrate) in migrations {
            match migrate.to {
                Some(to) => drop(self.schemas.insert(name.clone(), to)),
                None => drop(self.schemas.remove(name)),
            }
        }
        self
    }
}

/// The layout of state, of which this is recorded, and whose directories that are not empty say this. What they say
/// counts first: it is changed together with what is in them. Pure.
fn layout_of(recorded: Option<u32>, is_incomplete: bool, said: &[Option<u32>]) -> Layout {
    let first = said.first().copied().flatten();
    match (first.filter(|_| said.iter().all(|one| *one == first)), recorded) {
        (Some(schema), _) | (None, Some(schema)) => Layout::At(schema),
        (None, None) if is_incomplete => Layout::Unknown,
        (None, None) => Layout::At(0),
    }
}

impl Engine {
    /// The layout of state at these paths, of which this is recorded.
    pub(super) fn layout(
        &self,
        recorded: &Recorded,
        name: &PackageName,
        paths: &[&NodePath],
    ) -> Result<Layout, EngineError> {
        let schema = recorded.schemas.get(name).copied();
        let (mut there, mut said) = (paths.is_empty() && schema.is_some(), Vec::new());
        for path in paths {
            let Some(real) = self.directory(path.inside())? else { continue };
            let names = self.root.disk().list(&real).map_err(failed("list", &real));
            if !names.map_err(EngineError::Root)?.is_empty() {
                there = true;
                said.push(states::schema_of(&self.root, &real).map_err(EngineError::Root)?);
            }
        }
        Ok(if there { layout_of(schema, recorded.is_incomplete, &said) } else { Layout::Fresh })
    }

    /// The layouts as they are recorded last, in whatever root: state may lie on a disk that outlives it. An
    /// earlier version of this program records none, and changes none.
    ///
    /// Where nothing is recorded, or what is recorded last cannot be told or read, older records say nothing: they may
    /// have been overtaken.
    pub(super) fn recorded_layouts(&self) -> Result<Recorded, EngineError> {
        let lost = Recorded { is_incomplete: true, ..Recorded::default() };
        let Some(current) = self.state.current_number().map_err(EngineError::Generation)? else {
            return Ok(lost);
        };
        let numbers = self.state.numbers().map_err(EngineError::Generation)?;
        let earlier = numbers.into_iter().rev().filter(|number| *number < current);
        for number in [current].into_iter().chain(earlier) {
            let generation = self.state.recorded(number).map_err(EngineError::Generation)?;
            let Some(generation) = generation else { return Ok(lost) };
            if let Some(schemas) = generation.schemas {
                return Ok(Recorded { schemas, is_incomplete: generation.layouts_lost });
            }
        }
        Ok(Recorded::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_state_says_itself_counts_before_records_and_nobody_guesses() {
        let lost = |said: &[Option<u32>]| layout_of(None, true, said);
        assert_eq!(lost(&[None]), Layout::Unknown);
        assert_eq!(lost(&[Some(3), None]), Layout::Unknown);
        assert_eq!(lost(&[Some(3), Some(2)]), Layout::Unknown);
        assert_eq!(lost(&[Some(3), Some(3)]), Layout::At(3));
        assert_eq!(layout_of(Some(1), true, &[None]), Layout::At(1));
        assert_eq!(layout_of(Some(1), false, &[Some(3), None]), Layout::At(1));
        assert_eq!(layout_of(Some(1), false, &[Some(3)]), Layout::At(3));
        assert_eq!(layout_of(None, false, &[None]), Layout::At(0));
        assert_eq!(layout_of(None, false, &[Some(3)]), Layout::At(3));
        assert_eq!(layout_of(Some(2), false, &[]), Layout::At(2));
    }
}
