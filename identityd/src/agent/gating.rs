//! Asks the gates before an upgrade begins, and shows them.

use std::time::Duration;

use super::attempts::{self, Before};
use super::model::{Applied, Candidate, Facts, Resolved};
use super::stage::{Gate, Stage};
use super::state::Event;
use super::{Agent, now};
use crate::gates::{self, GateReport, Inputs, OverBudget};
use crate::history::PutOff;
use crate::status::Failed;
use crate::timestamp::Timestamp;
use bootstrap::engine::Conflicts;
use bootstrap::maintenance::Standing;
use bootstrap::offers;

impl Agent {
    /// What an event is once the gates have been asked: a candidate that may not be installed now, and an
    /// upgrade that was stopped, are blocked.
    pub(super) fn gated(&mut self, event: Event) -> Event {
        if let Event::Resolved(resolved) = &event {
            // The state may have moved: what is shown is what its files say now.
            self.load_orders();
            self.tend_postponements(resolved.as_ref().ok());
        }
        match event {
            Event::Resolved(Ok(Resolved::Candidate(candidate))) => {
                // Then it is planned again.
                self.over_budget.take_if(|over| over.unknown && self.attempts.can_be_read());
                let now = now();
                let closed = gates::closed_before_upgrade(&self.inputs(Some(&candidate), None), &now);
                match closed {
                    Some(report) => blocked(candidate, &report, report.why.clone(), &now),
                    None => Event::Resolved(Ok(Resolved::Candidate(candidate))),
                }
            }
            Event::Applied(Ok(Applied::Stopped { gate, why })) if self.rollback.is_none() => {
                let Some(candidate) = self.state.candidate.clone() else {
                    return Event::Applied(Ok(Applied::Nothing));
                };
                let now = now();
                if gate == Gate::Downtime {
                    let (release, unknown) = (candidate.release.clone(), !self.attempts.can_be_read());
                    self.over_budget = Some(OverBudget { release, why: why.clone(), unknown });
                }
                let reports = gates::evaluate(&self.inputs(Some(&candidate), None), &now);
                match reports.iter().find(|report| report.gate == gate) {
                    Some(report) => blocked(candidate, report, why, &now),
                    None => Event::Blocked { candidate, gate, why, opens: None },
                }
            }
            event => event,
        }
    }

    /// When the maintenance window closes that an upgrade begins in, in seconds since 1970; `None` where it
    /// does not depend on one.
    pub(super) fn swap_until(&self) -> Option<u64> {
        let windows = self.windows.as_ref().filter(|_| !self.cause.is_now())?;
        let now = now().unix;
        closing(windows.at(i64::try_from(now).ok()?), now)
    }

    /// All gates now, the closed ones first.
    pub(super) fn gates(&self) -> Vec<GateReport> {
        let own = format!("(pid {})", std::process::id());
        // A lock that cannot be looked at shows when it is taken.
        let holder = bootstrap::lock::holder(&self.run_dir).ok().flatten();
        let holder = holder.filter(|holder| !holder.ends_with(&own));
        gates::evaluate(&self.inputs(self.state.candidate.as_ref(), holder.as_deref()), &now())
    }

    /// Notes what the node is like.
    pub(super) fn facts(&mut self, facts: Facts) {
        let Facts {
            state_in_ram,
            state_unusable,
            rollback_blocked,
            records_lost,
            runs_old,
            withheld,
            mirrors,
            insecure,
            node,
            asked_channel,
            boot_waits,
            conflicts,
        } = facts;
        (self.status.asked_channel, self.status.boot_waits) = (asked_channel, boot_waits);
        (self.withheld, self.mirrors) = (withheld, mirrors);
        self.status.insecure = insecure.unwrap_or(self.status.insecure);
        self.status.node = node.or(self.status.node.take());
        (self.status.state_in_ram, self.status.records_lost) = (state_in_ram, records_lost);
        (self.state_unusable, self.rollback_blocked) = (state_unusable, rollback_blocked);
        if let Some(runs_old) = runs_old {
            self.status.runs_old(runs_old);
        }
        if let Some(Conflicts { conflicts, more }) = conflicts {
            (self.status.conflicts, self.status.more_conflicts) = (conflicts, more);
        }
    }

