//! The agent's decisions: `step(State, Event) -> (State, Vec<Action>)`.
//!
//! No clock, no randomness, no effects. What is not listed in [`step`] changes nothing: answers that
//! come late, requests in the middle of an upgrade. `docs/agent-states.dot` draws it.

use std::time::Duration;

use super::model::{Applied, Candidate, Installed, Problem, ProblemKind, Resolved, Target};
use super::schedule::Delay;
use super::stage::{Gate, Stage};

/// Everything the next decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where the agent is.
    pub stage: Stage,
    /// Why it waits; `Some` in [`Stage::Waiting`] and only there.
    pub gate: Option<Gate>,
    /// Whether nothing is left over from an interrupted or half-undone upgrade.
    pub recovered: bool,
    /// What runs on this node, once known.
    pub installed: Option<Installed>,
    /// The release that is being installed, or failed last.
    pub candidate: Option<Candidate>,
    /// What went wrong last; forgotten at the next success.
    pub problem: Option<Problem>,
    /// How many times in a row something went wrong.
    pub attempts: u32,
}

impl Default for State {
    /// The state before [`Event::Started`].
    fn default() -> Self {
        Self {
            stage: Stage::Waiting,
            gate: Some(Gate::Starting),
            recovered: false,
            installed: None,
            candidate: None,
            problem: None,
            attempts: 0,
        }
    }
}

/// Something the agent learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The daemon started.
    Started,
    /// [`Action::Recover`] ended.
    Recovered(Result<(), Problem>),
    /// [`Action::LookForInstalled`] ended; `None`: the node was not booted from a flist (yet).
    LookedForInstalled(Result<Option<Installed>, Problem>),
    /// The delay of [`Action::PollAfter`] is over.
    PollDue,
    /// Somebody wants to know what the channel offers, now.
    CheckRequested,
    /// Somebody wants what the channel offers installed, now.
    ApplyRequested,
    /// [`Action::Resolve`] ended.
    Resolved(Result<Resolved, Problem>),
    /// Somebody wants this put back, instead of what the channel offers.
    TargetFound(Target),
    /// The upgrade came to this stage.
    Progress(Stage),
    /// [`Action::Apply`] or [`Action::Revert`] ended.
    Applied(Result<Applied, Problem>),
    /// A gate keeps this release from being installed now, or has stopped its upgrade before the swap.
    Blocked {
        /// The release.
        candidate: Candidate,
        /// The gate.
        gate: Gate,
        /// Why it is closed, for people.
        why: String,
        /// When it opens, where the clock tells.
        opens: Option<Duration>,
    },
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Finish or undo what an interrupted upgrade left.
    Recover,
    /// Find out what is installed.
    LookForInstalled,
    /// Find out what to install: what the channel offers, or what somebody wants to go back to.
    Resolve,
    /// Install this release.
    Apply(Candidate),
    /// Put this back.
    Revert(Target),
    /// Say [`Event::PollDue`] after this delay. Replaces an earlier one.
    PollAfter(Delay),
}

/// One decision.
pub fn step(state: State, event: Event) -> (State, Vec<Action>) {
    use Event as E;
    use Stage as S;
    let upgrading = state.stage.is_upgrading();
    let at_rest = !upgrading && state.stage != S::Resolving;
    let recovering = state.gate == Some(Gate::Starting) && !state.recovered;
    let looking = matches!(state.gate, Some(Gate::Starting | Gate::FlistName)) && state.recovered;
    match (state.stage, event) {
        (_, E::Started) if recovering => state.begin(),
        (_, E::Recovered(Ok(()))) if recovering => State { recovered: true, ..state }.begin(),
        (_, E::Recovered(Err(problem))) if recovering => state.failed(problem),

        // The first look, or the file appeared.
        (_, E::LookedForInstalled(Ok(Some(found)))) if looking => state.with_installed(found).begin(),
        (_, E::LookedForInstalled(Ok(Some(found)))) => (state.with_installed(found), vec![]),
        (_, E::LookedForInstalled(Ok(None))) if at_rest => state.without_installed(),
        (_, E::LookedForInstalled(Err(problem))) if at_rest => {
            State { installed: None, ..state }.failed(problem)
        }

        // There is one way on from every rest, by the clock or because somebody cuts the wait. While
        // recovery runs there is nothing to cut.
        (_, E::PollDue | E::CheckRequested | E::ApplyRequested)
            if at_rest && state.gate != Some(Gate::Starting) =>
        {
            state.begin()
        }

        (S::Resolving, E::Resolved(Ok(Resolved::Unchanged))) => {
            (state.settled(S::Idle), vec![Action::PollAfter(Delay::Regular)])
        }
        (S::Resolving, E::Resolved(Ok(Resolved::Candidate(candidate)))) => state.upgrade(candidate),
        (S::Resolving, E::TargetFound(target)) => {
            let (state, _) = state.upgrade(target.release.clone());
            (state, vec![Action::Revert(target)])
        }
        (_, E::Blocked { candidate, gate, opens, .. }) if upgrading || state.stage == S::Resolving => {
            let state = State { candidate: Some(candidate), ..state.settled(S::Waiting) };
            (State { gate: Some(gate), ..state }, vec![Action::PollAfter(Delay::Gate { opens })])
        }
        // Only another release helps, and polls are how one is found: no reason to poll more rarely.
        (S::Resolving, E::Resolved(Ok(Resolved::Refused { candidate, problem }))) => {
            let state = State { candidate: Some(candidate), ..state };
            (state.failed(problem).0, vec![Action::PollAfter(Delay::Regular)])
        }
        (S::Resolving, E::Resolved(Err(problem))) if problem.kind == ProblemKind::Refused => {
            (state.failed(problem).0, vec![Action::PollAfter(Delay::Regular)])
        }
        (S::Resolving, E::Resolved(Err(problem))) => state.failed(problem),

        (from, E::Progress(to)) if upgrading && to.is_upgrading() && from < to => {
            (State { stage: to, ..state }, vec![])
        }
        (_, E::Applied(result)) if upgrading => state.applied(result),
        _ => (state, vec![]),
    }
}

