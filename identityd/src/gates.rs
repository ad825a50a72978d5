//! Every reason to wait, with its explanation, what it was judged by, and when it may change. Pure.
//!
//! A gate that cannot be judged is closed, and every closed gate is looked at again at the next poll at the
//! latest.

use std::time::Duration;

use bootstrap::mirrors::Mirrors;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::agent::{Candidate, Gate, ProblemKind, Stage, State, StateInRam, Withheld};
use crate::history::Cause;
use crate::maintenance::Windows;
use crate::orders::Orders;
use crate::timestamp::Timestamp;

/// What is known of the channel is fresh for at least so long.
const FRESH: Duration = Duration::from_secs(3600);

/// Polls that may fail before what is known of the channel is no longer fresh.
const FRESH_POLLS: u32 = 3;

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
    /// How often it failed.
    pub attempts: u32,
    /// Whether it is not tried again.
    pub bad: bool,
    /// Why it failed the last time.
    pub reason: String,
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
    /// Maintenance windows; `None`: upgrades may begin at any time.
    pub windows: Option<&'i Windows>,
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
    /// The release that would take services away for longer than they allow, and how long that is.
    pub over_budget: Option<(&'i str, &'i str)>,
    /// Why the state is in RAM.
    pub state_in_ram: Option<&'i StateInRam>,
    /// Why it cannot be anywhere.
    pub state_unusable: Option<&'i str>,
    /// What the director keeps from this node.
    pub withheld: Option<&'i Withheld>,
    /// What the node's hubs say, compared.
    pub mirrors: &'i Mirrors,
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
        Gate::Starting | Gate::FlistName => waits(gate, inputs),
        Gate::Orders => orders(inputs),
        Gate::Pause => pause(inputs),
        Gate::Hold => hold(inputs),
        Gate::Maintenance => maintenance(inputs, now),
        Gate::State => state_place(inputs),
        Gate::Downtime => downtime(inputs),
        Gate::BadRelease => bad_release(inputs),
        Gate::Trust => trust(inputs, now),
        Gate::Director => director(inputs),
        Gate::Refused => refused(inputs),
        Gate::BackOff => back_off(inputs),
        Gate::Lock => lock(inputs),
        Gate::Degraded => degraded(inputs),
        Gate::Freshness => freshness(inputs, now),
    };
    let (open, why) = match closed {
        Ok(why) => (true, why),
        Err(why) => (false, why),
    };
    GateReport { gate, open, why, inputs, may_change: MayChange { at, on: on.to_owned() } }
}

/// Why a gate is open (`Ok`) or closed.
struct Verdict {
    closed: Result<String, String>,
    inputs: Value,
    at: Option<Timestamp>,
    on: &'static str,
}

fn waits(gate: Gate, Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
    let closed = state.gate == Some(gate);
    let (open, on) = match gate {
        Gate::Starting => ("what interrupted runs left is recovered", "the end of recovery"),
        _ => ("flist.name says what this node was booted from", "a boot that writes /tmp/flist.name"),
    };
    Verdict {
        closed: if closed { Err(gate.explanation().to_owned()) } else { Ok(open.to_owned()) },
        inputs: json!({ "recovered": state.recovered, "installed": state.installed }),
        at: next_check.filter(|_| closed).cloned(),
        on,
    }
}

fn orders(Inputs { orders, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match orders {
            Ok(_) => Ok("the file with holds and pause is readable".to_owned()),
            Err(problem) => Err((*problem).to_owned()),
        },
        inputs: json!({ "problem": orders.err() }),
        at: None,
        on: "`identityd doctor --fix`",
    }
}

fn pause(Inputs { orders, .. }: &Inputs<'_>) -> Verdict {
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
        on: "`identityd resume`",
    }
}

fn hold(Inputs { orders, candidate, held_by_kernel, .. }: &Inputs<'_>) -> Verdict {
    if *held_by_kernel {
        let why = "the kernel parameter molt.hold holds every release".to_owned();
        let inputs = json!({ "molt.hold": true });
        return Verdict { closed: Err(why), inputs, at: None, on: "a boot without the parameter" };
    }
    let holds = orders.map(|orders| orders.holds.as_slice()).unwrap_or_default();
    let everything = orders.ok().and_then(Orders::all_held);
    let holding = everything.or_else(|| orders.ok()?.held((*candidate)?));
    Verdict {
        closed: match holding {
            Some(hold) => {
                let what = hold.release.as_ref().map_or("every release is held".to_owned(), |release| {
                    format!("release {release} is held")
                });
                let because = because(hold.reason.as_deref());
                let (at, by) = (&hold.since.at, hold.by);
                Err(format!("{what} since {at} by user {by}{because}; `identityd unhold` lets it go"))
            }
            None if holds.is_empty() => Ok("nothing is held".to_owned()),
            None => Ok(format!(
                "{} held, but not what the channel offers",
                count(u32::try_from(holds.len()).unwrap_or(u32::MAX), "release")
            )),
        },
        inputs: json!({ "holds": holds, "candidate": candidate }),
        at: None,
        on: "`identityd unhold`, or another release",
    }
}

