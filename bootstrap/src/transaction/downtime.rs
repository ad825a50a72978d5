//! How long services have been away, against what their units allow. It is looked at after each step, and no program
//! that services wait for gets more time than is left.

use std::time::Duration;

use zinit_client::UnitName;

use super::TransactionError;
use super::run::Run;

impl Run<'_> {
    /// Each service with a budget that has been stopped: how long it was away, or is by now, and its budget.
    fn away(&self, back: bool) -> impl Iterator<Item = (&UnitName, Duration, Duration)> {
        let with_budget = |unit, down| Some((unit, down, *self.context.budgets.get(unit)?));
        let stopped = self.stopped.iter().map(|(unit, since)| (unit, self.back.get(unit), since));
        let chosen = stopped.filter(move |(_, was, _)| was.is_some() == back);
        chosen.filter_map(move |(unit, was, since)| {
            with_budget(unit, was.copied().unwrap_or_else(|| since.elapsed()))
        })
    }

    /// What a step came to, if nobody has been away for too long by now. A program that failed then was ended for
    /// want of time.
    ///
    /// # Errors
    /// The step's; [`TransactionError::OverBudget`].
    pub(super) fn in_budget(&self, step: Result<(), TransactionError>) -> Result<(), TransactionError> {
        if self.committed || matches!(&step, Err(error) if !matches!(error, TransactionError::Program { .. }))
        {
            return step;
        }
        match self.away(true).chain(self.away(false)).find(|(_, down, budget)| down > budget) {
            Some((unit, down, budget)) => {
                Err(TransactionError::OverBudget { unit: unit.clone(), down, budget })
            }
            None => step,
        }
    }

    /// How long a program may take that would take `wanted` at most.
    pub(super) fn time_for(&self, wanted: Duration) -> Duration {
        let left = self.away(false).map(|(_, down, budget)| budget.saturating_sub(down));
        left.min().map_or(wanted, |left| left.min(wanted))
    }
}
