//! How each gate is judged.

use std::borrow::Cow;
use std::time::Duration;

use bootstrap::held::Patience;
use flist::span;
use serde_json::{Value, json};

use super::{BY_READING, BY_RETRY, BY_RETRY_OR_REBOOT, Failures, Inputs, OverBudget, count};
use crate::agent::{Candidate, Gate, Problem, ProblemKind, Stage, StateInRam, Withheld};
use crate::kernel::KernelState;
use crate::orders::{Hold, Holding};
use crate::timestamp::Timestamp;

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

pub(super) fn orders(Inputs { orders, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match orders {
            Ok(_) => Ok("the file with holds and pause is readable".to_owned()),
            Err(problem) => Err((*problem).to_owned()),
        },
        inputs: json!({ "problem": orders.err() }),
        at: None,
        on: "`identityd doctor --fix`".into(),
    }
}

pub(super) fn pause(Inputs { orders, .. }: &Inputs<'_>) -> Verdict {
    let pause = orders.ok().and_then(|orders| orders.pause.as_ref());
    Verdict {
        closed: match pause {
            None => Ok("upgrades are not paused".to_owned()),
            Some(pause) => Err(format!(
                "upgrades are paused since {} by user {}{}; `identityd resume` goes on",
                pause.since.at,
                pause.by,
                because(pause.reason.as_deref())
            )),
        },
        inputs: json!({ "pause": pause }),
        at: None,
        on: "`identityd resume`".into(),
    }
}

pub(super) fn hold(
    Inputs { orders, candidate, held_by_kernel, longest_postponement, earliest, .. }: &Inputs<'_>,
    now: &Timestamp,
) -> Verdict {
    if *held_by_kernel {
        let why = "the kernel parameter molt.hold holds every release".to_owned();
        let inputs = json!({ "molt.hold": true });
        return Verdict { closed: Err(why), inputs, at: None, on: "a boot without the parameter".into() };
    }
    let patience = Patience { now: now.unix.max(*earliest), longest: *longest_postponement };
    let holds = orders.map(|orders| orders.holds.as_slice()).unwrap_or_default();
    let holding = orders.ok().and_then(|orders| orders.holding(*candidate, &patience));
    let ends = holding.and_then(|holding| holding.ends).map(Timestamp::from_unix);
    // One that has run out is taken away at the next poll.
    let lasting = holds.iter().filter(|hold| !patience.is_over(Hold::until_unix(hold), None));
    let named: Vec<&str> = lasting.filter_map(|hold| hold.release.as_deref()).collect();
    Verdict {
        closed: match holding {
            Some(Holding { hold, .. }) => Err(why_held(hold, ends.as_ref(), &patience)),
            None if named.is_empty() => Ok("nothing is held".to_owned()),
            // What the channel offers may be another one by now.
            None => Ok(format!(
                "{} held ({}), but not what the channel offered when it was asked last",
                count(u32::try_from(named.len()).unwrap_or(u32::MAX), "release"),
                named.join(", ")
            )),
        },
        inputs: json!({
            "holds": holds, "candidate": candidate, "earliest": earliest,
            "longest_postponement": longest_postponement.as_secs(),
        }),
        // What holds everything holds another release just as well.
        on: match (holding.is_some_and(|holding| holding.hold.release.is_none()), &ends) {
            (false, Some(_)) => "the clock, `identityd unhold`, or another release",
            (false, None) => "`identityd unhold`, or another release",
            (true, Some(_)) => "the clock, or `identityd unhold`",
            (true, None) => "`identityd unhold`",
        }
        .into(),
        at: ends,
    }
}

/// What is held or postponed, by whom, and what lets it go.
fn why_held(hold: &Hold, ends: Option<&Timestamp>, patience: &Patience) -> String {
    let because = because(hold.reason.as_deref());
    let (what, at, by, lets_go) = (hold.what(), &hold.since.at, hold.by, hold.lets_go());
    let Some(ends) = ends else {
        return format!("{what} is held since {at} by user {by}{because}; `{lets_go}` lets it go");
    };
    let limited = match hold.until.as_ref() {
        Some(until) if ends.unix < until.unix => {
            format!(", when it has been postponed for {} in all", span::text(patience.longest))
        }
        _ => String::new(),
    };
    format!(
        "{what} is postponed until {}{limited}, since {at} by user {by}{because}; `{lets_go}` lets it go before",
        ends.at
    )
}

pub(super) fn maintenance(Inputs { windows, earliest, cause, .. }: &Inputs<'_>, now: &Timestamp) -> Verdict {
    let Some(windows) = windows else {
        let closed = Ok("there are no maintenance windows: upgrades may begin at any time".to_owned());
        return Verdict {
            closed,
            inputs: json!({ "windows": null }),
            at: None,
            on: "another configuration".into(),
        };
    };
    let standing = windows.at(i64::try_from(now.unix).unwrap_or(i64::MAX));
    let changes = standing.changes.and_then(|at| u64::try_from(at).ok()).map(Timestamp::from_unix);
    let (texts, zone) = (windows.texts().join("; "), windows.zone());
    let is_wrong = now.unix < *earliest && !cause.is_now();
    let closed = match (standing.open, &changes) {
        _ if is_wrong => Err(format!(
            "the clock says {}, but it is at least {}, so nobody knows whether a maintenance window is open; set the \
             clock, or `identityd apply --now`",
            now.at,
            Timestamp::from_unix(*earliest).at
        )),
        (true, Some(at)) => Ok(format!("a maintenance window is open until {} ({texts}, {zone})", at.at)),
        (true, None) => Ok(format!("a maintenance window is always open ({texts}, {zone})")),
        (false, _) if cause.is_now() => {
            Ok("no maintenance window is open; somebody asked for the upgrade now".to_owned())
        }
        (false, at) => {
            let next =
                at.as_ref().map_or("no one opens".to_owned(), |at| format!("the next one opens {}", at.at));
            Err(format!(
                "no maintenance window is open ({texts}, {zone}); {next}; `identityd apply --now` does not wait"
            ))
        }
    };
    let (at, on) = match (is_wrong, changes) {
        // By a clock that is wrong nobody knows when.
        (true, _) => (None, "a clock that is right, or `identityd apply --now`"),
        (false, None) => (None, "another configuration, or `identityd apply --now`"),
        (false, changes) => (changes, "the clock, or `identityd apply --now`"),
    };
    let inputs = json!({ "windows": windows.texts(), "timezone": zone, "now": now, "earliest": earliest, "cause": cause });
    Verdict { closed, inputs, at, on: on.into() }
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
        (None, _) => Ok("the channel offers no other release".to_owned()),
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

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}
