//! Services that somebody has stopped since the plan was made, while files were fetched. What is stopped after the first
//! hook of a package may have been stopped by that hook, and is started again.
//!
//! They are the administrator's. Neither the transaction starts them, nor its undo, nor a recovery; so the journal
//! says before the first stop which services are stopped and started again. One whose unit has changed is forgotten
//! after the commit: before it, zinit would have to start it to know it again.

use std::collections::{BTreeMap, BTreeSet};

use zinit_client::{ServiceUnit, UnitName};

use super::journal::{Header, Journal, JournalPlace, Record, Swap};
use super::run::Run;
use super::services::{self, ServiceError};
use super::stopped_since::{self, append};
use super::undo::problem;
use super::{Progress, TransactionError, stopping};
use crate::plan::services::{check_none_held_up, is_wanted};
use crate::plan::{FileChange, Moment, Purpose, unit_name};
use crate::supervisor::{StopOrder, Supervisor};

impl Run<'_> {
    /// Looks which of the services that are to be stopped and started again are still wanted, and whether they would
    /// come up.
    ///
    /// # Errors
    /// [`TransactionError::HeldUp`]; [`TransactionError::Service`] when the supervisor does not answer.
    pub(super) async fn look_again(&mut self) -> Result<(), TransactionError> {
        let (before, after) = self.context.units;
        let plan = &self.plan.services;
        let starts = plan.start.iter().map(|unit| (unit, after));
        let backs = self.header.stop.iter().map(|unit| (unit, before));
        let needed = starts.chain(backs).filter_map(|(unit, units)| units.get(unit));
        let needed = needed.flat_map(|definition| &definition.after);
        let mut status = BTreeMap::new();
        for unit in self.header.stop.iter().chain(needed).collect::<BTreeSet<_>>() {
            let known =
                services::status(self.context.zinit, unit).await.map_err(TransactionError::Service)?;
            status.extend(known.map(|known| (unit.clone(), known)));
        }
        for unit in self.header.stop.clone() {
            if !is_wanted(status.get(&unit)) {
                self.leave_down(unit);
            }
        }
        // As in the plan: at a boot nothing is lost by waiting.
        if self.plan.purpose == Purpose::Boot {
            return Ok(());
        }
        let left = |unit: &&UnitName| !self.left_down.contains(*unit);
        let gone = plan.stop.iter().filter(left).chain(&plan.forget).chain(self.left_and_changed());
        let gone = gone.cloned().collect();
        let start = plan.start.iter().filter(left).cloned().collect();
        let back = self.to_stop().into_iter().collect();
        [(&start, after), (&back, before)]
            .into_iter()
            .try_for_each(|starts| check_none_held_up(starts, &gone, &status))
            .map_err(TransactionError::HeldUp)
    }

    /// Before the first stop: says in the journal who is stopped and started again.
    pub(super) async fn announce_stops(&mut self) -> Result<(), TransactionError> {
        if self.announced {
            return Ok(());
        }
        if !self.has_run_hooks() {
            self.look_again().await?;
        }
        self.announced = true;
        self.announce()
    }

    /// Whether somebody has stopped a service by now that is about to be stopped.
    pub(super) async fn is_left_down(&mut self, unit: &UnitName) -> Result<bool, TransactionError> {
        if self.left_down.contains(unit) {
            return Ok(true);
        }
        let zinit = self.context.zinit;
        // One of this order stops dependants itself, so from the first stop on it may have been us.
        let order = services::stop_order(zinit, unit).await.map_err(TransactionError::Service)?;
        let may_be_ours = order == StopOrder::AskAndKeep || self.has_run_hooks();
        if may_be_ours || !self.header.stop.contains(unit) {
            return Ok(false);
        }
        let status = services::status(zinit, unit).await.map_err(TransactionError::Service)?;
        if is_wanted(status.as_ref()) {
            return Ok(false);
        }
        self.leave_down(unit.clone());
        self.announce()?;
        Ok(true)
    }

    /// Makes the supervisor forget what others have stopped and what has another unit now. The generation is
    /// committed, so one that is not forgotten is only told of, and left to the next recovery; `false` then.
    pub(super) async fn forget_stopped(&self) -> bool {
        let units: BTreeSet<_> = self.plan.services.forget.iter().chain(self.left_and_changed()).collect();
        forget(self.context.zinit, units).await
    }

    /// Whether programs of packages have run, which may have stopped services.
    fn has_run_hooks(&self) -> bool {
        self.plan.packages.hooks.iter().any(|hook| hook.moment == Moment::BeforeSwap)
    }

    fn leave_down(&mut self, unit: UnitName) {
        if !self.left_down.contains(&unit) {
            tracing::warn!(service = %unit, "somebody has stopped it since the plan was made, so it is not started");
            self.left_down.insert(unit.clone());
            self.tell_left_down(unit);
        }
    }

    pub(super) fn tell_left_down(&self, unit: UnitName) {
        (self.context.observer)(Progress::LeftDown(unit));
    }

    fn left_and_changed(&self) -> impl Iterator<Item = &UnitName> {
        let changed = changed_units(&self.plan.files.changes);
        self.left_down.iter().filter(move |unit| changed.contains(*unit))
    }

    /// Those that are stopped and started again if this is undone.
    fn to_stop(&self) -> Vec<UnitName> {
        self.header.stop.iter().filter(|unit| !self.left_down.contains(*unit)).cloned().collect()
    }

    fn announce(&mut self) -> Result<(), TransactionError> {
        let record = Record::Stopping { units: self.to_stop() };
        self.journal.append(&record).map_err(TransactionError::Journal)
    }
}

