//! How each gate is judged.

mod orders;

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use super::{BY_READING, BY_RETRY, BY_RETRY_OR_REBOOT, Failures, Inputs, OverBudget, count};
use crate::agent::{Candidate, Gate, Problem, ProblemKind, Stage, StateInRam, Withheld};
use crate::kernel::KernelState;
use crate::timestamp::Timestamp;
pub(super) use orders::{hold, maintenance, orders, pause};

/// What is known of the channel is fresh for at least so long.
const FRESH: Duration = Duration::from_secs(3600);

/// Polls that may fail before what is known of the channel is no longer fresh.
const FRESH_POLLS: u32 = 3;

/// Why a gate is open (`Ok`) or closed.
pub(super) struct Verdict {
    pub(super) closed: Result<String, String>,
    pub(super) inputs: Value,
    pub(super) at: Option<Timestamp>,
    pub(super) on: Cow<'static, str>,
}

pub(super) fn starting(Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
    let closed = state.gate == Some(Gate::Starting);
    Verdict {
        closed: match closed {
            true => Err(Gate::Starting.explanation().to_owned()),
            false => Ok("what interrupted runs left is recovered".to_owned()),
        },
        inputs: json!({ "recovered": state.recovered, "installed": state.installed }),
        at: next_check.filter(|_| closed).cloned(),
        on: "the end of recovery".into(),
    }
}

/// Whether it is known what this node follows; and where that is not what it was told to, why.
pub(super) fn flist_name(
    Inputs { state, next_check, asked_channel, boot_waits, .. }: &Inputs<'_>,
) -> Verdict {
    let closed = state.gate == Some(Gate::FlistName);
    Verdict {
        closed: match (closed, boot_waits, asked_channel) {
            (true, Some(waits), _) => Err(format!("{}: {waits}", Gate::FlistName.explanation())),
            (true, None, _) => Err(Gate::FlistName.explanation().to_owned()),
            (false, _, None) => Ok("flist.name says what this node was booted from".to_owned()),
            (false, _, Some(asked)) => Ok(format!(
                "flist.name says what this node was booted from, which is not what it was told: {asked}"
            )),
        },
        inputs: json!({ "recovered": state.recovered, "installed": state.installed, "asked": asked_channel, "boot_waits": boot_waits.filter(|_| closed) }),
        at: next_check.filter(|_| closed).cloned(),
        on: match boot_waits {
            Some(_) => "what the boot waits for",
            None => "a boot that writes /tmp/flist.name, or `identityd doctor --fix` where a generation is recorded",
        }
        .into(),
    }
}

pub(super) fn state_place(Inputs { state_in_ram, state_unusable, next_check, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match (state_unusable, state_in_ram) {
            (Some(problem), _) => Err((*problem).to_owned()),
            (None, Some(StateInRam { since, reason, .. })) => Ok(format!(
                "the state directory cannot be used since {} ({reason}): upgrades work from RAM, and what is recorded there is lost at a reboot",
                since.at
            )),
            (None, None) => Ok("the state directory can be used".to_owned()),
        },
        inputs: json!({ "state_in_ram": state_in_ram, "problem": state_unusable }),
        at: next_check.filter(|_| state_unusable.is_some()).cloned(),
        on: "a disk that works, or more free memory".into(),
    }
}

pub(super) fn downtime(Inputs { candidate, over_budget, cause, .. }: &Inputs<'_>) -> Verdict {
    let over = over_budget.filter(|over| candidate.is_some_and(|offered| offered.release == over.release));
    Verdict {
        closed: match over {
            Some(over) if cause.minds_downtime() => Err(over.why.clone()),
            Some(over) => Ok(format!("somebody asked for the upgrade all the same: {}", over.why)),
            None => Ok("no budget of downtime is known to be exceeded".to_owned()),
        },
        inputs: json!({ "candidate": candidate, "over_budget": over.map(|over| &over.why), "cause": cause }),
        at: None,
        on: match over {
            Some(OverBudget { unknown: true, .. }) => {
                "a history that can be read, `identityd apply`, or another release".into()
            }
            _ => "`identityd apply`, or another release".into(),
        },
    }
}

