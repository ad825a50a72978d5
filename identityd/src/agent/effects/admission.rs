//! Is this node one for what the channel offers? Asked at each poll, before anything else is fetched.

use std::sync::Arc;

use bootstrap::engine::{EngineError, ReleaseTree};
use bootstrap::item::items_of;
use flist::path::FlistPath;

use super::{Effects, drop_on_blocking_thread, problem};
use crate::agent::model::{Problem, ProblemKind};

impl Effects {
    /// What keeps the offered release from being installed here.
    ///
    /// # Errors
    /// A [`Problem`]: nobody could find out.
    pub(super) async fn admit(&mut self) -> Result<Option<Problem>, Problem> {
        let Some(offered) = self.offered.clone() else { return Ok(None) };
        let admitted = match self.describe(&offered).await {
            Ok(()) => match &self.described {
                Some((_, packages)) => self.engine.admit(packages),
                None => Ok(()),
            },
            Err(error) => Err(error),
        };
        match admitted {
            Ok(()) => Ok(None),
            // The identityd of the release comes first and asks again.
            Err(error) if error.is_about_molt() && self.brings_another_identityd(&offered) => Ok(None),
            Err(error) => match problem(&error) {
                problem if problem.kind == ProblemKind::Refused => Ok(Some(problem)),
                problem => Err(problem),
            },
        }
    }

    /// Reads what the packages of a release declare, unless that is known.
    async fn describe(&mut self, release: &ReleaseTree) -> Result<(), EngineError> {
        if self.described.as_ref().is_some_and(|(known, _)| *known == release.id()) {
            return Ok(());
        }
        self.described = None;
        if release.tree().iter().any(|(path, _)| flist::package::package_at(path).is_some()) {
            let source = self.source(release, Arc::default()).await;
            let source = source.map_err(|problem| EngineError::NoSource(problem.message))?;
            let packages = self.engine.packages_of(release, source.clone()).await;
            drop_on_blocking_thread(source);
            self.described = Some((release.id(), packages?));
        }
        Ok(())
    }

    /// Whether the release has a file for this program with other content.
    fn brings_another_identityd(&self, release: &ReleaseTree) -> bool {
        let root = self.engine.root();
        let own =
            |path: &FlistPath| root.canonical(path).is_ok_and(|place| root.outer(&place) == self.program);
        items_of(release.tree()).into_iter().filter(|(path, _)| own(path)).any(|(path, item)| {
            let found = root
                .canonical(&path)
                .and_then(|place| root.observe(&place, item.codec().unwrap_or_default()));
            found.is_ok_and(|found| found.is_none_or(|found| found.item.what != item.what))
        })
    }
}