fn maintenance(Inputs { windows, cause, .. }: &Inputs<'_>, now: &Timestamp) -> Verdict {
    let Some(windows) = windows else {
        let closed = Ok("there are no maintenance windows: upgrades may begin at any time".to_owned());
        return Verdict { closed, inputs: json!({ "windows": null }), at: None, on: "another configuration" };
    };
    let standing = windows.at(i64::try_from(now.unix).unwrap_or(i64::MAX));
    let changes = standing.changes.and_then(|at| u64::try_from(at).ok()).map(Timestamp::from_unix);
    let (texts, zone) = (windows.texts().join("; "), windows.zone());
    let closed = match (standing.open, &changes) {
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
    let inputs = json!({ "windows": windows.texts(), "timezone": zone, "now": now, "cause": cause });
    Verdict { closed, inputs, at: changes, on: "the clock, or `identityd apply --now`" }
}

fn state_place(Inputs { state_in_ram, state_unusable, next_check, .. }: &Inputs<'_>) -> Verdict {
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
        on: "a disk that works, or more free memory",
    }
}

fn downtime(Inputs { candidate, over_budget, cause, .. }: &Inputs<'_>) -> Verdict {
    let over =
        over_budget.filter(|(release, _)| candidate.is_some_and(|offered| offered.release == *release));
    Verdict {
        closed: match over {
            Some((_, why)) if cause.minds_downtime() => Err(why.to_owned()),
            Some((_, why)) => Ok(format!("somebody asked for the upgrade all the same: {why}")),
            None => Ok("no budget of downtime is known to be exceeded".to_owned()),
        },
        inputs: json!({ "candidate": candidate, "over_budget": over.map(|(_, why)| why), "cause": cause }),
        at: None,
        on: "`identityd apply`, or another release",
    }
}

fn bad_release(Inputs { candidate, failures, .. }: &Inputs<'_>) -> Verdict {
    let failures = failures.as_ref();
    let closed = match (candidate, failures) {
        (Some(Candidate { version, release, .. }), Some(Failures { attempts, bad: true, reason })) => {
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
    Verdict { closed, inputs, at: None, on: "`identityd retry`, or another release" }
}

fn trust(Inputs { state, next_check, mirrors, .. }: &Inputs<'_>, now: &Timestamp) -> Verdict {
    let remarks = mirrors.remarks(now.unix).map(|remarks| format!("; {remarks}")).unwrap_or_default();
    let problem = state.problem.as_ref().filter(|_| state.gate == Some(Gate::Trust));
    Verdict {
        closed: match problem {
            None => Ok(format!("what the channel offers was not refused for its signatures{remarks}")),
            Some(problem) => Err(format!("what is installed stays: {problem}{remarks}")),
        },
        inputs: json!({ "problem": problem, "mirrors": mirrors }),
        at: next_check.filter(|_| problem.is_some()).cloned(),
        on: "new signatures, another hub, or a clock that is right",
    }
}

fn director(Inputs { withheld, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match withheld {
            None => Ok("no director keeps a newer release from this node".to_owned()),
            Some(Withheld { version, release, why, .. }) => {
                Err(format!("release {version} ({release}) is not for this node now: {why}"))
            }
        },
        inputs: json!({ "withheld": withheld }),
        at: withheld.and_then(|withheld| withheld.turn.clone()),
        on: "what the director signs next",
    }
}

fn refused(Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
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
            Some(problem) if !problem.unmet.is_empty() => {
                "another release, or a change of this node, which is looked at again at each poll"
            }
            _ => "another release",
        },
    }
}

fn back_off(Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
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
        on: "the clock, or `identityd check`",
    }
}

fn lock(Inputs { lock_holder, .. }: &Inputs<'_>) -> Verdict {
    Verdict {
        closed: match lock_holder {
            None => Ok("no other engine is at work".to_owned()),
            Some(holder) => Err(format!("another engine is at work: {holder}")),
        },
        inputs: json!({ "holder": lock_holder }),
        at: None,
        on: "the end of the other engine's work",
    }
}

fn degraded(Inputs { state, next_check, .. }: &Inputs<'_>) -> Verdict {
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
        on: "a recovery that succeeds",
    }
}

fn freshness(Inputs { answered, next_check, poll_interval, .. }: &Inputs<'_>, now: &Timestamp) -> Verdict {
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
        on: "an answer of the hub",
    }
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

/// A number of things, for people.
pub(crate) fn count(number: u32, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests;
