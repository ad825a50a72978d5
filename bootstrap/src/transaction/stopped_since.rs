//! Services that somebody has stopped after a transaction has started them, when it is undone. They are the
//! administrator's, as those that he has stopped before (see `left_down`): they end, but are not started again.
//!
//! Undoing stops services, too. So it is looked first, and the journal says who was found, for recovery cannot tell any
//! more once something has been ended. The supervisor goes on to know them, unless their unit is another one afterwards.
//!
//! Nobody is taken for stopped by the administrator whom something else may have stopped: a program of a package that ran
//! after the start, or a supervisor that stops what depends on a service together with it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;
use zinit_client::{ServiceStatus, Target, UnitName};

use super::journal::{Header, Journal, JournalPlace, Record};
use super::left_down::{await_end, changed_units, forget_one, left_down, still_down};
use super::recover::Swapped;
use super::run::Run;
use super::services::{self, ServiceError};
use super::undo::problem;
use crate::plan::Moment;
use crate::supervisor::{StopOrder, Supervisor};

/// How often a supervisor is asked that does not answer, and the journal is written that does not take a record.
const REPEATS: u32 = 3;

/// How long to wait before that.
const REPEAT_AFTER: Duration = Duration::from_millis(200);

impl Run<'_> {
    /// When the health window begins: who is down now may have been stopped by a program of a package.
    pub(super) async fn suspect_hooks(&mut self) {
        if self.has_run_after_start() {
            let (zinit, mut suspects) = (self.context.zinit, BTreeSet::new());
            let mut answers = true;
            for unit in &self.started {
                let target = if answers { target(zinit, unit).await } else { Err(Silent) };
                answers = target.is_ok();
                if target != Ok(Some(Target::Up)) {
                    suspects.insert(unit.clone());
                }
            }
            self.stopped_by_hooks = Some(suspects);
        }
    }

    /// Before anything is undone: looks who has been stopped since he was started, and says so in the journal.
    pub(super) async fn note_stopped_since(&mut self) {
        if self.started.is_empty() {
            return;
        }
        self.stopped_since = self.look_who_is_stopped().await;
        for unit in self.stopped_since.clone() {
            tracing::warn!(service = %unit, "somebody has stopped it since it was started, so it is not started again");
            self.tell_left_down(unit);
        }
        note(&mut self.journal, &self.stopped_since).await;
    }

    async fn look_who_is_stopped(&self) -> BTreeSet<UnitName> {
        // A program that failed, or was given up, has had no window after it.
        if self.stopped_by_hooks.is_none() && self.has_run_after_start() {
            return BTreeSet::new();
        }
        let suspects = self.stopped_by_hooks.as_ref();
        let is_suspect = |unit: &UnitName| suspects.is_some_and(|suspects| suspects.contains(unit));
        stopped(self.context.zinit, self.started.iter().filter(|unit| !is_suspect(unit))).await
    }

    /// Ends what runs of the new generation of a service; whom somebody has stopped, as he wants it.
    pub(super) async fn end(&mut self, unit: &UnitName) -> Result<(), ServiceError> {
        let (zinit, definition) = (self.context.zinit, self.context.units.1.get(unit));
        if self.stopped_since.contains(unit) && target(zinit, unit).await == Ok(Some(Target::Up)) {
            // Somebody has started it again. After a kill, only the journal says that it is wanted.
            self.stopped_since.remove(unit);
            note(&mut self.journal, &self.stopped_since).await;
        }
        match self.stopped_since.contains(unit) {
            true => await_end(zinit, unit, definition).await,
            false => services::stop_and_forget(zinit, unit, definition).await,
        }
    }

    /// See [`forget_changed`].
    pub(super) async fn forget_stopped_since(&self) -> Vec<String> {
        forget_changed(self.context.zinit, &self.stopped_since, &changed_units(&self.plan.files.changes))
            .await
    }

    fn has_run_after_start(&self) -> bool {
        self.hooks.iter().any(|hook| self.header.hooks[*hook].moment == Moment::AfterStart)
    }
}

