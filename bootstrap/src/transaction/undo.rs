//! Going back when a step fails.

use std::time::{Duration, Instant};

use zinit_client::{ServiceUnit, UnitName};

use super::journal::{Header, JournalPlace, Record, Swap};
use super::run::Run;
use super::{Progress, TransactionError, files, mounts, services, staging};
use crate::health::{HealthLimits, HealthWatch};
use crate::plan::Moment;
use crate::root::Root;

/// Longest time that services have to stay up which are put back: they have proven themselves before, and only a quick
/// end would be something new.
const COMES_BACK: Duration = Duration::from_secs(5);

impl Run<'_> {
    /// Ends what runs of the new generation; tells what could not be ended.
    async fn end_started(&mut self) -> Vec<String> {
        let (mut problems, mut units) = (Vec::new(), Vec::new());
        for unit in self.started.clone().iter().rev() {
            let ended = match self.end(unit).await {
                // Asked once more, so that it takes three failures to leave one that runs and that nobody knows of.
                Err(error) if error.is_passing() => self.end(unit).await,
                ended => ended,
            };
            if let Err(error) = ended {
                problems.push(flist::report(&error));
                units.push(unit.clone());
            }
        }
        if !units.is_empty() {
            // Without this record the next recovery does not end them. The old services come back all the same: they
            // matter more, and what is left is told.
            problems.extend(problem(self.journal.append(&Record::Unstopped { units })));
        }
        problems
    }

    /// Starts what was stopped, and sees whether it comes up.
    async fn start_again(&mut self, not_undone: &mut Vec<String>) {
        let (context, stopped) = (self.context, &self.stopped);
        let mut started = Vec::new();
        let again = |unit: &&UnitName| stopped.contains_key(*unit) && !self.stopped_since.contains(*unit);
        for unit in self.header.stop.iter().rev().filter(again) {
            match services::monitor(context.zinit, unit).await {
                Ok(()) => started.push(unit),
                Err(error) => not_undone.push(flist::report(&error)),
            }
        }
        if started.is_empty() {
            return;
        }
        let limits = HealthLimits { window: context.health.window.min(COMES_BACK), ..context.health };
        let is_oneshot = |unit| context.units.0.get(unit).is_some_and(|unit: &ServiceUnit| unit.oneshot);
        let watched = started.into_iter().map(|unit| (unit.clone(), is_oneshot(unit)));
        let mut is_up = |unit: &UnitName| {
            let down = stopped.get(unit).map(Instant::elapsed);
            (context.observer)(Progress::Started { unit: unit.clone(), down });
        };
        let not_back =
            services::come_back(context.zinit, HealthWatch::new(limits, watched), &mut is_up).await;
        for service in &not_back {
            tracing::error!("after everything was put back: {service}");
        }
        self.left.extend(not_back);
    }

    /// Sees whether those are up again that were not stopped and may have gone down with the release.
    async fn see_bystanders_up(&mut self) {
        if self.swapped.is_empty() {
            return;
        }
        let (zinit, patience) = (self.context.zinit, self.context.health.start_timeout);
        let not_up = services::settle(zinit, &self.bystanders, patience).await;
        for service in &not_up {
            tracing::error!("after everything was put back: {service}");
        }
        self.left.extend(not_up);
    }

    /// Undoes everything in reverse order and gives back what is left of it as an error.
    #[tracing::instrument(level = "debug", skip_all)]
    pub(super) async fn undo(mut self, error: TransactionError) -> TransactionError {
        tracing::error!(error = %flist::report(&error), "the transaction failed, undoing it");
        if self.committed {
            return error;
        }
        if self.undecided {
            // Undoing what may be committed would be worse than waiting: recovery finds out, and finishes or
            // undoes.
            let not_undone = vec!["nobody knows whether it was committed".to_owned()];
            return TransactionError::Degraded { not_undone, source: error.into() };
        }
        let mut not_undone = Vec::new();
        self.note_stopped_since().await;
        self.take_back(&[Moment::AfterStart], &mut not_undone).await;
        not_undone.extend(self.end_started().await);
        self.take_back(&[Moment::BeforeStart], &mut not_undone).await;
        self.put_states_back(&mut not_undone);
        for change in self.swapped.iter().rev() {
            not_undone.extend(problem(files::unswap(&self.context.root, &self.swaps[*change])));
        }
        let stopped: Vec<_> = self.stopped.keys().chain(&self.started).cloned().collect();
        not_undone.extend(problem(services::discard(self.context.zinit, &stopped).await));
        self.take_back(&[Moment::Leave, Moment::BeforeSwap], &mut not_undone).await;
        self.start_again(&mut not_undone).await;
        self.see_bystanders_up().await;
        not_undone.extend(problem(self.header.boot_info.restore(&self.context.root)));
        self.discard_record();
        if not_undone.is_empty() {
            not_undone.extend(self.forget_stopped_since().await);
        }
        if not_undone.is_empty() {
            let cleaned = clean_up(&self.context.root, (&self.header, &self.swaps), &self.place);
            not_undone.extend(cleaned.err());
        }
        match (not_undone.is_empty(), self.begun) {
            (true, false) => error,
            (true, true) if !self.left.is_empty() => {
                TransactionError::Left { left: self.left, source: error.into() }
            }
            (true, true) => TransactionError::Undone(error.into()),
            (false, _) => TransactionError::Degraded { not_undone, source: error.into() },
        }
    }
}

/// What went wrong, in words.
pub(super) fn problem<E: std::error::Error + 'static>(result: Result<(), E>) -> Option<String> {
    result.err().map(|error| flist::report(&error))
}

/// Ends what was undone: everything must be on disk before the journal goes, or a power cut could bring a
/// part of the swap back without anybody knowing. Then what was staged is removed.
pub(super) fn clean_up(
    root: &Root,
    (header, swaps): (&Header, &[Swap]),
    journal: &JournalPlace,
) -> Result<(), String> {
    let tops = mounts::tops(root, &header.staging, swaps.iter().map(|swap| &swap.change));
    tops.and_then(|tops| mounts::sync(root, &tops)).map_err(|error| flist::report(&error))?;
    staging::clear(root, &header.staging).map_err(|error| flist::report(&error))?;
    journal.remove().map_err(|error| flist::report(&error))
}
