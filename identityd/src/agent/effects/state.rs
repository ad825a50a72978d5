//! Where the state is, and what else is to be shown of the node.

use std::path::Path;
use std::time::Duration;

use bootstrap::boot_waits;
use bootstrap::engine::{LOCK_PATIENCE, Outdated, RunsOld};
use bootstrap::generation::{Standing, StateDir, boot_id};
use bootstrap::lock::{self, EngineLock};
use bootstrap::plan::services::{SUPERVISOR, runs_until};
use bootstrap::settings::Settings;
use bootstrap::state_place::StatePlace;
use flist::path::FlistPath;
use flist::report;
use zinit_client::UnitName;

use super::{Effects, local, problem, revert};
use crate::agent::model::{Facts, Problem, ProblemKind, StateInRam};
use crate::orders::OrdersFile;
use crate::own_unit;
use crate::timestamp::Timestamp;

/// At the start: where the directory that counts cannot even be opened, the state moves at once.
///
/// # Errors
/// A [`Problem`] when it cannot be anywhere.
pub(super) fn find(settings: &Settings, place: &StatePlace) -> Result<(), Problem> {
    let Err(error) = StateDir::open(&place.directory()) else { return Ok(()) };
    tracing::warn!(error = report(&error), "looking for another place for the state");
    let taken = lock::take(&settings.run_dir, "identityd", LOCK_PATIENCE);
    let lock = taken.map_err(|error| Problem::new(ProblemKind::Busy, report(&error)))?;
    let settled = place.settle(&lock, None, 0);
    settled.map(drop).map_err(|error| local("cannot find a place for the state", &error))
}

/// What it means that nothing that can be read says what is installed, although this root has something from us.
pub(crate) fn records_lost(directory: &Path) -> String {
    format!(
        "nothing in {} says what is installed, although something is: it was deleted or damaged, or its disk is not mounted; nothing can be gone back to, and holds, bad releases and history are forgotten as far as they were there; the next upgrade compares the whole root with the release, keeps what differs in /etc, and records it anew",
        directory.display()
    )
}

/// Whether a rollback is under way. Where nobody can read the orders, one may be among them.
pub(super) fn rolls_back(place: &StatePlace) -> bool {
    OrdersFile::at(place.clone()).load().map_or(true, |orders| orders.rollback.is_some())
}

impl Effects {
    /// Has the state where it can be used, with room for `need` bytes of records.
    ///
    /// # Errors
    /// A [`Problem`].
    pub(super) fn settle_state(&mut self, lock: &EngineLock, need: u64) -> Result<(), Problem> {
        let identity = self.engine.identity().map_err(|error| problem(&error))?;
        // It may copy all of the state, or wait for a disk that fails.
        let settled = tokio::task::block_in_place(|| self.place.settle(lock, Some(&identity), need));
        let settled = settled.map(drop).map_err(|error| local("the state cannot be used", &error));
        self.state_unusable = settled.as_ref().err().map(|problem| problem.message.clone());
        settled?;
        self.follow_state()
    }

    /// Goes on where the state is now, whoever has moved it: doctor, an order, another engine.
    ///
    /// # Errors
    /// A [`Problem`] when it cannot be opened.
    pub(super) fn follow_state(&mut self) -> Result<(), Problem> {
        let state = self.engine.state();
        // What was opened before may have been removed since.
        if state.path() != self.place.directory() || !state.is_in_place() {
            let rolls_back = rolls_back(&self.place);
            self.engine = revert::open(&self.settings, rolls_back)?;
        }
        Ok(())
    }

    /// Moves the state if it has to be moved, unless another engine is at work, which does it.
    ///
    /// # Errors
    /// A [`Problem`].
    pub(super) fn look_after_state(&mut self) -> Result<(), Problem> {
        match lock::take(&self.settings.run_dir, "identityd", Duration::ZERO) {
            Ok(lock) => self.settle_state(&lock, 0),
            Err(_) => self.follow_state(),
        }
    }

    /// What is to be shown of the node.
    pub async fn facts(&mut self) -> Facts {
        let in_ram = |notice: bootstrap::state_place::Notice| StateInRam {
            since: Timestamp::from_unix(notice.since),
            reason: notice.reason,
            unread: notice.unread,
        };
        let runs_old = self.engine.runs_old().await;
        let runs_old = runs_old.inspect_err(|error| tracing::debug!(error = report(error), "not shown"));
        let conflicts = self.engine.conflicts();
        let conflicts = conflicts.inspect_err(|error| tracing::debug!(error = report(error), "not shown"));
        let state_in_ram = self.place.notice().map(in_ram);
        let records_lost = self.records_lost();
        let rollback_blocked = self.rollback_blocked();
        let state_unusable = self.state_unusable.clone();
        let (withheld, mirrors) = (self.withheld(), self.offers.mirrors().clone());
        let runs_old = runs_old.ok().map(|runs_old| self.with_own_unit(runs_old));
        Facts {
            state_in_ram,
            state_unusable,
            rollback_blocked,
            records_lost,
            runs_old,
            withheld,
            mirrors,
            insecure: Some(self.is_insecure()),
            node: Some(self.node()),
            asked_channel: self.asked_channel(),
            boot_waits: boot_waits::read(&self.settings.run_dir),
            conflicts: conflicts.ok(),
        }
    }

    /// Why nobody knows what is installed although something is; said in the log when it comes to be so.
    fn records_lost(&mut self) -> Option<String> {
        let standing = self.engine.standing();
        let standing = standing.inspect_err(|error| tracing::debug!(error = report(error), "not shown"));
        let lost = matches!(standing, Ok(Standing::Damaged)).then(|| records_lost(&self.place.directory()));
        if let Some(why) = lost.as_ref().filter(|_| !self.lost) {
            tracing::error!("{why}");
        }
        self.lost = lost.is_some();
        lost
    }

    /// What this node is to follow instead of what is installed, if it is another channel.
    fn asked_channel(&self) -> Option<String> {
        let current = self.current().ok()??;
        let asks = self.settings.asks_instead_of(&current.channel)?;
        Some(format!(
            "{asks}, but {} is installed and followed; a boot at which a hub offers what is asked for installs that",
            current.channel
        ))
    }

    /// The supervisor, too, has what is no longer installed: the unit of this service.
    fn with_own_unit(&self, mut runs_old: RunsOld) -> RunsOld {
        let (run_dir, root) = (&self.settings.run_dir, &self.settings.root);
        let outdated = own_unit::outdated(run_dir, root, &boot_id());
        let outdated = outdated.inspect_err(|error| tracing::debug!(%error, "not shown")).ok().flatten();
        let unit = outdated.and_then(|path| path.parse::<FlistPath>().ok());
        let (Some(unit), Ok(zinit)) = (unit, SUPERVISOR.parse::<UnitName>()) else { return runs_old };
        match runs_old.services.iter_mut().find(|outdated| outdated.service == zinit) {
            Some(outdated) => drop(outdated.files.insert(unit)),
            None => {
                let until = runs_until(&zinit).to_owned();
                let files = [unit].into();
                runs_old.services.push(Outdated { service: zinit, files, more_files: 0, until });
            }
        }
        runs_old
    }

    /// Why the release before cannot be put back, as far as that is known without trying.
    fn rollback_blocked(&self) -> Option<String> {
        let blocked = self.engine.blocked_target();
        blocked.unwrap_or_else(|error| {
            tracing::debug!(error = report(&error), "not shown");
            None
        })
    }
}
