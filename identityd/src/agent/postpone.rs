//! Holds that end by themselves.

use bootstrap::held::Patience;
use tracing::{info, warn};

use super::model::{Problem, Resolved};
use super::{Agent, operator};
use crate::orders::{Hold, OrdersError};
use crate::timestamp::Timestamp;

impl Agent {
    /// Holds a release, or everything, for so many seconds.
    pub(super) fn postpone(&mut self, hold: Hold, seconds: u64) -> Result<String, Problem> {
        if seconds == 0 {
            let problem = "it is nothing; `identityd unhold` lets go at once".to_owned();
            return Err(operator::local(&OrdersError::Text { what: "length of time", problem }));
        }
        let patience = self.patience();
        let until = Timestamp::from_unix(patience.now.saturating_add(seconds));
        let (what, lets_go) = (hold.what(), hold.lets_go());
        let message = format!("{what} is postponed until {}; `{lets_go}` lets it go before", until.at);
        let hold = hold.ending(Timestamp::from_unix(patience.now), until);
        // What a rollback goes back to is not what the channel offers.
        let offered = self.state.candidate.clone().filter(|_| self.rollback.is_none());
        self.change(|orders| orders.postpone(hold.clone(), offered.as_ref(), &patience))?;
        Ok(self.unless_it_runs(&hold, message))
    }

    /// Looks after holds that end by themselves, by what the channel offers now.
    pub(super) fn tend_postponements(&mut self, resolved: Option<&Resolved>) {
        let patience = self.patience();
        let offered = match resolved {
            Some(Resolved::Candidate(candidate)) => Some(candidate),
            _ => None,
        };
        let Ok(mut tended) = self.orders.clone() else { return };
        let over = tended.tend(offered, &patience);
        if self.orders.as_ref() == Ok(&tended) {
            return;
        }
        let changed = self.change(|orders| {
            orders.tend(offered, &patience);
            Ok(())
        });
        match changed {
            Ok(()) => over.iter().for_each(|hold| {
                let until = hold.until.as_ref().map(|until| until.at.as_str());
                info!(until, "{} is postponed no longer", hold.what());
            }),
            // Whoever reads them judges by their end all the same.
            Err(problem) => warn!(%problem, "what is postponed is not noted"),
        }
    }

    fn patience(&self) -> Patience {
        Patience::read(&self.place, self.longest_postponement)
    }
}
