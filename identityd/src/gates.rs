//! Every reason to wait, with its explanation, what it was judged by, and when it may change. Pure.
//!
//! A gate that cannot be judged is closed, and every closed gate is looked at again at the next poll at the
//! latest.

mod judges;

use std::time::Duration;

use bootstrap::mirrors::Mirrors;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::{Candidate, Gate, State, StateInRam, Withheld};
use crate::history::Cause;
use crate::kernel::KernelStatus;
use crate::orders::Orders;
use crate::timestamp::Timestamp;
use bootstrap::maintenance::Windows;
use judges::Verdict;

/// Gates that keep an upgrade from beginning although there is a candidate.
pub(crate) const BEFORE_UPGRADE: [Gate; 5] =
    [Gate::Orders, Gate::Pause, Gate::Hold, Gate::Maintenance, Gate::Downtime];

/// One gate at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// Which one.
    pub gate: Gate,
    /// Whether it lets upgrades through.
    pub open: bool,
    /// Why it is open or closed, for people.
    pub why: String,
    /// What it was judged by.
    pub inputs: Value,
    /// When it may change.
    pub may_change: MayChange,
}

/// When a gate may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MayChange {
    /// By the clock.
    pub at: Option<Timestamp>,
    /// On this event.
    pub on: String,
}

/// What is remembered of a release that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    /// How often it failed; 0 of one that is bad: it would not run, so nobody began.
    pub attempts: u32,
    /// Whether it is not tried again.
    pub bad: bool,
    /// Why it failed the last time, or why nobody knows.
    pub reason: String,
    /// Nobody knows: what is remembered cannot be read now.
    pub unknown: bool,
    /// It was not to blame, and rests until the next boot.
    pub rests: bool,
}

/// A release that was stopped because it takes services away for longer than they allow, or may do so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverBudget {
    /// The release.
    pub release: String,
    /// How long, and what they allow; or why nobody knows.
    pub why: String,
    /// Nobody knows: it is looked at again once the history can be read.
    pub unknown: bool,
}

/// What gates are judged by.
#[derive(Debug)]
pub struct Inputs<'i> {
    /// What the agent is doing.
    pub state: &'i State,
    /// What the channel offers, where it is another release than the installed one.
    pub candidate: Option<&'i Candidate>,
    /// On whose behalf the next upgrade begins.
    pub cause: &'i Cause,
    /// The kernel was started with `molt.hold`.
    pub held_by_kernel: bool,
    /// What people have ordered, or why nobody knows.
    pub orders: Result<&'i Orders, &'i str>,
    /// How long a release may be postponed in all.
    pub longest_postponement: Duration,
    /// Maintenance windows; `None`: upgrades may begin at any time.
    pub windows: Option<&'i Windows>,
    /// The time that it is at least, whatever the clock says, in seconds since 1970.
    pub earliest: u64,
    /// What is remembered of the candidate.
    pub failures: Option<Failures>,
    /// Another program that has the engine's lock.
    pub lock_holder: Option<&'i str>,
    /// When the agent acts next by itself.
    pub next_check: Option<&'i Timestamp>,
    /// When the channel answered last.
    pub answered: Option<&'i Timestamp>,
    /// Time between two polls.
    pub poll_interval: Duration,
    /// What was found out about downtime when an upgrade was about to begin.
    pub over_budget: Option<&'i OverBudget>,
    /// Why the state is in RAM.
    pub state_in_ram: Option<&'i StateInRam>,
    /// Why it cannot be anywhere.
    pub state_unusable: Option<&'i str>,
    /// What the director keeps from this node.
    pub withheld: Option<&'i Withheld>,
    /// What the node's hubs say, compared.
    pub mirrors: &'i Mirrors,
    /// Why nobody can go back to the release before.
    pub rollback_blocked: Option<&'i str>,
    /// Why nobody knows what is installed, although something is.
    pub records_lost: Option<&'i str>,
    /// What is the matter with the kernel.
    pub kernel: Option<&'i KernelStatus>,
    /// What this node is to follow instead of what is installed.
    pub asked_channel: Option<&'i str>,
    /// What its boot waits for.
    pub boot_waits: Option<&'i str>,
}

/// All gates, the closed ones first.
pub fn evaluate(inputs: &Inputs<'_>, now: &Timestamp) -> Vec<GateReport> {
    let mut reports: Vec<GateReport> = Gate::ALL.into_iter().map(|gate| judge(gate, inputs, now)).collect();
    reports.sort_by_key(|report| report.open);
    reports
}

/// The first closed gate that keeps this candidate from being installed now.
pub fn closed_before_upgrade(inputs: &Inputs<'_>, now: &Timestamp) -> Option<GateReport> {
    BEFORE_UPGRADE.into_iter().map(|gate| judge(gate, inputs, now)).find(|report| !report.open)
}

fn judge(gate: Gate, inputs: &Inputs<'_>, now: &Timestamp) -> GateReport {
    let Verdict { closed, inputs, at, on } = match gate {
        Gate::Starting => judges::starting(inputs),
        Gate::FlistName => judges::flist_name(inputs),
        Gate::Orders => judges::orders(inputs),
        Gate::Pause => judges::pause(inputs),
        Gate::Hold => judges::hold(inputs, now),
        Gate::Maintenance => judges::maintenance(inputs, now),
        Gate::State => judges::state_place(inputs),
        Gate::Downtime => judges::downtime(inputs),
        Gate::BadRelease => judges::bad_release(inputs),
        Gate::Trust => judges::trust(inputs, now),
        Gate::Director => judges::director(inputs),
        Gate::Refused => judges::refused(inputs),
        Gate::BackOff => judges::back_off(inputs),
        Gate::Lock => judges::lock(inputs),
        Gate::Degraded => judges::degraded(inputs),
        Gate::Freshness => judges::freshness(inputs, now),
        Gate::Rollback => judges::rollback(inputs),
        Gate::Kernel => judges::kernel(inputs),
    };
    let (open, why) = match closed {
        Ok(why) => (true, why),
        Err(why) => (false, why),
    };
    GateReport { gate, open, why, inputs, may_change: MayChange { at, on: on.into_owned() } }
}

/// What helps against a release that is not tried again, against one that rests, and where nobody can read which are.
pub(crate) const BY_RETRY: &str = "`identityd retry`, or another release";
pub(crate) const BY_RETRY_OR_REBOOT: &str = "`identityd retry`, a reboot, or another release";
pub(crate) const BY_READING: &str =
    "notes about releases that can be read; `identityd doctor` tells what is wrong with them";

/// A number of things, for people.
pub(crate) fn count(number: u32, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests;