impl State {
    /// Does what comes first of the things that must be done before an upgrade can begin.
    fn begin(mut self) -> (Self, Vec<Action>) {
        let action = match (self.recovered, &self.installed) {
            (false, _) => Action::Recover,
            (true, None) => Action::LookForInstalled,
            (true, Some(_)) => {
                return (Self { stage: Stage::Resolving, gate: None, ..self }, vec![Action::Resolve]);
            }
        };
        // Looking again for flist.name is no news: the gate stays the one that is known.
        self.gate = self.gate.filter(|gate| *gate == Gate::FlistName).or(Some(Gate::Starting));
        (Self { stage: Stage::Waiting, ..self }, vec![action])
    }

    fn with_installed(self, found: Installed) -> Self {
        Self { installed: Some(found), ..self }
    }

    fn without_installed(self) -> (Self, Vec<Action>) {
        let state = Self { stage: Stage::Waiting, gate: Some(Gate::FlistName), installed: None, ..self };
        (state, vec![Action::PollAfter(Delay::Look)])
    }

    /// Everything is fine here; earlier failures are history.
    fn settled(self, stage: Stage) -> Self {
        Self { stage, gate: None, candidate: None, problem: None, attempts: 0, ..self }
    }

    fn upgrade(mut self, candidate: Candidate) -> (Self, Vec<Action>) {
        if self.candidate.as_ref().is_none_or(|known| known.release != candidate.release) {
            self.problem = None;
            self.attempts = 0;
        }
        self.candidate = Some(candidate.clone());
        (Self { stage: Stage::Fetching, ..self }, vec![Action::Apply(candidate)])
    }

    fn applied(self, result: Result<Applied, Problem>) -> (Self, Vec<Action>) {
        let poll = Action::PollAfter(Delay::Regular);
        match result {
            Ok(Applied::Committed { generation }) => {
                let installed = self.candidate.clone().map(|candidate| candidate.installed_as(generation));
                (Self { installed, ..self }.settled(Stage::Committed), vec![poll])
            }
            // The same files under another version: what is recorded about them may have changed.
            Ok(Applied::Nothing) => (self.settled(Stage::Idle), vec![Action::LookForInstalled, poll]),
            Ok(Applied::RolledBack { reason }) => {
                let (state, actions) = self.failed(rolled_back(&reason));
                (State { stage: Stage::RolledBack, gate: None, ..state }, actions)
            }
            // A rollback; an upgrade that was stopped is `Blocked`, with when the gate opens.
            Ok(Applied::Stopped { .. }) => (self.settled(Stage::Idle), vec![poll]),
            Err(problem) => self.failed(problem),
        }
    }

    fn failed(mut self, problem: Problem) -> (Self, Vec<Action>) {
        self.attempts = self.attempts.saturating_add(1);
        (self.stage, self.gate) = match problem.kind {
            ProblemKind::Degraded => (Stage::Degraded, None),
            // Signatures are a gate of their own: another release does not help against them.
            ProblemKind::Refused => (Stage::Waiting, Some(problem.gate.unwrap_or(Gate::Refused))),
            _ => (Stage::Waiting, Some(Gate::BackOff)),
        };
        // Undoing goes on: recovery is the way out of this stage.
        self.recovered &= problem.kind != ProblemKind::Degraded;
        self.problem = Some(problem);
        let attempt = self.attempts;
        (self, vec![Action::PollAfter(Delay::Backoff { attempt })])
    }
}

/// A rollback, said as the problem it is.
pub(super) fn rolled_back(reason: &str) -> Problem {
    Problem::new(ProblemKind::Refused, format!("the release was installed and rolled back: {reason}"))
}

#[cfg(test)]
mod tests;