pub(super) fn bad_release(Inputs { candidate, failures, .. }: &Inputs<'_>) -> Verdict {
    let failures = failures.as_ref();
    let closed = match (candidate, failures) {
        (Some(Candidate { version, release, .. }), Some(Failures { unknown: true, reason, .. })) => {
            Err(format!("nobody knows whether release {version} ({release}) has failed here: {reason}"))
        }
        (Some(Candidate { version, release, .. }), Some(Failures { attempts: 0, bad: true, reason, .. })) => {
            Err(format!(
                "release {version} ({release}) is refused and not tried again: {reason}; `identityd retry` tries it again"
            ))
        }
        (Some(Candidate { version, release, .. }), Some(Failures { attempts, bad: true, reason, .. })) => {
            let times = count(*attempts, "time");
            Err(format!(
                "release {version} ({release}) failed {times} and is not tried again; the last time: {reason}; `identityd retry` tries it again"
            ))
        }
        (Some(_), Some(Failures { attempts, reason, .. })) => Ok(format!(
            "what the channel offers failed {}; the last time: {reason}",
            count(*attempts, "time")
        )),
        (Some(_), None) => Ok("what the channel offers has not failed here".to_owned()),
        (None, _) => Ok("no other release is known that the channel offers".to_owned()),
    };
    let noted = failures.map(|noted| json!({ "attempts": noted.attempts, "reason": noted.reason }));
    let inputs = json!({ "candidate": candidate, "failures": noted });
    let on = match failures {
        Some(Failures { unknown: true, .. }) => BY_READING,
        Some(Failures { rests: true, .. }) => BY_RETRY_OR_REBOOT,
        _ => BY_RETRY,
    };
    Verdict { closed, inputs, at: None, on: on.into() }
}

pub(super) fn trust(Inputs { state, next_check, mirrors, .. }: &Inputs<'_>, now: &Timestamp) -> Verdict {
    let remarks = mirrors.remarks(now.unix).map(|remarks| format!("; {remarks}")).unwrap_or_default();
    let problem = state.problem.as_ref().filter(|_| state.gate == Some(Gate::Trust));
    Verdict {
        closed: match problem {
            None => Ok(format!("what the channel offers was not refused for its signatures{remarks}")),
            Some(problem) => Err(format!("what is installed stays: {problem}{remarks}")),
        },
        inputs: json!({ "problem": problem, "mirrors": mirrors }),
        at: next_check.filter(|_| problem.is_some()).cloned(),
        on: match problem.and_then(|problem| problem.helps.clone()) {
            Some(helps) => helps.into(),
            None => "new signatures, another hub, or a clock that is right".into(),
        },
    }
}

pub(super) fn director(Inputs { withheld, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match withheld {
            None => Ok("no director keeps a newer release from this node".to_owned()),
            Some(Withheld { version, release, why, .. }) => {
                Err(format!("release {version} ({release}) is not for this node now: {why}"))
            }
        },
        inputs: json!({ "withheld": withheld }),
        at: withheld.and_then(|withheld| withheld.turn.clone()),
        on: "what the director signs next".into(),
    }
}

pub(super) fn refused(Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
    let problem = state.problem.as_ref().filter(|_| state.gate == Some(Gate::Refused));
    let open = || "nothing that the channel offers was refused".to_owned();
    Verdict {
        closed: problem.map_or_else(
            || Ok(open()),
            |problem| Err(format!("what the channel offers cannot be installed here: {problem}")),
        ),
        inputs: json!({ "problem": problem }),
        at: next_check.filter(|_| problem.is_some()).cloned(),
        on: match problem {
            Some(Problem { helps: Some(helps), .. }) => helps.clone().into(),
            Some(problem) if !problem.unmet.is_empty() => {
                "another release, or a change of this node, which is looked at again at each poll".into()
            }
            _ => "another release".into(),
        },
    }
}

