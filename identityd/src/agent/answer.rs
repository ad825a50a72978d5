//! What an event means to somebody who asked for a check or for an upgrade. Pure.

use super::handle::{Answer, Offer, Outcome, Upgraded, Verb};
use super::model::{Applied, Candidate, Problem, ProblemKind, Resolved, Withheld};
use super::stage::Gate;
use super::state::{Event, State, rolled_back};

/// The last answer to `verb`, when this event, which led to this state, is the end of it; `withheld` is what the director
/// keeps from this node now.
pub(super) fn to(verb: Verb, event: &Event, state: &State, withheld: Option<&Withheld>) -> Option<Answer> {
    let withheld = || withheld.cloned().map(Box::new);
    if let Some(problem) = problem_of(event) {
        // A look that the agent did not care for says nothing about what was asked.
        let stray = matches!(event, Event::LookedForInstalled(_)) && state.installed.is_some();
        return (!stray).then_some(Answer::Error(problem));
    }
    let version = state.installed.as_ref().map(|installed| installed.version.clone());
    let offer = |candidate: Option<&Candidate>, waits| {
        let (installed, candidate) = (state.installed.clone(), candidate.cloned());
        Outcome::Check(Offer { installed, candidate, waits, withheld: withheld() })
    };
    let outcome = match (verb, event) {
        (_, Event::LookedForInstalled(Ok(None))) if state.gate == Some(Gate::FlistName) => {
            return Some(Answer::Error(nothing_known(state)));
        }
        (Verb::Check, Event::Resolved(Ok(resolved))) => {
            let candidate = match resolved {
                Resolved::Candidate(candidate) => Some(candidate),
                Resolved::Unchanged | Resolved::Refused { .. } => None,
            };
            offer(candidate, None)
        }
        (Verb::Check, Event::Blocked { candidate, gate, why, .. }) => {
            offer(Some(candidate), Some(Problem::closed(*gate, why)))
        }
        (_, Event::Blocked { gate, why, .. }) | (_, Event::Applied(Ok(Applied::Stopped { gate, why }))) => {
            return Some(Answer::Error(Problem::closed(*gate, why)));
        }
        (_, Event::Resolved(Ok(Resolved::Unchanged))) | (_, Event::Applied(Ok(Applied::Nothing))) => {
            let generation = state.installed.as_ref().map(|installed| installed.generation);
            Outcome::Apply(Upgraded { committed: false, version, generation, withheld: withheld() })
        }
        (_, Event::Applied(Ok(Applied::Committed { generation }))) => {
            let generation = Some(*generation);
            Outcome::Apply(Upgraded { committed: true, version, generation, withheld: withheld() })
        }
        _ => return None,
    };
    Some(Answer::Ok(outcome))
}

/// What went wrong, if this event says that something did.
pub(super) fn problem_of(event: &Event) -> Option<Problem> {
    match event {
        Event::Recovered(Err(problem))
        | Event::LookedForInstalled(Err(problem))
        | Event::Resolved(Err(problem))
        | Event::Applied(Err(problem))
        | Event::Resolved(Ok(Resolved::Refused { problem, .. })) => Some(problem.clone()),
        Event::Applied(Ok(Applied::RolledBack { reason })) => Some(rolled_back(reason)),
        _ => None,
    }
}

/// Why nothing can be planned or installed while it is not known what is installed.
pub(super) fn nothing_known(state: &State) -> Problem {
    match (&state.problem, state.gate) {
        (Some(problem), Some(Gate::BackOff | Gate::Refused)) => problem.clone(),
        (_, gate) => {
            let gate = gate.unwrap_or(Gate::Starting);
            // It has begun already, and ends by itself.
            let kind = if gate == Gate::Starting { ProblemKind::Busy } else { ProblemKind::Local };
            Problem::new(kind, format!("cannot upgrade now: {}", gate.explanation()))
        }
    }
}

/// An upgrade that was cancelled had ended before it could be stopped.
pub(super) fn ended_by_itself(state: &State) -> Problem {
    Problem::new(
        ProblemKind::Busy,
        format!("the upgrade ended before it could be stopped; stage {}", state.stage),
    )
}

/// Why there is no check and no plan in the middle of an upgrade.
pub(super) fn upgrade_runs(state: &State) -> Problem {
    let version = state.candidate.as_ref().map_or("another release", |candidate| &candidate.version);
    let message = format!(
        "an upgrade to {version} runs (stage {}); ask again when it is over, or follow it with `identityd apply`",
        state.stage
    );
    Problem::new(ProblemKind::Busy, message)
}