/// Sees to it that what somebody else has stopped ends before its files are replaced. The supervisor goes on to know it.
///
/// # Errors
/// [`ServiceError`].
pub(super) async fn await_end(
    zinit: &dyn Supervisor,
    unit: &UnitName,
    definition: Option<&ServiceUnit>,
) -> Result<(), ServiceError> {
    match services::status(zinit, unit).await? {
        Some(status) if status.pid.is_some() => services::stop(zinit, unit, definition).await.map(drop),
        _ => Ok(()),
    }
}

/// Bytes that announcing stops takes in the journal, once and once more, and then the start of an undo.
pub(super) fn announcement(header: &Header) -> u64 {
    let of = |units: &[UnitName]| units.iter().map(|unit| unit.as_str().len() as u64 + 3).sum::<u64>();
    2 * of(&header.stop) + 2 * of(&header.start)
}

/// Of the services that a transaction was about to stop and to start again, those that were not wanted when it came to
/// that.
pub(super) fn left_down(header: &Header, records: &[Record]) -> BTreeSet<UnitName> {
    if !header.announces_stops {
        return BTreeSet::new();
    }
    let stopping = records.iter().rev().find_map(|record| match record {
        Record::Stopping { units } => Some(units.as_slice()),
        _ => None,
    });
    let stopping = stopping.unwrap_or_default();
    header.stop.iter().filter(|unit| !stopping.contains(unit)).cloned().collect()
}

/// Services that were down before a transaction that was cut off, as it has left them: stopped, or to be forgotten. A
/// recovery before this one has ended those of them that had been started since; after that nobody could tell.
pub(super) fn down_before(header: &Header, records: &[Record]) -> BTreeSet<UnitName> {
    let noted = records.iter().rev().find_map(|record| match record {
        Record::StillDown { units } => Some(units),
        _ => None,
    });
    let down = left_down(header, records).into_iter().chain(header.forget.iter().cloned());
    down.filter(|unit| noted.is_none_or(|noted| noted.contains(unit))).collect()
}

/// As [`still_down`]; the journal says who is, before the others are ended: a recovery that is cut off between ending one
/// and forgetting it would find it down.
pub(super) async fn left_down_still(
    zinit: &dyn Supervisor,
    down: BTreeSet<UnitName>,
    journal: &JournalPlace,
    not_undone: &mut Vec<String>,
) -> BTreeSet<UnitName> {
    let still = still_down(zinit, down.clone(), not_undone).await;
    if still != down {
        let record = Record::StillDown { units: still.iter().cloned().collect() };
        append(&mut Journal::at(journal.clone()), &record).await;
    }
    still
}

/// Of those that were left down, the ones that still are, and the ones of which nobody can tell. Who runs was started
/// since: by the administrator, or by a supervisor that began anew.
pub(super) async fn still_down(
    zinit: &dyn Supervisor,
    left_down: BTreeSet<UnitName>,
    not_undone: &mut Vec<String>,
) -> BTreeSet<UnitName> {
    let mut down = BTreeSet::new();
    for unit in left_down {
        // Who runs what is about to go, and is not known to, would go on with it.
        match stopped_since::status(zinit, &unit).await {
            Ok(status) if is_wanted(status.as_ref()) => continue,
            Ok(_) => {}
            Err(error) => not_undone.extend(problem(Err(error))),
        }
        down.insert(unit);
    }
    down
}

/// As [`Run::forget_stopped`], of a transaction that was cut off.
pub(super) async fn forget_after(
    zinit: &dyn Supervisor,
    (header, swaps): (&Header, &[Swap]),
    left_down: &BTreeSet<UnitName>,
) {
    let changed = changed_units(swaps.iter().map(|swap| &swap.change));
    let left = left_down.iter().filter(|unit| changed.contains(*unit));
    // What zinit has refused twice it would refuse for ever.
    let _is_told = forget(zinit, header.forget.iter().chain(left).collect()).await;
}

pub(super) fn changed_units<'c>(changes: impl IntoIterator<Item = &'c FileChange>) -> BTreeSet<UnitName> {
    changes.into_iter().filter_map(|change| unit_name(change.path())).collect()
}

async fn forget(zinit: &dyn Supervisor, units: BTreeSet<&UnitName>) -> bool {
    let mut all = true;
    for unit in units {
        if let Err(error) = forget_one(zinit, unit).await {
            tracing::error!(service = %unit, error = %flist::report(&error), "zinit still has its old unit");
            all = false;
        }
    }
    all
}

pub(super) async fn forget_one(zinit: &dyn Supervisor, unit: &UnitName) -> Result<(), ServiceError> {
    // It has forgotten everything that it has another unit of when it was about to load the first one.
    if services::stop_order(zinit, unit).await? == StopOrder::AskAndKeep {
        return Ok(());
    }
    stopping::forget_if_down(zinit, unit).await
}