/// As [`Run::note_stopped_since`], of a transaction that was cut off: whom the journal says, or who is found if nothing
/// has been ended yet. One that does not say when it begins to be undone, of an earlier version, may have been ended.
pub(super) async fn stopped_since(
    zinit: &dyn Supervisor,
    (header, records): (&Header, &[Record]),
    swapped: Swapped,
    journal: &JournalPlace,
) -> BTreeSet<UnitName> {
    let noted = records.iter().rev().find_map(|record| match record {
        Record::Undoing { stopped } => Some(stopped.iter().cloned().collect()),
        _ => None,
    });
    let is_after_start = |record: &Record| match record {
        Record::Hook { hook } => header.hooks.get(*hook).is_none_or(|hook| hook.moment == Moment::AfterStart),
        _ => false,
    };
    if let Some(noted) = noted {
        return noted;
    }
    if swapped == Swapped::No || !header.announces_undo {
        return BTreeSet::new();
    }
    // Who was left down has not been started.
    let left_down = left_down(header, records);
    let is_started = |unit: &&UnitName| header.stop.contains(*unit) && !left_down.contains(*unit);
    // Before the swap it may have been us.
    let may_be_others = swapped == Swapped::Unknown || records.iter().any(is_after_start);
    let found = match may_be_others {
        true => BTreeSet::new(),
        false => stopped(zinit, header.start.iter().filter(is_started)).await,
    };
    note(&mut Journal::at(journal.clone()), &found).await;
    found
}

/// Whom a recovery leaves down of those whom somebody has stopped: who is wanted again by now is told to the journal, as
/// he is about to be ended.
pub(super) async fn still_stopped(
    zinit: &dyn Supervisor,
    since: BTreeSet<UnitName>,
    journal: &JournalPlace,
    not_undone: &mut Vec<String>,
) -> BTreeSet<UnitName> {
    let down = still_down(zinit, since.clone(), not_undone).await;
    if down != since {
        note(&mut Journal::at(journal.clone()), &down).await;
    }
    down
}

/// Says in the journal that it is undone from here on, at the second or third attempt if need be: without it a kill right
/// after a stop would be taken for the administrator's. Where that is not possible, it is undone all the same.
async fn note(journal: &mut Journal, stopped: &BTreeSet<UnitName>) {
    append(journal, &Record::Undoing { stopped: stopped.iter().cloned().collect() }).await;
}

/// Writes what matters only if this is cut off, at the second or third attempt if need be.
pub(super) async fn append(journal: &mut Journal, record: &Record) {
    for _ in 0..REPEATS {
        match journal.append(record) {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(error = %flist::report(&error), "the journal does not say who is stopped");
                sleep(REPEAT_AFTER).await;
            }
        }
    }
}

/// Of these services, those that the supervisor knows and that are wanted down. Nobody where it stops others by itself.
async fn stopped(
    zinit: &dyn Supervisor,
    units: impl Iterator<Item = &UnitName> + Send,
) -> BTreeSet<UnitName> {
    let mut stopped = BTreeSet::new();
    if !zinit.stop_order().await.is_ok_and(|order| order != StopOrder::AskAndKeep) {
        return stopped;
    }
    for unit in units {
        match target(zinit, unit).await {
            Ok(Some(Target::Down)) => {
                stopped.insert(unit.clone());
            }
            Ok(_) => {}
            // Nobody waits for each of the others to be silent, while services are away.
            Err(Silent) => break,
        }
    }
    stopped
}

/// The supervisor does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Silent;

/// What a service is wanted to be; `None` where the supervisor does not know it.
async fn target(zinit: &dyn Supervisor, unit: &UnitName) -> Result<Option<Target>, Silent> {
    match status(zinit, unit).await {
        Err(error) if error.is_passing() => Err(Silent),
        status => Ok(status.ok().flatten().map(|status| status.target)),
    }
}

/// What the supervisor says of a service, which is asked again where it does not answer.
///
/// # Errors
/// [`ServiceError`].
pub(super) async fn status(
    zinit: &dyn Supervisor,
    unit: &UnitName,
) -> Result<Option<ServiceStatus>, ServiceError> {
    for _ in 1..REPEATS {
        match services::status(zinit, unit).await {
            Err(error) if error.is_passing() => sleep(REPEAT_AFTER).await,
            status => return status,
        }
    }
    services::status(zinit, unit).await
}

/// When all else is undone: makes the supervisor forget those who have been stopped and have another unit now. Until
/// then it says who they are, also where the journal does not.
pub(super) async fn forget_changed(
    zinit: &dyn Supervisor,
    stopped: &BTreeSet<UnitName>,
    changed: &BTreeSet<UnitName>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for unit in stopped.intersection(changed) {
        problems.extend(problem(forget_one(zinit, unit).await));
    }
    problems
}