pub(super) fn back_off(Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
    let waits = state.gate == Some(Gate::BackOff) || state.stage == Stage::RolledBack;
    let problem = state.problem.as_ref().filter(|_| waits);
    let until = next_check.map(|at| format!("; tries again {}", at.at)).unwrap_or_default();
    let attempts = state.attempts;
    Verdict {
        closed: problem.map_or_else(
            || Ok("nothing failed".to_owned()),
            |problem| Err(format!("failed {} in a row: {problem}{until}", count(attempts, "time"))),
        ),
        inputs: json!({ "problem": problem, "attempts": attempts, "until": next_check }),
        at: next_check.filter(|_| waits).cloned(),
        on: match problem.and_then(|problem| problem.helps.as_ref()) {
            Some(helps) => format!("the clock, `identityd check`, or {helps}").into(),
            None => "the clock, or `identityd check`".into(),
        },
    }
}

pub(super) fn lock(Inputs { lock_holder, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match lock_holder {
            None => Ok("no other engine is at work".to_owned()),
            Some(holder) => Err(format!("another engine is at work: {holder}")),
        },
        inputs: json!({ "holder": lock_holder }),
        at: None,
        on: "the end of the other engine's work".into(),
    }
}

pub(super) fn degraded(Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
    let degraded = |kind| kind == ProblemKind::Degraded;
    let problem = state.problem.as_ref().filter(|problem| degraded(problem.kind) && !state.recovered);
    Verdict {
        closed: problem.map_or_else(
            || Ok("nothing is half undone".to_owned()),
            |problem| {
                Err(format!("an upgrade could not be undone completely, which is tried again: {problem}"))
            },
        ),
        inputs: json!({ "problem": problem, "recovered": state.recovered }),
        at: next_check.filter(|_| problem.is_some()).cloned(),
        on: "a recovery that succeeds; `identityd check` tries it now".into(),
    }
}

pub(super) fn freshness(
    Inputs { answered, next_check, poll_interval, .. }: &Inputs<'_>,
    now: &Timestamp,
) -> Verdict {
    let fresh = poll_interval.saturating_mul(FRESH_POLLS).max(FRESH).as_secs();
    let age = answered.map(|at| now.unix.saturating_sub(at.unix));
    Verdict {
        closed: match age {
            Some(age) if age <= fresh => Ok(format!("the channel answered {age} s ago")),
            Some(age) => {
                Err(format!("the channel has not answered for {age} s, which is more than {fresh} s"))
            }
            None => Err("the channel has not answered since identityd started".to_owned()),
        },
        inputs: json!({ "answered": answered, "fresh_seconds": fresh }),
        at: next_check.cloned(),
        on: "an answer of the hub; `identityd check` asks it now".into(),
    }
}

/// Nothing waits for this one but whoever wants to go back.
pub(super) fn rollback(Inputs { rollback_blocked, records_lost, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match records_lost.or(*rollback_blocked) {
            None => Ok("nothing is known that would keep this node from going back".to_owned()),
            Some(reason) => Err(format!("`identityd rollback` would be refused: {reason}")),
        },
        inputs: json!({ "blocked": rollback_blocked, "records_lost": records_lost }),
        at: None,
        on: match records_lost {
            Some(_) => "the upgrade after the next one: the next one records what is installed",
            None => "a release that can take its state back",
        }
        .into(),
    }
}

/// Nothing waits for this one but the new kernel.
pub(super) fn kernel(Inputs { kernel, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match kernel {
            None => Ok("the release brings no other kernel than the one that runs".to_owned()),
            Some(kernel) => Err(kernel.reason.clone()),
        },
        inputs: json!({ "kernel": kernel }),
        at: None,
        on: match kernel.map(|kernel| kernel.state) {
            Some(KernelState::Unknown) => "another release",
            Some(KernelState::OnTrial) => "the end of the trial",
            _ => "a reboot with the kernel of the release",
        }
        .into(),
    }
}
