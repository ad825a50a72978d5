//! The gates that people close: holds, pauses, maintenance windows.

use bootstrap::held::Patience;
use flist::span;
use serde_json::json;

use super::super::{Inputs, count};
use super::Verdict;
use crate::orders::{Hold, Holding};
use crate::timestamp::Timestamp;

pub(in crate::gates) fn orders(Inputs { orders, .. }: &Inputs<'_>) -> Verdict {
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

pub(in crate::gates) fn pause(Inputs { orders, .. }: &Inputs<'_>) -> Verdict {
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

pub(in crate::gates) fn hold(
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
            None => {
                let number = count(u32::try_from(named.len()).unwrap_or(u32::MAX), "release");
                let offered = match candidate {
                    // What the channel offers may be another one by now.
                    Some(_) => "but not what the channel offered when it was asked last",
                    None => "and nothing that waits is known; `identityd check` asks the channel",
                };
                Ok(format!("{number} held ({}), {offered}", named.join(", ")))
            }
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

pub(in crate::gates) fn maintenance(
    Inputs { windows, earliest, cause, .. }: &Inputs<'_>,
    now: &Timestamp,
) -> Verdict {
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

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}