    /// Shows in the status which gates are closed, and what is ordered.
    pub(super) fn show_gates(&mut self) {
        self.status.kernel.clone_from(&self.kernel.borrow_and_update());
        let mut closed = self.gates();
        closed.retain(|report| !report.open);
        let waits_for = |report: &&GateReport| {
            let told = gates::BEFORE_UPGRADE.contains(&report.gate) || report.gate == Gate::FlistName;
            Some(report.gate) == self.state.gate && told
        };
        if let Some(report) = closed.iter().find(waits_for) {
            self.status.reason = Some(report.why.clone());
        }
        self.status.gates = closed;
        let known = self.failures.as_ref().filter(|noted| !noted.unknown);
        self.status.failed = self.state.candidate.as_ref().zip(known).map(|(candidate, noted)| Failed {
            release: candidate.release.clone(),
            attempts: noted.attempts,
            bad: noted.bad,
            reason: noted.reason.clone(),
        });
        let orders = self.orders.as_ref().ok();
        self.status.holds = orders.map(|orders| orders.holds.clone()).unwrap_or_default();
        self.status.pause = orders.and_then(|orders| orders.pause.clone());
        self.status.rollback = orders.and_then(|orders| orders.rollback.clone());
    }

    /// Reads again what is remembered of the release that the channel offers.
    pub(super) fn load_failures(&mut self) {
        let candidate = self.state.candidate.as_ref();
        self.failures = candidate.and_then(|candidate| attempts::failures(&self.place, &candidate.release));
    }

    /// Notes what the event means for the history. Asked before the decision, which may forget the candidate.
    pub(super) fn note(&mut self, event: &Event) {
        let now = now();
        match event {
            Event::Resolved(Ok(resolved)) => {
                self.answered = Some(now.clone());
                if let Resolved::Refused { candidate, problem } = resolved {
                    let what = (self.state.installed.as_ref(), candidate);
                    self.attempts.refused(self.cause.clone(), what, problem, &now);
                }
            }
            Event::Progress(stage) if *stage > self.state.stage => self.attempts.stage(*stage),
            Event::Blocked { .. } if self.state.stage == Stage::Resolving => self.answered = Some(now),
            event => {
                let place = self.place.clone();
                self.attempts.follow(event, |release| attempts::failures(&place, release), &now);
            }
        }
        if matches!(event, Event::Applied(_) | Event::Blocked { .. }) {
            self.brake.rest();
        }
    }

    /// An upgrade begins.
    pub(super) fn note_begin(&mut self, candidate: &Candidate) {
        self.brake.release(self.swap_until(), self.cause.minds_downtime());
        let failures = attempts::failures(&self.place, &candidate.release).map_or(0, |noted| noted.attempts);
        let what = (self.state.installed.as_ref(), candidate);
        let postponed = self.orders.as_ref().ok().and_then(|orders| orders.postponed(&candidate.release));
        let before = Before { failures, postponed: postponed.map(PutOff::from) };
        self.attempts.begin(self.cause.clone(), what, before, now());
    }

    fn inputs<'i>(&'i self, candidate: Option<&'i Candidate>, lock_holder: Option<&'i str>) -> Inputs<'i> {
        Inputs {
            state: &self.state,
            candidate,
            cause: &self.cause,
            held_by_kernel: self.held_by_kernel,
            orders: self.orders.as_ref().map_err(String::as_str),
            longest_postponement: self.longest_postponement,
            windows: self.windows.as_ref(),
            earliest: offers::earliest(&self.place).try_into().unwrap_or(0),
            failures: self.failures.clone(),
            lock_holder,
            next_check: self.status.next_check.as_ref(),
            answered: self.answered.as_ref(),
            poll_interval: self.poll_interval,
            over_budget: self.over_budget.as_ref(),
            state_in_ram: self.status.state_in_ram.as_ref(),
            state_unusable: self.state_unusable.as_deref(),
            withheld: self.withheld.as_ref(),
            mirrors: &self.mirrors,
            rollback_blocked: self.rollback_blocked.as_deref(),
            records_lost: self.status.records_lost.as_deref(),
            kernel: self.status.kernel.as_ref(),
            asked_channel: self.status.asked_channel.as_deref(),
            boot_waits: self.status.boot_waits.as_deref(),
        }
    }
}

/// When the window closes. One that has closed since the gates were asked closes now: the time at which it
/// changes is that of the next one's beginning.
fn closing(standing: Standing, now: u64) -> Option<u64> {
    match standing.open {
        true => standing.changes.and_then(|closes| u64::try_from(closes).ok()),
        false => Some(now),
    }
}

fn blocked(candidate: Candidate, report: &GateReport, why: String, now: &Timestamp) -> Event {
    let opens = report.may_change.at.as_ref().filter(|_| !report.open);
    let opens = opens.map(|at| Duration::from_secs(at.unix.saturating_sub(now.unix)));
    Event::Blocked { candidate, gate: report.gate, why, opens }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_has_just_closed_lets_no_swap_begin() {
        assert_eq!(closing(Standing { open: true, changes: Some(500) }, 100), Some(500));
        assert_eq!(closing(Standing { open: true, changes: None }, 100), None);
        assert_eq!(closing(Standing { open: false, changes: Some(90_000) }, 100), Some(100));
    }
}
